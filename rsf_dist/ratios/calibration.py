"""The map from a classifier's logit to a log ratio, fitted on rows that the classifier never saw.

D = P(target | logit) at prior 1/2, and

    log r = logit D.     none: D = sigmoid(logit)            temperature: sigmoid(a logit)
                         platt: sigmoid(a logit + b)         isotonic: any rising function of the logit

Temperature: Guo, Pleiss, Sun & Weinberger, ICML 2017. Platt 1999. Isotonic: Zadrozny & Elkan, KDD 2002. The isotonic
fit saturates at 0 and 1, where r would be 0 or infinite. So D is clipped at d = 1/(n + 2) from either end, n being the
rows of the smaller class: the largest ratio that so few rows can support (Laplace's rule). log((1 - d)/d) is then a
certified bound of the calibrated log ratio. The cost of the clip does not show on target rows, because they are clipped
too. Degenerate case: a logit that tells nothing gives slope 0, or one flat step, hence log r = 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit as log_odds

from rsf_dist.types import Floats

Method = Literal["none", "temperature", "platt", "isotonic"]


@dataclass(frozen=True)
class AffineCalibration:
    """The calibration log r = slope * logit + intercept, without a bound."""

    slope: float = 1.0
    intercept: float = 0.0
    method: str = "none"

    log_bound = None

    def __call__(self, logit: Floats) -> Floats:
        """Return log ratios, float64 [n]."""
        return self.slope * logit + self.intercept

    def __str__(self) -> str:
        return f"{self.method}: slope {self.slope:.3g}, intercept {self.intercept:.3g}"


@dataclass(frozen=True)
class IsotonicCalibration:
    """The calibration by a rising, piecewise linear function of the logit, constant beyond its ends.

    Args:
        logits: the knots, rising.
        log_ratios: log r at the knots, rising.
    """

    logits: tuple[float, ...]
    log_ratios: tuple[float, ...]
    method: str = "isotonic"

    @property
    def log_bound(self) -> float:
        """The largest log ratio of the calibration."""
        return self.log_ratios[-1]

    def __call__(self, logit: Floats) -> Floats:
        """Return log ratios, float64 [n]; NaN stays NaN."""
        return np.interp(logit, self.logits, self.log_ratios)

    def __str__(self) -> str:
        low, high = self.log_ratios[0], self.log_ratios[-1]
        return f"isotonic: {len(self.logits)} knots, log ratio {low:.3g} to {high:.3g}"


Calibration = AffineCalibration | IsotonicCalibration


def calibrate(target_logit: Floats, proposal_logit: Floats, method: Method = "platt") -> Calibration:
    """Fit a calibration on logits [n] of target rows and [m] of proposals; it never reverses the order of rows."""
    if method == "none":
        return AffineCalibration()
    if method == "isotonic":
        return _isotonic(target_logit, proposal_logit)
    from sklearn.linear_model import LogisticRegression  # slow to import, and neither sampling nor training calibrates

    logit = np.concatenate([target_logit, proposal_logit])
    truth, _ = truth_and_weights(target_logit, proposal_logit)
    spread = float(logit.std()) or 1.0  # its units make the penalty, which bounds separable classes, scale-free
    model = LogisticRegression(C=100.0, class_weight="balanced", fit_intercept=method == "platt")
    fitted = model.fit(logit[:, None] / spread, truth)
    slope, intercept = float(fitted.coef_[0, 0]) / spread, float(np.ravel(fitted.intercept_)[0])
    return AffineCalibration(slope, intercept, method) if slope > 0 else AffineCalibration(0.0, 0.0, method)


def to_json(calibration: Calibration) -> dict[str, Any]:
    """Return the calibration as plain values."""
    return asdict(calibration)


def from_json(raw: dict[str, Any]) -> Calibration:
    """Rebuild a calibration from the values of `to_json`."""
    if raw["method"] != "isotonic":
        return AffineCalibration(**raw)
    return IsotonicCalibration(tuple(raw["logits"]), tuple(raw["log_ratios"]))


def truth_and_weights(target: Floats, proposals: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Return 1 for target rows and 0 for proposals, [n + m], and weights that give each class half of the mass."""
    truth = np.repeat([1, 0], [len(target), len(proposals)])
    weights = np.repeat([0.5 / len(target), 0.5 / len(proposals)], [len(target), len(proposals)])
    return truth, weights


def _isotonic(target_logit: Floats, proposal_logit: Floats) -> IsotonicCalibration:
    from sklearn.isotonic import IsotonicRegression

    truth, weights = truth_and_weights(target_logit, proposal_logit)
    least = 1 / (min(len(target_logit), len(proposal_logit)) + 2)
    fitted = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(
        np.concatenate([target_logit, proposal_logit]), truth, sample_weight=weights
    )
    log_ratios = log_odds(fitted.y_thresholds_)
    return IsotonicCalibration(tuple(fitted.X_thresholds_.tolist()), tuple(log_ratios.tolist()))
