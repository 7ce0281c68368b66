"""Proposals from any torch distribution, continuous or discrete, scalar or multivariate."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.distributions import Distribution, Uniform, constraints

from rsf_dist.data.batch import Batch
from rsf_dist.errors import InputError
from rsf_dist.proposals.refit import fit_distribution, support_bounds
from rsf_dist.runtime.rng import Streams


class DistributionProposal:
    """x ~ q for a `torch.distributions.Distribution`.

    Args:
        distribution: q, with an empty batch_shape, so that one draw is one row and log_prob one number.
        column: the name under which x travels.

    Raises:
        InputError: the distribution is a batch of several, or none of torch's.
    """

    def __init__(self, distribution: Distribution, column: str = "x"):
        if not all(hasattr(distribution, name) for name in ("batch_shape", "event_shape", "sample", "log_prob")):
            rule, remedy = "is no distribution of torch", "use a class of torch.distributions, or write a proposal"
            raise InputError("distribution", type(distribution).__name__, rule, remedy)
        if distribution.batch_shape != torch.Size():
            raise InputError(
                "distribution",
                f"{type(distribution).__name__} of batch_shape {list(distribution.batch_shape)}",
                "one draw must be one row",
                "wrap it in torch.distributions.Independent, or use scalar parameters",
            )
        self.distribution = distribution
        self.column = column

    def sample(self, n: int, rng: Streams) -> Batch:
        """Draw {column: [n, *event_shape]} in the distribution's dtype."""
        with rng.torch_global(), torch.no_grad():  # torch's distributions take no generator
            return {self.column: self.distribution.sample(torch.Size([n]))}

    def log_prob(self, batch: Batch) -> Tensor:
        """Return log q(x), float [n]."""
        return log_density(self.distribution, batch[self.column])

    def refit(self, rows: Batch, seed: int, max_components: int = 3) -> DistributionProposal:
        """Fit a Gaussian mixture to the accepted x, within the range of the distribution; see `fit_distribution`.

        Raises InputError where there are too few rows, or the distribution is discrete.
        """
        low, high = support_bounds(self.distribution)
        return DistributionProposal(fit_distribution(rows[self.column], low, high, seed, max_components), self.column)


def log_density(distribution: Distribution, value: Tensor) -> Tensor:
    """Return the log density: -inf outside of the support, where torch raises, and NaN where the value is NaN.

    Raises ValueError where rows do not have the distribution's event_shape.
    """
    event = value.shape[value.ndim - len(distribution.event_shape) :]
    if event != distribution.event_shape:
        raise ValueError(f"rows of size {list(event)}, where the distribution's are {list(distribution.event_shape)}")
    if _is_in_real_support(distribution, value):
        return _unchecked(distribution).log_prob(value)
    event_dims = tuple(range(value.ndim - len(distribution.event_shape), value.ndim))
    missing = torch.isnan(value).any(dim=event_dims) if event_dims else torch.isnan(value)
    try:
        inside = distribution.support.check(value)  # type: ignore[union-attr]  # None is no more than the lack of one
    except (NotImplementedError, AttributeError):  # a distribution of one's own that names no support
        return distribution.log_prob(value)
    if isinstance(distribution, Uniform):  # rounding may draw its upper end, where torch's density is 0
        value = torch.minimum(value, torch.nextafter(distribution.high, distribution.low))
    result = torch.full(inside.shape, -torch.inf, dtype=value.dtype if value.is_floating_point() else torch.float64)
    if bool(inside.any()):
        log_prob = distribution.log_prob(value[inside])
        result = result.to(log_prob.dtype)
        result[inside] = log_prob
    return result.masked_fill(missing, torch.nan)


def _unchecked(distribution: Distribution) -> Distribution:
    """Return the distribution without torch's check of values, which it repeats at each level of a mixture."""
    if not type(distribution).__module__.startswith("torch.distributions."):
        return distribution  # a copy would lose what a user's class keeps between calls
    free = copy.copy(distribution)
    free._validate_args = False
    for name, part in vars(distribution).items():
        if isinstance(part, Distribution):
            setattr(free, name, _unchecked(part))
    return free


def _is_in_real_support(distribution: Distribution, value: Tensor) -> bool:
    """Return True if the support is all numbers, or all vectors, and no value is NaN. The values are read once."""
    try:
        support: object = distribution.support
    except NotImplementedError:
        return False
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is constraints.real and not bool(torch.isnan(value.sum()))
