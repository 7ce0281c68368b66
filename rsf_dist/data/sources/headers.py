"""The headers of a source's images: their sizes and modes, before anything is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from rsf_dist.data.decoding import Header
from rsf_dist.data.sources.base import Listing
from rsf_dist.errors import InputError

_EXAMPLES = 3
_LOOKED_AT = 1_000


@dataclass
class Headers:
    """The sizes and modes of images, counted.

    Args:
        sizes: number of images of each height and width.
        modes: number of images of each mode.
        num_alpha: number of images whose pixels can be transparent.
        alpha: the first of these images.
        num_unreadable: number of files that are no image.
        unreadable: the errors of the first of them.
    """

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    num_alpha: int = 0
    alpha: list[str] = field(default_factory=list)
    num_unreadable: int = 0
    unreadable: list[InputError] = field(default_factory=list)

    def add(self, name: str, header: Header | InputError) -> None:
        """Count an image."""
        if isinstance(header, InputError):
            self.num_unreadable += 1
            self.unreadable = [*self.unreadable, header][:_EXAMPLES]
            return
        self.sizes[header.height, header.width] += 1
        self.modes[header.mode] += 1
        if header.has_alpha:
            self.num_alpha += 1
            self.alpha = [*self.alpha, name][:_EXAMPLES]


def read_headers(listing: Listing, positions: Sequence[int]) -> Iterator[tuple[int, Header | InputError]]:
    """Yield each of these ascending positions with its header; nothing for a source that only tells by decoding."""
    read = listing.offered("headers")
    if read is not None:
        yield from zip(positions, read(positions), strict=True)


def alpha_notes(listing: Listing, positions: Sequence[int]) -> tuple[str, ...]:
    """Return a line if some of these image files can be transparent. Of many files, a thousand are looked at."""
    if listing.files([]) is None:  # to look into tables would be to read them
        return ()
    chosen = evenly(positions, _LOOKED_AT)
    headers = Headers()
    for position, header in read_headers(listing, chosen):
        headers.add(listing.ids[position], header)
    return tuple([alpha_note(headers, len(chosen))] if headers.num_alpha else [])


def alpha_note(headers: Headers, num_images: int) -> str:
    """Return the line about images that can be transparent, among so many that were looked at."""
    counts = f"{headers.num_alpha:,} of {num_images:,} images that were looked at"
    return f"{counts} have an alpha channel, and what is transparent becomes black (first: {headers.alpha[0]})"


def evenly(positions: Sequence[int], most: int) -> list[int]:
    """Return at most so many of the positions, evenly spread."""
    if len(positions) <= most:
        return list(positions)
    return [positions[number] for number in np.linspace(0, len(positions) - 1, most).round().astype(int)]
