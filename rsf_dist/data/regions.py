"""Regions of an image as polygons and as run lengths, the two ways in which COCO's format keeps them.

Run lengths count pixels column by column, from the top down: first those outside of the region, then those inside, and
so on in turns. Their compressed form writes the difference to the number before the last in digits of five bits.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

_FIRST_DIGIT, _MORE, _SIGN, _BITS = 48, 0x20, 0x10, 5
_MAX_DIGITS = 8  # of a number: 40 bits


def polygon_mask(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the pixels whose middle lies within a polygon, bool [height, width].

    ImageDraw of Pillow also fills the pixels that the edge only touches: 5 x 5 of a square of 4 x 4.

    Args:
        points: x and y of the corners, [n, 2].
        height, width: of the image.
    """
    left, top = np.clip(np.floor(points.min(0)), 0, [width, height]).astype(np.int64)
    right, bottom = np.clip(np.ceil(points.max(0)), 0, [width, height]).astype(np.int64)
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = _inside(points - [left, top], bottom - top, right - left)
    return mask


def _inside(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the pixels of which an odd number of edges lies to the left, bool [height, width]."""
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    middles = np.arange(height)[:, None] + 0.5
    row, edge = np.nonzero((y0 <= middles) != (y1 <= middles))
    x = x0[edge] + (row + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    edges = np.zeros((height, width + 1), np.int64)
    np.add.at(edges, (row, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)), 1)
    return edges[:, :width].cumsum(1) % 2 == 1


def run_lengths(mask: np.ndarray) -> list[int]:
    """Return the run lengths of a region, bool [height, width]."""
    pixels = mask.T.ravel()
    ends = [0, *(np.nonzero(np.diff(pixels))[0] + 1).tolist(), len(pixels)]
    lengths = [int(end - start) for start, end in pairwise(ends)]
    return [0, *lengths] if pixels[0] else lengths


def run_length_mask(counts: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the region, bool [height, width], that run lengths describe, which must add up to height * width."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def uncompressed(text: str) -> list[int]:
    """Return the run lengths in a compressed text. Raises ValueError where it is none."""
    counts: list[int] = []
    number, digits = 0, 0
    for letter in text:
        digit = ord(letter) - _FIRST_DIGIT
        if not 0 <= digit < 2 * _MORE or digits == _MAX_DIGITS:
            raise ValueError(f"{letter!r} is no digit of compressed run lengths")
        number |= (digit & (_MORE - 1)) << _BITS * digits
        digits += 1
        if digit & _MORE:
            continue
        if digit & _SIGN:
            number -= 1 << _BITS * digits
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number, digits = 0, 0
    if digits:
        raise ValueError("compressed run lengths end within a number")
    return counts
