"""The accept step: keys, masks and weights, as pure functions of log ratios and injected exponentials.

    l = log p(x) - log q(x),   k = l + E with E ~ Exp(1),   accepted at M  <=>  k > log M

E = -log u for a uniform u, so k > log M  <=>  u < p/(M q): von Neumann's rule (1951). Keeping k with the row lets M
grow later without a redraw. A row with l > log M would need a probability above 1; it is capped at 1, and its weight
max(1, r/M) (rejection control: Liu, Chen & Wong, JASA 1998) takes the bias of that out of weighted estimates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsf_dist.types import Floats

_MAX_LOG_WEIGHT = 88.0  # the last whole number whose exponential is a float32


@dataclass(frozen=True)
class Decision:
    """The outcome of the accept step for n proposals.

    Args:
        keep: bool [n], accepted at M.
        key: float64 [n], l + E; NaN where l is.
        weight: float32 [n], max(1, r/M); 1 unless capped.
    """

    keep: NDArray[np.bool_]
    key: Floats
    weight: NDArray[np.float32]


def accept(log_ratio: Floats, exponentials: Floats, log_m: float) -> Decision:
    """Accept each row with probability min(1, exp(log_ratio - log_m)).

    Args:
        log_ratio: float64 [n]. -inf is a plain rejection. NaN and +inf are never accepted; `Statistics` counts them.
        exponentials: [n] draws of Exp(1), independent of the rows.
        log_m: the logarithm of M, finite.

    Raises:
        ValueError: log_m is not finite, or the shapes differ.
    """
    if not np.isfinite(log_m):
        raise ValueError(f"log_m={log_m}: must be finite")
    if log_ratio.shape != exponentials.shape or log_ratio.ndim != 1:
        raise ValueError(f"log_ratio {log_ratio.shape} and exponentials {exponentials.shape} must be [n] alike")
    key = log_ratio + exponentials
    keep = (key > log_m) & (log_ratio < np.inf)  # a comparison with NaN is False
    return Decision(keep, key, np.where(keep, capped_weight(log_ratio, log_m), np.float32(1)))


def capped_weight(log_ratio: Floats, log_m: float) -> NDArray[np.float32]:
    """Return max(1, r/M) of accepted rows, float32 [n], cut off where float32 ends."""
    return np.exp(np.clip(log_ratio - log_m, 0.0, _MAX_LOG_WEIGHT)).astype(np.float32)


def key_quantile(keys: Floats, acceptance: float) -> float:
    """Return the log M that keeps a fraction `acceptance` of such rows: the (1 - acceptance) quantile of the keys.

    P(k > t) = E[min(1, r/e^t)], so this solves the constraint of optimal budgeted rejection sampling (Verine et al.
    2023, arXiv 2311.00460). -inf where fewer than that fraction can be kept at any M.
    """
    return float(np.quantile(keys, 1 - acceptance, method="lower"))


def top_k(keys: Floats, k: int) -> tuple[NDArray[np.int64], float]:
    """Return the positions of the k highest of n keys, k < n, in order of position, and the next key, which is log M.

    With distinct keys, exactly these rows have keys above log M: rejection at the M that leaves k of a finite pool.
    Raises ValueError where there are not more than k.
    """
    if not 0 < k < len(keys):
        raise ValueError(f"k={k}: must be in (0, {len(keys)})")
    order = np.argsort(-keys, kind="stable")
    return np.sort(order[:k]), float(keys[order[k]])
