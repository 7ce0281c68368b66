"""Tests of whether two samples follow one distribution, on features that no learned ratio was fitted to.

Classifier two-sample test (Lopez-Paz & Oquab, ICLR 2017), as an area under the ROC curve: a classifier is fitted on one
half of either sample and scores the other halves, n1 and n2 rows. If both follow one distribution, for any classifier

    AUC = P(score of a second row > score of a first row) + P(equal) / 2
    has mean 1/2 and standard deviation sqrt((n1 + n2 + 1) / (12 n1 n2))        (Mann & Whitney 1947; less with ties)

This null distribution holds for a scorer that has not seen the rows it scores, and so there is one split. Over five
folds, each scorer has seen the other folds' rows: the mean AUC of five logistic regressions has 1.3 to 1.4 times this
deviation (Gaussian rows of 1 to 80 dimensions), and pooled scores also have a mean below 1/2. One split has less signal
but a known null.

Kernel two-sample test (Gretton, Borgwardt, Rasch, Schoelkopf & Smola, JMLR 2012): of rows x of the first sample and
y of the second, with k(x, y) = exp(-|x - y|^2 / (2 s^2)) and s the median distance between pooled rows,

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

estimates the squared maximum mean discrepancy without bias, so it may be negative. Its p-value is by permutation.

Both assume independent rows. Rows made from few base images are not: a classifier recognises the bases again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.spatial.distance import pdist, squareform
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from rsf_dist.errors import InputError
from rsf_dist.types import Floats

MIN_ROWS = 10
"""The least size of a sample: half of it fits the classifier, and the other half is scored."""

MAX_MMD_ROWS = 1_000
"""The most rows of either sample that enter the MMD, whose time and memory grow with their square."""

NUM_PERMUTATIONS = 499
"""Permutations of the MMD's rows; the smallest p-value is 1/500."""

_POOLED, _BINS, _STEPS = 8, 8, (1 / 64, 1 / 16, 1 / 4)
_BATCH = 8  # images at once, few enough to stay in the cache
_PENALTY = 0.01  # scikit-learn's C: a strong prior, for hundreds of features and as many rows


@dataclass(frozen=True)
class TwoSample:
    """The distance of two samples from following one distribution.

    Args:
        num_first: rows of the first sample.
        num_second: rows of the second sample.
        auc: area under the ROC curve of a classifier that tells the second sample from the first, on rows that it was
            not fitted to. It is 1/2 if the classifier cannot.
        auc_interval: 95 % interval of this fitted classifier's AUC over fresh rows.
        auc_rows: first and second rows that the AUC was taken over: the halves held out.
        auc_null_sd: the AUC's standard deviation if both samples follow one distribution.
        mmd2: unbiased squared MMD between standardised features; it may be below 0 by chance.
        mmd_pvalue: share of permutations, the identity included, with an MMD^2 at least as large.
        mmd_rows: first and second rows that the MMD was taken over, at most MAX_MMD_ROWS of either.
        features: a description of the features.
    """

    num_first: int
    num_second: int
    auc: float
    auc_interval: tuple[float, float]
    auc_rows: tuple[int, int]
    auc_null_sd: float
    mmd2: float
    mmd_pvalue: float
    mmd_rows: tuple[int, int]
    features: str

    @property
    def auc_z(self) -> float:
        """(auc - 1/2) / auc_null_sd: about N(0, 1) under one distribution, large if the samples can be told apart."""
        return (self.auc - 0.5) / self.auc_null_sd


def compare(first: Floats, second: Floats, seed: int, features: str = "rows") -> TwoSample:
    """Run both tests on two feature matrices. The seed chooses the halves, the MMD's rows and its permutations.

    Args:
        first: finite, [n1, d], at least MIN_ROWS rows.
        second: finite, [n2, d], at least MIN_ROWS rows.
        seed: >= 0; equal seeds give equal results.
        features: a description of the columns, for the record.

    Raises:
        InputError: too few rows, NaN or infinite features, or different widths.
    """
    first, second = _checked(first, "first"), _checked(second, "second")
    if first.shape[1] != second.shape[1]:
        rule = f"must have as many features as first: {first.shape[1]}"
        raise InputError("second", list(second.shape), rule, "describe both samples in the same way")
    auc, auc_rows = held_out_auc(first, second, seed)
    mmd2, pvalue, mmd_rows = mmd_test(first, second, seed)
    return TwoSample(
        num_first=len(first),
        num_second=len(second),
        auc=auc,
        auc_interval=auc_interval(auc, *auc_rows),
        auc_rows=auc_rows,
        auc_null_sd=auc_null_sd(*auc_rows),
        mmd2=mmd2,
        mmd_pvalue=pvalue,
        mmd_rows=mmd_rows,
        features=features,
    )


def describe(rows: Tensor) -> tuple[Floats, str]:
    """Return features [n, d] of rows, and their name: `image_statistics` of uint8 [n, c, h, w], else rows flattened."""
    if rows.dtype == torch.uint8 and rows.ndim == 4:
        return image_statistics(rows), "image statistics"
    return rows.detach().cpu().double().reshape(len(rows), rows.shape[1:].numel()).numpy(), "rows"


def image_statistics(images: Tensor) -> Floats:
    """Describe images without a network: uint8 [n, c, h, w] -> float64 [n, d], all in [0, 1].

    The features are, in this order: the image averaged down to at most 8 x 8 pixels a channel; the mean and standard
    deviation of these pixels; the shares of pixels in 8 equal bins of intensity; the mean absolute difference between
    neighbours in a row or column; and the shares of differences above 1/64, 1/16 and 1/4, which measure noise.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2:].numel() < 2:
        rule = "images must be uint8 [n, channels, height, width] of at least 2 pixels"
        raise InputError("images", f"{images.dtype} {list(images.shape)}", rule, "convert them")
    return torch.cat([_statistics(batch) for batch in images.split(_BATCH)]).cpu().double().numpy()


def held_out_auc(first: Floats, second: Floats, seed: int) -> tuple[float, tuple[int, int]]:
    """Fit a classifier on half of either sample, and return its AUC on the other halves: (AUC, (n1, n2)).

    The classifier is a logistic regression on the standardised features and their squares, with equally weighted
    classes. It sees shifted means and changed spreads.
    """
    (fit_first, test_first), (fit_second, test_second) = _halves(first, seed), _halves(second, seed)
    scaler = StandardScaler().fit(np.vstack([fit_first, fit_second]))
    fit_x, fit_y = _labelled(scaler, fit_first, fit_second)
    test_x, test_y = _labelled(scaler, test_first, test_second)
    again = StandardScaler().fit(fit_x)  # the penalty should weigh a square as it does a feature
    model = LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=1000).fit(again.transform(fit_x), fit_y)
    auc = roc_auc_score(test_y, model.decision_function(again.transform(test_x)))
    return float(auc), (len(test_first), len(test_second))


def auc_null_sd(num_first: int, num_second: int) -> float:
    """Return the AUC's standard deviation over so many rows if both samples follow one distribution, without ties."""
    return float(np.sqrt((num_first + num_second + 1) / (12 * num_first * num_second)))


def auc_interval(auc: float, num_first: int, num_second: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval of an AUC over independent rows (Newcombe, Stat. Med. 2006, part 2, method 5).

    The limits t solve (t - auc)^2 = z^2 V(t), V being the variance of Hanley & McNeil (Radiology 1982) with n1 and n2
    replaced by their mean except in the denominator. V(1/2) is `auc_null_sd` squared, so that the interval excludes
    1/2 exactly if the test rejects it.
    """
    z, others = stats.norm.ppf((1 + confidence) / 2), (num_first + num_second) / 2 - 1

    def excess(limit: float) -> float:
        spread = 1 + others * ((1 - limit) / (2 - limit) + limit / (1 + limit))
        return float((limit - auc) ** 2 - z**2 * limit * (1 - limit) * spread / (num_first * num_second))

    inside = min(max(auc, 1e-12), 1 - 1e-12)  # at 0 and 1, V is 0, and both are roots themselves
    return float(optimize.brentq(excess, 0, inside)), float(optimize.brentq(excess, inside, 1))


def mmd_test(first: Floats, second: Floats, seed: int) -> tuple[float, float, tuple[int, int]]:
    """Return the unbiased MMD^2 of [n1, d] and [n2, d], its permutation p-value, and the rows used of either."""
    first, second = _subset(first, seed), _subset(second, seed)
    kernel = _gaussian_kernel(StandardScaler().fit_transform(np.vstack([first, second])))
    is_first = np.arange(len(kernel)) < len(first)
    shuffled = np.random.default_rng([seed, 2]).permuted(np.tile(is_first, (NUM_PERMUTATIONS, 1)), axis=1)
    values = _mmd2(kernel, np.vstack([is_first, shuffled]))
    # Equal values may differ by rounding; (1 + b) / (1 + B) is the p-value of Phipson & Smyth (2010).
    pvalue = (values >= values[0] - 1e-12).mean()
    return float(values[0]), float(pvalue), (len(first), len(second))


def _mmd2(kernel: Floats, is_first: NDArray[np.bool_]) -> Floats:
    """Return the unbiased MMD^2 [b] of each membership [b, n], from a kernel matrix [n, n] whose diagonal is 0."""
    members = is_first.astype(np.float64)
    n1 = members.sum(1)
    n2 = members.shape[1] - n1
    within_first = ((members @ kernel) * members).sum(1)
    across = members @ kernel.sum(1) - within_first
    within_second = kernel.sum() - within_first - 2 * across
    return within_first / (n1 * (n1 - 1)) + within_second / (n2 * (n2 - 1)) - 2 * across / (n1 * n2)


def _gaussian_kernel(rows: Floats) -> Floats:
    """Return the kernel matrix [n, n] at the median of the distances above 0, with diagonal 0."""
    squared = pdist(rows, "sqeuclidean")
    apart = squared[squared > 0]
    scale = np.median(apart) if len(apart) else 1.0  # the square's median is the median's square
    return squareform(np.exp(-squared / (2 * scale)))


def _statistics(images: Tensor) -> Tensor:
    unit = images.float() / 255
    height, width = unit.shape[2:]
    pooled = adaptive_avg_pool2d(unit, (min(_POOLED, height), min(_POOLED, width))).flatten(1)
    level = torch.stack([pooled.mean(1), pooled.std(1, correction=0)], 1)
    bins = images.flatten(1) // (256 // _BINS)
    shares = torch.stack([(bins == number).count_nonzero(1) for number in range(_BINS)], 1) / bins.shape[1]
    rough = torch.cat([unit.diff(dim=axis).flatten(1) for axis in (2, 3)], 1).abs()
    rises = torch.stack([(rough > step).count_nonzero(1) for step in _STEPS], 1) / rough.shape[1]
    return torch.cat([pooled, level, shares, rough.mean(1, keepdim=True), rises], 1)


def _halves(rows: Floats, seed: int) -> tuple[Floats, Floats]:
    order = np.random.default_rng([seed, 0]).permutation(len(rows))
    return rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]


def _subset(rows: Floats, seed: int) -> Floats:
    return rows[np.random.default_rng([seed, 1]).permutation(len(rows))[:MAX_MMD_ROWS]]


def _labelled(scaler: StandardScaler, first: Floats, second: Floats) -> tuple[Floats, NDArray[np.int64]]:
    scaled = scaler.transform(np.vstack([first, second]))
    return np.hstack([scaled, scaled**2]), np.repeat([0, 1], [len(first), len(second)])


def _checked(rows: Floats, field: str) -> Floats:
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise InputError(field, list(rows.shape), "must be features [n, d]", "describe the rows first")
    if len(rows) < MIN_ROWS:
        raise InputError(field, f"{len(rows)} rows", f"must be at least {MIN_ROWS}", "give more rows")
    bad = int((~np.isfinite(rows)).any(1).sum())
    if bad:
        raise InputError(field, f"{bad} of {len(rows)} rows", "hold NaN or infinite features", "remove or correct them")
    return rows
