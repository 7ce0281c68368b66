"""A round's progress in the manifest: what was drawn is committed while it comes in, and is not drawn again.

Chunks come in the order of their ids, so that a round is always a first so many chunks: their shards, the merged
statistics of all of them, and M. A damaged shard is drawn again; its chunk is a pure function, and must come out alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsf_dist.config.sampling import Budget
from rsf_dist.errors import InputError
from rsf_dist.sampling.accepted import LEDGER_ROW, check_schema, ledger_of
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.collector import RowCollector
from rsf_dist.storage.run_store import RunStore, Shard

COMMIT_SECONDS = 1.0
"""At most so often is the manifest replaced, and more seldom where that takes long: a twentieth of the time."""


Draw = Callable[[Sequence[int]], Iterable[dict]]
"""Chunk ids -> their records, the shards written anew."""


@dataclass
class RoundCheckpoint:
    """Commits a round's harvest to the store; without a store it keeps nothing.

    Args:
        store: the run's directory, or None.
        work: what the chunks are computed by; a round goes on only with the same.
        started: when work on the round began, by `time.monotonic`.
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
        """Spent on the round, earlier attempts included."""
        return self.seconds_before + time.monotonic() - self.started

    def restore(self, collector: RowCollector, draw: Draw) -> None:
        """Take what was committed. Raises InputError where that was drawn by other work, or comes out otherwise now."""
        described = self._described()
        if self.store is None or described is None:
            return
        theirs, ours = described["work"], self._identity()
        differing = [name for name, value in ours.items() if theirs.get(name) != value]
        if differing:
            name = differing[0]
            rule = f"the round in {self.store.uri} was begun with {theirs.get(name)}"
            raise InputError(name, ours[name], rule, "restore that, or name another directory")
        shards = [Shard(**listed) for listed in described["shards"]]
        collector.restore(described, shards, self._ledgers(self.store, shards, described["columns"], draw))
        self.seconds_before = described["seconds"]
        self._chunks = collector.num_chunks

    def forget(self) -> None:
        """Take the round out of the manifest: its chunks are to be drawn at another M."""
        if self.store is not None:
            self.store.commit(lambda manifest: manifest["rounds"].pop(str(self.work.round), None))

    def drawn_at(self) -> float | None:
        """The log M that the committed chunks were drawn at; None where there are none."""
        described = self._described()
        return None if described is None else described["drawn_at_log_m"]

    def is_complete(self, wanted: int, budget: Budget) -> bool:
        """Whether the round was committed as complete with so many rows, or with fewer where this budget ended it."""
        described = self._described()
        if described is None or not described["complete"] or described["wanted"] != wanted:
            return False
        return described["report"]["shortfall"] == 0 or described["budget"] == budget.model_dump()

    @contextmanager
    def keeping(self, collector: RowCollector) -> Iterator[None]:
        """Commit what came in at the block's end, whatever ends it."""
        try:
            yield
        finally:
            if collector.whole()[0]["chunks"] > self._chunks:
                self.commit(collector)

    def note(self, collector: RowCollector) -> None:
        """Commit, if it is time."""
        if time.monotonic() - self._committed >= max(COMMIT_SECONDS, 20 * self._cost):
            self.commit(collector)

    def commit(self, collector: RowCollector, **complete: Any) -> None:
        """Replace the manifest's entry of the round; `complete`: what else is known at its end."""
        if self.store is None:
            return
        started = time.monotonic()
        described, shards = collector.whole()
        entry = {
            "complete": bool(complete),
            "work": self._identity(),
            "drawn_at_log_m": self.work.log_m,
            "seconds": round(self.seconds, 2),
            **described,
            **complete,
        }
        self.store.commit_round(self.work.round, shards, entry)
        self._chunks, self._committed = described["chunks"], time.monotonic()
        self._cost = self._committed - started

    def _described(self) -> dict[str, Any] | None:
        return None if self.store is None else self.store.round(self.work.round)

    def _identity(self) -> dict[str, Any]:
        """What chunks depend on, the proposal and the ratio aside: those the pilot's probe tells apart."""
        work = self.work
        known = {name: getattr(work, name) for name in ("seed", "chunk_size", "log_m", "pool_size")}
        return {**known, "stage": int(work.stage)}

    def _ledgers(self, store: RunStore, shards: Sequence[Shard], columns: str, draw: Draw) -> list[NDArray[np.void]]:
        """LEDGER_ROW of each shard; one that is damaged is drawn again."""
        found = ((shard, store.find_shard(shard)) for shard in shards)
        ledgers = {
            shard.chunk: None if rows is None else ledger_of(check_schema(rows, shard, columns))
            for shard, rows in found
        }
        damaged = [shard for shard in shards if ledgers[shard.chunk] is None]
        records = draw([shard.chunk for shard in damaged]) if damaged else ()
        for shard, record in zip(damaged, records, strict=True):
            if record["sha256"] != shard.sha256:
                rule = "was damaged, and now comes out otherwise than the manifest says"
                remedy = "restore the file, or draw with the libraries and on the processors that it was drawn with"
                raise InputError(shard.path, store.uri, rule, remedy)
            ledgers[shard.chunk] = np.frombuffer(record["ledger"], LEDGER_ROW)
        return [ledger for ledger in ledgers.values() if ledger is not None]
