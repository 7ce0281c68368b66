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
        InputError: the distribution is a batch of several.
    """

    def __init__(self, distribution: Distribution, column: str = "x"):
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
        """{column: [n, *event_shape]} in the distribution's dtype."""
        with rng.torch_global(), torch.no_grad():  # torch's distributions take no generator
            return {self.column: self.distribution.sample(torch.Size([n]))}

    def log_prob(self, batch: Batch) -> Tensor:
        """log q(x), float [n]."""
        return log_density(self.distribution, batch[self.column])

    def refit(self, rows: Batch, seed: int, max_components: int = 3) -> DistributionProposal:
        """A Gaussian mixture fitted to the accepted x, within the range of the distribution; see `fit_distribution`.

        Raises InputError: too few rows; a distribution that is discrete.
        """
        low, high = support_bounds(self.distribution)
        return DistributionProposal(fit_distribution(rows[self.column], low, high, seed, max_components), self.column)


def log_density(law: Distribution, value: Tensor) -> Tensor:
    """`law.log_prob(value)`, but -inf outside of the support, where torch raises, and NaN where the value is NaN.

    Raises ValueError where rows have another shape than the law's.
    """
    event = value.shape[value.ndim - len(law.event_shape) :]
    if event != law.event_shape:
        raise ValueError(f"rows of size {list(event)}, where the law's are {list(law.event_shape)}")
    if _is_in_real_support(law, value):
        return _unchecked(law).log_prob(value)
    event_dims = tuple(range(value.ndim - len(law.event_shape), value.ndim))
    missing = torch.isnan(value).any(dim=event_dims) if event_dims else torch.isnan(value)
    try:
        inside = law.support.check(value)  # type: ignore[union-attr]  # None is no more than the lack of one
    except (NotImplementedError, AttributeError):  # a distribution of one's own that names no support
        return law.log_prob(value)
    if isinstance(law, Uniform):  # rounding may draw its upper end, where torch's density is 0
        value = torch.minimum(value, torch.nextafter(law.high, law.low))
    result = torch.full(inside.shape, -torch.inf, dtype=value.dtype if value.is_floating_point() else torch.float64)
    if bool(inside.any()):
        log_prob = law.log_prob(value[inside])
        result = result.to(log_prob.dtype)
        result[inside] = log_prob
    return result.masked_fill(missing, torch.nan)


def _unchecked(law: Distribution) -> Distribution:
    """The law for values known to be in its support, which torch would check again at each level of a mixture."""
    if not type(law).__module__.startswith("torch.distributions."):
        return law  # a copy would lose what it learns from one call for the next
    free = copy.copy(law)
    free._validate_args = False
    for name, part in vars(law).items():
        if isinstance(part, Distribution):
            setattr(free, name, _unchecked(part))
    return free


def _is_in_real_support(law: Distribution, value: Tensor) -> bool:
    """Whether the support is all numbers, or all vectors, and each value one of them: in one pass."""
    try:
        support: object = law.support
    except NotImplementedError:
        return False
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is constraints.real and not bool(torch.isnan(value.sum()))
