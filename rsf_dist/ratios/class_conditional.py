"""A joint ratio of images and classes: label shift times a ratio of the images within a class.

    r(x, y) = p(y)/q(y) g(x)/E_q[g | y]

p(y) is estimated apart (`ratios.class_prior`). g is learned from images alone and confuses classes that look alike. At
a small acceptance this confusion would decide the class prior of the accepted rows. Divided by its mean within each
class, g says nothing about classes. Accepted rows then have the class prior p(y), up to the costs of capping and of
cutting the means at a quantile. Degenerate case: where only the class prior differs and images tell the classes apart,
g equals its mean within each class, and r = p(y)/q(y).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsf_dist.data.batch import Batch
from rsf_dist.ratios.base import Ratio, log_ratios
from rsf_dist.ratios.info import RatioInfo, info_of
from rsf_dist.ratios.label_shift import LabelShiftRatio
from rsf_dist.types import Floats

_LEAST_ROWS = 20
"""Rows that a class must have for a mean of its own."""

_QUANTILE = 0.99
"""The quantile at which ratios are cut off for the means, which a few large ratios would dominate."""


class ClassConditionalRatio:
    """The ratio log r(x, y) = log p(y)/q(y) + log g(x) - log E_q[g | y].

    Args:
        ratio: log g, of images.
        classes: log p(y)/q(y).
        log_means: log E_q[g | y], float64 [k].

    Target rows have no class. Their log ratios in `info.held_out` assume the class with the largest factor, so that
    the cost of capping is not stated too low.
    """

    def __init__(self, ratio: Ratio, classes: LabelShiftRatio, log_means: Floats):
        self.ratio, self.classes, self.log_means = ratio, classes, torch.from_numpy(np.array(log_means))
        self.info = self._info(info_of(ratio))

    def _info(self, of_images: RatioInfo) -> RatioInfo:
        held_out = of_images.held_out
        if held_out is not None:
            on_target = None if held_out.log_ratio is None else held_out.log_ratio + self._largest_factor
            held_out = replace(held_out, log_ratio=on_target, at_most=True)
        return replace(
            of_images,
            normalised=False,  # means that are cut at a quantile are too low
            columns=None,
            on_device=True,
            held_out=held_out,
            class_prior=self.classes.estimate,
            bounded_by_construction=False,
        )

    @property
    def _largest_factor(self) -> float:
        return float((self.classes.log_weight - self.log_means).max())

    @property
    def log_bound(self) -> float | None:
        """The bound of g plus the largest factor of a class. None means that g has no bound."""
        bound = self.ratio.log_bound
        return None if bound is None else bound + self._largest_factor

    def log_ratio(self, batch: Batch) -> Tensor:
        """Return log r(x, y), float64 [n]."""
        within = self.log_means[batch[self.classes.column].long()]
        return log_ratios(self.classes, batch) + log_ratios(self.ratio, batch) - within


def class_log_means(log_ratio: Floats, label: NDArray[np.int64], num_classes: int) -> Floats:
    """Estimate log E_q[g | y] of each class, float64 [num_classes], from proposals.

    The mean of all rows stands for a class that has few rows, or no row with a ratio above 0.

    Args:
        log_ratio: log g of proposals, float64 [n], not all -inf.
        label: classes of the proposals, int64 [n].
        num_classes: the number of classes.
    """
    ratio = np.exp(np.minimum(log_ratio, np.quantile(log_ratio[np.isfinite(log_ratio)], _QUANTILE)))
    overall = ratio.mean()
    by_class = (ratio[label == number] for number in range(num_classes))
    return np.log([rows.mean() if len(rows) >= _LEAST_ROWS and rows.any() else overall for rows in by_class])
