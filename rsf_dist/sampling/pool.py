"""A map of a pure function over chunk ids, on Ray Data's pool of actors. All distributed sampling happens here.

The pool knows nothing of proposals, ratios or stores. Results come in the order of the ids, in whatever order actors
finish, die or are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from rsf_dist.cluster.capacity import max_actors
from rsf_dist.cluster.ray_workarounds import hide_progress_bars, preserve_order, raise_original_errors
from rsf_dist.cluster.workers import limit_to_allocation
from rsf_dist.config.sampling import PoolConfig
from rsf_dist.runtime.allocator import release_freed_memory
from rsf_dist.runtime.timeouts import map_with_timeout

USER_CODE_FIELD, TIMEOUT_REMEDY = "proposal or ratio", "fix what hangs there, or raise sampling.pool.chunk_seconds"
"""The field and the remedy of the error that a chunk raises when it takes too long."""

_T = TypeVar("_T")

Record = Mapping[str, int | str | bytes]
"""The result of one chunk: plain values, with the same keys and types for every chunk."""


def map_chunks(
    work: Callable[[int], Record], chunks: Sequence[int], pool: PoolConfig, chunks_per_task: int, as_tasks: bool = False
) -> Generator[dict, None, None]:
    """Yield work(chunk) for each of `chunks`, in their order.

    Args:
        work: a pure function; it is sent to each actor once, and may be called again for a chunk whose actor died.
        chunks: ids of the chunks.
        pool: the actors.
        chunks_per_task: ids that form a task, except for an actor's first chunk. More save time of the driver and add
            latency; rows do not depend on it.
        as_tasks: run in Ray tasks, in workers that are already up. This is for work shorter than the start of actors.

    Closing the generator early ends the work.
    """
    tasks = grouped(chunks, chunks_per_task, max_actors(pool))
    records = map_over_pool(work, _one_table, tasks, pool, as_tasks=as_tasks)
    # Without prefetching, which holds a task's records back until the next one's are there.
    for table in records.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from table.to_pylist()


def _one_table(records: list[Record]) -> pa.Table:
    # A table for each record, kept while the next chunks' tensors come and go, would leave holes that these do not fit.
    return pa.Table.from_pylist(records)


def grouped(chunks: Sequence[int], size: int, actors: int) -> list[Sequence[int]]:
    """Group chunks into tasks of `size`, after one chunk alone for every actor, which soon shows rows or a failure."""
    alone = min(actors, len(chunks))
    later = [chunks[start : start + size] for start in range(alone, len(chunks), size)]
    return [chunks[start : start + 1] for start in range(alone)] + later


def map_over_pool(
    work: Callable[[int], _T],
    to_table: Callable[[list[_T]], pa.Table],
    tasks: Sequence[Sequence[int]],
    pool: PoolConfig,
    memory: float | None = None,
    as_tasks: bool = False,
) -> Dataset:
    """Return a lazy Dataset of the rows of work(chunk), for the chunks of all tasks, in their order.

    Args:
        work: a pure function, sent to each actor once.
        to_table: makes a table of a task's results. All tables have the same columns, also a table without rows.
        tasks: the chunk ids of each task.
        pool: the actors.
        memory: bytes of the object store that unread results may take. None means half of the store. One result of
            each actor always finds room.
        as_tasks: run tasks instead of actors, as many at once.
    """
    size = max(pool.min_actors, min(max_actors(pool), len(tasks)))
    arguments = (
        ray.put((work, to_table)),
        pool.chunk_seconds,
    )  # held by the Dataset for as long as an actor may be replaced
    actors = ActorPoolStrategy(
        min_size=min(pool.min_actors, size), max_size=size, max_tasks_in_flight_per_actor=pool.max_tasks_in_flight
    )
    how: dict[str, Any] = (
        {"fn": _as_task, "fn_args": arguments, "compute": TaskPoolStrategy(size)}
        if as_tasks
        else {"fn": _Actor, "fn_constructor_args": arguments, "compute": actors}
    )
    rows = ray.data.from_arrow([pa.table({"chunks": [list(chunks)]}) for chunks in tasks]).map_batches(
        **how,
        batch_size=1,  # a task; beside GPUs Ray Data wants a number
        batch_format="pyarrow",
        num_cpus=pool.cpus_per_actor,
        num_gpus=pool.gpus_per_actor or None,
    )
    rows = hide_progress_bars(raise_original_errors(preserve_order(rows)))
    if memory is not None:
        options = rows.context.execution_options
        options.resource_limits = options.resource_limits.copy(object_store_memory=memory)
    return rows


def _as_task(table: pa.Table, work: ray.ObjectRef, seconds: float) -> pa.Table:
    return _Actor(work, seconds)(table)


class _Actor:
    """A worker that runs chunks on one thread, so that sums of floats do not depend on the machine's cores."""

    def __init__(self, work: ray.ObjectRef, seconds: float):
        limit_to_allocation()
        self._work, self._to_table = ray.get(work)
        self._seconds = seconds

    def __call__(self, table: pa.Table) -> pa.Table:
        (chunks,) = table["chunks"].to_pylist()
        work = [(f"chunk {chunk}", partial(self._work, chunk)) for chunk in chunks]
        try:
            return self._to_table(list(map_with_timeout(work, self._seconds, USER_CODE_FIELD, TIMEOUT_REMEDY)))
        finally:
            release_freed_memory()  # once a task: between its chunks memory is kept, between tasks it is others' too
