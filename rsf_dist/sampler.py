"""The sampler: a pilot that chooses M and plans, then waves of chunks over the pool until N rows are accepted.

"The first N" means in (chunk, index) order, so that quick chunks are not preferred; the rows depend on the
configuration and the seed, never on the number of actors. The driver holds 72 bytes an accepted row and references to
the rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import ray

from rsf_dist.accept import Floats, key_quantile
from rsf_dist.accepted import AcceptedSet, fingerprint, handed_over, num_duplicates
from rsf_dist.chunk import ChunkWork, draw
from rsf_dist.config import Budget, PoolConfig
from rsf_dist.diagnostics import Statistics
from rsf_dist.envelope import Choice, Envelope, Pilot, PilotEnvelope
from rsf_dist.errors import InputError, StatisticalRefusal, unwrapped
from rsf_dist.harvest import ChunkRecorder, Harvest
from rsf_dist.pool import map_chunks
from rsf_dist.progress import Progress
from rsf_dist.proposals.base import FiniteProposal, Proposal
from rsf_dist.ratios.base import Ratio
from rsf_dist.resources import check_pool, confine, ensure_cluster, max_actors, require_shared
from rsf_dist.rng import Stage, Streams
from rsf_dist.sampling_report import SamplingReport, Setting, summarise
from rsf_dist.store import RunStore

_TASK_SECONDS = 2.0  # Ray Data costs the driver some 6 ms a task
_LONGEST_TASK_SECONDS = 20.0  # in large waves: rows and the time limit wait for a task's end
_MAX_TASKS = 1_000  # a wave; each leaves some 10 KB with the driver
_LOWEST_LOG_M = -1e300  # below every log ratio that is not -inf


class RejectionSampler:
    """Draw x ~ q on a pool of actors and keep each with probability min(1, p(x) / (M q(x))).

    Args:
        proposal, ratio: q, and log p/q.
        envelope: how M is chosen.
        seed: every random draw follows from it.
        chunk_size: proposals drawn and scored at once. Larger chunks use vectorised code better and need more memory.
        pool: the actors.
        store: a run's directory for the accepted rows, as Parquet; None: Ray's object store.
        budget: when to stop short.
        stage: which family of random streams; a control sample drawn beside the main one needs another.

    Raises:
        InputError: chunk_size is not positive.
    """

    def __init__(
        self,
        proposal: Proposal,
        ratio: Ratio,
        envelope: Envelope | None = None,
        *,
        seed: int = 0,
        chunk_size: int = 4096,
        pool: PoolConfig | None = None,
        store: RunStore | None = None,
        budget: Budget | None = None,
        stage: Stage = Stage.SAMPLE,
    ):
        if chunk_size < 1:
            raise InputError("chunk_size", chunk_size, "must be positive", "use e.g. 4096")
        self.proposal, self.ratio, self.envelope = proposal, ratio, envelope or PilotEnvelope()
        self.seed, self.chunk_size, self.stage = seed, chunk_size, stage
        self.pool, self.store, self.budget = pool or PoolConfig(), store, budget or Budget()

    def sample(self, num_accepted: int, round: int = 0, progress: Progress | None = None) -> AcceptedSet:
        """Sample until `num_accepted` rows are accepted.

        Raises:
            InputError: num_accepted is not positive, the pool does not fit the cluster, a column is missing.
            StatisticalRefusal: nothing is accepted, the budget ends short of the rows, a ratio is NaN or +inf.
        """
        limit = self.budget.proposals_for(num_accepted)
        if limit < self.chunk_size:
            rule = f"is below one chunk of {self.chunk_size:,} proposals"
            raise InputError("budget.max_proposals", limit, rule, "raise it, or lower chunk_size")
        self._check(num_accepted)
        started = time.monotonic()
        pilot = self._pilot(round)
        plan = self._plan(pilot, self.envelope.choose(pilot.rows), round)
        harvest = Harvest(num_accepted, plan.choice.log_m, plan.choice.margin)
        self._gather(plan, harvest, limit // self.chunk_size, started, progress or Progress())
        self._check_shortfall(plan, harvest)
        return self._hand_over(plan, harvest, started)

    def top_k(
        self, k: int, num_proposals: int | None = None, round: int = 0, progress: Progress | None = None
    ) -> AcceptedSet:
        """The k rows with the highest keys of `num_proposals` proposals; the envelope is not asked.

        It is rejection at the M that leaves k of them, log M the next key: for a finite pool of which k are wanted, a
        `DatasetProposal`, every row of which is looked at once (num_proposals=None). As exact as that M: the report
        says how many rows it capped. Of the budget, max_seconds holds.

        Raises:
            InputError: k is not positive or not below the proposals, or their number is missing.
            StatisticalRefusal: not more than k proposals have a ratio above 0, a ratio is NaN or +inf, time is up.
        """
        if num_proposals is None:
            if not isinstance(self.proposal, FiniteProposal):
                raise InputError("num_proposals", None, "this proposal has no end", "say how many to look at")
            num_proposals = self.proposal.num_rows
        elif isinstance(self.proposal, FiniteProposal) and num_proposals > self.proposal.num_rows:
            rule = f"the pool has {self.proposal.num_rows:,} rows"
            raise InputError("num_proposals", num_proposals, rule, "lower it, or leave it out")
        if not 0 < k < num_proposals:
            raise InputError("k", k, f"must be in (0, {num_proposals:,}), the proposals", "lower it")
        self._check(k)
        started = time.monotonic()
        pilot = self._pilot(round)
        end = math.ceil(num_proposals / self.chunk_size)
        for log_m in _below(pilot.rows.accept_key, k / num_proposals):
            plan = self._plan(pilot, Choice(log_m, f"key {k + 1:,} of {num_proposals:,}"), round, num_proposals)
            harvest = Harvest(k, log_m, exhaustive=True)
            self._gather(plan, harvest, end, started, progress or Progress())
            if harvest.scored.num_scored < num_proposals:
                finding = f"time was up after {harvest.scored.num_scored:,} of {num_proposals:,} proposals"
                raise StatisticalRefusal(finding, "raise budget.max_seconds: the top k are known when all were seen")
            if len(harvest) > k:
                harvest.keep_top()
                return self._hand_over(plan, harvest, started)
        raise StatisticalRefusal(
            f"{len(harvest):,} of {num_proposals:,} proposals have a ratio above 0, not more than k={k:,}",
            "lower k, or add proposals",
        )

    def _check(self, num_accepted: int) -> None:
        if num_accepted < 1:
            raise InputError("num_accepted", num_accepted, "must be positive", "ask for at least one row")
        ensure_cluster()
        check_pool(self.pool)
        if self.store is not None:
            require_shared(self.store.uri, "output")

    def _pilot(self, round: int) -> PilotRun:
        pool = self.pool
        task = _pilot.options(num_cpus=pool.cpus_per_actor, num_gpus=pool.gpus_per_actor)
        streams = Streams(self.seed, _pilot_stage(self.stage), round)
        certified = isinstance(self.envelope, PilotEnvelope) and self.ratio.log_bound is not None
        num_pilot = min(self.envelope.num_pilot, 2_000) if certified else self.envelope.num_pilot
        with unwrapped():
            pilot = ray.get(task.remote(self.proposal, self.ratio, streams, num_pilot, self.chunk_size))
        log_ratio = pilot.rows.log_ratio
        _refuse_nonfinite(int((~(log_ratio < np.inf)).sum()), len(log_ratio), "pilot ")
        return pilot

    def _plan(self, pilot: PilotRun, choice: Choice, round: int, pool_size: int | None = None) -> Plan:
        work = ChunkWork(
            self.proposal,
            self.ratio,
            choice.log_m,
            self.chunk_size,
            self.seed,
            self.stage,
            round,
            choice.reshape,
            pool_size,
        )
        score = pilot.rows.log_ratio if choice.reshape is None else choice.reshape(pilot.rows.log_ratio)
        acceptance = float(np.exp(np.minimum(score - choice.log_m, 0)).mean())
        return Plan(choice, work, acceptance, pilot.seconds_per_row * self.chunk_size, pilot.rows)

    def _gather(self, plan: Plan, harvest: Harvest, end: int, started: float, progress: Progress) -> None:
        """Waves of chunks into the harvest until it is full, the end-th chunk is reached or time is up."""
        recorder = ChunkRecorder(plan.work, self.store)
        first = 0
        while first < end and not harvest.full:
            wave = range(first, min(end, first + plan.wave_size(harvest, self.chunk_size)))
            per_task = plan.chunks_per_task(wave, max_actors(self.pool))
            with unwrapped(), closing(map_chunks(recorder, wave, self.pool, per_task)) as records:
                for record in records:
                    harvest.add(record)
                    _refuse_nonfinite(harvest.scored.num_nonfinite, harvest.scored.num_scored)
                    progress.count("accepted rows", min(len(harvest), harvest.wanted), harvest.wanted)
                    if harvest.full:
                        break
                    if self._out_of_time(started):
                        return
            first = wave.stop

    def _out_of_time(self, started: float) -> bool:
        return self.budget.max_seconds is not None and time.monotonic() - started > self.budget.max_seconds

    def _check_shortfall(self, plan: Plan, harvest: Harvest) -> None:
        if harvest.full or (len(harvest) and self.budget.on_shortfall == "partial"):
            return
        found, scored = len(harvest), harvest.scored.num_scored
        largest = harvest.scored.max_log_ratio
        finding = f"{found:,} of {harvest.wanted:,} rows accepted after {scored:,} proposals, where the budget ends"
        if found:
            needed = math.ceil(1.2 * harvest.wanted * scored / found)
            remedy = (
                f"raise budget.max_proposals to about {needed:,}, lower the envelope's log M, or keep what there is "
            )
            raise StatisticalRefusal(finding, remedy + "with budget.on_shortfall=partial")
        remedy = f"log M is {harvest.log_m:.4g} and the largest log ratio seen {largest:.4g}: lower log M to that "
        raise StatisticalRefusal(
            finding, remedy + "(envelope kind pilot or budget), or move the proposal to the target"
        )

    def _report(self, plan: Plan, harvest: Harvest, seconds: float) -> SamplingReport:
        accepted, ledger = harvest.accepted(), harvest.ledger()
        return summarise(
            plan.setting(harvest.log_m),
            harvest.statistics(),
            accepted["log_ratio"],
            accepted["accept_key"],
            num_proposed=harvest.num_proposed(self.chunk_size),
            num_accepted=len(ledger),
            num_duplicates=num_duplicates(ledger),
            stopped=harvest.full,
            shortfall=harvest.wanted - len(ledger),
            seconds=seconds,
        )

    def _hand_over(self, plan: Plan, harvest: Harvest, started: float) -> AcceptedSet:
        report = self._report(plan, harvest, time.monotonic() - started)
        ledger, drawn_at = harvest.ledger(), plan.choice.log_m
        mark = fingerprint(ledger, harvest.columns, harvest.log_m)
        if self.store is not None:
            described = {"fingerprint": mark, "columns": harvest.columns, "drawn_at_log_m": drawn_at}
            self.store.commit_round(plan.work.round, harvest.shards, {**described, "report": report.to_dict()})
        rows = handed_over(harvest.dataset(self.store), harvest.found(), ledger, drawn_at, harvest.log_m)
        return AcceptedSet(rows, report, mark, ledger, harvest.columns)


@dataclass(frozen=True)
class PilotRun:
    """A pilot's rows, and what one cost on one core."""

    rows: Pilot
    seconds_per_row: float


@dataclass(frozen=True)
class Plan:
    """What the pilot taught: M, the chunks' work, the acceptance to expect and what a chunk costs on one core."""

    choice: Choice
    work: ChunkWork
    acceptance: float
    seconds_per_chunk: float
    pilot: Pilot

    def setting(self, log_m: float) -> Setting:
        """What the report needs to know, log_m being the M in the end."""
        ratio, log_ratio = self.work.ratio, self.pilot.log_ratio
        return Setting(
            log_m=log_m,
            source=self.choice.source,
            proportional=self.choice.reshape is None,
            normalised=getattr(ratio, "normalised", False),
            target_log_ratio=getattr(ratio, "target_log_ratio", None),
            pilot=Statistics.of(log_ratio, log_ratio > log_m, log_m),
            log_ratio_quantile=float(np.quantile(log_ratio, 0.999, method="higher")),
        )

    def wave_size(self, harvest: Harvest, chunk_size: int) -> int:
        """Chunks that should fill the harvest, with room for chance; twice what was drawn where nothing came of it."""
        largest = _MAX_TASKS * self.chunks_in(_LONGEST_TASK_SECONDS)
        if harvest.exhaustive:
            return largest
        missing, scored = harvest.wanted - len(harvest), harvest.scored.num_scored
        likely = missing + 3 * math.sqrt(missing) + 1
        if len(harvest):
            proposals = likely * scored / len(harvest)
        else:
            proposals = 2 * scored or likely / max(self.acceptance, 1e-9)
        return min(math.ceil(proposals / chunk_size), largest)

    def chunks_per_task(self, wave: range, actors: int) -> int:
        """So many that a task lasts about _TASK_SECONDS and a wave has at most _MAX_TASKS, yet some for every actor."""
        several_each = math.ceil(len(wave) / (4 * actors))
        return max(math.ceil(len(wave) / _MAX_TASKS), min(self.chunks_in(_TASK_SECONDS), several_each))

    def chunks_in(self, seconds: float) -> int:
        """Chunks that one core computes in this time, at least one."""
        return max(1, round(seconds / max(self.seconds_per_chunk, 1e-6)))


@ray.remote
def _pilot(proposal: Proposal, ratio: Ratio, streams: Streams, num_pilot: int, chunk_size: int) -> PilotRun:
    """Score num_pilot proposals as actors would."""
    confine()
    pieces: list[tuple[Floats, Floats]] = []
    started = time.monotonic()
    for chunk, size in enumerate(_sizes(num_pilot, chunk_size)):
        one = Streams(streams.seed, streams.stage, streams.round, chunk)
        _, log_ratio, exponentials = draw(proposal, ratio, one, size)
        pieces.append((log_ratio, log_ratio + exponentials))
    log_ratios, keys = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return PilotRun(Pilot(log_ratios, keys, ratio.log_bound), (time.monotonic() - started) / num_pilot)


def _sizes(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


def _below(keys: Floats, acceptance: float) -> Iterator[float]:
    """Values of log M that should keep somewhat more than `acceptance`; then one that keeps whatever can be kept."""
    room = acceptance + 4 * math.sqrt(acceptance / len(keys)) + 4 / len(keys)
    likely = key_quantile(keys, min(room, 1.0))
    if np.isfinite(likely):
        yield likely
    yield _LOWEST_LOG_M


def _pilot_stage(stage: Stage) -> Stage:
    """A pilot's streams are never those of the rows that it helps to choose."""
    return {Stage.SAMPLE: Stage.PILOT, Stage.CONTROL: Stage.CONTROL_PILOT}[stage]


def _refuse_nonfinite(count: int, total: int, what: str = "") -> None:
    if count:
        raise StatisticalRefusal(
            f"{count:,} of {total:,} {what}log ratios are NaN or +inf",
            "mend the target or the ratio there; the proposal must have density wherever the target has",
        )
