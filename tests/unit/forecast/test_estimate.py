"""Forecasts worked by hand: no cluster, no images."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

import rsf_dist as rsf
from rsf_dist.config.load import dump_config, parse_config
from rsf_dist.config.sampling import Budget
from rsf_dist.forecast import plan_run
from rsf_dist.forecast.cost import Cost, CostModel, MeasuredCosts, Request
from rsf_dist.forecast.envelope_options import BIAS_LIMIT, EnvelopeOption, bias_at, envelope_options, recommend
from rsf_dist.forecast.estimate import (
    LaterRound,
    LaterRounds,
    acceptance_limits,
    forecast,
    forecast_rounds,
    warn_of_rounds,
)
from rsf_dist.forecast.measure import RowCost, _costs
from rsf_dist.forecast.plan_run import LEAST_PILOT, PILOT_SECONDS, pilot_size
from rsf_dist.forecast.text import format_forecast
from rsf_dist.ratios.info import HeldOut, RatioInfo
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.runtime.progress import Progress
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.diagnostics import mean_interval
from rsf_dist.sampling.envelope import Choice, Pilot
from rsf_dist.sampling.pilot import PilotRun, Probe
from rsf_dist.sampling.plan import SamplingPlan
from rsf_dist.storage.run_store import RunStore

CHUNK = 100
COSTS = MeasuredCosts(startup_seconds=7.0, seconds_per_row=0.01)  # a second a chunk
LN2 = math.log(2)


def planned(log_ratio, log_m: float, log_bound: float | None = None, ratio=None, seed: int = 0) -> SamplingPlan:
    log_ratio = np.asarray(log_ratio, float)
    keys = log_ratio + np.random.default_rng(seed).exponential(size=len(log_ratio))
    pilot = PilotRun(Pilot(log_ratio, keys, log_bound), 0.01, Probe("", ()))
    work = ChunkWork(None, ratio or rsf.ConstantRatio(), log_m, CHUNK, seed=0)
    return SamplingPlan(Choice(log_m, "given"), work, pilot)


def even(log_m: float = LN2, n: int = 2_000, **more) -> SamplingPlan:
    """Every log ratio is 0."""
    return planned(np.zeros(n), log_m, **more)


def test_a_ratio_of_one_at_m_of_two_accepts_half() -> None:
    found = forecast(even(), Request(1_000, actors=1), COSTS)
    assert found.acceptance == 0.5  # min(1, 1/2)
    assert found.proposals == 2_000  # 1,000 rows / (1/2)
    low, high = found.acceptance_interval
    assert low < 0.5 < high
    assert found.options[0].bias == 0.0  # no ratio exceeds M
    assert found.ess_fraction == pytest.approx(1.0)


def test_wall_time_is_start_up_and_chunks_over_actors() -> None:
    # 5,000 rows at 1/2: 10,000 proposals, 100 chunks of 1 s; on 4 actors 25 s, and 7 s until they are up
    assert forecast(even(), Request(5_000, actors=4), COSTS).seconds == pytest.approx(25 + 7)
    # on 3 actors one of them has 34
    assert forecast(even(), Request(5_000, actors=3), COSTS).seconds == pytest.approx(34 + 7)
    # and the pilot comes before
    with_pilot = replace(COSTS, pilot_seconds=20.0)
    assert forecast(even(), Request(5_000, actors=4), with_pilot).seconds == pytest.approx(20 + 25 + 7)


def test_cpu_time_counts_the_pilot_every_start_and_whole_chunks() -> None:
    costs = replace(COSTS, num_pilot=2_500, cpu_startup_seconds=3.0, cpu_seconds_per_row=0.008)
    # 4,999 rows: 9,998 proposals in 100 chunks: (2,500 + 10,000) x 0.008 + 4 x 3 = 112 s
    found = forecast(even(), Request(4_999, actors=4), costs)
    assert found.proposals == 9_998
    assert found.cpu_hours == pytest.approx(112 / 3600)


def test_disk_is_rows_and_a_file_for_each_chunk_that_has_any() -> None:
    costs = replace(COSTS, bytes_per_shard=1_000.0, bytes_per_row=10.0)
    assert forecast(even(), Request(5_000, actors=1), costs).disk_bytes == 100 * 1_000 + 5_000 * 10
    # log M = ln 1000: 10 rows are expected of 10,000 proposals, in 10 of their 100 chunks
    assert forecast(even(math.log(1_000)), Request(10, actors=1), costs).disk_bytes == 10 * 1_000 + 10 * 10


def test_a_budget_that_ends_short_says_how_many_rows_there_will_be() -> None:
    # 3,000 proposals at 1/2 are 1,500 rows
    found = forecast(even(), Request(5_000, actors=1, budget=Budget(max_proposals=3_050)), COSTS)
    assert (found.proposals, found.num_accepted) == (3_000, 1_500)
    assert found.seconds == pytest.approx(30 + 7)
    assert any("1,500 of 5,000 rows" in warning for warning in found.warnings)
    assert found.options[0].proposals == 10_000  # what all rows would take
    # 27 s, 7 of them until the actors are up, are 20 chunks on one actor: 1,000 rows
    found = forecast(even(), Request(5_000, actors=1, budget=Budget(max_seconds=27.5)), COSTS)
    assert (found.proposals, found.num_accepted) == (2_000, 1_000)


def test_an_ample_budget_gives_no_warning() -> None:
    assert forecast(even(), Request(5_000, actors=1), COSTS).warnings == ()


def test_the_bias_is_the_excess_over_m() -> None:
    # r = 4 for one in ten and 2/3 for the others, so that E_q[r] = 1; at M = 2, E_q[(r - 2)+] = 0.1 x 2
    plan = planned([math.log(4)] * 100 + [math.log(2 / 3)] * 900, LN2)
    assert bias_at(plan, LN2) == (pytest.approx(0.2), None)
    # acceptance (1 - eps)/M
    assert plan.acceptance == pytest.approx(0.4)


def test_target_rows_give_the_bias_limits() -> None:
    ratio = rsf.ConstantRatio()
    ratio.info = RatioInfo(held_out=HeldOut(np.array([math.log(4)] * 20 + [0.0] * 80)))
    bias, (low, high) = bias_at(planned(np.zeros(100), LN2, ratio=ratio), LN2)
    assert bias == pytest.approx(0.1)  # (1 - 2/4) for 20 of 100
    assert low < 0.1 < high


def test_a_quantile_of_the_keys_has_the_distribution_of_an_order_statistic() -> None:
    inside = 0
    for seed in range(400):
        plan = planned(np.zeros(400), 0.0, seed=seed)
        log_m = float(np.quantile(plan.pilot.rows.accept_key, 0.9, method="lower"))
        low, high = acceptance_limits(replace(plan, choice=Choice(log_m, "quantile")), by_quantile=True)
        inside += low < math.exp(-log_m) < high  # P(E > log M), the log ratios being 0
    # 380 expected of 400; a right interval falls below 363 once in 10,000 tries
    assert inside >= 363


def test_a_mean_has_its_limits_even_where_nothing_was_seen() -> None:
    low, high = mean_interval(np.zeros(100))
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 100))  # (1 - u)^100 = 0.025
    assert mean_interval(np.ones(100)) == (pytest.approx(0.025 ** (1 / 100)), 1.0)


def option(name: str, bias: float | None, seconds: float, acceptance: float = 0.1) -> EnvelopeOption:
    return EnvelopeOption(name, f"{{of: {name}}}", 0.0, acceptance, bias, None, 1_000, seconds)


JOB = Request(100, actors=2)
CONFIGURED = option("configured", 0.0, 1.0)


def test_an_affordable_bound_is_recommended() -> None:
    found = recommend([CONFIGURED, option("budget", 0.0, 10), option("bound", 0.0, 3_000)], JOB)
    assert found.yaml == "envelope: {of: bound}"
    assert "exact" in found.reason
    assert "on 2 actor(s)" in found.reason


def test_else_the_most_acceptance_whose_bias_is_small() -> None:
    options = [option("half", 0.4, 10), option("tenth", BIAS_LIMIT, 20), option("less", 0.01, 30)]
    assert recommend([CONFIGURED, *options, option("bound", 0.0, 4_000)], JOB).yaml == "envelope: {of: tenth}"


def test_else_the_least_bias_that_an_hour_buys() -> None:
    options = [option("half", 0.6, 10), option("tenth", 0.3, 20), option("less", 0.01, 4_000)]
    found = recommend([CONFIGURED, *options], JOB)
    assert found.yaml == "envelope: {of: tenth}"
    assert "30.0%" in found.reason


def test_where_every_m_takes_too_long_it_says_so() -> None:
    found = recommend([CONFIGURED, option("half", 0.6, 4_000), option("tenth", 0.3, 20_000)], JOB)
    assert found.yaml == "envelope: {of: half}"
    assert "every M takes more than 1 h" in found.reason


def test_a_budget_that_the_recommended_m_exceeds_is_named() -> None:
    found = recommend([CONFIGURED, option("half", 0.0, 10)], replace(JOB, budget=Budget(max_proposals=500)))
    assert "max_proposals=1200" in found.reason


def test_recommended_lines_are_valid_configuration(small_run: dict) -> None:
    import yaml

    from rsf_dist.config.load import parse_config

    rng = np.random.default_rng(0)
    for bound in (None, 9.0):
        for one in envelope_options(CostModel(planned(rng.normal(size=5_000), 1.0, bound), JOB, COSTS)):
            if one.envelope:
                parse_config(small_run | {"envelope": yaml.safe_load(one.envelope)})


def test_options_rise_in_m_and_cost_more() -> None:
    plan = planned(np.random.default_rng(0).normal(size=5_000), 1.0)
    options = list(envelope_options(CostModel(plan, JOB, COSTS)))[1:]
    assert [one.name for one in options][:2] == ["budget 0.5", "budget 0.2"]
    for before, after in itertools.pairwise(options):
        assert before.log_m < after.log_m
        assert before.acceptance > after.acceptance
        assert before.bias >= after.bias
        assert before.proposals <= after.proposals


def test_warnings_for_few_accepted_and_few_effective_rows() -> None:
    # one ratio of 1,000 among 999 of 1/1000: ESS of about one row; acceptance at M = 1,000 about 0.001
    plan = planned([math.log(1_000)] + [-math.log(1_000)] * 999, math.log(1_000))
    near_zero, weight = forecast(plan, JOB, COSTS).warnings
    assert "near zero" in near_zero
    assert "as much as 1 of its own" in weight


def test_where_nothing_can_be_accepted_no_envelope_helps() -> None:
    found = forecast(planned([-math.inf] * 100, 0.0), Request(100, actors=1, budget=Budget(max_proposals=1_000)), COSTS)
    assert (found.num_accepted, found.proposals, found.recommendation.yaml) == (0, 1_000, "")
    assert "broaden" in format_forecast(found)


def test_a_growing_m_is_warned_of() -> None:
    plan = replace(even(), choice=Choice(LN2, "grows", margin=0.0))
    assert any("grows" in warning for warning in forecast(plan, JOB, COSTS).warnings)


@pytest.mark.parametrize(
    ("num_rounds", "envelope", "warning"),
    [
        (1, {"kind": "pilot"}, None),
        (3, {"kind": "pilot"}, "the last round is left out: what it accepts at its envelope, kind pilot"),
        # 700 rows at .2 take 3,500 proposals; of 1,000, in whole chunks of 100, 200 are kept
        (3, {"kind": "budget", "acceptance": 0.2}, "budgets end at about 1,200 of the 1,700 rows of all rounds"),
    ],
)
def test_with_rounds_it_is_of_the_first_and_advises_nothing(
    num_rounds, envelope, warning, small_run, tmp_path, monkeypatch
) -> None:
    config = parse_config(
        small_run
        | {"sampling": {"num_accepted": 700, "chunk_size": 512, "budget": {"max_proposals": 1_024}}}
        | {"rounds": {"num_rounds": num_rounds, "num_accepted": 500, "acceptance": 0.1}}
        | {"envelope": envelope}
    )
    jobs = []

    class Planned:
        store, num_pilot, seed, proposal, ratio = None, 20_000, 0, None, None
        pool, envelope, budget = config.sampling.pool, None, Budget(max_proposals=50_000)

        def plan(self, num_pilot):
            return even()

    def measured(plan, pool, actors, seconds_per_row):
        return COSTS

    def recorded_forecast(plan, job, *rest, **more):
        jobs.append(job)
        return forecast(plan, job, *rest, **more)

    for name, stand_in in {
        "round_sampler": lambda seed_run, proposal, ratio, exploring: Planned(),
        "measure_row": lambda *_: RowCost(1e-4, 0.0, 0.0),
        "measure_pool": measured,
        "forecast": recorded_forecast,
    }.items():
        monkeypatch.setattr(plan_run, name, stand_in)
    monkeypatch.setattr(SeedRun, "proposal", lambda seed_run: None)
    monkeypatch.setattr(SeedRun, "ratio", lambda seed_run, proposal: None)
    warnings: list[str] = []
    found = plan_run._forecast_seed_run(SeedRun(config, None, RunStore(tmp_path), 0, Progress()), 2, warnings)
    (job,) = jobs
    assert job.num_accepted == (500 if num_rounds > 1 else 700)
    assert job.budget.max_proposals == 50_000  # what the sampler of that round has
    told = format_forecast(found)
    if num_rounds > 1:
        assert found.recommendation.yaml == ""
        assert "# none: the envelope is the last round's" in told
        assert found.rounds.num_rounds == (
            2 if envelope["kind"] == "pilot" else 3
        )  # one that does not tell is left out
        assert warning in " ".join(found.warnings)
    else:
        assert "envelope: {kind:" in found.recommendation.yaml
        assert found.rounds is None
        assert found.warnings == ()


FOLLOWING = LaterRounds(exploring=2, num_pilot=1_000, last=LaterRound(800, Budget(), 0.25, 300), fit_share=0.5)


def first_round(**costs):
    """500 rows at 1/2: 1,000 proposals in 10 chunks of 1 s, 5 on each of two actors, 7 s until they are up."""
    costs = replace(COSTS, num_pilot=2_000, pilot_seconds=20.0, cpu_seconds_per_row=0.008, **costs)
    plan, job = even(), Request(500, actors=2, budget=Budget(max_proposals=5_000))
    plan = replace(plan, pilot=replace(plan.pilot, seconds_per_row=0.02))  # beside others; alone twice as slow
    return plan, forecast(plan, job, costs), job


def test_costs_add_up_each_part_by_itself() -> None:
    one, other = Cost(1, 20, 0.5, 0.25, 4_000), Cost(10, 300, 1.5, 0.5, 50_000)
    assert one + other == Cost(11, 320, 2.0, 0.75, 54_000)
    assert one + other + one == one + (other + one)


def test_a_forecast_is_the_cost_at_its_own_acceptance_in_json_too() -> None:
    found = forecast(even(), Request(5_000, actors=1, budget=Budget(max_proposals=3_050)), COSTS)
    cost = CostModel(even(), Request(5_000, actors=1, budget=Budget(max_proposals=3_050)), COSTS).cost(0.5)
    assert (cost.num_accepted, cost.proposals) == (1_500, 3_000)  # whole chunks of 100 within the budget
    assert {name: found.to_dict()[name] for name in vars(cost)} == vars(cost)


def test_all_rounds_add_up() -> None:
    plan, first, job = first_round(ratio_seconds=40.0, bytes_per_shard=100.0, bytes_per_row=10.0)
    assert (first.proposals, first.seconds) == (1_000, pytest.approx(20 + 7 + 5))
    # Two more like it, after pilots of 1,000; then 800 rows at 1/4, 3,200 proposals in 32 chunks, after one of 300.
    found = forecast_rounds(plan, first, job, FOLLOWING)
    assert (found.num_rounds, found.num_accepted, found.num_wanted) == (4, 3 * 500 + 800, 3 * 500 + 800)
    assert found.proposals == 3 * 1_000 + 3_200
    assert found.seconds == pytest.approx(32 + 2 * (20 + 7 + 5) + 6 + 7 + 16)
    assert found.ratio_seconds == pytest.approx(40 * (1 + 3 * 0.5))
    assert found.cpu_hours == pytest.approx((3_000 + 2 * 2_000 + 300 + 3_200) * 0.008 / 3600)
    assert found.disk_bytes == 3 * (10 * 100 + 500 * 10) + 32 * 100 + 800 * 10
    assert " 4 rounds      6,200 proposals" in format_forecast(replace(first, rounds=found))


def test_a_last_round_that_does_not_tell_is_left_out() -> None:
    plan, first, job = first_round()
    found = forecast_rounds(plan, first, job, replace(FOLLOWING, last=None))
    assert (found.num_rounds, found.proposals) == (3, 3_000)
    assert found.ratio_seconds is None  # that of the first was not measured
    assert "ratios not measured" in format_forecast(replace(first, rounds=found))


def test_each_round_ends_by_its_own_budget() -> None:
    plan, first, job = first_round()
    tight = replace(FOLLOWING, last=LaterRound(800, Budget(max_proposals=2_000), 0.25, 300))
    found = forecast_rounds(plan, first, job, tight)
    assert (found.proposals, found.num_accepted) == (3 * 1_000 + 2_000, 3 * 500 + 500)
    (warning,) = warn_of_rounds(found)
    assert "2,000 of the 2,300 rows of all rounds" in warning
    assert not list(warn_of_rounds(forecast_rounds(plan, first, job, FOLLOWING)))
    job = replace(job, budget=Budget(max_proposals=600))
    found = forecast_rounds(plan, forecast(plan, job, first.costs), job, FOLLOWING)
    assert (found.proposals, found.num_accepted) == (3 * 600 + 3_200, 3 * 300 + 800)


def test_what_is_known_of_later_rounds(small_run: dict) -> None:
    rounds = {"num_rounds": 5, "warm_start_steps": 15, "num_pilot": 1_500}
    budget = {"kind": "budget", "acceptance": 0.2, "num_pilot": 3_000}
    raw = small_run | {"rounds": rounds, "envelope": budget}
    raw["ratio"] = raw["ratio"] | {"optimizer": raw["ratio"]["optimizer"] | {"steps": 60}}
    raw["sampling"] = raw["sampling"] | {"budget": {"max_proposals": 70_000}}

    def known(**change):
        return plan_run.later_rounds(parse_config(raw | change))

    wanted = raw["sampling"]["num_accepted"]
    found, (warning,) = known()
    assert found == LaterRounds(3, 1_500, LaterRound(wanted, Budget(max_proposals=70_000), 0.2, 3_000), 0.25)
    assert "of the first round" in warning
    fresh = known(sampling=raw["sampling"] | {"mode": "stream"})[0].last.num_accepted - wanted
    assert fresh == raw["training"]["steps"] * raw["training"]["batch_size"]
    assert known(rounds=rounds | {"warm_start_steps": None})[0].fit_share == 1.0
    known_ratio = {"kind": "density", "parameters": {"rotation": {"normal": [0.8, 0.1]}}}
    assert known(ratio=known_ratio)[0].fit_share == 0.0
    assert known(ratio={"kind": "product", "factors": [known_ratio, raw["ratio"]]})[0].fit_share == 0.25
    two = rounds | {"num_rounds": 2}
    assert known(rounds=two)[0].exploring == 0
    nothing, (_, warning) = known(rounds=two, envelope={"kind": "pilot"})
    assert nothing is None
    assert "the last round is left out" in warning


class _Sampler:
    store, num_pilot = None, 20_000


@pytest.mark.parametrize(("seconds", "size"), [(1e-4, 20_000), (PILOT_SECONDS / 5_000, 5_000), (1e3, 64)])
def test_a_costly_pilot_is_shrunk_and_says_so(seconds: float, size: int) -> None:
    warnings: list[str] = []
    assert pilot_size(_Sampler(), RowCost(seconds, 0.0, 0.0), warnings) == size
    assert len(warnings) == (size < 20_000)


def test_a_small_pilot_is_enlarged() -> None:
    sampler = _Sampler()
    sampler.num_pilot = 10
    assert pilot_size(sampler, RowCost(1e-4, 0.0, 0.0), []) == LEAST_PILOT


def test_start_up_is_what_the_busiest_actor_leaves() -> None:
    def record(actor: str, before: float, wall: float) -> dict:
        nano = 1e9
        return {"actor": actor, "cpu_before": before * nano, "cpu": wall * nano / 2, "wall": wall * nano}

    # a: a first chunk of 5 s, then two of 2 s; b: a first of 4 s, then one of 2 s. Each counts as 2 s: a has 6 s of 20.
    records = [record("a", 3, 5), record("a", 8, 2), record("b", 4, 4), record("a", 10, 2), record("b", 8, 2)]
    found = _costs(records, size=10, seconds=20.0)
    assert found == MeasuredCosts(pytest.approx(14.0), pytest.approx(0.2), pytest.approx(4.0), pytest.approx(0.1))


def test_the_forecast_fits_a_screen() -> None:
    plan = planned(np.random.default_rng(0).normal(size=20_000), 1.0)
    text = format_forecast(forecast(plan, Request(5_000, 4, num_seeds=3), COSTS, by_quantile=True))
    assert "envelope: {kind:" in text
    assert "3 times over" in text
    lines = text.split("\n")
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(("changed", "chunk_size"), [({}, 512), ({"seed": 1}, None)])
def test_a_plan_goes_on_with_what_this_run_kept_and_leaves_another_runs_values_alone(changed, chunk_size, tmp_path):
    images = {"kind": "digits"}
    raw = {"output": str(tmp_path), "source": images, "target": images, "sampling": {"num_accepted": 5}}
    store = RunStore(tmp_path)
    store.write("config.yaml", dump_config(parse_config(raw | {"sampling": {"num_accepted": 5, "chunk_size": 512}})))
    assert plan_run._of_this_run(parse_config(raw | changed), store).sampling.chunk_size == chunk_size
