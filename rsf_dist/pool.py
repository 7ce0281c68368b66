"""Chunk ids over Ray Data's pool of actors: all of the distribution there is.

The pool knows nothing of proposals, ratios or stores: it maps a pure function over ids and gives the answers in the
order of the ids, whatever the order in which actors finish, die or are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from rsf_dist.config import PoolConfig
from rsf_dist.resources import confine, max_actors

Record = Mapping[str, int | str | bytes]
"""What one chunk sends back: plain values, with the same keys and types for every chunk."""


def map_chunks(
    work: Callable[[int], Record], chunks: Sequence[int], pool: PoolConfig, chunks_per_task: int
) -> Generator[dict, None, None]:
    """Yield work(chunk) for each of `chunks`, in their order.

    Args:
        work: a pure function; it is sent to each actor once, and may be called again for a chunk whose actor died.
        chunks: ids.
        pool: the actors.
        chunks_per_task: ids that travel together. More cost less of the driver and more latency; never a row.

    Closing the generator early ends the work.
    """
    tasks = [pa.table({"chunk": list(chunks[i : i + chunks_per_task])}) for i in range(0, len(chunks), chunks_per_task)]
    size = max(pool.min_actors, min(max_actors(pool), len(tasks)))
    shared_work = ray.put(work)  # held here for as long as an actor may be replaced
    records = ray.data.from_arrow(tasks).map_batches(
        _Actor,
        fn_constructor_args=(shared_work,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=min(pool.min_actors, size), max_size=size),
        num_cpus=pool.cpus_per_actor,
        num_gpus=pool.gpus_per_actor or None,
    )
    records.context.enable_progress_bars = False
    records.context.execution_options.preserve_order = True
    for table in records.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from table.to_pylist()


class _Actor:
    """Runs chunks on one thread, so that sums of floats do not depend on the machine's cores."""

    def __init__(self, work: ray.ObjectRef):
        confine()
        self._work: Callable[[int], Record] = ray.get(work)

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([dict(self._work(chunk)) for chunk in table["chunk"].to_pylist()])
