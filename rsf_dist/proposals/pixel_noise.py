"""The pixel noise of a chunk's images, drawn on first access."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from rsf_dist.data.batch import take_rows
from rsf_dist.runtime.device import device, to_device


class PixelNoise:
    """Standard normal numbers for n images. An image's numbers do not depend on which images are asked for, or when.

    Args:
        n: the number of images.
        shape: the shape of an image.
        generator: a CPU generator, drawn from at the first call.
        block: draw on the device of this process, in blocks of so many consecutive images, each block from a stream of
            its own. A GPU draws numbers faster than it receives them. The numbers differ from a CPU's, and between
            models of GPUs. None means to draw all on the CPU, from one stream, and to keep them.
    """

    def __init__(self, n: int, shape: torch.Size, generator: torch.Generator, block: int | None = None):
        self._n, self._shape, self._generator, self._block = n, shape, generator, block

    def of(self, rows: Tensor) -> Tensor:
        """Return the noise of the images at positions int64 [k], float32 [k, *shape], on this process's device."""
        size = self._block
        if size is None:
            return to_device(take_rows(self._all, rows))
        drawn = torch.empty((len(rows), *self._shape), device=device())
        block, within = rows // size, rows % size
        for number in block.unique().tolist():
            members = torch.nonzero(block == number).flatten()
            drawn[to_device(members)] = take_rows(self._drawn(number, size), within[members])
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
