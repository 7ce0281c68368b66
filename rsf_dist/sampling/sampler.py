"""The rejection sampler: a pilot, from which M is chosen, then waves of chunks over the pool until N rows are accepted.

"The first N" means in (chunk, index) order, so that quick chunks are not preferred; the rows depend on the
configuration and the seed, never on the number of actors. The driver holds 72 bytes an accepted row and references to
the rows.
"""

from __future__ import annotations

import math
import time
from functools import cached_property

from ray.data import Dataset

from rsf_dist.cluster.capacity import check_pool, max_actors
from rsf_dist.cluster.connection import ensure_cluster
from rsf_dist.cluster.shared_storage import require_shared
from rsf_dist.config.sampling import Budget, PoolConfig
from rsf_dist.config.size_rules import chunk_rows
from rsf_dist.errors import InputError, Shortfall, located
from rsf_dist.proposals.base import Pool, Proposal
from rsf_dist.ratios.base import Ratio
from rsf_dist.runtime.allocator import releasing_memory
from rsf_dist.runtime.progress import Progress
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.sampling.accepted import AcceptedSet
from rsf_dist.sampling.checkpoint import RoundCheckpoint
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.collector import RowCollector
from rsf_dist.sampling.envelope import Choice, Envelope, PilotEnvelope, choose, pilot_size
from rsf_dist.sampling.pilot import PilotRun, Probe, draw_pilot, row_bytes
from rsf_dist.sampling.plan import SamplingPlan
from rsf_dist.sampling.round_draw import RoundDraw
from rsf_dist.sampling.stream import Cursor, RowStream, forecast_mean_weight, with_measured_rows
from rsf_dist.sampling.top_k import checked_pool_size, draw_top_k
from rsf_dist.storage.run_store import RunStore


class RejectionSampler:
    """Draw x ~ q on a pool of actors and keep each with probability min(1, p(x) / (M q(x))).

    A proposal that is a `Pool` is not drawn from but read, each row once; sampling then ends with its rows.

    Args:
        proposal, ratio: q, and log p/q.
        envelope: how M is chosen.
        seed: every random draw follows from it.
        chunk_size: proposals drawn and scored at once. Larger chunks use vectorised code better and need more memory.
            None means 4,096, or the largest power of two whose rows take 64 MiB or less, if this is smaller, but
            never fewer than 8: rows of more than 8 MiB each take more than 64 MiB.
        pool: the actors.
        store: a run's directory for the accepted rows, as Parquet, and for the pilot. Rows that it already holds of
            the same proposal, ratio and M are not drawn again. None means that rows stay in Ray's object store.
        budget: the limits at which sampling stops short.
        stage: the family of random streams. A control sample beside the main one needs another.

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
        chunk_size: int | None = None,
        pool: PoolConfig | None = None,
        store: RunStore | None = None,
        budget: Budget | None = None,
        stage: Stage = Stage.SAMPLE,
    ):
        if chunk_size is not None and chunk_size < 1:
            raise InputError("sampling.chunk_size", chunk_size, "must be positive", "use e.g. 4096")
        self.proposal, self.ratio, self.envelope = proposal, ratio, envelope or PilotEnvelope()
        self.seed, self.stage = seed, stage
        if chunk_size is not None:
            self.chunk_size = chunk_size
        self.pool, self.store, self.budget = pool or PoolConfig(), store, budget or Budget()

    @cached_property
    def chunk_size(self) -> int:
        """The proposals of a chunk: as given, or else by the size of a row, one of which is drawn."""
        return chunk_rows(row_bytes(self.proposal, Streams(self.seed, _pilot_stage(self.stage))))

    @releasing_memory  # half of what long waves take of the driver's memory is free by then
    def sample(self, num_accepted: int, round: int = 0, progress: Progress | None = None) -> AcceptedSet:
        """Sample until `num_accepted` rows are accepted.

        Raises:
            InputError: num_accepted is not positive, the pool does not fit the cluster, a column is missing.
            StatisticalRefusal: nothing is accepted, the budget ends short of the rows, a ratio is NaN or +inf.
        """
        max_chunks = self._max_chunks(num_accepted)
        self._check(num_accepted)
        started = time.monotonic()
        plan = self.plan(round)
        collector = RowCollector(num_accepted, plan.choice.log_m, plan.choice.margin)
        draw = self._draw(plan, collector, started)
        draw.run(max_chunks, progress or Progress())
        self._check_shortfall(collector)
        return draw.result()

    @releasing_memory
    def top_k(
        self, k: int, num_proposals: int | None = None, round: int = 0, progress: Progress | None = None
    ) -> AcceptedSet:
        """Draw `num_proposals` proposals and keep the k rows with the highest keys; the envelope has no effect.

        This is rejection at the M that leaves k of the proposals, e.g. of a `DatasetProposal`, every row of which is
        read once; see `rsf_dist.sampling.top_k`. Of the budget, max_seconds holds.

        Args:
            k: rows to keep.
            num_proposals: None means all rows of a finite pool.
            round: the number of the round.
            progress: counts the rows.

        Raises:
            InputError: k is not positive or not below the proposals, or their number is missing.
            StatisticalRefusal: not more than k proposals have a ratio above 0, a ratio is NaN or +inf, time is up.
        """
        pool_size = checked_pool_size(self.proposal, k, num_proposals)
        self._check(k)
        pilot = self._pilot(round)

        def draw_at(choice: Choice) -> RoundDraw:
            plan = self._plan(pilot, choice, round, pool_size)
            return self._draw(plan, RowCollector(k, choice.log_m, exhaustive=True), time.monotonic())

        return draw_top_k(k, pool_size, pilot.rows.accept_key, draw_at, progress or Progress())

    def stream(self, num_accepted: int, round: int = 0) -> Dataset:
        """Return the rows of `sample` as a lazy Dataset that draws them as they are read, for training while sampling.

        The pilot is drawn now. Reading ends short, without an error, at budget.max_proposals. An RsfError comes inside
        of Ray's error; `rsf_dist.cluster.ray_workarounds.unwrapped` takes it out.

        Raises:
            InputError: as `sample`; or M would grow, and rows already handed over cannot be taken back.
            StatisticalRefusal: the pilot allows no M, or meets a ratio that is NaN or +inf.
        """
        return self.row_stream(num_accepted, round).dataset(num_accepted)

    def row_stream(self, num_rows: int, round: int = 0, after: Cursor | None = None) -> RowStream:
        """Return a stream of `num_rows` rows after a position; see `stream`. The budget counts earlier rows too."""
        after = after or Cursor()
        max_chunks = self._max_chunks(after.rows + num_rows)
        self._check(num_rows)
        plan = self.plan(round)
        if plan.choice.margin is not None:
            rule = "its M grows, and rows already handed over cannot be taken back"
            raise InputError("envelope.kind", "adaptive", rule, "stream with kind fixed, certified, pilot or budget")
        likely = math.ceil(num_rows / max(plan.acceptance, 1e-9) / self.chunk_size)
        stream = RowStream(
            plan.work,
            self.pool,
            end=max_chunks,
            chunks_per_task=plan.chunks_per_task(likely, max_actors(self.pool)),
            start=after,
            mean_weight=forecast_mean_weight(plan.pilot.rows.log_ratio, plan.choice.log_m),
            acceptance=plan.acceptance,
        )
        return with_measured_rows(stream)

    def _max_chunks(self, num_accepted: int) -> int:
        """Return the number of chunks at which the budget of so many rows ends."""
        chunks = self.budget.chunks_for(num_accepted, self.chunk_size, self.pool_size)
        if chunks < 1:
            limit = self.budget.proposals_for(num_accepted)
            rule = f"is below one chunk of {self.chunk_size:,} proposals"
            raise InputError("sampling.budget.max_proposals", limit, rule, "raise it, or lower sampling.chunk_size")
        return chunks

    @property
    def pool_size(self) -> int | None:
        """The rows of a proposal that is read once. None means that proposals are drawn without end."""
        return self.proposal.num_rows if isinstance(self.proposal, Pool) else None

    def _check(self, num_accepted: int) -> None:
        if num_accepted < 1:
            raise InputError("num_accepted", num_accepted, "must be positive", "ask for at least one row")
        ensure_cluster()
        with located("sampling.pool"):
            check_pool(self.pool)
        if self.store is not None:
            require_shared(self.store.uri, "output")

    def plan(self, round: int = 0, num_pilot: int | None = None) -> SamplingPlan:
        """Return the plan that follows from a pilot. A stored pilot of the same proposal and ratio is not drawn again.

        Args:
            round: the number of the round.
            num_pilot: proposals of the pilot. None means `self.num_pilot`.

        Raises:
            InputError: the proposal or the ratio fails on a first chunk, or is not the one that the store's pilot knew.
            StatisticalRefusal: the pilot allows no M, or meets a ratio that is NaN or +inf.
        """
        pilot = self._pilot(round, num_pilot)
        with located("envelope"):
            choice = choose(self.envelope, pilot.rows)
        return self._plan(pilot, choice, round, self.pool_size)

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
        """The number of proposals that a pilot draws."""
        return pilot_size(self.envelope, self.ratio.log_bound)

    def _plan(self, pilot: PilotRun, choice: Choice, round: int, pool_size: int | None) -> SamplingPlan:
        work = ChunkWork(
            self.proposal, self.ratio, choice.log_m, self.chunk_size, self.seed, self.stage, round, pool_size
        )
        return SamplingPlan(choice, work, pilot, on_gpus=self.pool.gpus_per_actor > 0)

    def _draw(self, plan: SamplingPlan, collector: RowCollector, started: float) -> RoundDraw:
        checkpoint = RoundCheckpoint(self.store, plan.work, started)
        return RoundDraw(plan, collector, checkpoint, self.pool, self.budget, self.store)

    def _check_shortfall(self, collector: RowCollector) -> None:
        if collector.full or (len(collector) and self.budget.on_shortfall == "partial"):
            return
        num_found, scored = len(collector), collector.scored.num_scored
        largest = collector.scored.max_log_ratio
        at_end = scored == self.pool_size
        finding = f"{num_found:,} of {collector.wanted:,} rows accepted after {scored:,} proposals, where the "
        finding += "pool ends" if at_end else "budget ends"
        if num_found and at_end:
            remedy = f"lower sampling.num_accepted to {num_found:,}, lower the envelope's log M, give sampling.top_k "
            remedy += "in place of num_accepted, or keep what there is with sampling.budget.on_shortfall=partial"
            raise Shortfall(finding, remedy)
        if num_found:
            needed = math.ceil(1.2 * collector.wanted * scored / num_found)
            remedy = f"raise sampling.budget.max_proposals to about {needed:,}, lower the envelope's log M, or keep "
            raise Shortfall(finding, remedy + "what there is with sampling.budget.on_shortfall=partial")
        remedy = f"log M is {collector.log_m:.4g} and the largest log ratio seen {largest:.4g}: lower log M to that "
        raise Shortfall(finding, remedy + "(envelope kind pilot or budget), or move the proposal to the target")


def _pilot_stage(stage: Stage) -> Stage:
    """Return the stage of a pilot's streams, which are never those of the rows that the pilot helps to choose."""
    return {Stage.SAMPLE: Stage.PILOT, Stage.CONTROL: Stage.CONTROL_PILOT}[stage]
