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
from rsf_dist.ratios.info import info_of
from rsf_dist.runtime.device import device
from rsf_dist.runtime.user_code import reported_as


@runtime_checkable
class Ratio(Protocol):
    """The logarithm of target density over proposal density, up to a constant that M absorbs.

    A ratio may have an attribute `info`, a RatioInfo, that states more facts. A ratio without one may have the
    attributes `normalised` and `columns` instead; see `rsf_dist.ratios.info.info_of`.
    """

    @property
    def log_bound(self) -> float | None:
        """The supremum of log_ratio. None means that it is not known."""
        ...

    def log_ratio(self, batch: Batch) -> Tensor:
        """Return the log ratio of each row, float64 [n]. -inf rejects; the sampler counts and refuses NaN and +inf."""
        ...


@runtime_checkable
class SavableRatio(Ratio, Protocol):
    """A ratio that can be written to a folder and read back from there."""

    def save(self, folder: Path) -> None:
        """Write the ratio into an existing folder."""
        ...


@dataclass(frozen=True)
class Screened:
    """The log ratios of a batch of which rows were left out that cannot be accepted.

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
    """A ratio that gives up rows early and so costs less.

    With l = l1 + l2 and l2 <= b, a row with l1 + b + E <= log M is rejected whatever l2 is.
    """

    def screened(self, batch: Batch | LazyBatch, exponentials: Tensor, log_m: float) -> Screened:
        """Score the rows as log_ratio does, but leave out some of those with l + E <= log_m.

        Args:
            batch: n rows.
            exponentials: E, float64 [n].
            log_m: the envelope's log M.
        """
        ...


def log_ratios(ratio: Ratio, batch: Batch | LazyBatch) -> Tensor:
    """Return `ratio.log_ratio(batch)`, float64 [n] on the CPU.

    Raises:
        InputError: the ratio fails, or does not return one number a row.
    """
    kind, n = type(ratio).__name__, num_rows(batch)
    with reported_as("", kind, f"fails on {n} proposals", "fix it"):
        returned: object = ratio.log_ratio(_visible_columns(batch, ratio))
    if not isinstance(returned, Tensor):
        raise InputError("", kind, f"log_ratio returns a {type(returned).__name__}", f"return a tensor of shape [{n}]")
    if returned.shape != (n,) or returned.is_complex():
        value = f"{kind} gives {returned.dtype} {list(returned.shape)}"
        raise InputError("", value, f"log_ratio must have shape [{n}]", "give one number a row")
    return returned.detach().to("cpu", torch.float64)


def on_ratio_device(batch: Batch | LazyBatch, ratio: Ratio) -> Batch | LazyBatch:
    """Return the batch such that the ratio finds columns where it expects them: on the CPU, or as they are made."""
    stays = device().type == "cpu" or info_of(ratio).on_device
    if stays or not isinstance(batch, LazyBatch):  # the same object, which keeps its columns for accepted rows
        return batch
    return batch.with_producers({name: _to_cpu_when_made(make) for name, make in batch.producers.items()})


def _to_cpu_when_made(make: Callable[[Index], Tensor]) -> Callable[[Index], Tensor]:
    return lambda rows: make(rows).cpu()


def _visible_columns(batch: Batch | LazyBatch, ratio: Ratio) -> Batch:
    """Return the columns that the ratio names, or all of them, where the ratio expects them."""
    info = info_of(ratio)
    columns = info.columns
    if isinstance(batch, LazyBatch):
        wanted = batch.keys() if columns is None else columns
        for name in wanted:
            if name not in batch:
                rule = f"is not among the rows' {sorted(batch)}"
                raise InputError("columns", name, rule, "correct the name")
        batch = batch.columns | {name: batch[name] for name in wanted}
    if info.on_device:
        return batch
    return {name: column.cpu() if columns is None or name in columns else column for name, column in batch.items()}


def checked_columns(columns: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the columns that a user's function looks at. Raises InputError where they are a single string."""
    if isinstance(columns, str):
        raise InputError("columns", columns, "must be a list of names", f'write ["{columns}"]')
    return None if columns is None else tuple(columns)
