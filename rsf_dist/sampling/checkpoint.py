"""A round's progress in the manifest: chunks are committed while they come in, and are not drawn again.

Chunks come in the order of their ids, so a round in the manifest is always its first chunks without a gap: their
shards, their merged statistics, and M. A damaged shard is drawn again; a chunk is a pure function, so its rows must be
the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rsf_dist.config.sampling import Budget
from rsf_dist.errors import InputError
from rsf_dist.sampling.accepted import LEDGER_ROW, check_schema, ledger_of
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.collector import RowCollector
from rsf_dist.sampling.report import SamplingReport
from rsf_dist.storage.manifest import RoundProgress, RoundResult, Shard, WorkIdentity
from rsf_dist.storage.run_store import RunStore

COMMIT_SECONDS = 1.0
"""The shortest time between two commits. It is longer where commits are slow: they take a twentieth of the time."""

Draw = Callable[[Sequence[int]], Iterable[dict]]
"""A function from chunk ids to their records, which writes their shards anew."""


@dataclass
class RoundCheckpoint:
    """The commits of a round's chunks to the store.

    Args:
        store: the run's directory; None means that nothing is kept.
        work: computes the chunks. A round goes on only with equal work.
        started: the time of `time.monotonic` at which work on the round began.
    """

    store: RunStore | None
    work: ChunkWork
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.seconds_before = 0.0
        self._chunks = 0
        self._committed = time.monotonic()
        self._cost = 0.0

    @property
    def seconds(self) -> float:
        """Seconds spent on the round, earlier attempts included."""
        return self.seconds_before + time.monotonic() - self.started

    def restore(self, collector: RowCollector, draw: Draw) -> None:
        """Fill the collector with the committed chunks.

        Raises:
            InputError: they were drawn by other work, or a damaged one comes out differently when drawn again.
        """
        progress = self._progress()
        if self.store is None or progress is None:
            return
        theirs, ours = progress.work.model_dump(), self._identity().model_dump()
        for name, value in ours.items():
            if theirs[name] != value:
                rule = f"the round in {self.store.uri} was begun with {theirs[name]}"
                raise InputError(name, value, rule, "restore that value, or name another directory")
        collector.restore(progress, self._ledgers(self.store, progress.shards, progress.columns, draw))
        self.seconds_before = progress.seconds
        self._chunks = collector.num_chunks

    def forget(self) -> None:
        """Take the round out of the manifest, so that its chunks can be drawn at another M."""
        if self.store is not None:
            self.store.commit(lambda manifest: manifest.rounds.pop(self.work.round, None))

    def drawn_at(self) -> float | None:
        """Return the log M at which the committed chunks were drawn, or None where there are none."""
        progress = self._progress()
        return None if progress is None else progress.drawn_at_log_m

    def is_complete(self, wanted: int, budget: Budget) -> bool:
        """Return True if the round was committed as complete for this number of rows.

        A round that its budget ended short of them is complete for the same budget only.
        """
        progress = self._progress()
        if progress is None or progress.result is None or progress.result.wanted != wanted:
            return False
        result = progress.result
        return SamplingReport.from_dict(result.report).shortfall == 0 or result.budget == budget

    @contextmanager
    def keeping(self, collector: RowCollector) -> Iterator[None]:
        """Commit what came in when the block ends, also by an exception."""
        try:
            yield
        finally:
            if collector.committable().chunks > self._chunks:
                self.commit(collector)

    def note(self, collector: RowCollector) -> None:
        """Commit if enough time has passed since the last commit."""
        if time.monotonic() - self._committed >= max(COMMIT_SECONDS, 20 * self._cost):
            self.commit(collector)

    def commit(self, collector: RowCollector, result: RoundResult | None = None) -> None:
        """Replace the manifest's entry of the round.

        Args:
            collector: the chunks that came in.
            result: the outcome at the round's end; None means that the round goes on.
        """
        if self.store is None:
            return
        started = time.monotonic()
        drawn = collector.committable()
        progress = RoundProgress(
            work=self._identity(),
            drawn_at_log_m=self.work.log_m,
            seconds=round(self.seconds, 2),
            chunks=drawn.chunks,
            log_m=drawn.log_m,
            statistics=json.loads(drawn.statistics.to_json()),
            columns=drawn.columns,
            shards=drawn.shards,
            result=result,
        )
        self.store.commit_round(self.work.round, progress)
        self._chunks, self._committed = drawn.chunks, time.monotonic()
        self._cost = self._committed - started

    def _progress(self) -> RoundProgress | None:
        return None if self.store is None else self.store.round(self.work.round)

    def _identity(self) -> WorkIdentity:
        """Return what chunks depend on, proposal and ratio aside: the pilot's probe tells those apart."""
        work = self.work
        return WorkIdentity(
            seed=work.seed,
            chunk_size=work.chunk_size,
            log_m=work.log_m,
            pool_size=work.pool_size,
            stage=int(work.stage),
        )

    def _ledgers(self, store: RunStore, shards: Sequence[Shard], columns: str, draw: Draw) -> list[NDArray[np.void]]:
        """Return LEDGER_ROW of each shard. A damaged shard is drawn again.

        Raises:
            InputError: a damaged shard comes out differently when drawn again.
        """
        found = ((shard, store.find_shard(shard)) for shard in shards)
        ledgers = {
            shard.chunk: None if rows is None else ledger_of(check_schema(rows, shard, columns))
            for shard, rows in found
        }
        damaged = [shard for shard in shards if ledgers[shard.chunk] is None]
        records = draw([shard.chunk for shard in damaged]) if damaged else ()
        for shard, record in zip(damaged, records, strict=True):
            if record["sha256"] != shard.sha256:
                rule = "was damaged, and its chunk now gives different rows than the manifest says"
                remedy = (
                    "restore the file, or go on with the libraries and the kind of processor that it was drawn with"
                )
                raise InputError(shard.path, store.uri, rule, remedy)
            ledgers[shard.chunk] = np.frombuffer(record["ledger"], LEDGER_ROW)
        return [ledger for ledger in ledgers.values() if ledger is not None]
