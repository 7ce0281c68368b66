"""The envelopes that a pilot allows to choose from, each with its price, and the one to take.

A larger M costs proposals and lowers the bias of capping; log M is at least KL(p || q) whatever the envelope, so that
no choice of M makes a far target cheap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rsf_dist.forecast.cost import CostModel, Request
from rsf_dist.ratios.info import info_of
from rsf_dist.sampling.accept import key_quantile
from rsf_dist.sampling.diagnostics import Statistics, target_side_bound, target_side_lower
from rsf_dist.sampling.plan import SamplingPlan
from rsf_dist.types import Floats

BIAS_LIMIT = 0.1
"""A recommended M misplaces at most this share of the rows, as estimated."""

MAX_RECOMMENDED_SECONDS = 3600.0
"""Sampling at a recommended M takes at most this wall time."""

LEAST_ACCEPTED = 20
"""Pilot rows above M that an acceptance must have to be told from the pilot."""

_RECOMMENDED_PILOT_ACCEPTED = 100
"""Pilot rows above M that the pilot of a recommended envelope has."""

_ROUND_ACCEPTANCES = tuple(digit / 10**power for power in range(1, 7) for digit in (5, 2, 1))


@dataclass(frozen=True)
class EnvelopeOption:
    """The gain and the price of one M.

    Args:
        name: `configured`, `bound` (the ratio's), `largest` (of the pilot's ratios) or a budget's acceptance.
        envelope: the YAML of an envelope that chooses this M; empty for the configured one.
        log_m: the logarithm of M.
        acceptance: E_q[min(1, r/M)] over the pilot.
        bias: bound on the total variation distance that capping causes: from target rows where the ratio has them,
            else from proposals.
        bias_interval: 95 % limits of the bias, each by itself. None means that the bias is from proposals.
        proposals: proposals until all rows are accepted, whatever the budget.
        seconds: wall time of sampling these proposals.
    """

    name: str
    envelope: str
    log_m: float
    acceptance: float
    bias: float
    bias_interval: tuple[float, float] | None
    proposals: int
    seconds: float


@dataclass(frozen=True)
class Recommendation:
    """An envelope to take: the line of YAML, empty where none is recommended, and the reason."""

    yaml: str
    reason: str


def envelope_options(model: CostModel) -> Iterator[EnvelopeOption]:
    """Yield the configured M, then others with M rising.

    The others are the ratio's bound, or the pilot's largest ratio where there is no bound, and the round acceptances
    that the pilot has rows enough for.
    """
    pilot = model.plan.pilot.rows
    yield _option(model, "configured", "", model.plan.choice.log_m)
    acceptances = [a for a in _ROUND_ACCEPTANCES if a * len(pilot.accept_key) >= LEAST_ACCEPTED]
    others = [(key_quantile(pilot.accept_key, a), f"budget {a:g}", _budget_envelope(a)) for a in acceptances]
    if pilot.log_bound is None:
        others.append((float(pilot.log_ratio.max()), "largest", "{kind: pilot}"))
    else:
        others.append((pilot.log_bound, "bound", "{kind: certified}"))
    for log_m, name, envelope in sorted(others):
        if math.isfinite(log_m):
            yield _option(model, name, envelope, log_m)


def bias_at(plan: SamplingPlan, log_m: float) -> tuple[float, tuple[float, float] | None]:
    """Return the bound on the total variation distance at an M, and its 95 % limits where target rows give them."""
    held_out = info_of(plan.work.ratio).held_out
    target = None if held_out is None else held_out.log_ratio
    if target is None:
        log_ratio = plan.pilot.rows.log_ratio
        return min(1.0, Statistics.of(log_ratio, log_ratio > log_m, log_m).tv_bound), None
    estimate, upper = target_side_bound(target, log_m)
    return estimate, (target_side_lower(target, log_m), upper)


def acceptances_at(log_ratio: Floats, log_m: float) -> Floats:
    """Return each row's probability of acceptance, min(1, r/M), [n]."""
    return np.exp(np.minimum(log_ratio - log_m, 0.0))


def recommend(options: Sequence[EnvelopeOption], request: Request) -> Recommendation:
    """Recommend the ratio's bound where it is affordable, else the largest acceptance with a small bias.

    Where no affordable option has a small bias, the affordable option with the least bias is recommended.

    Args:
        options: the options of `envelope_options`. The first one, the configured M, is not considered.
        request: the rows that are asked for.
    """
    if len(options) == 1:
        return Recommendation(
            "", "no proposal of the pilot has a ratio above 0: broaden them until they meet the target"
        )
    affordable = [option for option in options[1:] if option.seconds <= MAX_RECOMMENDED_SECONDS]
    bound = next((option for option in affordable if option.name == "bound"), None)
    if bound is not None:
        return _recommended(bound, request, "the ratio has a bound, at which rejection is exact")
    good = next((option for option in affordable if option.bias <= BIAS_LIMIT), None)
    if good is not None:
        reason = f"the largest acceptance at which capping misplaces at most {BIAS_LIMIT:.0%} of the rows"
        return _recommended(good, request, f"{reason} ({good.bias:.1%}, as estimated)")
    hours = f"{MAX_RECOMMENDED_SECONDS / 3600:g} h"
    if affordable:
        reason = f"the least bias that the pilot can tell and {hours} buys: capping misplaces up to"
        return _recommended(affordable[-1], request, f"{reason} {affordable[-1].bias:.1%} of the rows")
    return _recommended(options[1], request, f"every M takes more than {hours}: take more actors, or nearer proposals")


def _option(model: CostModel, name: str, envelope: str, log_m: float) -> EnvelopeOption:
    acceptance = float(acceptances_at(model.plan.pilot.rows.log_ratio, log_m).mean())
    bias, interval = bias_at(model.plan, log_m)
    proposals = model.proposals_without_budget(acceptance)
    return EnvelopeOption(name, envelope, log_m, acceptance, bias, interval, proposals, model.seconds(proposals))


def _budget_envelope(acceptance: float) -> str:
    num_pilot = max(20_000, math.ceil(_RECOMMENDED_PILOT_ACCEPTED / acceptance))
    return f"{{kind: budget, acceptance: {acceptance:g}, num_pilot: {num_pilot}}}"


def _recommended(option: EnvelopeOption, request: Request, reason: str) -> Recommendation:
    reason += f": {option.proposals:,} proposals, {option.seconds:,.0f} s on {request.actors} actor(s)"
    if option.proposals > request.budget.proposals_for(request.num_accepted):
        reason += f"; set sampling.budget.max_proposals={math.ceil(1.2 * option.proposals)} too"
    return Recommendation(f"envelope: {option.envelope}", reason)
