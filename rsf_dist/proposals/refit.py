"""A Gaussian mixture with full covariances fitted to accepted values: the refit of the cross-entropy method.

The method moves a sampler towards its elite samples by maximum likelihood (Rubinstein, Methodology and Computing in
Applied Probability 1999); here the elite are the accepted rows. Values with ends are fitted where their range is the
whole line, z = logit((x - low)/(high - low)). The distribution then cannot leave the range, and its density in x, the
change of variables included, stays known. Other values are standardised. BIC chooses the number of Gaussians.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Transform,
    TransformedDistribution,
    constraints,
)

from rsf_dist.errors import InputError

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture


_ROWS_A_NUMBER = 5
"""A Gaussian of d dimensions has (d + 1)(d + 2)/2 numbers; so many rows for each of them at least."""

_EDGE = 1e-6  # of the range: where it is left by rounding, values count as this far within
_RIDGE = 1e-3  # of the covariances in z, in which a broad distribution has variances around 3
_SPREAD = 3.0  # in z, the standard deviation of values without ends: a ridge must not depend on their unit


def fit_distribution(values: Tensor, low: Tensor, high: Tensor, seed: int, max_components: int = 3) -> Distribution:
    """Fit mixtures of up to `max_components` Gaussians, and return the one with the lowest BIC.

    Args:
        values: float [n] or [n, d], within their range.
        low, high: [] or [d], the ends of the range, infinite where there is none. A range with one end counts as none.
        seed: the seed of the fit's starting points.
        max_components: at least 1. Fewer components are tried where there are too few rows for so many.

    Returns:
        A distribution of event_shape [] or [d], float64.

    Raises:
        InputError: too few rows for one Gaussian, or values that are not finite.
    """
    from sklearn.exceptions import ConvergenceWarning  # here: actors, which import proposals, never refit one
    from sklearn.mixture import GaussianMixture

    n, d = len(values), values.shape[1:].numel()
    numbers = (d + 1) * (d + 2) // 2
    if n < _ROWS_A_NUMBER * numbers:
        rule = f"{n:,} accepted rows are too few to refit a Gaussian of {d} dimensions: {_ROWS_A_NUMBER * numbers:,}"
        raise InputError("rounds.num_accepted", n, rule, "accept more rows a round", absolute=True)
    if not bool(values.isfinite().all()):
        raise InputError("proposal", "(its rows)", "has values that are not finite", "fix the proposal", absolute=True)
    range_of = _InRange(low, high, values)
    z = range_of.inv(values.double()).reshape(n, d).numpy()
    most = min(max_components, n // (_ROWS_A_NUMBER * numbers))
    with threadpool_limits(1), warnings.catch_warnings():  # sums of floats must not depend on the cores
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a mixture of too many, which BIC will not choose
        tried = [GaussianMixture(k, random_state=seed % 2**32, reg_covar=_RIDGE).fit(z) for k in range(1, most + 1)]
        best = min(tried, key=lambda mixture: mixture.bic(z))
    return TransformedDistribution(_torch_mixture(best, scalar=values.ndim == 1), range_of)


def _torch_mixture(fitted: GaussianMixture, scalar: bool) -> Distribution:
    weights, means, covariances = (
        torch.from_numpy(array) for array in (fitted.weights_, fitted.means_, fitted.covariances_)
    )
    if scalar:
        return MixtureSameFamily(Categorical(weights), Normal(means[:, 0], covariances[:, 0, 0].sqrt()))
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))


class _InRange(Transform):
    """The whole line, number by number, onto (low, high); where these are not both finite, onto itself.

    Onto itself by a shift and a factor, which give the `values` [n, …] mean 0 and standard deviation `_SPREAD` in z.
    """

    domain = constraints.real
    bijective = True
    sign = 1

    def __init__(self, low: Tensor, high: Tensor, values: Tensor):
        super().__init__()
        self._bounded = low.isfinite() & high.isfinite()
        mean, sd = (torch.as_tensor(of(values.double().numpy(), axis=0)) for of in (np.mean, np.std))
        self._start = torch.where(self._bounded, low.double(), mean)
        self._width = torch.where(self._bounded, high.double() - low.double(), torch.where(sd > 0, sd, 1.0) / _SPREAD)
        inf = torch.full_like(self._start, torch.inf)
        ends = (torch.where(self._bounded, end.double(), far) for end, far in ((low, -inf), (high, inf)))
        self.codomain = constraints.interval(*ends)

    def _call(self, x: Tensor) -> Tensor:
        return self._start + self._width * torch.where(self._bounded, torch.sigmoid(x), x)

    def _inverse(self, y: Tensor) -> Tensor:
        share = (y - self._start) / self._width
        return torch.where(self._bounded, torch.logit(share, eps=_EDGE), share)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self._width.log() + torch.where(self._bounded, F.logsigmoid(x) + F.logsigmoid(-x), 0.0)


def support_bounds(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Return the ends of a continuous distribution's range, each of its event_shape, infinite where there is none.

    Raises InputError where its values are no real numbers or vectors, or its range is not known.
    """
    try:
        support: Any = distribution.support
    except NotImplementedError:  # a user's distribution that names none
        support = None
    while hasattr(support, "base_constraint"):  # of independent numbers, or of a mixture's components
        support = support.base_constraint
    if support is None or support.is_discrete or support.event_dim or len(distribution.event_shape) > 1:
        rule = "cannot be refitted: its values are not known to be real vectors"
        remedy = "use a continuous distribution, or give your proposal a `refit` of its own"
        raise InputError("proposal", type(distribution).__name__, rule, remedy, absolute=True)
    ends = (getattr(support, name, end) for name, end in (("lower_bound", -torch.inf), ("upper_bound", torch.inf)))
    low, high = (torch.as_tensor(end, dtype=torch.float64) for end in ends)
    shape = torch.broadcast_shapes(
        low.shape, high.shape, (1, *distribution.event_shape)
    )  # a mixture's has a row a component
    return low.expand(shape).amin(0), high.expand(shape).amax(0)
