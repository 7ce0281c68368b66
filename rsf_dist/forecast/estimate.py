"""What a run will take and give: pure mathematics on a pilot and on measured seconds.

With a = E_q[min(1, r/M)] over the pilot's rows, N rows wanted, chunks of n proposals and A actors:

    proposals  N/a        chunks  C = ceil(N/(a n))        wall time  pilot + start-up + ceil(C/A) seconds a chunk

Log M is at least KL(p || q) whatever the envelope: no choice of M makes a far target cheap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import beta

from rsf_dist.config.sampling import Budget
from rsf_dist.ratios.info import info_of
from rsf_dist.sampling.accept import key_quantile
from rsf_dist.sampling.collector import RowCollector
from rsf_dist.sampling.diagnostics import Statistics, mean_interval, target_side_bound, target_side_lower
from rsf_dist.sampling.plan import SamplingPlan
from rsf_dist.types import Floats

BIAS_LIMIT = 0.1
"""A recommended M misplaces at most this share of the rows, as estimated."""


MAX_RECOMMENDED_SECONDS = 3600.0
"""Sampling at a recommended M takes at most so long."""


FEW_ROWS = 100
"""Effective pilot rows below which a warning is due; and accepted rows that a recommended pilot is to have."""


_LEAST_ACCEPTED = 20  # pilot rows above M that a budget envelope asks for


_ROUND_ACCEPTANCES = tuple(digit / 10**power for power in range(1, 7) for digit in (5, 2, 1))


_MOST_PROPOSALS = 10**18  # where the acceptance is 0


@dataclass(frozen=True)
class Costs:
    """What was measured.

    Args:
        startup_seconds: of the pool, over and above the time in which its actors compute.
        seconds_per_row: of an actor, beside the others.
        cpu_startup_seconds, cpu_seconds_per_row: CPU time of an actor before its first chunk, and of a proposal.
        num_pilot, pilot_seconds: proposals of the run's pilot, and its wall time; 0 where its directory holds that.
        ratio_seconds: of making the ratio; None where the run's directory holds that.
        bytes_per_shard, bytes_per_row: a shard of k rows takes bytes_per_shard + k bytes_per_row.
    """

    startup_seconds: float
    seconds_per_row: float
    cpu_startup_seconds: float = 0.0
    cpu_seconds_per_row: float = 0.0
    num_pilot: int = 0
    pilot_seconds: float = 0.0
    ratio_seconds: float | None = None
    bytes_per_shard: float = 0.0
    bytes_per_row: float = 0.0


@dataclass(frozen=True)
class Request:
    """What is asked for: rows, actors, when to stop short, and how often all of it is done."""

    num_accepted: int
    actors: int
    budget: Budget = field(default_factory=Budget)
    num_seeds: int = 1


@dataclass(frozen=True)
class EnvelopeOption:
    """What one M would give and take.

    Args:
        name: `configured`, `load_function` (the ratio's), `largest` (of the pilot's ratios) or a budget's acceptance.
        envelope: the YAML of an envelope that chooses it; empty for the configured one.
        log_m: its logarithm.
        acceptance: E_q[min(1, r/M)] over the pilot.
        bias: bound on the total variation distance that capping causes: from the target's side where target rows tell,
            else from the proposals'.
        bias_interval: its 95 % limits, either by itself; None from proposals.
        proposals, seconds: until all rows are accepted, whatever the budget; wall time of sampling.
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
    """An envelope: the line of YAML, and why."""

    yaml: str
    reason: str


@dataclass(frozen=True)
class LaterRound:
    """A round whose acceptance is known beforehand: rows wanted, budget, acceptance, proposals of its pilot."""

    num_accepted: int
    budget: Budget
    acceptance: float
    num_pilot: int


@dataclass(frozen=True)
class LaterRounds:
    """The rounds after the first one, each accepting a share of its proposals that is known beforehand.

    Args:
        exploring: how many move the proposal on, all like the first; and the proposals of a pilot of theirs.
        last: the last round; None where its envelope does not tell its acceptance, and then it is left out.
        fit_share: of the first ratio's seconds, what a later round's takes.
    """

    exploring: int
    num_pilot: int
    last: LaterRound | None
    fit_share: float


@dataclass(frozen=True)
class RoundsForecast:
    """What all rounds of one seed take, the first one's costs holding for them all; the mix of classes is left out.

    Args:
        num_rounds: how many are counted; there are fewer where they converge before.
        num_accepted, num_wanted: rows to expect of them all, and to be asked for.
        proposals: until the last row of each, pilots aside.
        seconds: wall time of sampling, pilots' included.
        ratio_seconds: of the fits, in proportion to their optimizer steps; None where the first one's was not measured,
            the run's directory having its ratio.
        cpu_hours, disk_bytes: as of a Forecast.
    """

    num_rounds: int
    num_accepted: int
    num_wanted: int
    proposals: int
    seconds: float
    ratio_seconds: float | None
    cpu_hours: float
    disk_bytes: int


@dataclass(frozen=True)
class Forecast:
    """What one seed of a run will take and give. Training is not forecast.

    With rounds it is of the first one, but for `rounds`.

    Args:
        num_accepted: rows to expect: those wanted, or fewer where the budget ends before.
        num_wanted: rows that the configuration asks for.
        num_seeds: how often all of this is done.
        actors: that sample.
        num_pilot: proposals that the forecast rests on.
        log_m, log_m_source: the envelope's constant and where it is from.
        acceptance, acceptance_interval: of the proposals, with 95 % limits.
        proposals, proposals_interval: until the last row.
        seconds, seconds_interval: wall time of sampling, the pilot's included, the ratio's not.
        cpu_hours: CPU time of sampling: the pilot, the actors' start, drawing and scoring.
        disk_bytes: of the accepted rows' files.
        ess_fraction: E_q[r]^2 / E_q[r^2], over the pilot.
        costs: what was measured.
        options: the configured M, then others, M rising.
        recommendation: which envelope to take.
        warnings: what stands against running it so.
        rounds: all of them; None where there is one.
    """

    num_accepted: int
    num_wanted: int
    num_seeds: int
    actors: int
    num_pilot: int
    log_m: float
    log_m_source: str
    acceptance: float
    acceptance_interval: tuple[float, float]
    proposals: int
    proposals_interval: tuple[int, int]
    seconds: float
    seconds_interval: tuple[float, float]
    cpu_hours: float
    disk_bytes: int
    ess_fraction: float
    costs: Costs
    options: tuple[EnvelopeOption, ...]
    recommendation: Recommendation
    warnings: tuple[str, ...]
    rounds: RoundsForecast | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def forecast(
    plan: SamplingPlan, job: Request, costs: Costs, *, by_quantile: bool = False, warnings: Sequence[str] = ()
) -> Forecast:
    """Forecast a run.

    Args:
        plan: the pilot, and the M that the envelope chose from it.
        job: what is asked for.
        costs: what was measured.
        by_quantile: whether M is a quantile of the pilot's own keys, as a budget envelope's.
        warnings: those that are due already.
    """
    clock = CostModel(plan, job, costs)
    low, high = acceptance_limits(plan, by_quantile)
    most, likely, least = (clock.likely(a) for a in (low, plan.acceptance, high))
    num_accepted = clock.found(plan.acceptance)
    options = tuple(clock.options())
    statistics = _pilot_statistics(plan)
    return Forecast(
        num_accepted=num_accepted,
        num_wanted=job.num_accepted,
        num_seeds=job.num_seeds,
        actors=job.actors,
        num_pilot=statistics.num_scored,
        log_m=plan.choice.log_m,
        log_m_source=plan.choice.source,
        acceptance=plan.acceptance,
        acceptance_interval=(low, high),
        proposals=likely,
        proposals_interval=(least, most),
        seconds=clock.seconds(likely),
        seconds_interval=(clock.seconds(least), clock.seconds(most)),
        cpu_hours=clock.cpu_seconds(likely) / 3600,
        disk_bytes=clock.disk_bytes(likely, num_accepted),
        ess_fraction=statistics.ess_fraction,
        costs=costs,
        options=options,
        recommendation=recommend(options, job),
        warnings=(*warnings, *_warnings(plan, job, statistics.ess_fraction, num_accepted)),
    )


def forecast_rounds(plan: SamplingPlan, first: Forecast, job: Request, following: LaterRounds) -> RoundsForecast:
    """Add up the first round and those that follow.

    Args:
        plan, first, job: of the first round.
        following: the others.
    """
    rounds = [LaterRound(job.num_accepted, job.budget, first.acceptance, following.num_pilot)] * following.exploring
    rounds += [] if following.last is None else [following.last]
    parts = [(first.num_accepted, first.proposals, first.seconds, first.cpu_hours, first.disk_bytes)]
    for one in rounds:
        pilot_seconds = one.num_pilot * plan.pilot.seconds_per_row
        costs = replace(first.costs, num_pilot=one.num_pilot, pilot_seconds=pilot_seconds)
        clock = CostModel(plan, replace(job, num_accepted=one.num_accepted, budget=one.budget), costs)
        likely, found = clock.likely(one.acceptance), clock.found(one.acceptance)
        cpu_hours = clock.cpu_seconds(likely) / 3600
        parts.append((found, likely, clock.seconds(likely), cpu_hours, clock.disk_bytes(likely, found)))
    found, proposals, seconds, cpu_hours, disk_bytes = (sum(column) for column in zip(*parts, strict=True))
    wanted = job.num_accepted + sum(one.num_accepted for one in rounds)
    measured = first.costs.ratio_seconds
    ratio_seconds = None if measured is None else measured * (1 + len(rounds) * following.fit_share)
    return RoundsForecast(len(parts), found, wanted, proposals, seconds, ratio_seconds, cpu_hours, disk_bytes)


def warn_of_rounds(rounds: RoundsForecast) -> Iterator[str]:
    """What stands against running them so."""
    if rounds.num_accepted < rounds.num_wanted:
        rows = f"{rounds.num_accepted:,} of the {rounds.num_wanted:,} rows of all rounds"
        yield f"budgets end at about {rows}: raise sampling.budget or envelope.acceptance"


def acceptance_limits(plan: SamplingPlan, by_quantile: bool) -> tuple[float, float]:
    """95 % limits of the acceptance at the plan's M.

    Of a given M it is the mean of numbers in [0, 1]. Where M is a quantile of the n pilot keys, m of them above it, the
    probability of a key above it follows Beta(m + 1, n - m), whatever the keys' law.
    """
    if by_quantile:
        keys = plan.pilot.rows.accept_key
        above = int((keys > plan.choice.log_m).sum())
        low, high = beta.ppf((0.025, 0.975), above + 1, len(keys) - above)
        return float(low), float(high)
    return mean_interval(_acceptances(plan.pilot.rows.log_ratio, plan.choice.log_m))


def bias_at(plan: SamplingPlan, log_m: float) -> tuple[float, tuple[float, float] | None]:
    """The bound on the total variation distance at an M, and its 95 % limits where target rows give them."""
    held_out = info_of(plan.work.ratio).held_out
    target = None if held_out is None else held_out.log_ratio
    if target is None:
        log_ratio = plan.pilot.rows.log_ratio
        return min(1.0, Statistics.of(log_ratio, log_ratio > log_m, log_m).tv_bound), None
    estimate, upper = target_side_bound(target, log_m)
    return estimate, (target_side_lower(target, log_m), upper)


@dataclass(frozen=True)
class CostModel:
    """From an acceptance to proposals and seconds."""

    plan: SamplingPlan
    job: Request
    costs: Costs

    def needed(self, acceptance: float) -> int:
        """Proposals until all rows are accepted, whatever the budget."""
        return math.ceil(min(self.job.num_accepted / max(acceptance, 1e-300), _MOST_PROPOSALS))

    @property
    def limit(self) -> int:
        """Proposals at which the budget ends."""
        budget, size = self.job.budget, self.plan.work.chunk_size
        chunks = budget.proposals_for(self.job.num_accepted) // size
        if budget.max_seconds is not None:
            computing = max(0.0, budget.max_seconds - self.costs.startup_seconds)
            chunks = min(chunks, self.job.actors * int(computing / max(self._chunk_seconds, 1e-9)))
        return max(1, chunks) * size  # a first chunk is always drawn

    def likely(self, acceptance: float) -> int:
        """Proposals until all rows are accepted, or the budget ends."""
        return min(self.needed(acceptance), self.limit)

    def found(self, acceptance: float) -> int:
        """Rows that are accepted by then."""
        wanted, likely = self.job.num_accepted, self.likely(acceptance)
        return min(wanted, round(likely * acceptance)) if likely == self.limit else wanted

    def chunks(self, proposals: int) -> int:
        """That hold these proposals."""
        return -(-proposals // self.plan.work.chunk_size)

    def seconds(self, proposals: int) -> float:
        """Wall time of sampling."""
        chunks, largest = self.chunks(proposals), self.plan.wave_size(RowCollector(1, exhaustive=True))
        starts = max(1, math.ceil(chunks / largest)) * self.costs.startup_seconds
        return self.costs.pilot_seconds + starts + math.ceil(chunks / self.job.actors) * self._chunk_seconds

    def cpu_seconds(self, proposals: int) -> float:
        """CPU time of the pilot, of the actors' start, and of drawing and scoring in whole chunks."""
        chunks = self.chunks(proposals)
        scored = self.costs.num_pilot + chunks * self.plan.work.chunk_size
        return self.job.actors * self.costs.cpu_startup_seconds + scored * self.costs.cpu_seconds_per_row

    def disk_bytes(self, proposals: int, num_accepted: int) -> int:
        """Of a file for each chunk that has any of the rows, and of the rows."""
        num_shards = min(num_accepted, self.chunks(proposals))
        return round(num_shards * self.costs.bytes_per_shard + num_accepted * self.costs.bytes_per_row)

    def options(self) -> Iterator[EnvelopeOption]:
        """The configured M; then, rising, the ratio's bound or its largest, and acceptances that the pilot can tell."""
        pilot = self.plan.pilot.rows
        yield self._option("configured", "", self.plan.choice.log_m)
        told = [a for a in _ROUND_ACCEPTANCES if a * len(pilot.accept_key) >= _LEAST_ACCEPTED]
        others = [(key_quantile(pilot.accept_key, a), f"budget {a:g}", _budget(a)) for a in told]
        if pilot.log_bound is None:
            others.append((float(pilot.log_ratio.max()), "largest", "{kind: pilot}"))
        else:
            others.append((pilot.log_bound, "bound", "{kind: certified}"))
        for log_m, name, envelope in sorted(others):
            if math.isfinite(log_m):
                yield self._option(name, envelope, log_m)

    @property
    def _chunk_seconds(self) -> float:
        return self.costs.seconds_per_row * self.plan.work.chunk_size

    def _option(self, name: str, envelope: str, log_m: float) -> EnvelopeOption:
        acceptance = float(_acceptances(self.plan.pilot.rows.log_ratio, log_m).mean())
        bias, interval = bias_at(self.plan, log_m)
        proposals = self.needed(acceptance)
        return EnvelopeOption(name, envelope, log_m, acceptance, bias, interval, proposals, self.seconds(proposals))


def recommend(options: Sequence[EnvelopeOption], job: Request) -> Recommendation:
    """The ratio's bound where it is affordable; else the largest acceptance with a small bias; else the best there is.

    options: as of a Forecast; the first, what is configured, has no say.
    """
    if len(options) == 1:
        return Recommendation(
            "", "no proposal of the pilot has a ratio above 0: broaden them until they meet the target"
        )
    affordable = [one for one in options[1:] if one.seconds <= MAX_RECOMMENDED_SECONDS]
    bound = next((one for one in affordable if one.name == "bound"), None)
    if bound is not None:
        return _recommended(bound, job, "the ratio has a bound, at which rejection is exact")
    good = next((one for one in affordable if one.bias <= BIAS_LIMIT), None)
    if good is not None:
        reason = f"the largest acceptance at which capping misplaces at most {BIAS_LIMIT:.0%} of the rows"
        return _recommended(good, job, f"{reason} ({good.bias:.1%}, as estimated)")
    hours = f"{MAX_RECOMMENDED_SECONDS / 3600:g} h"
    if affordable:
        reason = f"the least bias that the pilot can tell and {hours} buys: capping misplaces up to"
        return _recommended(affordable[-1], job, f"{reason} {affordable[-1].bias:.1%} of the rows")
    return _recommended(options[1], job, f"every M takes more than {hours}: take more actors, or nearer proposals")


def _recommended(option: EnvelopeOption, job: Request, reason: str) -> Recommendation:
    reason += f": {option.proposals:,} proposals, {option.seconds:,.0f} s on {job.actors} actor(s)"
    if option.proposals > job.budget.proposals_for(job.num_accepted):
        reason += f"; set sampling.budget.max_proposals={math.ceil(1.2 * option.proposals)} too"
    return Recommendation(f"envelope: {option.envelope}", reason)


def _budget(acceptance: float) -> str:
    num_pilot = max(20_000, math.ceil(FEW_ROWS / acceptance))
    return f"{{kind: budget, acceptance: {acceptance:g}, num_pilot: {num_pilot}}}"


def _acceptances(log_ratio: Floats, log_m: float) -> Floats:
    return np.exp(np.minimum(log_ratio - log_m, 0.0))


def _pilot_statistics(plan: SamplingPlan) -> Statistics:
    log_ratio, log_m = plan.pilot.rows.log_ratio, plan.choice.log_m
    return Statistics.of(log_ratio, log_ratio > log_m, log_m)


def _warnings(plan: SamplingPlan, job: Request, ess_fraction: float, num_accepted: int) -> Iterator[str]:
    n = len(plan.pilot.rows.log_ratio)
    if plan.acceptance * n < _LEAST_ACCEPTED:
        yield (
            f"acceptance is near zero: {plan.acceptance:.2g}, known from about {plan.acceptance * n:.2g} accepted rows "
            f"of {n:,} alone; move the proposals to the target"
        )
    if ess_fraction * n < FEW_ROWS:
        yield (
            f"few rows carry the weight: of the target, {n:,} pilot rows tell as much as {ess_fraction * n:.0f} of its "
            "own, so that acceptance and bias at a large M are rough"
        )
    if num_accepted < job.num_accepted:
        yield (
            f"the budget ends at about {num_accepted:,} of {job.num_accepted:,} rows: raise sampling.budget, or take a "
            "smaller M"
        )
    if plan.choice.margin is not None:
        yield "M grows with what is drawn, so that acceptance falls below this forecast, made at the pilot's M"
