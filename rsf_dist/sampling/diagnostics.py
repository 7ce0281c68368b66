"""Diagnostics of a sample: sums over log ratios that merge over chunks, and estimates from the merged sums.

With r = p/q (p perhaps unnormalised), M the envelope's constant and E_q the mean over proposals:

    acceptance          E_q[min(1, r/M)]                     ESS fraction     E_q[r]^2 / E_q[r^2]     (Kong 1992)
    TV(p, sampled) <=   eps = E_q[(r - M)+] / E_q[r]  =  E_p[(1 - M/r)+]

The q-side eps misses every region that the proposals never reach. The p-side eps is a mean of numbers in [0, 1] over
target samples, and so has an upper confidence limit.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import scipy  # whose parts load when they are first used: a third of a second that most workers never need
from numpy.typing import NDArray

from rsf_dist.types import Floats

TOP = 256
"""The number of largest log ratios that are kept to fit the tail."""

ROUNDING = 1e-6
"""A log ratio may exceed log M by this much and not count as capped: float32 densities round at about 1e-7."""


@dataclass(frozen=True)
class Statistics:
    """Sums over scored proposals. `a.merge(b)` is the statistics of both; `Statistics()` changes nothing.

    Args:
        num_scored, num_accepted, num_capped: counts; capped are rows with l > log M.
        num_nonfinite: NaN or +inf log ratios, which no sampler may go on with.
        num_screened_out: rows of num_scored whose log ratio was not computed in full, since they could not be accepted;
            the sums are then estimates without bias (Horvitz & Thompson), the largest ratios those of the others.
        max_log_ratio, log_sum_ratio, log_sum_ratio_squared: of l; logarithms of sums of r and of r^2.
        log_sum_excess: log of the sum of (r - M)+.
        log_sum_weighted_squared: as log_sum_ratio_squared, each r weighted before it is squared: the spread of the
            estimate of E_q[r], which screening widens.
        top: the largest log ratios, at most TOP, falling.
        by_label: label -> [scored, accepted], where rows have labels.
    """

    num_scored: int = 0
    num_accepted: int = 0
    num_capped: int = 0
    num_nonfinite: int = 0
    num_screened_out: int = 0
    max_log_ratio: float = -np.inf
    log_sum_ratio: float = -np.inf
    log_sum_ratio_squared: float = -np.inf
    log_sum_excess: float = -np.inf
    log_sum_weighted_squared: float = -np.inf
    top: tuple[float, ...] = ()
    by_label: dict[int, tuple[int, int]] = field(default_factory=dict)

    @staticmethod
    def of(
        log_ratio: Floats,
        keep: NDArray[np.bool_],
        log_m: float,
        labels: NDArray[np.int64] | None = None,
        log_inclusion: Floats | None = None,
        num_screened_out: int = 0,
    ) -> Statistics:
        """Compute the statistics of one batch.

        Args:
            log_ratio: float64 [n].
            keep: bool [n], the accepted rows.
            log_m: the log M of the accept step.
            labels: int64 [n]. None means that rows have no labels.
            log_inclusion: log probability with which each row escaped screening, float64 [n]. None means 0; see
                `ratios.base.Screened`.
            num_screened_out: rows whose log ratio was not computed in full.
        """
        sound = log_ratio < np.inf  # a comparison with NaN is False
        num_bad = len(sound) - int(np.count_nonzero(sound))
        good = log_ratio[sound] if num_bad else log_ratio
        log_sums = _log_sums(good, log_inclusion[sound] if log_inclusion is not None and num_bad else log_inclusion)
        over = good[good > log_m + ROUNDING]  # such rows always escape
        return Statistics(
            num_scored=len(log_ratio),
            num_accepted=int(keep.sum()),
            num_capped=len(over),
            num_nonfinite=num_bad,
            num_screened_out=num_screened_out,
            max_log_ratio=float(good.max(initial=-np.inf)),
            log_sum_ratio=log_sums[0],
            log_sum_ratio_squared=log_sums[1],
            log_sum_excess=log_sum_of_excess(over, log_m),
            log_sum_weighted_squared=log_sums[2],
            top=tuple(_largest(good).tolist()),
            by_label={} if labels is None else _count_labels(labels, keep),
        )

    def merge(self, other: Statistics) -> Statistics:
        """Return the statistics of the rows of both."""
        labels = sorted(self.by_label.keys() | other.by_label.keys())
        pairs = [(self.by_label.get(label, (0, 0)), other.by_label.get(label, (0, 0))) for label in labels]
        return Statistics(
            num_scored=self.num_scored + other.num_scored,
            num_accepted=self.num_accepted + other.num_accepted,
            num_capped=self.num_capped + other.num_capped,
            num_nonfinite=self.num_nonfinite + other.num_nonfinite,
            num_screened_out=self.num_screened_out + other.num_screened_out,
            max_log_ratio=max(self.max_log_ratio, other.max_log_ratio),
            log_sum_ratio=float(np.logaddexp(self.log_sum_ratio, other.log_sum_ratio)),
            log_sum_ratio_squared=float(np.logaddexp(self.log_sum_ratio_squared, other.log_sum_ratio_squared)),
            log_sum_excess=float(np.logaddexp(self.log_sum_excess, other.log_sum_excess)),
            log_sum_weighted_squared=float(np.logaddexp(self.log_sum_weighted_squared, other.log_sum_weighted_squared)),
            top=tuple(sorted(self.top + other.top, reverse=True)[:TOP]),
            by_label={label: (a + c, b + d) for label, ((a, b), (c, d)) in zip(labels, pairs, strict=True)},
        )

    def to_json(self) -> str:
        """Return the statistics as JSON, to cross between processes."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Statistics:
        """Read the statistics that `to_json` wrote."""
        raw = json.loads(text)
        raw["top"] = tuple(raw["top"])
        raw["by_label"] = {int(label): tuple(counts) for label, counts in raw["by_label"].items()}
        return Statistics(**raw)

    @property
    def ess_fraction(self) -> float:
        """E_q[r]^2 / E_q[r^2], in (0, 1]; 0 where every ratio is 0."""
        if self.log_sum_ratio == -np.inf:
            return 0.0
        # Of few rows that escaped screening, the two estimates need not agree that it is at most 1.
        return min(1.0, float(np.exp(2 * self.log_sum_ratio - self.log_sum_ratio_squared) / self.num_scored))

    def at(self, log_m: float, log_ratio: Floats, keep: NDArray[np.bool_], labels: NDArray[np.int64]) -> Statistics:
        """Return the statistics of the same proposals at a larger M.

        Args:
            log_m: the larger log M.
            log_ratio: float64 [m], of the rows accepted at the smaller M. Every row above the larger M is among them.
            keep: bool [m], the rows that are still accepted.
            labels: int64 [m]; -1 means no label.
        """
        over = log_ratio[log_ratio > log_m + ROUNDING]
        kept = {label: int((labels[keep] == label).sum()) for label in self.by_label}
        return replace(
            self,
            num_accepted=int(keep.sum()),
            num_capped=len(over),
            log_sum_excess=log_sum_of_excess(over, log_m),
            by_label={label: (scored, kept[label]) for label, (scored, _) in self.by_label.items()},
        )

    @property
    def log_mean_ratio(self) -> float:
        """log E_q[r]; -inf without proposals, or where every ratio is 0."""
        return self.log_sum_ratio - float(np.log(max(self.num_scored, 1)))

    @property
    def mean_ratio_error(self) -> float:
        """The standard error of E_q[r], relative to it; 0 where it is 0."""
        if self.log_sum_ratio == -np.inf:
            return 0.0
        log_square = self.log_sum_weighted_squared - 2 * self.log_sum_ratio + np.log(self.num_scored)
        return float(np.sqrt(max(np.exp(log_square) - 1, 0.0) / self.num_scored))

    @property
    def tv_bound(self) -> float:
        """The q-side eps: E_q[(r - M)+] / E_q[r]."""
        return 0.0 if self.num_capped == 0 else float(np.exp(self.log_sum_excess - self.log_sum_ratio))

    @property
    def tail_index(self) -> float | None:
        """Shape of a generalised Pareto distribution fitted to the largest ratios; None with fewer than 25 of them.

        Below 0 the ratio has an end point and some M is exact; 0.5 and above, E_q[r^2] may not exist.
        """
        top = np.array(self.top[: max(25, self.num_scored // 10)])
        if len(top) < 25 or top[0] == top[-1] or not np.isfinite(top).all():
            return None
        ratios = np.exp(top - top[0])  # the shape does not depend on the scale
        shape, _, _ = scipy.stats.genpareto.fit(ratios[:-1] - ratios[-1], floc=0)
        return float(shape)


def tail_threshold(n: int) -> float:
    """Return min(0.7, 1 - 1/log10(n)): above it estimates from n ratios are unreliable (Vehtari et al. 2024)."""
    return min(0.7, 1 - 1 / np.log10(max(n, 11)))


def acceptance_interval(
    num_proposed: int, num_accepted: int, stopped: bool, confidence: float = 0.95
) -> tuple[float, float]:
    """Return an exact interval of the acceptance probability a (Clopper & Pearson 1934, by the Beta distribution).

    Args:
        num_proposed: n proposals.
        num_accepted: k of them accepted.
        stopped: whether n was the draw that gave the k-th row (negative binomial) or fixed beforehand (binomial).
        confidence: at least this much, for every a.
    """
    n, k, tail = num_proposed, num_accepted, (1 - confidence) / 2
    low = scipy.stats.beta.ppf(tail, k, n - k + 1) if k > 0 else 0.0
    if stopped:  # the upper limit a solves P(at most k - 1 accepted among the first n - 1) = tail
        high = scipy.stats.beta.ppf(1 - tail, k, n - k) if k < n else 1.0
    else:
        high = scipy.stats.beta.ppf(1 - tail, k + 1, n - k) if k < n else 1.0
    return float(low), float(high)


def target_side_bound(target_log_ratio: Floats, log_m: float, confidence: float = 0.95) -> tuple[float, float]:
    """Estimate the p-side eps = E_p[(1 - M/r)+] from log ratios [n] of independent target samples, with an upper limit.

    The upper limit u solves n KL(estimate || u) = log(1/(1 - confidence)): the Chernoff bound for variables in [0, 1]
    (Hoeffding, JASA 1963, eq. 2.1).
    """
    losses = -np.expm1(np.minimum(log_m - target_log_ratio, 0.0))
    mean = float(losses.mean())
    return mean, _chernoff_upper(mean, len(losses), confidence)


def target_side_lower(target_log_ratio: Floats, log_m: float, confidence: float = 0.95) -> float:
    """Return the lower limit that goes with the upper one of `target_side_bound`: the same bound, for 1 - loss."""
    losses = -np.expm1(np.minimum(log_m - target_log_ratio, 0.0))
    return 1 - _chernoff_upper(1 - float(losses.mean()), len(losses), confidence)


def mean_interval(values: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """Return limits of the mean of independent values [n] in [0, 1], by the same bound, half of the error a side."""
    mean, one_sided = float(values.mean()), (1 + confidence) / 2
    return 1 - _chernoff_upper(1 - mean, len(values), one_sided), _chernoff_upper(mean, len(values), one_sided)


def _chernoff_upper(mean: float, n: int, confidence: float) -> float:
    """Solve for the u above the mean of n variables in [0, 1] with n KL(mean || u) = log(1/(1 - confidence))."""
    needed = np.log(1 / (1 - confidence)) / n

    def shortage(upper: float) -> float:
        rel_entr = scipy.special.rel_entr
        return float(rel_entr(mean, upper) + rel_entr(1 - mean, 1 - upper)) - needed

    end = 1 - 1e-12
    return float(scipy.optimize.brentq(shortage, mean, end)) if mean < end and shortage(end) > 0 else 1.0


def log_sum_of_excess(log_ratio: Floats, log_m: float) -> float:
    """Return the log of the sum of r - M over log ratios [n] that exceed log M."""
    return _log_sum(log_ratio + np.log1p(-np.exp(log_m - log_ratio)))


def _log_sums(log_ratio: Floats, log_inclusion: Floats | None) -> tuple[float, float, float]:
    """Return the logarithms of the sums of r w, r^2 w and (r w)^2, w being 1/inclusion."""
    if log_inclusion is not None and log_inclusion.any():
        weighted = log_ratio - log_inclusion
        return _log_sum(weighted), _log_sum(log_ratio + weighted), _log_sum(2 * weighted)
    largest = float(log_ratio.max(initial=-np.inf))
    if largest == -np.inf:
        return -np.inf, -np.inf, -np.inf
    scaled = np.exp(log_ratio - largest)  # once: a chunk of a cheap target is scored in as many passes as this has
    squared = 2 * largest + float(np.log(np.square(scaled).sum()))
    return largest + float(np.log(scaled.sum())), squared, squared


def _largest(values: Floats) -> Floats:
    """Return the largest values, at most TOP of them, in falling order."""
    top = values if len(values) <= TOP else np.partition(values, len(values) - TOP)[-TOP:]
    return np.sort(top)[::-1]


def _log_sum(values: Floats) -> float:
    return float(scipy.special.logsumexp(values)) if len(values) else -np.inf


def _count_labels(labels: NDArray[np.int64], keep: NDArray[np.bool_]) -> dict[int, tuple[int, int]]:
    present = np.unique(labels).tolist()
    return {int(label): (int((labels == label).sum()), int((labels[keep] == label).sum())) for label in present}
