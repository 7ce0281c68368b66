"""The pixel noise of a chunk's images, drawn when it is asked for."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from rsf_dist.data.batch import take_rows
from rsf_dist.runtime.device import device, to_device


class PixelNoise:
    """Standard normal numbers for n images, an image's the same whichever others are asked for with it, and when.

    Args:
        n: how many images; shape: of each.
        generator: a CPU generator, drawn from at the first call.
        block: draw them where this process computes, block by block of so many consecutive images, each in a stream of
            its own: for a GPU, which draws faster than it is sent numbers. They are others than the CPU's, and than
            those of GPUs of other models. None: on the CPU, all in one stream, and kept.
    """

    def __init__(self, n: int, shape: torch.Size, generator: torch.Generator, block: int | None = None):
        self._n, self._shape, self._generator, self._block = n, shape, generator, block

    def of(self, rows: Tensor) -> Tensor:
        """float32 [k, *shape], where this process computes, for images at positions int64 [k] of the n."""
        size = self._block
        if size is None:
            return to_device(take_rows(self._all, rows))
        drawn = torch.empty((len(rows), *self._shape), device=device())
        block, within = rows // size, rows % size
        for number in block.unique().tolist():
            here = torch.nonzero(block == number).flatten()
            drawn[to_device(here)] = take_rows(self._drawn(number, size), within[here])
        return drawn

    @cached_property
    def _all(self) -> Tensor:
        return torch.randn((self._n, *self._shape), generator=self._generator)

    @cached_property
    def _seed(self) -> int:
        return int(torch.randint(2**62, (), generator=self._generator))

    def _drawn(self, number: int, size: int) -> Tensor:
        stream = torch.Generator(device()).manual_seed(self._seed + number)
        return torch.randn((size, *self._shape), generator=stream, device=device())
