"""The records that chunks send back, and their collection in the driver: statistics, ledger entries, rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import Dataset

from rsf_dist.cluster.ray_workarounds import preserve_order
from rsf_dist.data.arrow import to_table
from rsf_dist.errors import InputError
from rsf_dist.sampling.accept import top_k
from rsf_dist.sampling.accepted import LEDGER_ROW, describe_columns, ledger_of, stored_dataset
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.diagnostics import Statistics
from rsf_dist.storage.manifest import RoundProgress, Shard
from rsf_dist.storage.run_store import RunStore

# The rows of this many chunks, or bytes, are put into the object store together. A chunk with one or two rows would
# cost the driver 20 KB as an object of its own, or 10 KB as a table.
_BUNDLE, _BUNDLE_BYTES = 256, 4 * 2**20


@dataclass(frozen=True)
class DrawnChunks:
    """The first chunks of a round, all of them complete.

    Args:
        chunks: how many there are.
        log_m: the log M in force.
        statistics: sums over their proposals.
        columns: names and types of the rows' columns, as JSON.
        shards: the files with their rows.
    """

    chunks: int
    log_m: float
    statistics: Statistics
    columns: str
    shards: list[Shard]


@dataclass
class RowCollector:
    """The records of a round's chunks so far, in the order of their ids.

    Args:
        wanted: the number of accepted rows to collect.
        log_m: the log M in force. It may grow; then earlier rows are filtered anew by their keys.
        margin: log M is kept at least this far above the largest log ratio drawn; None means that M stays.
        exhaustive: True if all chunks are wanted, so that the collector is never full; `keep_top` then chooses rows.
        num_chunks: the number of chunks that came in, and the id of the next one.
        scored: sums over all scored proposals.
        shards: the files with the chunks' rows, in their order.
        columns: names and types of the rows' columns, as JSON.
    """

    wanted: int
    log_m: float = -np.inf
    margin: float | None = None
    exhaustive: bool = False
    num_chunks: int = 0
    scored: Statistics = field(default_factory=Statistics)
    shards: list[Shard] = field(default_factory=list)
    columns: str = ""
    _ledgers: list[NDArray[np.void]] = field(default_factory=list)
    _pending_ledgers: list[NDArray[np.void]] = field(default_factory=list)
    _rows: list[ray.ObjectRef] = field(default_factory=list)
    _pending_rows: list[pa.Table] = field(default_factory=list)
    _pending_bytes: int = 0
    _count: int = 0

    def __post_init__(self) -> None:
        self._drawn_at = self.log_m
        self._seal()

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """True if the wanted rows are there."""
        return not self.exhaustive and self._count >= self.wanted

    def add(self, record: dict) -> None:
        """Take the record of the next chunk. Raises InputError where its columns differ from those before."""
        ledger = np.frombuffer(record["ledger"], LEDGER_ROW)
        if self.columns and record["columns"] != self.columns:
            rule = f"gives {record['columns']} in chunk {self.num_chunks}, and gave {self.columns}"
            raise InputError("proposal", "columns", rule, "give every chunk the same columns")
        if len(ledger) and record["shard"]:
            self.shards.append(Shard(self.num_chunks, record["shard"], len(ledger), record["sha256"]))
        elif len(ledger):
            self._pending_rows.append(pa.ipc.open_stream(record["rows"]).read_all())
            self._pending_bytes += len(record["rows"])
            if self._pending_bytes >= _BUNDLE_BYTES or len(self._pending_rows) >= _BUNDLE:
                self._put_rows()
        self.num_chunks += 1
        self._take(Statistics.from_json(record["statistics"]), [ledger], record["columns"])

    def _take(self, statistics: Statistics, ledgers: Sequence[NDArray[np.void]], columns: str) -> None:
        self.scored = self.scored.merge(statistics)
        self.columns = columns
        self._pending_ledgers += [ledger for ledger in ledgers if len(ledger)]
        if len(self._pending_ledgers) >= _BUNDLE:
            self._ledgers.append(np.concatenate(self._pending_ledgers))
            self._pending_ledgers.clear()
        self._count += sum(int((ledger["accept_key"] > self.log_m).sum()) for ledger in ledgers)
        if self.margin is not None:
            self.raise_to(self.scored.max_log_ratio + self.margin)
        self._seal()

    def _seal(self) -> None:
        self._whole = (self.num_chunks, self.scored, self.log_m, self.columns, len(self.shards))

    def committable(self) -> DrawnChunks:
        """Return the state to commit: all chunks that were added completely, and their shards.

        A chunk whose addition was interrupted is left out.
        """
        chunks, statistics, log_m, columns, num_shards = self._whole
        return DrawnChunks(chunks, log_m, statistics, columns, self.shards[:num_shards])

    def restore(self, progress: RoundProgress, ledgers: Sequence[NDArray[np.void]]) -> None:
        """Take the chunks that the manifest lists.

        Args:
            progress: the round's entry in the manifest.
            ledgers: LEDGER_ROW of each shard.
        """
        self.shards, self.num_chunks = list(progress.shards), progress.chunks
        self._take(Statistics.from_json(json.dumps(progress.statistics)), ledgers, progress.columns)

    def raise_to(self, log_m: float) -> None:
        """Filter all rows by this log M, if it is larger than the one in force."""
        if log_m > self.log_m:
            self.log_m = log_m
            self._count = int((self.found()["accept_key"] > log_m).sum())

    def keep_top(self) -> None:
        """Raise M so that exactly the wanted rows stay, those with the highest keys. One more must have come in."""
        self.raise_to(top_k(self.found()["accept_key"], self.wanted)[1])
        self._seal()

    def found(self) -> NDArray[np.void]:
        """Return LEDGER_ROW of all rows that came in, whatever M is now."""
        return np.concatenate([np.empty(0, LEDGER_ROW), *self._ledgers, *self._pending_ledgers])

    def accepted(self) -> NDArray[np.void]:
        """Return LEDGER_ROW of all rows accepted at M, the surplus included."""
        found = self.found()
        return found[found["accept_key"] > self.log_m]

    def ledger(self) -> NDArray[np.void]:
        """Return LEDGER_ROW of the rows handed over, [min(accepted, wanted)]."""
        return self.accepted()[: self.wanted]

    def statistics(self) -> Statistics:
        """Return the statistics of all scored proposals, at M."""
        if self.log_m == self._drawn_at:
            return self.scored
        found = self.found()
        return self.scored.at(self.log_m, found["log_ratio"], found["accept_key"] > self.log_m, found["label"])

    def num_proposed(self, chunk_size: int) -> int:
        """Return the number of proposals up to the last row handed over, or of all scored ones if rows are missing."""
        if not self.full:
            return self.scored.num_scored
        last = self.ledger()[-1]
        return int(last["chunk"]) * chunk_size + int(last["index"]) + 1

    def dataset(self, store: RunStore | None) -> Dataset:
        """Return all rows that came in, from the run's store or, without one, from the object store."""
        if store is not None:
            return stored_dataset(store, self.shards)
        self._put_rows()
        return preserve_order(ray.data.from_arrow_refs(self._rows))

    def _put_rows(self) -> None:
        if self._pending_rows:
            self._rows.append(ray.put(pa.concat_tables(self._pending_rows).combine_chunks()))
            self._pending_rows.clear()
            self._pending_bytes = 0


@dataclass(frozen=True)
class ChunkTask:
    """The work of an actor: compute a chunk and return its record.

    Args:
        work: computes the chunk.
        store: takes the chunk's rows as a shard; None means that the record carries the rows.
    """

    work: ChunkWork
    store: RunStore | None

    def __call__(self, chunk: int) -> dict[str, int | str | bytes]:
        """Compute one chunk and return its record."""
        done = self.work(chunk)
        rows = to_table(done.rows)
        shard = self.store.write_shard(self.work.round, chunk, rows) if self.store and rows.num_rows else None
        return {
            "chunk": chunk,
            "statistics": done.statistics.to_json(),
            "num_nonfinite": done.statistics.num_nonfinite,
            "columns": describe_columns(rows),
            "ledger": ledger_of(rows).tobytes(),
            "rows": _to_ipc(rows) if rows.num_rows and shard is None else b"",
            "shard": shard.path if shard else "",
            "sha256": shard.sha256 if shard else "",
        }


def _to_ipc(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()
