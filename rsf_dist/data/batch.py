"""A Batch is a dict of tensors that share their leading dimension n; here it is sliced, joined, hashed and made Arrow.

Arrow is how rows travel (Parquet shards, Ray Datasets): a tensor of shape [n] becomes a plain column, one of shape
[n, ...] a fixed-shape tensor column (Arrow's canonical extension type, readable without rsf_dist or Ray).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import overload

import numpy as np
import torch
from torch import Tensor

Batch = dict[str, Tensor]


Index = Tensor | slice


class LazyBatch(Mapping[str, Tensor]):
    """Rows of which some columns are costly, and made when they are asked for: of the rows selected by then, once.

    Args:
        known: the other columns, [n, …] each, one at least; kept on the CPU.
        make: for each costly column what gives its rows at positions of the n, int64 [k] or slice(None), as [k, …]; a
            pure function. They may lie on a GPU; of them only accepted rows leave it.
        rows: positions int64 of the rows that this is of, which `known` is of already; None: all n.
    """

    def __init__(self, known: Batch, make: Mapping[str, Callable[[Index], Tensor]], rows: Tensor | None = None):
        self.columns, self.producers, self._rows = to_cpu(known), dict(make), rows
        self._made: Batch = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self.columns:
            return self.columns[name]
        if name not in self._made:
            self._made[name] = self.producers[name](slice(None) if self._rows is None else self._rows)
        return self._made[name]

    def __contains__(self, name: object) -> bool:  # Mapping's own would make the column
        return name in self.columns or name in self.producers

    def __iter__(self) -> Iterator[str]:
        return iter([*self.producers, *self.columns])

    def __len__(self) -> int:
        return len(self.producers) + len(self.columns)

    def __or__(self, columns: Batch) -> LazyBatch:
        """Return these rows with `columns`, [n, …] each, added or in place of columns of the same name."""
        producers = {name: make for name, make in self.producers.items() if name not in columns}
        joined = LazyBatch(self.columns | columns, producers, self._rows)
        joined._made = {name: column for name, column in self._made.items() if name in producers}
        return joined

    def with_producers(self, make: Mapping[str, Callable[[Index], Tensor]]) -> LazyBatch:
        """The same rows, their costly columns made otherwise."""
        return LazyBatch(self.columns, make, self._rows)

    def select(self, index: Index) -> LazyBatch:
        """The rows at `index`, as of `select`."""
        rows = torch.arange(num_rows(self)) if self._rows is None else self._rows
        chosen = LazyBatch(select(self.columns, index), self.producers, rows[index])
        chosen._made = select(self._made, index)
        return chosen


def num_rows(batch: Mapping[str, Tensor]) -> int:
    """The shared leading dimension n. Raises ValueError where the columns disagree or there is none."""
    if isinstance(batch, LazyBatch):
        batch = batch.columns
    lengths = {name: (len(column) if column.ndim else None) for name, column in batch.items()}
    if not lengths:
        raise ValueError("a batch needs at least one column")
    if len(set(lengths.values())) != 1 or None in lengths.values():
        raise ValueError(f"columns differ in length: {lengths}")
    return len(next(iter(batch.values())))


@overload
def select(batch: LazyBatch, index: Index) -> LazyBatch: ...  # type: ignore[overload-overlap]


@overload
def select(batch: Mapping[str, Tensor], index: Index) -> Batch: ...


def select(batch: Mapping[str, Tensor], index: Index) -> Batch | LazyBatch:
    """The rows at `index` (a boolean mask [n], positions, or a slice) of every column; of an outline, an outline."""
    if isinstance(batch, LazyBatch):
        return batch.select(index)
    return {name: take_rows(column, index) for name, column in batch.items()}


def take_rows(column: Tensor, index: Index) -> Tensor:
    """column[index], of an index on the CPU, wherever the column is; where that is a GPU, nobody waits for it.

    `index_select` copies whole rows, ten times as fast as indexing, which goes number by number.
    """
    if isinstance(index, slice) or not column.is_contiguous():  # whose strides indexing keeps
        return column[index]
    if index.dtype == torch.bool:
        if len(index) != len(column):
            raise IndexError(f"a mask of {len(index)} for {len(column)} rows")
        index = torch.nonzero(index).flatten()
    return column.index_select(0, index.to(column.device, non_blocking=column.device.type != "cpu"))


def interleave(first: Batch | LazyBatch, second: Batch | LazyBatch, from_first: Tensor) -> LazyBatch:
    """Rows of `first` in order where `from_first`, bool [n], says so, of `second` in order elsewhere.

    Either has as many rows as that, or more; columns are those of `first`, and of its dtypes.
    """
    position = torch.where(from_first, from_first.cumsum(0), (~from_first).cumsum(0)) - 1
    costly = {name for part in (first, second) if isinstance(part, LazyBatch) for name in part.producers}

    def column(name: str, rows: Index) -> Tensor:
        here, place = from_first[rows], position[rows]
        of_first, of_second = _rows_of(first, name, place[here]), _rows_of(second, name, place[~here])
        where = of_second.device if of_first.device.type == "cpu" else of_first.device
        both = torch.cat([part.to(where, of_first.dtype, non_blocking=True) for part in (of_first, of_second)])
        return take_rows(both, torch.where(here, here.cumsum(0), len(of_first) + (~here).cumsum(0)) - 1)

    known = {name: column(name, slice(None)) for name in first if name not in costly}
    return LazyBatch(known, {name: partial(column, name) for name in first if name in costly})


def _rows_of(batch: Batch | LazyBatch, name: str, index: Tensor) -> Tensor:
    """A column's rows; nothing else is made or copied."""
    if isinstance(batch, LazyBatch) and name in batch.producers:
        return batch.select(index)[name]
    return take_rows(batch[name], index)


def to_cpu(batch: Mapping[str, Tensor]) -> Batch:
    """All columns, on the CPU."""
    return {name: column.cpu() for name, column in batch.items()}


def concat(batches: Sequence[Mapping[str, Tensor]]) -> Batch:
    """The rows of all batches, in order. All need the columns of the first."""
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def row_digests(batch: Mapping[str, Tensor]) -> bytes:
    """SHA-256 of each row's bytes, 32 bytes a row, columns in order of name: what a fingerprint is made of."""
    if num_rows(batch) == 0:  # NumPy cannot infer the length of a row of none
        return b""
    arrays = [np.ascontiguousarray(batch[name].detach().cpu().numpy()) for name in sorted(batch)]
    rows = np.concatenate([array.reshape(len(array), -1).view(np.uint8) for array in arrays], axis=1)
    return b"".join(hashlib.sha256(row).digest() for row in rows)
