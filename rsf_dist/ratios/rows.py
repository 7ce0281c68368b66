"""The rows that a ratio can be learned from: images, or numbers that a network in float32 can take."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rsf_dist.errors import InputError

MIN_ROWS = 30
"""Fewest target rows, and fewest proposals, that a ratio is learned from."""

_LARGEST = math.sqrt(torch.finfo(torch.float32).max)
"""The largest number whose square is finite in float32."""


def require_learnable(target: Tensor, proposals: Tensor) -> None:
    """Refuse target rows and proposals that no ratio can be learned from. Raises InputError.

    Args:
        target, proposals: images [n, c, h, w], or numbers [n, d].
    """
    for name, rows in (("target", target), ("proposals", proposals)):
        require_rank(name, rows)
    _require_enough("target", target, "give more target images")
    _require_enough("proposals", proposals, "draw more proposals")
    if target.shape[1:] != proposals.shape[1:]:
        ours, theirs = list(target.shape[1:]), list(proposals.shape[1:])
        remedy = "set the `size` of both" if target.ndim == 4 else "give both the same columns"
        raise InputError(
            "target", ours, f"{_things(target)} must be like the proposals {theirs}", remedy, absolute=True
        )
    _require_numbers("target", target, "correct that row, or leave it out")
    _require_numbers("proposals", proposals, "let the proposal draw finite numbers of a moderate size")


def require_rank(name: str, rows: Tensor) -> None:
    """Refuse rows that are neither images nor lists of numbers. Raises InputError."""
    if not isinstance(rows, Tensor):
        remedy = "wrap it, torch.as_tensor(rows, dtype=torch.float32)"
        raise InputError(name, f"a {type(rows).__name__}", "must be a tensor", remedy, absolute=True)
    if rows.is_complex():
        raise InputError(name, str(rows.dtype), "must be real numbers", "give the parts as columns", absolute=True)
    if rows.ndim in (2, 4):
        return
    remedy = "give each row its columns, e.g. rows[:, None]" if rows.ndim == 1 else "flatten each row, rows.flatten(1)"
    rule = "must be images [n, c, h, w], or rows of numbers [n, d]"
    raise InputError(name, f"rows of shape {list(rows.shape)}", rule, remedy, absolute=True)


def _require_enough(name: str, rows: Tensor, remedy: str) -> None:
    if len(rows) < MIN_ROWS:
        value = f"{len(rows)} {_things(rows)}"
        raise InputError(name, value, f"a ratio needs {MIN_ROWS} or more", remedy, absolute=True)


def _things(rows: Tensor) -> str:
    return "images" if rows.ndim == 4 else "rows"


def _require_numbers(name: str, rows: Tensor, remedy: str) -> None:
    """Refuse NaN, infinite and huge numbers, the first of them named by its row and its column."""
    if not rows.is_floating_point():
        return
    wrong = ~(rows.abs() <= _LARGEST)  # NaN compares as False
    if not bool(wrong.any()):
        return
    index = tuple(wrong.nonzero()[0].tolist())
    row, column, value = index[0], list(index[1:]), float(rows[index])
    place = f"row {row}, column {column[0]}" if len(column) == 1 else f"row {row}, at {column}"
    rule = "must be finite" if not math.isfinite(value) else f"must not exceed {_LARGEST:.1g}, or float32 overflows"
    more = int(wrong.sum()) - 1
    others = f" (and {more:,} numbers more)" if more else ""
    raise InputError(name, f"{value:g} in {place}{others}", rule, remedy, absolute=True)
