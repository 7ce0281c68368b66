"""Boxes and masks of images in fixed shapes, and their way along with the pixels.

boxes      float32 [n, K, 4]       x0 y0 x1 y1 in pixels; the pixel in row r, column c covers [c, c + 1) x [r, r + 1)
box_label  int64 [n, K]            the class's number; -1 where there is no object, whose box is then 0 0 0 0
box_crowd  int64 [n, K]            the class's number of a region that is not trained on and ignored in evaluation: a
                                   crowd, or a difficult object; else -1. Its box is in `boxes`, with box_label -1.
                                   The column is there only if the source has such regions.
mask       uint8 [n, height, width]  a class's number for each pixel, 255 where the pixel is ignored
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rsf_dist.config.images import Resize
from rsf_dist.data.batch import Batch
from rsf_dist.data.resizing import placed, placement

IGNORED = 255
"""Number of a mask's pixels that neither loss nor metrics count."""

TURNS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The EXIF orientations that swap height and width, and what brings such an image upright."""

Frame = tuple[int, int]
"""Height and width of an image, in pixels."""


class Box(NamedTuple):
    """A box of one image: its corners x0 y0 x1 y1, its class, and whether it is a region to ignore."""

    corners: tuple[float, float, float, float]
    label: int
    crowd: bool = False


@dataclass(frozen=True)
class Boxes:
    """The boxes of many images, in few arrays.

    Args:
        corners: float64 [all boxes, 4], one image after another.
        labels: int64 [all boxes].
        crowd: bool [all boxes].
        first: int64 [images + 1], where the boxes of each image begin.
    """

    corners: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    first: np.ndarray

    @classmethod
    def pack(cls, images: Sequence[Sequence[Box]]) -> Boxes:
        """Return the boxes of these images."""
        boxes = [box for image in images for box in image]
        return cls(
            np.array([box.corners for box in boxes], np.float64).reshape(-1, 4),
            np.array([box.label for box in boxes], np.int64),
            np.array([box.crowd for box in boxes], bool),
            np.concatenate([[0], np.cumsum([len(image) for image in images])]).astype(np.int64),
        )

    @cached_property
    def largest_count(self) -> int:
        """The number of boxes of the image that has most."""
        return int(np.diff(self.first).max(initial=0))

    @cached_property
    def has_crowds(self) -> bool:
        """True if an image has a region to ignore."""
        return bool(self.crowd.any())

    def of(self, position: int) -> slice:
        """Return where the boxes of an image stand."""
        return slice(self.first[position], self.first[position + 1])

    def numbers(self, positions: Sequence[int]) -> list[int]:
        """Return the class's number of each box of these images, without regions to ignore."""
        return [label for place in map(self.of, positions) for label in self.labels[place][~self.crowd[place]].tolist()]

    def columns(self, position: int, corners: np.ndarray, keep: np.ndarray) -> Batch:
        """Return the columns of one image, padded to the largest count.

        Args:
            position: the image.
            corners: where its boxes are by now, [k, 4].
            keep: those that are left, bool [k].
        """
        labels, crowd = self.labels[self.of(position)][keep], self.crowd[self.of(position)][keep]
        columns = {"boxes": self._padded(corners[keep].astype(np.float32), 0)}
        columns["box_label"] = self._padded(np.where(crowd, -1, labels), -1)
        if self.has_crowds:
            columns["box_crowd"] = self._padded(np.where(crowd, labels, -1), -1)
        return columns

    def _padded(self, rows: np.ndarray, fill: int) -> Tensor:
        padding = np.full((self.largest_count - len(rows), *rows.shape[1:]), fill, rows.dtype)
        return torch.from_numpy(np.concatenate([rows, padding]))


def clipped(corners: np.ndarray, frame: Frame) -> np.ndarray:
    """Return boxes [..., 4] clipped to an image."""
    height, width = frame
    return np.clip(corners, 0, [width, height, width, height])


def areas(corners: np.ndarray) -> np.ndarray:
    """Return the areas [...] of boxes [..., 4]; 0 where a box is empty."""
    sides = np.maximum(corners[..., 2:] - corners[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def moved_boxes(
    corners: np.ndarray, frame: Frame, size: Frame, resize: Resize, min_visible: float
) -> tuple[np.ndarray, np.ndarray]:
    """Move boxes along with an image that is brought to a size.

    Args:
        corners: [k, 4].
        frame: the image's height and width before.
        size: its height and width after.
        resize: how it was brought there.
        min_visible: the smallest share of a box's area that must be left.

    Returns the clipped boxes [k, 4], and which of them are left, bool [k].
    """
    place = placement(*frame, size, resize)
    scale = place.width / frame[1], place.height / frame[0]
    moved = corners * [*scale, *scale] + [place.left, place.top, place.left, place.top]
    inside = clipped(moved, size)
    return inside, (areas(inside) > 0) & (areas(inside) >= min_visible * areas(moved))


def moved_mask(mask: Tensor, size: Frame, resize: Resize) -> Tensor:
    """Move a mask, uint8 [h, w], along with an image that is brought to a size: the nearest pixel, IGNORED outside."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    if mask.shape == tuple(size):
        return mask
    place = placement(mask.shape[0], mask.shape[1], size, resize)
    scaled = F.resize(mask[None], [place.height, place.width], interpolation=InterpolationMode.NEAREST_EXACT)
    return placed(scaled, place, size, fill=IGNORED)[0]


def turned_boxes(corners: np.ndarray, frame: Frame, turn: Image.Transpose) -> np.ndarray:
    """Return boxes [k, 4] of an image that lies on its side, as they are once it is upright.

    Args:
        corners: [k, 4], in the image as it is stored.
        frame: the height and width in which it is stored.
        turn: what brings it upright, one of TURNS.
    """
    x, y = corners[:, [0, 2]], corners[:, [1, 3]]
    if turn in (Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE):
        y = frame[0] - y[:, ::-1]
    if turn in (Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE):
        x = frame[1] - x[:, ::-1]
    return np.stack([y[:, 0], x[:, 0], y[:, 1], x[:, 1]], axis=1)
