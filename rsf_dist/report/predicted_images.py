"""A contact sheet of images with the classes that a model predicts for them, as PNG."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rsf_dist.data.sources.base import printable
from rsf_dist.report.figures import as_png, show_image

_COLUMNS = 8
_CELL, _CAPTION = 1.15, 0.3  # inches: the width of an image, and the height of its caption
_ASPECTS = (0.3, 3.0)  # height per width of a cell
_LONGEST = 20  # characters of a name above an image
_RIGHT, _WRONG, _UNKNOWN = "#2e7d4f", "#b3372f", "#333333"


@dataclass(frozen=True)
class PredictedImage:
    """An image and its prediction.

    Args:
        image: uint8 [c, h, w].
        predicted: the class's name.
        probability: the class's probability.
        truth: the true class's name. None means that it is not known.
    """

    image: NDArray[np.uint8]
    predicted: str
    probability: float
    truth: str | None = None


def contact_sheet(shown: Sequence[PredictedImage]) -> bytes:
    """Draw images below their predictions, right ones in green, and wrong ones in red with the true class."""
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    height, width = shown[0].image.shape[1:]
    cell = _CAPTION + _CELL * float(np.clip(height / width, *_ASPECTS))
    figure = Figure(figsize=(_CELL * columns, cell * rows), layout="constrained")
    for number, one in enumerate(shown):
        axes = figure.add_subplot(rows, columns, number + 1)
        show_image(axes, one.image)
        axes.set_title(_caption(one), fontsize=6, color=_colour(one), parse_math=False, pad=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a script that the font lacks: a box stands for it
        return as_png(figure)


def _caption(one: PredictedImage) -> str:
    wrong = one.truth is not None and one.truth != one.predicted
    second = f"{one.probability:.0%}" + (f", truth: {_short(str(one.truth), _LONGEST // 2)}" if wrong else "")
    return f"{_short(one.predicted, _LONGEST)}\n{second}"


def _colour(one: PredictedImage) -> str:
    if one.truth is None:
        return _UNKNOWN
    return _RIGHT if one.truth == one.predicted else _WRONG


def _short(name: str, longest: int) -> str:
    text = printable(name)
    return text if len(text) <= longest else text[: longest - 1] + "…"
