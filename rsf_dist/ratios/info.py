"""The facts that a ratio states about itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.types import Floats


@dataclass(frozen=True)
class RatioQuality:
    """The figures of a calibrated ratio, on rows that neither fitting nor calibration saw.

    Args:
        num_target, num_proposals: size of the test part.
        log_loss: balanced over both classes, in nats; log 2 = 0.693 is chance.
        brier: balanced mean squared error of D; chance is 0.25.
        calibration_error: expected calibration error, ten bins of equal mass, balanced weights.
        auc: area under the ROC curve.
        calibration: in words; a slope of 1 and an intercept of 0 mean that the network needed none.
        mean_ratio_proposals: mean of r over proposals; 1 for the true ratio.
        mean_inverse_ratio_target: mean of 1/r over the target; 1 for the true ratio where p covers q, else below.
        reliability: ten pairs (mean predicted D, balanced share of target rows), the bins of calibration_error.
    """

    num_target: int
    num_proposals: int
    log_loss: float
    brier: float
    calibration_error: float
    auc: float
    calibration: str
    mean_ratio_proposals: float
    mean_inverse_ratio_target: float
    reliability: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class HeldOut:
    """Target rows that the ratio was not fitted to.

    Args:
        log_ratio: log r of these rows, float64 [m]. None means that they were not scored.
        index: the rows' positions among the target images, int64 [m]. None means that they are not target images.
        at_most: log_ratio holds upper bounds, because target rows do not show all that the ratio depends on.
    """

    log_ratio: Floats | None = None
    index: NDArray[np.int64] | None = None
    at_most: bool = False


@dataclass(frozen=True)
class RatioInfo:
    """The facts that a ratio states about itself, all of them known before a row is scored.

    Args:
        normalised: no constant is left, E_q[r] = 1, so that an acceptance of (1 - eps)/M is expected.
        columns: all columns that the ratio looks at, so that others need not be made of rows that it rejects. None
            means that it may look at any.
        on_device: the ratio takes costly columns as they are made, on the GPU that an actor may have. Otherwise it is
            shown all columns on the CPU.
        held_out: target rows for the p-side bounds and the two-sample tests. None means that there are none.
        quality: the figures of a learned ratio. None means that the ratio, or more than one factor, was learned.
        class_prior: the estimated class prior that the ratio rests on. None means that it rests on no estimate.
        bounded_by_construction: the bound holds for the exact ratio too; it is no cut of a learned ratio.
    """

    normalised: bool = False
    columns: tuple[str, ...] | None = None
    on_device: bool = False
    held_out: HeldOut | None = None
    quality: RatioQuality | None = None
    class_prior: ClassPrior | None = None
    bounded_by_construction: bool = False


def info_of(ratio: object) -> RatioInfo:
    """Return the ratio's `info`.

    A ratio of a user's own may lack `info`. It may then have the attributes `normalised` and `columns`, with the
    meaning that they have in RatioInfo, or neither.
    """
    info = getattr(ratio, "info", None)
    if isinstance(info, RatioInfo):
        return info
    columns = getattr(ratio, "columns", None)
    normalised = bool(getattr(ratio, "normalised", False))
    return RatioInfo(normalised=normalised, columns=None if columns is None else tuple(columns))
