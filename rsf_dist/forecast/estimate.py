"""The forecast of a run's sampling: arithmetic on a pilot and on measured costs, without a cluster.

The acceptance a = E_q[min(1, r/M)] is the mean over the pilot's rows. `cost` leads from the acceptance to proposals,
seconds and bytes; `envelope_options` compares other choices of M.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from pydantic import JsonValue
from scipy.stats import beta

from rsf_dist.config.sampling import Budget
from rsf_dist.forecast.cost import Cost, CostModel, MeasuredCosts, Request
from rsf_dist.forecast.envelope_options import (
    LEAST_ACCEPTED,
    EnvelopeOption,
    Recommendation,
    acceptances_at,
    envelope_options,
    recommend,
)
from rsf_dist.sampling.diagnostics import Statistics, mean_interval
from rsf_dist.sampling.plan import SamplingPlan

_FEW_ROWS = 100
"""Effective pilot rows below which a warning is due."""


@dataclass(frozen=True)
class LaterRound:
    """A round whose acceptance is known beforehand.

    Args:
        num_accepted: accepted rows wanted.
        budget: when to stop short of the rows wanted.
        acceptance: the share of proposals that the round accepts.
        num_pilot: proposals of the round's pilot.
    """

    num_accepted: int
    budget: Budget
    acceptance: float
    num_pilot: int


@dataclass(frozen=True)
class LaterRounds:
    """The rounds after the first one, whose acceptances are known beforehand.

    Args:
        exploring: the number of rounds before the last one; each wants and accepts what the first round does.
        num_pilot: proposals of an exploring round's pilot.
        last: the last round. None means that its envelope does not tell its acceptance, and the round is left out.
        fit_share: seconds of a later ratio's fit, as a share of the first one's.
    """

    exploring: int
    num_pilot: int
    last: LaterRound | None
    fit_share: float


@dataclass(frozen=True)
class RoundsForecast(Cost):
    """The cost of all rounds of one seed, at the first round's measured costs. The class prior's estimate is left out.

    Args:
        num_rounds: rounds that are counted. A run has fewer where the proposal converges early.
        num_wanted: accepted rows that all rounds together ask for.
        ratio_seconds: wall time of the ratios' fits, in proportion to their optimizer steps. None means that the run's
            directory holds the first ratio, whose fit was not measured therefore.
    """

    num_rounds: int
    num_wanted: int
    ratio_seconds: float | None


@dataclass(frozen=True)
class Forecast(Cost):
    """The forecast of one seed's sampling. Training is not forecast.

    For a run of several rounds everything but `rounds` is about the first round.

    Args:
        num_wanted: accepted rows that the configuration asks for.
        num_seeds: how many seeds repeat all of this.
        actors: actors that sample.
        num_pilot: proposals that the forecast rests on.
        log_m: the logarithm of the envelope's constant.
        log_m_source: where the constant is from.
        acceptance: the share of proposals that is accepted.
        acceptance_interval: 95 % limits of the acceptance.
        proposals_interval: the proposals at these limits, the fewest first.
        seconds_interval: the wall time at these limits, the shortest first.
        ess_fraction: E_q[r]^2 / E_q[r^2], over the pilot.
        costs: the measured costs.
        options: the configured M, then others with M rising.
        recommendation: the envelope to take.
        warnings: reasons not to run the configuration as it is.
        rounds: the cost of all rounds. None means that the run has one round, or that nothing can be forecast.
    """

    num_wanted: int
    num_seeds: int
    actors: int
    num_pilot: int
    log_m: float
    log_m_source: str
    acceptance: float
    acceptance_interval: tuple[float, float]
    proposals_interval: tuple[int, int]
    seconds_interval: tuple[float, float]
    ess_fraction: float
    costs: MeasuredCosts
    options: tuple[EnvelopeOption, ...]
    recommendation: Recommendation
    warnings: tuple[str, ...]
    rounds: RoundsForecast | None = None

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the forecast as plain values, for JSON."""
        return asdict(self)


def forecast(
    plan: SamplingPlan,
    request: Request,
    costs: MeasuredCosts,
    *,
    by_quantile: bool = False,
    warnings: Sequence[str] = (),
) -> Forecast:
    """Forecast the sampling of one round.

    Args:
        plan: the pilot, and the M that the envelope chose from it.
        request: the rows that are asked for.
        costs: the measured costs.
        by_quantile: True where M is a quantile of the pilot's own keys, as a budget envelope's is.
        warnings: warnings that are due already; they come first.
    """
    model = CostModel(plan, request, costs)
    cost = model.cost(plan.acceptance)
    low, high = acceptance_limits(plan, by_quantile)
    fewest, most = model.proposals(high), model.proposals(low)
    options = tuple(envelope_options(model))
    statistics = _pilot_statistics(plan)
    return Forecast(
        **vars(cost),
        num_wanted=request.num_accepted,
        num_seeds=request.num_seeds,
        actors=request.actors,
        num_pilot=statistics.num_scored,
        log_m=plan.choice.log_m,
        log_m_source=plan.choice.source,
        acceptance=plan.acceptance,
        acceptance_interval=(low, high),
        proposals_interval=(fewest, most),
        seconds_interval=(model.seconds(fewest), model.seconds(most)),
        ess_fraction=statistics.ess_fraction,
        costs=costs,
        options=options,
        recommendation=recommend(options, request),
        warnings=(*warnings, *_warnings(plan, request, statistics.ess_fraction, cost.num_accepted)),
    )


def forecast_rounds(plan: SamplingPlan, first: Forecast, request: Request, following: LaterRounds) -> RoundsForecast:
    """Add up the costs of the first round and of the rounds that follow.

    Args:
        plan: the first round's plan, whose pilot tells what a pilot's proposal costs.
        first: the first round's forecast.
        request: the rows that the first round asks for.
        following: the rounds after the first one.
    """
    exploring = LaterRound(request.num_accepted, request.budget, first.acceptance, following.num_pilot)
    later = [exploring] * following.exploring + ([] if following.last is None else [following.last])
    total: Cost = first
    for round in later:
        pilot_seconds = round.num_pilot * plan.pilot.seconds_per_row
        costs = replace(first.costs, num_pilot=round.num_pilot, pilot_seconds=pilot_seconds)
        asked = replace(request, num_accepted=round.num_accepted, budget=round.budget)
        total += CostModel(plan, asked, costs).cost(round.acceptance)
    measured = first.costs.ratio_seconds
    return RoundsForecast(
        total.num_accepted,
        total.proposals,
        total.seconds,
        total.cpu_hours,
        total.disk_bytes,
        num_rounds=1 + len(later),
        num_wanted=request.num_accepted + sum(round.num_accepted for round in later),
        ratio_seconds=None if measured is None else measured * (1 + len(later) * following.fit_share),
    )


def warn_of_rounds(rounds: RoundsForecast) -> Iterator[str]:
    """Yield reasons not to run the rounds as they are."""
    if rounds.num_accepted < rounds.num_wanted:
        rows = f"{rounds.num_accepted:,} of the {rounds.num_wanted:,} rows of all rounds"
        yield f"budgets end at about {rows}: raise sampling.budget or envelope.acceptance"


def acceptance_limits(plan: SamplingPlan, by_quantile: bool) -> tuple[float, float]:
    """Return 95 % limits of the acceptance at the plan's M.

    For a given M the acceptance is the mean of numbers in [0, 1]. Where M is a quantile of the n pilot keys, m of them
    above it, the probability of a key above M follows Beta(m + 1, n - m), whatever the keys' distribution.
    """
    if by_quantile:
        keys = plan.pilot.rows.accept_key
        above = int((keys > plan.choice.log_m).sum())
        low, high = beta.ppf((0.025, 0.975), above + 1, len(keys) - above)
        return float(low), float(high)
    return mean_interval(acceptances_at(plan.pilot.rows.log_ratio, plan.choice.log_m))


def _pilot_statistics(plan: SamplingPlan) -> Statistics:
    log_ratio, log_m = plan.pilot.rows.log_ratio, plan.choice.log_m
    return Statistics.of(log_ratio, log_ratio > log_m, log_m)


def _warnings(plan: SamplingPlan, request: Request, ess_fraction: float, num_accepted: int) -> Iterator[str]:
    n = len(plan.pilot.rows.log_ratio)
    if plan.acceptance * n < LEAST_ACCEPTED:
        yield (
            f"acceptance is near zero: {plan.acceptance:.2g}, known from about {plan.acceptance * n:.2g} accepted rows "
            f"of {n:,} alone; move the proposals to the target"
        )
    if ess_fraction * n < _FEW_ROWS:
        yield (
            f"few rows carry the weight: of the target, {n:,} pilot rows tell as much as {ess_fraction * n:.0f} of its "
            "own, so that acceptance and bias at a large M are rough"
        )
    pool_size = plan.work.pool_size
    if num_accepted < request.num_accepted and pool_size is not None:
        yield (
            f"the pool of {pool_size:,} rows, or the budget, ends at about {num_accepted:,} of "
            f"{request.num_accepted:,} rows: lower sampling.num_accepted, take a smaller M, or give sampling.top_k in "
            "place of num_accepted"
        )
    elif num_accepted < request.num_accepted:
        yield (
            f"the budget ends at about {num_accepted:,} of {request.num_accepted:,} rows: raise sampling.budget, or "
            "take a smaller M"
        )
    if plan.choice.margin is not None:
        yield "M grows with what is drawn, so that acceptance falls below this forecast, made at the pilot's M"
