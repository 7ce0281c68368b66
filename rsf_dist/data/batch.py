"""Batches of rows: selecting, joining and hashing them, and computing their expensive columns late.

A Batch is a dict of tensors that share their leading dimension n. A LazyBatch is read in the same way.
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
    """A batch whose expensive columns are computed on first access, once, and only for the rows still selected.

    Args:
        columns: the other columns, [n, …] each, at least one. They are kept on the CPU.
        producers: a pure function for each expensive column. It takes positions among all rows, int64 [k] or
            slice(None), and returns the column's rows there, [k, …], on the CPU or on a GPU.
        rows: positions int64 [n] of these rows among all rows. None means that these are all rows.
    """

    def __init__(self, columns: Batch, producers: Mapping[str, Callable[[Index], Tensor]], rows: Tensor | None = None):
        self.columns, self.producers, self._rows = to_cpu(columns), dict(producers), rows
        self._made: Batch = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self.columns:
            return self.columns[name]
        if name not in self._made:
            self._made[name] = self.producers[name](slice(None) if self._rows is None else self._rows)
        return self._made[name]

    def __contains__(self, name: object) -> bool:  # Mapping's own method would compute the column
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

    def with_producers(self, producers: Mapping[str, Callable[[Index], Tensor]]) -> LazyBatch:
        """Return the same rows, with other functions for their expensive columns."""
        return LazyBatch(self.columns, producers, self._rows)

    def select(self, index: Index) -> LazyBatch:
        """Return the rows at `index`; see the function `select`."""
        rows = torch.arange(num_rows(self)) if self._rows is None else self._rows
        chosen = LazyBatch(select(self.columns, index), self.producers, rows[index])
        chosen._made = select(self._made, index)
        return chosen


def num_rows(batch: Mapping[str, Tensor]) -> int:
    """Return the shared leading dimension n. Raises ValueError where the columns disagree or there are none."""
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
    """Return the rows at `index`: a boolean mask [n], positions, or a slice. Rows of a LazyBatch stay lazy."""
    if isinstance(batch, LazyBatch):
        return batch.select(index)
    return {name: take_rows(column, index) for name, column in batch.items()}


def take_rows(column: Tensor, index: Index) -> Tensor:
    """Return column[index] for an index on the CPU, without waiting for the device of the column.

    `index_select` copies whole rows. It is ten times as fast as indexing, which copies number by number.
    """
    if isinstance(index, slice) or not column.is_contiguous():  # indexing keeps the strides
        return column[index]
    if index.dtype == torch.bool:
        if len(index) != len(column):
            raise IndexError(f"a mask of {len(index)} for {len(column)} rows")
        index = torch.nonzero(index).flatten()
    return column.index_select(0, index.to(column.device, non_blocking=column.device.type != "cpu"))


def interleave(first: Batch | LazyBatch, second: Batch | LazyBatch, from_first: Tensor) -> LazyBatch:
    """Return rows of `first` in order where `from_first` (bool [n]) is true, and rows of `second` in order elsewhere.

    Each batch needs at least as many rows as are taken from it. The columns and dtypes are those of `first`.
    """
    position = torch.where(from_first, from_first.cumsum(0), (~from_first).cumsum(0)) - 1
    expensive = {name for part in (first, second) if isinstance(part, LazyBatch) for name in part.producers}

    def column(name: str, rows: Index) -> Tensor:
        is_first, source = from_first[rows], position[rows]
        of_first, of_second = _rows_of(first, name, source[is_first]), _rows_of(second, name, source[~is_first])
        target = of_second.device if of_first.device.type == "cpu" else of_first.device
        both = torch.cat([part.to(target, of_first.dtype, non_blocking=True) for part in (of_first, of_second)])
        order = torch.where(is_first, is_first.cumsum(0), len(of_first) + (~is_first).cumsum(0)) - 1
        return take_rows(both, order)

    known = {name: column(name, slice(None)) for name in first if name not in expensive}
    return LazyBatch(known, {name: partial(column, name) for name in first if name in expensive})


def _rows_of(batch: Batch | LazyBatch, name: str, index: Tensor) -> Tensor:
    """Return a column's rows; nothing else is computed or copied."""
    if isinstance(batch, LazyBatch) and name in batch.producers:
        return batch.select(index)[name]
    return take_rows(batch[name], index)


def to_cpu(batch: Mapping[str, Tensor]) -> Batch:
    """Return all columns as a dict of tensors on the CPU, computing the lazy ones."""
    return {name: column.cpu() for name, column in batch.items()}


def concat(batches: Sequence[Mapping[str, Tensor]]) -> Batch:
    """Join the rows of all batches, in order. All need the columns of the first."""
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def row_digests(batch: Mapping[str, Tensor]) -> bytes:
    """Hash each row: SHA-256 of its bytes, columns in order of name, 32 bytes a row. Fingerprints are made of these."""
    if num_rows(batch) == 0:  # NumPy cannot infer the length of a row from no rows
        return b""
    arrays = [np.ascontiguousarray(batch[name].detach().cpu().numpy()) for name in sorted(batch)]
    rows = np.concatenate([array.reshape(len(array), -1).view(np.uint8) for array in arrays], axis=1)
    return b"".join(hashlib.sha256(row).digest() for row in rows)
