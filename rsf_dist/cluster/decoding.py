"""The decoding of a source's images on the cluster, block by block."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rsf_dist.cluster.ray_workarounds import hide_progress_bars, preserve_order, raise_original_errors, unwrapped
from rsf_dist.cluster.shared_storage import on_nodes
from rsf_dist.cluster.workers import limit_to_allocation
from rsf_dist.data.batch import Batch
from rsf_dist.data.decoding import DeepImages
from rsf_dist.data.packing import Block, read_block, read_here
from rsf_dist.data.source_files import FileStamp, SourceKey
from rsf_dist.data.sources.base import Listing


def read_on_cluster(listing: Listing, runs: Sequence[Sequence[int]], key: SourceKey) -> Iterator[Block]:
    """Decode runs of positions in Ray tasks of one CPU each, on the nodes that see the source's files.

    The blocks come in order. Those that wait for this process lie in Ray's object store.

    Args:
        listing: the images.
        runs: the positions of each block.
        key: names a few of the files.

    Raises:
        InputError: names a file.
        ClusterFailure: a process or a machine died.
    """
    place = _place(key.examples)
    if place is None:
        yield from read_here(listing, runs, key)
        return
    read = ray.put(listing.read)
    tasks = ray.data.from_arrow([pa.table({"positions": [list(positions)]}) for positions in runs])
    blocks = tasks.map_batches(_decode, fn_args=(read,), batch_size=1, batch_format="pyarrow", num_cpus=1, **place)
    blocks = hide_progress_bars(raise_original_errors(preserve_order(blocks)))
    with unwrapped():
        for table in blocks.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in range(table.num_rows):
                yield _from_row(table, row)


def _place(examples: Sequence[FileStamp]) -> dict[str, Any] | None:
    """Return where tasks may run: on all nodes if these see the files, else on this one, or nowhere (None)."""
    sees = on_nodes(partial(_all_here, tuple(examples)))
    if all(sees.values()):
        return {}
    here = ray.get_runtime_context().get_node_id()
    cpus = next((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == here), 0)
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False)} if cpus >= 1 else None


def _all_here(files: Sequence[FileStamp]) -> bool:
    return all(file.is_here() for file in files)


def _decode(task: pa.Table, read: ray.ObjectRef) -> pa.Table:
    limit_to_allocation()
    (positions,) = task["positions"].to_pylist()
    columns, deep = read_block(_latest.get(read.binary(), lambda: ray.get(read)), positions)
    return _to_row(columns, deep)


class Latest:
    """The value that this process used last. It is fetched once, and let go after a while without use.

    A reader may hold the paths of a million files: seconds to unpickle, and hundreds of MiB that the process, which
    Ray may lend to something else, should not keep.
    """

    def __init__(self, idle_seconds: float = 30.0) -> None:
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._held: dict[bytes, Any] = {}
        self._timer = threading.Timer(0, self._forget)

    def get(self, key: bytes, fetch: Callable[[], Any]) -> Any:
        """Return the value of a key, fetched unless it was the last one asked for."""
        with self._lock:
            self._timer.cancel()
            if key not in self._held:
                self._held.clear()  # before the next comes: two need not fit into memory
                self._held[key] = fetch()
            self._timer = threading.Timer(self._idle_seconds, self._forget)
            self._timer.daemon = True
            self._timer.start()
            return self._held[key]

    def __reduce__(self) -> tuple[type[Latest], tuple[float]]:
        """Travel empty, where this module is sent to workers by value because it lies in a user's folder."""
        return Latest, (self._idle_seconds,)

    def _forget(self) -> None:
        with self._lock:
            self._held.clear()


_latest = Latest()


def _to_row(columns: Batch, deep: DeepImages) -> pa.Table:
    """Return a block as one row, whose cells are the columns' bytes."""
    arrays = {name: np.ascontiguousarray(column.numpy()) for name, column in columns.items()}
    about = [{"name": name, "dtype": str(one.dtype), "shape": list(one.shape)} for name, one in arrays.items()]
    cells = {f"bytes_{name}": _cell(array) for name, array in arrays.items()}
    sums = [{"count": deep.count, "level": deep.level, "has_colours": deep.has_colours}]
    return pa.table({"about": [about], "deep": sums, **cells})


def _cell(array: np.ndarray) -> pa.Array:
    """Return an array's bytes as a column of one cell, without a copy."""
    offsets = pa.py_buffer(np.array([0, array.nbytes], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(array)])


def _from_row(table: pa.Table, row: int) -> Block:
    columns = {}
    for one in table["about"][row].as_py():
        data = table[f"bytes_{one['name']}"][row].as_buffer()
        array = np.frombuffer(data, one["dtype"]).reshape(one["shape"])
        columns[one["name"]] = _readable(array)
    return columns, DeepImages(**table["deep"][row].as_py())


def _readable(array: np.ndarray) -> torch.Tensor:
    """Return an array of Ray's store as a tensor, without a copy and without a warning. It is only read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)
