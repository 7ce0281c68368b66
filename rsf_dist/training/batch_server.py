"""The batch server: an actor between the sampler and the training workers that reads a stream in order.

Batch t is rows [t B, (t + 1) B) of the stream. Rank r of w gets rows [r B/w, (r + 1) B/w) of the batch, so that the
rows of a step do not depend on the number of workers. (Ray Data's `streaming_split` gives each block to the worker that
asks first.) Each batch comes with the cursor after it: training resumes from a checkpoint with the very next row, on
any number of workers. Rank 0 starts the server and ends it; a new group of workers starts a server of its own.

Two bounds limit the rows drawn ahead: the batches held here, and `RowStream.memory` for Ray Data's object store. A
worker waits for rows here, and never inside a collective operation of torch, which would time out.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import ray
from ray.actor import ActorHandle

from rsf_dist.cluster.ray_workarounds import unwrapped
from rsf_dist.errors import StatisticalRefusal
from rsf_dist.sampling.stream import Cursor, RowStream, ledger_in

_BATCHES_AHEAD = 4
_PREFETCH = 2
_CLOSING_SECONDS = 10.0


@dataclass(frozen=True)
class StreamProgress:
    """The progress of training through a stream.

    Args:
        cursor: after the last row of the last batch.
        trainer_waited_seconds: seconds that rank 0 has waited for a batch.
        sampler_waited_seconds: seconds that the server has held a batch without room for it.
    """

    cursor: Cursor
    trainer_waited_seconds: float = 0.0
    sampler_waited_seconds: float = 0.0


@dataclass(frozen=True)
class ServedBatch:
    """A rank's share of a batch, the cursor after the batch, and the seconds that the server has waited so far."""

    rows: pa.Table
    cursor: Cursor
    waited: float


def start_batch_server(
    name: str,
    stream: ray.ObjectRef,
    after: Cursor,
    batch_size: int,
    first: int,
    steps: int,
    ranks: int,
    columns: list[str],
) -> ActorHandle:
    """Start an actor that serves batches first, …, steps - 1 of a stream.

    Args:
        name: of the actor, by which the other ranks find it.
        stream: the RowStream.
        after: the cursor before the first batch.
        batch_size: rows of a batch, over all ranks.
        first: number of the first batch.
        steps: number of the last batch, plus one.
        ranks: training workers.
        columns: the columns to serve.
    """
    actor = ray.remote(num_cpus=0, max_concurrency=ranks * (_PREFETCH + 1) + 1)(BatchServer)
    # Outside of the placement group of the worker that starts it, which has no room for the sampler's actors.
    options = actor.options(name=name, scheduling_strategy="DEFAULT")
    return options.remote(stream, after, batch_size, first, steps, ranks, columns)


def stop_batch_server(server: ActorHandle) -> None:
    """Release the sampler's actors, then end the server."""
    with suppress(ray.exceptions.RayError):
        ray.get(server.close.remote(), timeout=2 * _CLOSING_SECONDS)
    ray.kill(server)


def iter_served_batches(
    server: ActorHandle, rank: int, first: int, steps: int, before: StreamProgress
) -> Iterator[tuple[pa.Table, StreamProgress]]:
    """Yield this rank's share of batches first, …, steps - 1, each with the progress after it. Fetches two ahead.

    Args:
        server: the batch server.
        rank: of this worker.
        first: number of the first batch.
        steps: number of the last batch, plus one.
        before: the progress before the first batch.

    Raises:
        StatisticalRefusal: the stream ended, on all ranks at the same batch; or a ratio is NaN or +inf.
        InputError: the proposal breaks its contract.
    """
    requests = (server.take.remote(number, rank) for number in range(first, steps))
    ahead = deque(islice(requests, _PREFETCH))
    waited = before.trainer_waited_seconds
    while ahead:
        started = time.monotonic()
        with unwrapped():
            batch: ServedBatch = ray.get(ahead.popleft())
        waited += time.monotonic() - started
        ahead.extend(islice(requests, 1))
        yield batch.rows, StreamProgress(batch.cursor, waited, before.sampler_waited_seconds + batch.waited)


@dataclass
class _HeldBatch:
    rows: pa.Table
    cursor: Cursor
    waited: float
    wanted_by: set[int]


class BatchServer:
    """The actor: a thread reads batches, and each batch is held until every rank has taken its share."""

    def __init__(
        self, stream: RowStream, after: Cursor, batch_size: int, first: int, steps: int, ranks: int, columns: list[str]
    ):
        self._stream, self._cursor, self._columns = stream, after, columns
        self._batch_size, self._steps, self._ranks = batch_size, steps, ranks
        self._held: dict[int, _HeldBatch] = {}
        self._next, self._waited = first, 0.0
        self._end: Exception | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def take(self, number: int, rank: int) -> ServedBatch:
        """Return rank `rank`'s share of batch `number`, once it is there. Raises the error that ended the stream."""
        with self._changed:
            self._changed.wait_for(lambda: number in self._held or self._end or self._closed)
            if number not in self._held:
                raise self._end or RuntimeError("the batch server was closed")
            batch = self._held[number]
            batch.wanted_by.remove(rank)
            if not batch.wanted_by:
                del self._held[number]
                self._changed.notify_all()
        share = self._batch_size // self._ranks
        return ServedBatch(batch.rows.slice(rank * share, share), batch.cursor, batch.waited)

    def close(self) -> None:
        """Stop reading."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._reader.join(_CLOSING_SECONDS)

    def _read(self) -> None:
        try:
            with unwrapped(), closing(self._batches()) as batches:
                for rows in batches:
                    if not self._offer(rows):
                        break
            end: Exception = self._shortfall()
        except Exception as err:  # any error must reach the ranks, which would wait for ever
            end = err
        with self._changed:
            self._end = end
            self._changed.notify_all()

    def _batches(self) -> Generator[pa.Table, None, None]:
        needed = (self._steps - self._next) * self._batch_size
        dataset = self._stream.dataset(needed, self._cursor, with_ledger=True)
        yield from dataset.iter_batches(batch_size=self._batch_size, batch_format="pyarrow", drop_last=True)

    def _offer(self, rows: pa.Table) -> bool:
        """Hold a batch once there is room. Returns False once the server is closed."""
        self._cursor = self._cursor.moved(ledger_in(rows), self._stream.work.log_m)
        started = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: len(self._held) < _BATCHES_AHEAD or self._closed)
            self._waited += time.monotonic() - started
            kept = rows.select(self._columns)
            self._held[self._next] = _HeldBatch(kept, self._cursor, self._waited, set(range(self._ranks)))
            self._next += 1
            self._changed.notify_all()
            return not self._closed

    def _shortfall(self) -> StatisticalRefusal:
        return shortfall(self._stream, self._cursor, self._next, self._steps, self._batch_size)


def shortfall(stream: RowStream, cursor: Cursor, batch: int, steps: int, batch_size: int) -> StatisticalRefusal:
    """Build the refusal of a stream that ended after `batch` of `steps` batches, with the budget it would take."""
    size = stream.work.chunk_size
    spent = stream.end * size
    wanted = cursor.rows + (steps - batch) * batch_size
    finding = (
        f"rows for {batch:,} of {steps:,} training steps accepted after {spent:,} proposals, where the budget ends"
    )
    if cursor.rows == 0:
        return StatisticalRefusal(finding, "raise sampling.budget.max_proposals, or lower the envelope's log M")
    enough = 1.2 * wanted * cursor.num_proposed(size) / cursor.rows
    remedy = f"raise sampling.budget.max_proposals to about {int(enough):,}, lower the envelope's log M, or lower "
    return StatisticalRefusal(finding, remedy + f"training.steps to {batch:,}")
