"""The draw of one round: waves of chunks over the pool, collected and committed until the rows are there."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from rsf_dist.cluster.capacity import max_actors
from rsf_dist.cluster.ray_workarounds import unwrapped
from rsf_dist.config.sampling import Budget, PoolConfig
from rsf_dist.runtime.progress import Progress
from rsf_dist.sampling.accepted import AcceptedSet, fingerprint, num_duplicates, result_rows
from rsf_dist.sampling.checkpoint import RoundCheckpoint
from rsf_dist.sampling.chunk import refuse_nonfinite
from rsf_dist.sampling.collector import ChunkTask, RowCollector
from rsf_dist.sampling.plan import SamplingPlan
from rsf_dist.sampling.pool import map_chunks
from rsf_dist.sampling.report import SamplingReport, summarise
from rsf_dist.storage.manifest import RoundResult
from rsf_dist.storage.run_store import RunStore


@dataclass(frozen=True)
class RoundDraw:
    """A round's plan together with what receives its chunks.

    Args:
        plan: log M, the work of a chunk, and the sizes of waves and tasks.
        collector: receives the records of chunks.
        checkpoint: commits them to the store, and knows what an earlier attempt committed.
        pool: the actors.
        budget: max_seconds ends the draw early.
        store: the run's directory. None means that rows stay in Ray's object store.
    """

    plan: SamplingPlan
    collector: RowCollector
    checkpoint: RoundCheckpoint
    pool: PoolConfig
    budget: Budget
    store: RunStore | None

    def run(self, end: int, progress: Progress) -> None:
        """Restore what is stored, then draw waves until the collector is full, at chunk `end`, or time is up.

        Raises StatisticalRefusal where a log ratio is NaN or +inf.
        """
        self.checkpoint.restore(self.collector, self._records)
        if self.checkpoint.is_complete(self.collector.wanted, self.budget):
            return
        with self.checkpoint.keeping(self.collector):
            while self.collector.num_chunks < end and not self.collector.full:
                first = self.collector.num_chunks
                wave = range(first, min(end, first + self.plan.wave_size(self.collector)))
                if not self._run_wave(wave, progress):
                    return

    def _run_wave(self, wave: range, progress: Progress) -> bool:
        """Collect a wave's chunks until the collector is full. Return False when time is up."""
        collector = self.collector
        with closing(self._records(wave)) as records:
            for record in records:
                scored = collector.scored.num_scored + self.plan.work.chunk_size
                refuse_nonfinite(record["num_nonfinite"], scored)  # such a chunk is not kept
                collector.add(record)
                self.checkpoint.note(collector)
                progress.count("accepted rows", min(len(collector), collector.wanted), collector.wanted)
                if collector.full:
                    return True
                if self._out_of_time():
                    return False
        return True

    def _records(self, chunks: Sequence[int]) -> Generator[dict, None, None]:
        """Yield the records of chunks, in their order."""
        with unwrapped():
            actors = max_actors(self.pool)
            per_task = self.plan.chunks_per_task(len(chunks), actors)
            as_tasks = self.plan.starts_slower_than_it_draws(len(chunks), actors)
            task = ChunkTask(self.plan.work, self.store)
            yield from map_chunks(task, chunks, self.pool, per_task, as_tasks)

    def _out_of_time(self) -> bool:
        return self.budget.max_seconds is not None and self.checkpoint.seconds > self.budget.max_seconds

    def result(self) -> AcceptedSet:
        """Commit the round as complete, unless it is already, and return its accepted rows."""
        collector, work = self.collector, self.plan.work
        if self.store is not None and self.checkpoint.is_complete(collector.wanted, self.budget):
            return AcceptedSet.load(self.store, work.round)
        report = self._report(self.checkpoint.seconds)
        ledger = collector.ledger()
        digest = fingerprint(ledger, collector.columns, collector.log_m)
        wanted, budget = collector.wanted, self.budget
        outcome = RoundResult(wanted=wanted, budget=budget, fingerprint=digest, report=report.to_dict())
        self.checkpoint.commit(collector, outcome)
        rows = result_rows(collector.dataset(self.store), collector.found(), ledger, work.log_m, collector.log_m)
        return AcceptedSet(rows, report, digest, ledger, collector.columns)

    def _report(self, seconds: float) -> SamplingReport:
        collector = self.collector
        accepted, ledger = collector.accepted(), collector.ledger()
        return summarise(
            self.plan.setting(collector.log_m),
            collector.statistics(),
            accepted["log_ratio"],
            accepted["accept_key"],
            num_proposed=collector.num_proposed(self.plan.work.chunk_size),
            num_accepted=len(ledger),
            num_duplicates=num_duplicates(ledger),
            stopped=collector.full,
            shortfall=collector.wanted - len(ledger),
            seconds=seconds,
        )
