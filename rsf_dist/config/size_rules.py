"""Defaults that follow from the size of an image, where a configuration leaves a key open.

They follow from the size and never from a measurement, because the accepted rows depend on them. Images of at most
32 x 32 pixels are thumbnails: digits, garments, icons. Larger ones are photographs.
"""

from __future__ import annotations

import math
from typing import Any

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""

CHUNK_ROWS = 4096
"""Rows of a chunk, unless they are large."""

CHUNK_MIB = 64
"""MiB that the rows of a chunk may take, if there are more than 8."""

_FEWEST_ROWS = 8
_THUMBNAIL_SIDE = 32  # pixels

PHOTOGRAPH_PARAMETERS: dict[str, dict[str, list[float]]] = {
    "rotation": {"uniform": [-0.2, 0.2]},
    "scale": {"uniform": [0.9, 1.6]},
    "translate_x": {"uniform": [-0.15, 0.15]},
    "translate_y": {"uniform": [-0.15, 0.15]},
    "brightness": {"uniform": [0.4, 1.4]},
    "contrast": {"uniform": [0.6, 1.4]},
    "noise": {"uniform": [0.0, 0.08]},
}
"""The distributions of a proposal's parameters for photographs.

They are broad in light and grain. They rather enlarge than shrink, so that few images show the black beyond an edge,
which no target image has.
"""


def chunk_rows(row_bytes: int) -> int:
    """Return the rows of a chunk: the largest power of two that takes CHUNK_MIB or less, from 8 to CHUNK_ROWS.

    Eight rows of more than 8 MiB each take more than CHUNK_MIB.
    """
    fitting = CHUNK_MIB * 2**20 // max(1, row_bytes)
    return min(CHUNK_ROWS, max(_FEWEST_ROWS, 2 ** (fitting.bit_length() - 1) if fitting else 0))


def is_photograph(shape: Shape) -> bool:
    """Return True for images of more pixels than 32 x 32."""
    return shape[1] * shape[2] > _THUMBNAIL_SIDE**2


def small_cnn_stride(shape: Shape) -> int:
    """Return the stride at which small_cnn looks at no more than 32 x 32 places; 1 for thumbnails."""
    return math.ceil(math.sqrt(shape[1] * shape[2]) / _THUMBNAIL_SIDE)


def network(shape: Shape) -> dict[str, Any]:
    """Return the keys of the network of a ratio: small_cnn, and for photographs its stride."""
    return {"name": "small_cnn"} | ({"stride": small_cnn_stride(shape)} if is_photograph(shape) else {})
