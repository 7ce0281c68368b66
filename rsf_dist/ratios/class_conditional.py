"""A joint ratio of images and classes: label shift times what tells the images of one class apart.

    r(x, y) = p(y)/q(y) g(x)/E_q[g | y]

p(y) is estimated apart (`ratios.class_prior`). g, learned from images alone, takes a class for another that looks like
it, and at a small acceptance would turn that into a mix of classes of its own making; divided by its mean within each
class it says nothing of classes any more, and accepted rows have the mix p(y), up to what capping, and cutting the
means at a quantile, cost. Degenerate case: where only the mix of classes differs and images tell them apart, g is its
own mean within each class, and r = p(y)/q(y).
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
"""Of a class, for a mean of its own."""


_QUANTILE = 0.99
"""Of the ratios, where they are cut off for the means: few large ones would be most of them."""


class ClassConditionalRatio:
    """log r(x, y) = log p(y)/q(y) + log g(x) - log E_q[g | y].

    Args:
        ratio: log g, of images.
        classes: log p(y)/q(y).
        log_means: log E_q[g | y], float64 [k].

    Target rows have no class: `info.held_out`, where g has it, takes the class of the lowest mean, so that what
    capping costs is not told too low.
    """

    def __init__(self, ratio: Ratio, classes: LabelShiftRatio, log_means: Floats):
        self.ratio, self.classes, self.log_means = ratio, classes, torch.from_numpy(np.asarray(log_means))
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
        """The bound of g and the largest factor of a class; None where g has none."""
        bound = self.ratio.log_bound
        return None if bound is None else bound + self._largest_factor

    def log_ratio(self, batch: Batch) -> Tensor:
        """float64 [n]."""
        within = self.log_means[batch[self.classes.column].long()]
        return log_ratios(self.classes, batch) + log_ratios(self.ratio, batch) - within


def class_log_means(log_ratio: Floats, label: NDArray[np.int64], num_classes: int) -> Floats:
    """log E_q[g | y] of each class, float64 [num_classes], from proposals.

    That of all rows stands for a class that has few, or none with a ratio above 0.

    Args:
        log_ratio, label: of proposals, [n] each; not all -inf.
        num_classes: how many there are.
    """
    ratio = np.exp(np.minimum(log_ratio, np.quantile(log_ratio[np.isfinite(log_ratio)], _QUANTILE)))
    of_all = ratio.mean()
    rows = (ratio[label == one] for one in range(num_classes))
    return np.log([one.mean() if len(one) >= _LEAST_ROWS and one.any() else of_all for one in rows])
