"""Streams of accepted rows: a lazy Dataset that draws rows as they are read, and a reader's position in it.

A chunk is a pure function of its id, so a stream keeps no record of the rows that it gave. A `Cursor` names the last
row; a reader that goes on from there draws the row's chunk again and skips the rows up to it. The rows are those of
`RejectionSampler.sample` at the same M, in the same order, whatever the number of actors or of chunks in a task.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from ray.data import Dataset

from rsf_dist.cluster.capacity import max_actors
from rsf_dist.cluster.workers import run_in_task
from rsf_dist.config.resources import Share
from rsf_dist.config.sampling import PoolConfig
from rsf_dist.data.arrow import to_table
from rsf_dist.runtime.rng import Streams
from rsf_dist.runtime.timeouts import time_limit
from rsf_dist.sampling.accept import capped_weight
from rsf_dist.sampling.accepted import LEDGER_ROW, AcceptedSet, ledger_of
from rsf_dist.sampling.chunk import BOOKKEEPING, ChunkWork, propose, refuse_nonfinite
from rsf_dist.sampling.diagnostics import ROUNDING
from rsf_dist.sampling.pool import TIMEOUT_REMEDY, USER_CODE_FIELD, map_over_pool
from rsf_dist.types import Floats

LEDGER = "ledger"
"""The column that `RowStream.dataset` adds on demand: a row's LEDGER_ROW, as bytes."""

_TASKS = 1_000  # as planned, and as many again for the rest of the budget; each costs the driver some 10 KB
_TASKS_AHEAD = 2  # results an actor may have lying in the object store


@dataclass(frozen=True)
class Cursor:
    """A position in a round's accepted rows: after the row (chunk, index).

    Args:
        chunk, index: the last row handed over. Index -1 means no row of that chunk.
        rows: the number of rows handed over so far in the round.
        num_capped: the rows among them with p/q > M.
        digest: hexadecimal. It starts as a set's fingerprint; then digest = SHA-256(digest before, the next batch's
            ledger). Readers of equal batches of equal rows have equal digests.
    """

    chunk: int = 0
    index: int = -1
    rows: int = 0
    num_capped: int = 0
    digest: str = ""

    @staticmethod
    def after(accepted: AcceptedSet) -> Cursor:
        """Return the position after the last row of a set: a stream of the same sampler goes on with fresh rows."""
        return replace(Cursor().moved(accepted.ledger, accepted.report.log_m), digest=accepted.fingerprint)

    def moved(self, ledger: NDArray[np.void], log_m: float) -> Cursor:
        """Return the position after a further batch, given its LEDGER_ROW [n], n > 0."""
        last = ledger[-1]
        digest = hashlib.sha256(bytes.fromhex(self.digest) + np.ascontiguousarray(ledger).tobytes())
        num_capped = self.num_capped + int((ledger["log_ratio"] > log_m + ROUNDING).sum())
        return Cursor(int(last["chunk"]), int(last["index"]), self.rows + len(ledger), num_capped, digest.hexdigest())

    def num_proposed(self, chunk_size: int) -> int:
        """Return the number of proposals of the round up to and including the last row."""
        return self.chunk * chunk_size + self.index + 1


@dataclass(frozen=True)
class RowStream:
    """A description of a round's accepted rows that can draw them from any position. It can be pickled.

    Args:
        work: the work of a chunk.
        pool: the actors.
        end: the chunk at which the budget ends.
        chunks_per_task: chunks of a task. Rows do not depend on it.
        start: the position where the stream begins.
        mean_weight: the expected mean of the column `weight`, from the pilot.
        columns: the names of the proposal's columns.
        row_bytes: the bytes of a row's own columns.
        acceptance: the expected fraction of accepted proposals.
    """

    work: ChunkWork
    pool: PoolConfig
    end: int
    chunks_per_task: int = 1
    start: Cursor = Cursor()
    mean_weight: float = 1.0
    columns: tuple[str, ...] = ()
    row_bytes: int = 0
    acceptance: float = 1.0

    def dataset(self, num_rows: int | None = None, after: Cursor | None = None, with_ledger: bool = False) -> Dataset:
        """Return the rows after a position as a lazy Dataset: little more is drawn than is read.

        A ratio that is NaN or +inf, or a proposal that breaks its contract, ends the reading with an RsfError inside
        of Ray's error; `rsf_dist.cluster.ray_workarounds.unwrapped` takes it out. The chunk at fault may lie ahead of
        the reader.

        Args:
            num_rows: the largest number of rows. None means all until the budget ends; it may also end earlier.
            after: the position. None means `start`.
            with_ledger: add the column LEDGER.
        """
        after = after or self.start
        work = _Rows(self.work, after, with_ledger)
        rows = map_over_pool(work, pa.concat_tables, self.tasks(after.chunk), self.pool, self.memory)
        return rows if num_rows is None else rows.limit(num_rows)

    def tasks(self, first: int) -> Sequence[range]:
        """Return the chunks from `first` to `end` as tasks: small ones where rows are expected, large ones far beyond.

        `first` is included wherever the budget ends: its columns are needed, and it was drawn before.
        """
        end = max(self.end, first + 1)
        planned = min(end, first + _TASKS * self.chunks_per_task)
        large = max(self.chunks_per_task, math.ceil((end - planned) / _TASKS))
        return [
            range(start, min(start + step, stop))
            for begin, stop, step in [(first, planned, self.chunks_per_task), (planned, end, large)]
            for start in range(begin, stop, step)
        ]

    @property
    def memory(self) -> float:
        """The bytes of the object store for rows that are drawn but not read: two results of each actor."""
        accepted = self.work.chunk_size * self.acceptance
        chunk_bytes = (accepted + 3 * math.sqrt(accepted) + 1) * (self.row_bytes + _BOOKKEEPING_BYTES)
        return _TASKS_AHEAD * max_actors(self.pool) * self.chunks_per_task * chunk_bytes


def with_measured_rows(stream: RowStream) -> RowStream:
    """Fill in `columns` and `row_bytes` of a stream from one proposal, drawn as actors draw. Raises InputError."""
    pool = stream.pool
    columns, row_bytes = run_in_task(_one_proposal, stream.work, pool.chunk_seconds, share=Share.of_pool(pool))
    return replace(stream, columns=columns, row_bytes=row_bytes)


def forecast_mean_weight(log_ratio: Floats, log_m: float) -> float:
    """Forecast the mean weight of accepted rows from a pilot: sum(a w) / sum(a), a = min(1, r/M), w = max(1, r/M)."""
    acceptance = np.exp(np.minimum(log_ratio - log_m, 0.0))
    total = float(acceptance.sum())
    return float((acceptance * capped_weight(log_ratio, log_m)).sum()) / total if total else 1.0


@dataclass(frozen=True)
class _Rows:
    """The rows of a chunk that lie after a position; computed in an actor."""

    work: ChunkWork
    after: Cursor
    with_ledger: bool

    def __call__(self, chunk: int) -> pa.Table:
        done = self.work(chunk)
        refuse_nonfinite(done.statistics.num_nonfinite, (chunk + 1) * self.work.chunk_size)
        rows = to_table(done.rows)
        if chunk == self.after.chunk:
            num_given = np.searchsorted(rows["index"].to_numpy(), self.after.index, side="right")
            rows = rows.slice(int(num_given))
        if self.with_ledger:
            entries = np.frombuffer(ledger_of(rows).tobytes(), f"V{LEDGER_ROW.itemsize}")
            rows = rows.append_column(LEDGER, pa.array(entries.tolist(), pa.binary(LEDGER_ROW.itemsize)))
        return rows


def ledger_in(rows: pa.Table) -> NDArray[np.void]:
    """Return LEDGER_ROW [n] of rows that were read with their ledger."""
    return np.frombuffer(b"".join(rows[LEDGER].to_pylist()), LEDGER_ROW)


_BOOKKEEPING_BYTES = 8 * len(BOOKKEEPING) + LEDGER_ROW.itemsize


def _one_proposal(work: ChunkWork, seconds: float) -> tuple[tuple[str, ...], int]:
    """Measure the proposal: its columns, and the bytes of a row."""
    with time_limit(seconds, USER_CODE_FIELD, "one proposal", TIMEOUT_REMEDY):
        row = to_table(propose(work.proposal, Streams(work.seed, work.stage, work.round), 1))
    return tuple(row.column_names), row.nbytes
