"""Suprema of density ratios in closed form, which certify an envelope.

Gaussians: where S_q - S_p is positive definite, sup log p/q is finite,

    log M = (log|S_q| - log|S_p| + d' (S_q - S_p)^-1 d) / 2,    d = mu_p - mu_q,

the maximum of a concave quadratic in x (complete the square). Elsewhere the supremum is taken as infinite. On finite
sets log M is the largest log weight. log M >= KL(p || q) in either case. Where the covariances are nearly equal along
some direction, M is huge and rounding decides, so that no bound is given. Degenerate case: p = q gives log M = 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.distributions import Categorical, Distribution, Independent, MultivariateNormal, Normal

from rsf_dist.types import Floats

_SMALLEST_EIGENVALUE = 1e-6  # of S_q - S_p, relative to the largest of S_q


def log_supremum(target: object, proposal: Distribution) -> float | None:
    """Return sup log p/q for two Gaussians or two Categoricals. None means that no bound is known."""
    of_target, of_proposal = _moments(target), _moments(proposal)
    if of_target is not None and of_proposal is not None:
        return gaussian_log_supremum(*of_target, *of_proposal)
    if isinstance(target, Categorical) and isinstance(proposal, Categorical):
        return _categorical(target, proposal)
    return None


def gaussian_log_supremum(mean_p: Floats, cov_p: Floats, mean_q: Floats, cov_q: Floats) -> float | None:
    """Return log M of N(mean_p, cov_p) over N(mean_q, cov_q), [d] and [d, d] each. None means infinite."""
    difference, gap = cov_q - cov_p, mean_p - mean_q
    if not difference.any() and not gap.any():
        return 0.0
    if np.linalg.eigvalsh(difference)[0] <= _SMALLEST_EIGENVALUE * np.linalg.eigvalsh(cov_q)[-1]:
        return None
    volumes = np.linalg.slogdet(cov_q)[1] - np.linalg.slogdet(cov_p)[1]
    return float(volumes + gap @ np.linalg.solve(difference, gap)) / 2


def _moments(distribution: object) -> tuple[Floats, Floats] | None:
    """Return mean [d] and covariance [d, d] of a Gaussian, d = 1 if scalar. None means another distribution."""
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if isinstance(distribution, MultivariateNormal) and not distribution.batch_shape:
        return _float64(distribution.loc), _float64(distribution.covariance_matrix)
    if isinstance(base, Normal) and isinstance(distribution, Distribution) and not distribution.batch_shape:
        return _float64(base.loc).reshape(-1), np.diag(_float64(base.scale).reshape(-1) ** 2)
    return None


def _categorical(target: Categorical, proposal: Categorical) -> float | None:
    p, q = _float64(target.probs), _float64(proposal.probs)
    if p.shape != q.shape or p.ndim != 1 or ((p > 0) & (q == 0)).any():
        return None
    support = p > 0
    return float(np.log(p[support] / q[support]).max())


def _float64(values: torch.Tensor) -> Floats:
    return values.detach().double().cpu().numpy()
