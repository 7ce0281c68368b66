"""Class priors, as users give them."""

from __future__ import annotations

import torch
from torch import Tensor

from rsf_dist.errors import InputError


def checked_prior(prior: Tensor, num_classes: int | None = None) -> Tensor:
    """Return the class prior, float64 [num_classes], with sum 1.

    Args:
        prior: numbers in proportion to the probabilities.
        num_classes: the number of classes. None means as many as `prior` has.

    Raises:
        InputError: the prior has another shape, a number that is negative or not finite, or only zeros.
    """
    prior = torch.as_tensor(prior, dtype=torch.float64)
    count = prior.numel() if num_classes is None else num_classes
    sound = prior.shape == (count,) and bool(torch.isfinite(prior).all())
    if not sound or count == 0 or prior.min() < 0 or prior.sum() <= 0:
        rule = f"must be {count} probabilities, one a class"
        raise InputError("class_prior", prior.tolist(), rule, "list one number >= 0 for each class")
    return prior / prior.sum()
