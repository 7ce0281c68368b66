"""Forecasts of a pool, worked by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

import rsf_dist as rsf
from rsf_dist.config.sampling import Budget
from rsf_dist.forecast.cost import MeasuredCosts, Request
from rsf_dist.forecast.estimate import forecast
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.envelope import Choice, Pilot
from rsf_dist.sampling.pilot import PilotRun, Probe
from rsf_dist.sampling.plan import SamplingPlan

COSTS = MeasuredCosts(startup_seconds=7.0, seconds_per_row=0.01)  # a second a chunk
POOL_SIZE = 1_050  # ten chunks of 100 and one of 50


def halved(pool_size: int | None) -> SamplingPlan:
    """Every log ratio is 0 and M is 2: half of the proposals are accepted."""
    keys = np.random.default_rng(0).exponential(size=2_000)
    pilot = PilotRun(Pilot(np.zeros(2_000), keys), 0.01, Probe("", ()))
    work = ChunkWork(None, rsf.ConstantRatio(), math.log(2), 100, seed=0, pool_size=pool_size)
    return SamplingPlan(Choice(math.log(2), "given"), work, pilot)


def test_a_pool_ends_with_its_last_row_and_a_warning_says_what_to_change() -> None:
    found = forecast(halved(POOL_SIZE), Request(600, actors=1), COSTS)
    assert (found.proposals, found.num_accepted) == (1_050, 525)
    assert found.seconds == pytest.approx(7 + 11)
    warning = found.warnings[-1]
    assert (
        "the pool of 1,050 rows, or the budget, ends at about 525 of 600 rows: lower sampling.num_accepted" in warning
    )
    without = forecast(halved(None), Request(600, actors=1), COSTS)
    assert (without.proposals, without.num_accepted) == (1_200, 600)


def test_a_pool_with_rows_enough_is_not_read_to_its_end() -> None:
    found = forecast(halved(POOL_SIZE), Request(300, actors=1), COSTS)
    assert (found.proposals, found.num_accepted) == (600, 300)


def test_a_budget_below_the_pool_ends_in_whole_chunks() -> None:
    found = forecast(halved(POOL_SIZE), Request(600, actors=1, budget=Budget(max_proposals=560)), COSTS)
    assert (found.proposals, found.num_accepted) == (500, 250)


def test_the_top_k_read_all_of_the_pool_whatever_they_accept() -> None:
    plan = halved(POOL_SIZE)
    found = forecast(plan, Request(100, actors=1, whole_pool=True), COSTS)
    assert (found.proposals, found.num_accepted, found.proposals_interval) == (1_050, 100, (1_050, 1_050))
    assert found.options[0].proposals == 1_050
    assert not any("budget" in warning for warning in found.warnings)
    partly = forecast(replace(plan), Request(100, actors=1), COSTS)
    assert partly.proposals == 200
