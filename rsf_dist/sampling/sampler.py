"""The sampler: a pilot that chooses M and plans, then waves of chunks over the pool until N rows are accepted.

"The first N" means in (chunk, index) order, so that quick chunks are not preferred; the rows depend on the
configuration and the seed, never on the number of actors. The driver holds 72 bytes an accepted row and references to
the rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

import numpy as np
from ray.data import Dataset

from rsf_dist.cluster.capacity import check_pool, max_actors
from rsf_dist.cluster.connection import ensure_cluster
from rsf_dist.cluster.ray_workarounds import unwrapped
from rsf_dist.cluster.shared_storage import require_shared
from rsf_dist.config.sampling import Budget, PoolConfig
from rsf_dist.errors import InputError, Shortfall, StatisticalRefusal
from rsf_dist.proposals.base import FiniteProposal, Proposal
from rsf_dist.ratios.base import Ratio
from rsf_dist.runtime.allocator import releasing_memory
from rsf_dist.runtime.progress import Progress
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.sampling.accept import key_quantile
from rsf_dist.sampling.accepted import AcceptedSet, fingerprint, num_duplicates, result_rows
from rsf_dist.sampling.checkpoint import RoundCheckpoint
from rsf_dist.sampling.chunk import ChunkWork, refuse_nonfinite
from rsf_dist.sampling.collector import ChunkTask, RowCollector
from rsf_dist.sampling.envelope import Choice, Envelope, PilotEnvelope, choose
from rsf_dist.sampling.pilot import PilotRun, Probe, draw_pilot
from rsf_dist.sampling.plan import SamplingPlan
from rsf_dist.sampling.pool import map_chunks
from rsf_dist.sampling.report import SamplingReport, summarise
from rsf_dist.sampling.stream import Cursor, RowStream, forecast_mean_weight, with_measured_rows
from rsf_dist.storage.manifest import RoundResult
from rsf_dist.storage.run_store import RunStore
from rsf_dist.types import Floats

_LOWEST_LOG_M = -1e300  # below every log ratio that is not -inf


class RejectionSampler:
    """Draw x ~ q on a pool of actors and keep each with probability min(1, p(x) / (M q(x))).

    Args:
        proposal, ratio: q, and log p/q.
        envelope: how M is chosen.
        seed: every random draw follows from it.
        chunk_size: proposals drawn and scored at once. Larger chunks use vectorised code better and need more memory.
        pool: the actors.
        store: a run's directory for the accepted rows, as Parquet, and for the pilot; what it holds already of the same
            proposal, ratio and M is not drawn again. None: Ray's object store, and nothing is kept.
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

    @releasing_memory  # half of what long waves take of the driver's memory is free by then
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
        plan = self.plan(round)
        checkpoint = RoundCheckpoint(self.store, plan.work, started)
        collector = RowCollector(num_accepted, plan.choice.log_m, plan.choice.margin)
        self._gather(plan, collector, limit // self.chunk_size, checkpoint, progress or Progress())
        self._check_shortfall(plan, collector)
        return self._hand_over(plan, collector, checkpoint)

    @releasing_memory
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
        pilot = self._pilot(round)
        end = math.ceil(num_proposals / self.chunk_size)
        for log_m in self._thresholds(pilot, k / num_proposals, round):
            plan = self._plan(pilot, Choice(log_m, f"key {k + 1:,} of {num_proposals:,}"), round, num_proposals)
            checkpoint, collector = RoundCheckpoint(self.store, plan.work), RowCollector(k, log_m, exhaustive=True)
            self._gather(plan, collector, end, checkpoint, progress or Progress())
            if collector.scored.num_scored < num_proposals:
                finding = f"time was up after {collector.scored.num_scored:,} of {num_proposals:,} proposals"
                raise StatisticalRefusal(finding, "raise budget.max_seconds: the top k are known when all were seen")
            if len(collector) > k:
                collector.keep_top()
                return self._hand_over(plan, collector, checkpoint)
            checkpoint.forget()
        raise StatisticalRefusal(
            f"{len(collector):,} of {num_proposals:,} proposals have a ratio above 0, not more than k={k:,}",
            "lower k, or add proposals",
        )

    def stream(self, num_accepted: int, round: int = 0) -> Dataset:
        """The rows of `sample`, drawn as they are read: a lazy Dataset, for training while sampling.

        A pilot chooses M now. Reading ends short, without an error, where budget.max_proposals ends; an error of ours
        comes inside Ray's, from where `rsf_dist.cluster.ray_workarounds.unwrapped` takes it.

        Raises:
            InputError: as `sample`; or M would grow, and rows already handed over cannot be taken back.
            StatisticalRefusal: the pilot allows no M, or meets a ratio that is NaN or +inf.
        """
        return self.row_stream(num_accepted, round).dataset(num_accepted)

    def row_stream(self, num_rows: int, round: int = 0, after: Cursor | None = None) -> RowStream:
        """What draws `num_rows` rows, those after a place; see `stream`. The budget counts the rows before it too."""
        after = after or Cursor()
        limit = self.budget.proposals_for(after.rows + num_rows)
        if limit < self.chunk_size:
            rule = f"is below one chunk of {self.chunk_size:,} proposals"
            raise InputError("budget.max_proposals", limit, rule, "raise it, or lower chunk_size")
        self._check(num_rows)
        plan = self.plan(round)
        if plan.choice.margin is not None:
            rule = "its M grows, and rows already handed over cannot be taken back"
            raise InputError("envelope.kind", "adaptive", rule, "stream with kind fixed, certified, pilot or budget")
        likely = math.ceil(num_rows / max(plan.acceptance, 1e-9) / self.chunk_size)
        stream = RowStream(
            plan.work,
            self.pool,
            end=limit // self.chunk_size,
            chunks_per_task=plan.chunks_per_task(likely, max_actors(self.pool)),
            start=after,
            mean_weight=forecast_mean_weight(plan.pilot.rows.log_ratio, plan.choice.log_m),
            acceptance=plan.acceptance,
        )
        return with_measured_rows(stream)

    def _check(self, num_accepted: int) -> None:
        if num_accepted < 1:
            raise InputError("num_accepted", num_accepted, "must be positive", "ask for at least one row")
        ensure_cluster()
        check_pool(self.pool)
        if self.store is not None:
            require_shared(self.store.uri, "output")

    def plan(self, round: int = 0, num_pilot: int | None = None) -> SamplingPlan:
        """The pilot and what follows from it; a stored pilot of the same proposal and ratio is not drawn again.

        Args:
            round: of the run.
            num_pilot: proposals of the pilot; None: `self.num_pilot`.

        Raises:
            InputError: the proposal or the ratio fails on a first chunk, or is not the one that the store's pilot knew.
            StatisticalRefusal: the pilot allows no M, or meets a ratio that is NaN or +inf.
        """
        pilot = self._pilot(round, num_pilot)
        return self._plan(pilot, choose(self.envelope, pilot.rows), round)

    def _pilot(self, round: int, num_pilot: int | None = None) -> PilotRun:
        streams = Streams(self.seed, _pilot_stage(self.stage), round)
        probe = Probe.of(self.proposal, self.ratio, streams)
        folder, num_pilot = f"rounds/{round:03d}/pilot", num_pilot or self.num_pilot
        kept = None if self.store is None else self.store.find_folder(folder, PilotRun.load)
        if self.store is not None and kept is not None:
            if not probe.agrees_with(kept.probe):
                rule = f"draws and scores other rows than when the run in {self.store.uri} began"
                remedy = "restore proposal, ratio, seed and libraries, or name another directory"
                raise InputError("proposal or ratio", type(self.ratio).__name__, rule, remedy)
            if len(kept.rows.log_ratio) == num_pilot:
                return kept
        pilot = draw_pilot(self.proposal, self.ratio, streams, num_pilot, self.chunk_size, self.pool, probe)
        if self.store is not None:
            self.store.commit_folder(folder, pilot.save)
        return pilot

    @property
    def num_pilot(self) -> int:
        """Proposals that a pilot draws: as the envelope says, and few where it only forecasts the acceptance."""
        certified = isinstance(self.envelope, PilotEnvelope) and self.ratio.log_bound is not None
        return min(self.envelope.num_pilot, 2_000) if certified else self.envelope.num_pilot

    def _plan(self, pilot: PilotRun, choice: Choice, round: int, pool_size: int | None = None) -> SamplingPlan:
        work = ChunkWork(
            self.proposal, self.ratio, choice.log_m, self.chunk_size, self.seed, self.stage, round, pool_size
        )
        return SamplingPlan(choice, work, pilot, on_gpus=self.pool.gpus_per_actor > 0)

    def _thresholds(self, pilot: PilotRun, acceptance: float, round: int) -> Iterator[float]:
        """What `_threshold_candidates` names, from the one on that the store's chunks were drawn at."""
        named = list(_threshold_candidates(pilot.rows.accept_key, acceptance))
        drawn_at = RoundCheckpoint(self.store, self._plan(pilot, Choice(named[0], ""), round).work).drawn_at()
        yield from named[named.index(drawn_at) :] if drawn_at in named else named

    def _gather(
        self, plan: SamplingPlan, collector: RowCollector, end: int, checkpoint: RoundCheckpoint, progress: Progress
    ) -> None:
        """What is stored, then waves of chunks, into the harvest until it is full, at its end, or time is up."""
        recorder = ChunkTask(plan.work, self.store)
        checkpoint.restore(collector, lambda chunks: self._records(recorder, chunks, plan))
        if checkpoint.is_complete(collector.wanted, self.budget):
            return
        with checkpoint.keeping(collector):
            while collector.num_chunks < end and not collector.full:
                first = collector.num_chunks
                wave = range(first, min(end, first + plan.wave_size(collector)))
                with closing(self._records(recorder, wave, plan)) as records:
                    for record in records:
                        scored = collector.scored.num_scored + self.chunk_size
                        refuse_nonfinite(record["num_nonfinite"], scored)  # such a chunk is not kept
                        collector.add(record)
                        checkpoint.note(collector)
                        progress.count("accepted rows", min(len(collector), collector.wanted), collector.wanted)
                        if collector.full:
                            break
                        if self._out_of_time(checkpoint):
                            return

    def _records(self, recorder: ChunkTask, chunks: Sequence[int], plan: SamplingPlan) -> Generator[dict, None, None]:
        """The records of chunks, in their order."""
        with unwrapped():
            actors = max_actors(self.pool)
            per_task, as_tasks = plan.chunks_per_task(len(chunks), actors), plan.is_brief(len(chunks), actors)
            yield from map_chunks(recorder, chunks, self.pool, per_task, as_tasks)

    def _out_of_time(self, checkpoint: RoundCheckpoint) -> bool:
        return self.budget.max_seconds is not None and checkpoint.seconds > self.budget.max_seconds

    def _check_shortfall(self, plan: SamplingPlan, collector: RowCollector) -> None:
        if collector.full or (len(collector) and self.budget.on_shortfall == "partial"):
            return
        found, scored = len(collector), collector.scored.num_scored
        largest = collector.scored.max_log_ratio
        finding = f"{found:,} of {collector.wanted:,} rows accepted after {scored:,} proposals, where the budget ends"
        if found:
            needed = math.ceil(1.2 * collector.wanted * scored / found)
            remedy = (
                f"raise budget.max_proposals to about {needed:,}, lower the envelope's log M, or keep what there is "
            )
            raise Shortfall(finding, remedy + "with budget.on_shortfall=partial")
        remedy = f"log M is {collector.log_m:.4g} and the largest log ratio seen {largest:.4g}: lower log M to that "
        raise Shortfall(finding, remedy + "(envelope kind pilot or budget), or move the proposal to the target")

    def _report(self, plan: SamplingPlan, collector: RowCollector, seconds: float) -> SamplingReport:
        accepted, ledger = collector.accepted(), collector.ledger()
        return summarise(
            plan.setting(collector.log_m),
            collector.statistics(),
            accepted["log_ratio"],
            accepted["accept_key"],
            num_proposed=collector.num_proposed(self.chunk_size),
            num_accepted=len(ledger),
            num_duplicates=num_duplicates(ledger),
            stopped=collector.full,
            shortfall=collector.wanted - len(ledger),
            seconds=seconds,
        )

    def _hand_over(self, plan: SamplingPlan, collector: RowCollector, checkpoint: RoundCheckpoint) -> AcceptedSet:
        if self.store is not None and checkpoint.is_complete(collector.wanted, self.budget):
            return AcceptedSet.load(self.store, plan.work.round)
        report = self._report(plan, collector, checkpoint.seconds)
        ledger, drawn_at = collector.ledger(), plan.choice.log_m
        mark = fingerprint(ledger, collector.columns, collector.log_m)
        result = RoundResult(wanted=collector.wanted, budget=self.budget, fingerprint=mark, report=report.to_dict())
        checkpoint.commit(collector, result)
        rows = result_rows(collector.dataset(self.store), collector.found(), ledger, drawn_at, collector.log_m)
        return AcceptedSet(rows, report, mark, ledger, collector.columns)


def _threshold_candidates(keys: Floats, acceptance: float) -> Iterator[float]:
    """Values of log M that should keep somewhat more than `acceptance`; then one that keeps whatever can be kept."""
    room = acceptance + 4 * math.sqrt(acceptance / len(keys)) + 4 / len(keys)
    likely = key_quantile(keys, min(room, 1.0))
    if np.isfinite(likely):
        yield likely
    yield _LOWEST_LOG_M


def _pilot_stage(stage: Stage) -> Stage:
    """A pilot's streams are never those of the rows that it helps to choose."""
    return {Stage.SAMPLE: Stage.PILOT, Stage.CONTROL: Stage.CONTROL_PILOT}[stage]
