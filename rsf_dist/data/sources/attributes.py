"""Columns of numbers beside the images, which travel with each image into the rows of a pool."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rsf_dist.data.batch import Batch
from rsf_dist.data.sources.base import InOnePass, Listing
from rsf_dist.data.sources.columns import Place
from rsf_dist.errors import InputError

_REMEDY = "correct it, or leave the column out of `attributes`"


@dataclass(frozen=True)
class _Beside:
    """The images at given positions, and what stands beside them in other columns.

    Args:
        read: decodes the images, as `Listing.read`.
        columns: a column [n] for each attribute.
    """

    read: Callable[[Sequence[int]], Batch]
    columns: Mapping[str, Tensor]

    def __call__(self, positions: Sequence[int]) -> Batch:
        return self.read(positions) | _rows(self.columns, positions)


@dataclass(frozen=True)
class _InOnePassBeside(_Beside, InOnePass):
    """Images that are read in one pass, and what stands beside them in other columns."""

    read: InOnePass

    @property
    def has_single_images(self) -> bool:
        """True if an image that cannot be read leaves the others readable."""
        return self.read.has_single_images

    def blocks(self, runs: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Give the images of each run of positions, with what stands beside them. Raises InputError."""
        for positions, block in zip(runs, self.read.blocks(runs), strict=True):
            yield block | _rows(self.columns, positions)

    def can_part(self, runs: Sequence[Sequence[int]]) -> bool:
        """Return True if the images can be read in parts."""
        return self.read.can_part(runs)


def _rows(columns: Mapping[str, Tensor], positions: Sequence[int]) -> Batch:
    index = torch.as_tensor(positions, dtype=torch.int64)
    return {name: column[index] for name, column in columns.items()}


def with_attributes(listing: Listing, columns: Mapping[str, Tensor]) -> Listing:
    """Return the listing whose images come with these columns, one number an image."""
    if not columns:
        return listing
    read = listing.read
    if isinstance(read, InOnePass):
        return replace(listing, read=_InOnePassBeside(read, columns))
    return replace(listing, read=_Beside(read, columns))


def read_numbers(values: Sequence[object], name: str, place: Place) -> Tensor:
    """Return a column of numbers, [n]: int64 if all of them are whole, else float64.

    Args:
        values: numbers, true or false, or texts that are numbers.
        name: the column's name, for errors.
        place: names a row, for errors.

    Raises:
        InputError: names the first row whose value is empty, no number, or not finite.
    """
    numbers = [_number(value, name, place, row) for row, value in enumerate(values)]
    whole = all(isinstance(number, int) for number in numbers)
    return torch.tensor(numbers, dtype=torch.int64 if whole else torch.float64)


def _number(value: object, name: str, place: Place, row: int) -> int | float:
    text = str(value).strip()
    if value is None or text.lower() in ("", "nan"):
        raise InputError(place(row), "(empty)", f"has no {name}", "fill it in, or remove the row", absolute=True)
    number = _parsed(text)
    if number is None or not math.isfinite(number):
        raise InputError(place(row), value, f"{name} must be a finite number", _REMEDY, absolute=True)
    if isinstance(number, int) and not -(2**63) <= number < 2**63:
        raise InputError(place(row), value, f"{name} must fit into 64 bits", _REMEDY, absolute=True)
    return number


def _parsed(text: str) -> int | float | None:
    """Return the number that a text stands for; true and false are 1 and 0. None means that it is no number."""
    if text.lower() in ("true", "false"):
        return int(text.lower() == "true")
    if not text.isascii() or "_" in text:  # Python reads 1_0 as 10, people do not
        return None
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return None
