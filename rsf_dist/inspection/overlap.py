"""The images that two sets share, told by their files or by their pixels. Few of either are read whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rsf_dist.data.sources.base import Listing
from rsf_dist.runtime.progress import Progress

_IMAGES_AT_ONCE, _BYTES_AT_ONCE = 64, 2**20
_ROWS_AT_ONCE = 16  # of a mapped file, the system may map 2 MiB around each, until they are given back

Pairs = list[tuple[int, int]]
"""The positions of equal images, each of the second set with the first such of the first set."""


def shared_pixels(ours: Tensor, theirs: Tensor) -> Pairs:
    """Return the images that have equal pixels. All pixels are looked at only where middle rows are equal.

    Args:
        ours: uint8 [n, c, h, w].
        theirs: uint8 [m, c, h, w].
    """
    if ours.shape[1:] != theirs.shape[1:]:
        return []
    rows = list(_middle_rows(ours)), list(_middle_rows(theirs))
    return _shared(*rows, lambda number: _digest(ours[number]), lambda number: _digest(theirs[number]))


def shared_files(ours: Sequence[Path], theirs: Sequence[Path], progress: Progress) -> Pairs:
    """Return the files that have equal content. Only those with the size of one of the other set are read."""
    sizes = [os.path.getsize(path) for path in ours], [os.path.getsize(path) for path in theirs]
    read = 0

    def content(path: Path) -> bytes:
        nonlocal read
        read += 1
        progress.count("comparing files", read, len(ours) + len(theirs))
        return _file_digest(path)

    return _shared(*sizes, lambda number: content(ours[number]), lambda number: content(theirs[number]))


def shared_images(
    ours: Listing, mine: Sequence[int], theirs: Listing, other: Sequence[int], progress: Progress
) -> Pairs:
    """Return the images of two sources that are equal once decoded, which is done piece by piece.

    Args:
        ours, mine: a source, and the positions that are taken of it.
        theirs, other: another source, and the positions that are taken of it.
        progress: receiver of the count.

    Raises:
        InputError: an image cannot be decoded.
    """
    digests = list(_decoded(ours, mine, progress)), list(_decoded(theirs, other, progress))
    return _shared(*digests, digests[0].__getitem__, digests[1].__getitem__)


def _shared(
    ours: Sequence[Hashable],
    theirs: Sequence[Hashable],
    whole: Callable[[int], Hashable],
    whole_of_theirs: Callable[[int], Hashable],
) -> Pairs:
    """Return what is equal as a whole, looked at only where what is cheap to get is equal."""
    alike = set(ours) & set(theirs)
    first: dict[Hashable, int] = {}
    for number, key in enumerate(ours):
        if key in alike:
            first.setdefault(whole(number), number)
    candidates = ((whole_of_theirs(number), number) for number, key in enumerate(theirs) if key in alike)
    return [(first[content], number) for content, number in candidates if content in first]


def _middle_rows(images: Tensor) -> Iterator[bytes]:
    middle = images.shape[2] // 2
    for positions in torch.arange(len(images)).split(_ROWS_AT_ONCE):
        yield from map(_digest, images[positions, 0, middle])  # of one channel: where images are mapped, less is read


def _decoded(listing: Listing, positions: Sequence[int], progress: Progress) -> Iterator[bytes]:
    runs = [positions[start : start + _IMAGES_AT_ONCE] for start in range(0, len(positions), _IMAGES_AT_ONCE)]
    in_one_pass = listing.offered("blocks")
    for done, block in enumerate(map(listing.read, runs) if in_one_pass is None else in_one_pass(runs), start=1):
        progress.count("comparing images", done * _IMAGES_AT_ONCE, len(positions))
        yield from map(_digest, block["image"])


def _digest(pixels: Tensor) -> bytes:
    head = str(tuple(pixels.shape)).encode()
    return hashlib.blake2b(pixels.contiguous().numpy().data, digest_size=16, key=head[:64]).digest()


def _file_digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while piece := file.read(_BYTES_AT_ONCE):
            digest.update(piece)
    return digest.digest()
