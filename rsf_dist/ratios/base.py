"""Socket 2: log p(x) - log q(x) of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rsf_dist.data.batch import Batch, Index, LazyBatch, num_rows
from rsf_dist.errors import InputError
from rsf_dist.runtime.device import device
from rsf_dist.runtime.user_code import reported_as


@runtime_checkable
class Ratio(Protocol):
    """The logarithm of target density over proposal density, up to a constant that M absorbs.

    A ratio may say more of itself, each an attribute that may be missing:
    `normalised`: True where no constant is left, E_q[r] = 1, so that an acceptance of (1 - eps)/M is expected;
    `target_log_ratio`: float64 [m], log r of target rows that it was not fitted to, for the p-side bounds;
    `target_at_most`: True where these are upper bounds, since target rows do not show all that the ratio depends on;
    `columns`: the names of all columns that it looks at, so that others need not be made of rows that it rejects;
    `test_index`: int64 [m], which of the target rows these were;
    `on_device`: True where it takes costly columns as they are made, on the GPU that an actor may have; otherwise all
        columns are shown to it on the CPU.
    """

    @property
    def log_bound(self) -> float | None:
        """The supremum of log_ratio where it is known, else None."""
        ...

    def log_ratio(self, batch: Batch) -> Tensor:
        """float64 [n]. -inf rejects; NaN and +inf are counted by the sampler and refused."""
        ...


@runtime_checkable
class SavableRatio(Ratio, Protocol):
    """A ratio that can be written to a folder and read back from there."""

    def save(self, folder: Path) -> None:
        """Write the ratio into an existing folder."""
        ...


@dataclass(frozen=True)
class Screened:
    """What a ratio knows after it left out rows that cannot be accepted.

    Args:
        log_ratio: float64 [n]; -inf where left out.
        scored: bool [n], False where left out.
        log_inclusion: float64 [n], the log probability over E, given the row, that it was not left out; 0 where it was.
    """

    log_ratio: Tensor
    scored: Tensor
    log_inclusion: Tensor


@runtime_checkable
class ScreeningRatio(Ratio, Protocol):
    """A ratio that costs less where rows can be given up early: l = l1 + l2 with l2 <= b, and l1 + b + E <= log M."""

    def screened(self, batch: Batch | LazyBatch, exponentials: Tensor, log_m: float) -> Screened:
        """As log_ratio, but for rows with l + E <= log_m, some of which it leaves out. exponentials: E, float64 [n]."""
        ...


def log_ratios(ratio: Ratio, batch: Batch | LazyBatch, field: str = "ratio") -> Tensor:
    """`ratio.log_ratio(batch)`, float64 [n] on the CPU. Raises InputError naming `field` where it fails or is none."""
    kind, n = type(ratio).__name__, num_rows(batch)
    with reported_as(field, kind, f"fails on {n} proposals", "fix it"):
        given: object = ratio.log_ratio(_visible_columns(batch, ratio, field))
    if not isinstance(given, Tensor):
        raise InputError(field, kind, f"log_ratio gives a {type(given).__name__}", f"give a tensor of shape [{n}]")
    if given.shape != (n,) or given.is_complex():
        found = f"{kind} gives {given.dtype} {list(given.shape)}"
        raise InputError(field, found, f"log_ratio must have shape [{n}]", "give one number a row")
    return given.detach().to("cpu", torch.float64)


def on_ratio_device(batch: Batch | LazyBatch, ratio: Ratio) -> Batch | LazyBatch:
    """What a ratio is to select rows and columns from, where it expects them."""
    here = device().type == "cpu" or getattr(ratio, "on_device", False)
    if here or not isinstance(batch, LazyBatch):  # itself, which remembers what it made, for the rows that are accepted
        return batch
    return batch.with_producers({name: _to_cpu_when_made(make) for name, make in batch.producers.items()})


def _to_cpu_when_made(make: Callable[[Index], Tensor]) -> Callable[[Index], Tensor]:
    return lambda rows: make(rows).cpu()


def _visible_columns(batch: Batch | LazyBatch, ratio: Ratio, field: str) -> Batch:
    """What a ratio is shown: the columns that it names, or all; where it expects them."""
    columns = getattr(ratio, "columns", None)
    if isinstance(batch, LazyBatch):
        wanted = batch.keys() if columns is None else columns
        for name in wanted:
            if name not in batch:
                rule = f"is not among the rows' {sorted(batch)}"
                raise InputError(f"{field}.columns", name, rule, "correct the name")
        batch = batch.columns | {name: batch[name] for name in wanted}
    if getattr(ratio, "on_device", False):
        return batch
    return {name: column.cpu() if columns is None or name in columns else column for name, column in batch.items()}


def checked_columns(columns: Sequence[str] | None) -> tuple[str, ...] | None:
    """What a user's function says that it looks at. Raises InputError where it is one name rather than several."""
    if isinstance(columns, str):
        raise InputError("ratio.columns", columns, "must be a list of names", f'write ["{columns}"]')
    return None if columns is None else tuple(columns)
