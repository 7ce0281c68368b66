"""Proposals from a pool of labelled images: q is uniform on the pool, and a sampler reads each row once.

Rejection from a pool without replacement keeps a row with probability min(1, r/M), as from any q, until the rows end:
what is kept follows p as far as the pool has rows like it. Drawing with replacement would give the same row again and
again instead of ending.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rsf_dist.data.batch import LazyBatch, select, take_rows
from rsf_dist.data.images import ImageSet
from rsf_dist.runtime.rng import Purpose, Streams


@dataclass(frozen=True)
class PoolProposal:
    """Labelled images as they are, each of which is read once.

    Args:
        images: the pool.
        order: int64 [n], the positions of the images in the order in which they are read. None means as they are.

    Rows: image uint8 [n, c, h, w], label int64 [n], base_index int64 [n], the position of the image in the pool, and
    the columns beside the images (`ImageSet.annotations`).

    Raises:
        InputError: the images have no labels.
    """

    images: ImageSet
    order: Tensor | None = None

    def __post_init__(self) -> None:
        self.images.require_labels()

    @property
    def num_rows(self) -> int:
        """The number of images."""
        return len(self.images)

    @property
    def class_prior(self) -> Tensor:
        """The frequencies of the classes in the pool, float64 [k]."""
        counts = torch.bincount(self.images.require_labels(), minlength=len(self.images.classes))
        return counts.double() / counts.sum()

    def sample(self, n: int, rng: Streams) -> LazyBatch:
        """Draw n different rows; where n exceeds the pool, each row occurs before one occurs again."""
        generator, size = rng.torch(), self.num_rows
        turns = [torch.randperm(size, generator=generator) for _ in range(max(1, -(-n // size)))]
        return self._rows(torch.cat(turns)[:n])

    def take(self, start: int, n: int) -> LazyBatch:
        """Return the rows start to start + n, in the order in which they are read."""
        end = min(start + n, self.num_rows)
        return self._rows(torch.arange(start, end) if self.order is None else self.order[start:end])

    def shuffled(self, rng: Streams) -> PoolProposal:
        """Return the pool in an order that follows from the stream, whatever the order before."""
        order = rng.numpy(Purpose.POOL_ORDER).permutation(self.num_rows)
        return PoolProposal(self.images, torch.from_numpy(order))

    def _rows(self, position: Tensor) -> LazyBatch:
        """Return the images at the given positions; pixels are copied when a ratio reads them or a row is accepted."""
        beside: Mapping[str, Tensor] = {"label": self.images.require_labels(), **self.images.annotations}
        columns = select(beside, position) | {"base_index": position}
        return LazyBatch(columns, {"image": lambda rows: take_rows(self.images.images, position[rows])})
