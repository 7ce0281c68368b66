"""Images of one array in a file that is too large for memory: read in one pass, a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch

from rsf_dist.config.images import ImagesKind
from rsf_dist.data.batch import Batch
from rsf_dist.data.decoding import Header
from rsf_dist.data.sources.base import InOnePass, read_rows, same_headers
from rsf_dist.errors import InputError

LARGE_BYTES = 64 * 2**20
"""Bytes from which on an array is not read as a whole."""


@dataclass(frozen=True)
class StreamedImages(InOnePass):
    """The images of an array, uint8 [n, c, h, w], which are read where they are wanted.

    Args:
        opened: opens the file, or its uncompressed content.
        start: bytes in front of the first image.
        shape: of an image, [c, h, w].
        config: says channels and size.
        failure: makes the error of a file that cannot be read, of what was raised.
    """

    opened: Callable[[], AbstractContextManager[IO[bytes]]]
    start: int
    shape: tuple[int, ...]
    config: ImagesKind
    failure: Callable[[object], InputError]

    def __call__(self, positions: Sequence[int]) -> Batch:
        """Return the images at the given positions. Raises InputError."""
        (block,) = self.blocks([positions])
        return block

    def headers(self, positions: Sequence[int]) -> Iterator[Header | InputError]:
        """Yield the size of each image, which is the same for all."""
        yield from same_headers(self.shape, len(positions))

    def blocks(self, runs: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Give the images of each run of positions, in one pass where these ascend. Raises InputError."""
        try:
            with self.opened() as file:
                for positions in runs:
                    images = np.empty((len(positions), *self.shape), np.uint8)
                    for image, position in zip(images, positions, strict=True):
                        file.seek(self.start + position * image.nbytes)
                        data = file.read(image.nbytes)
                        image[...] = np.frombuffer(data, np.uint8).reshape(self.shape)
                    yield read_rows(torch.from_numpy(images), self.config, range(len(images)))
        except (InputError, MemoryError):
            raise
        except Exception as err:  # of the disk, the archive, or a file that is cut short: it is at fault for each
            raise self.failure(err) from err
