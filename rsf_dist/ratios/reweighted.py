"""A ratio known against one proposal, used with rows of another: log p/q = log p/q0 + log q0/q.

Both densities may be of what a row was made from (a class, parameters, a latent), for as long as it determines the row:
the importance correction is exact. Where q is q0 with a share a and anything else, q0/q <= 1/a, so that a bound on p/q0
leaves one on p/q (Hesterberg, Technometrics 1995).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rsf_dist.data.batch import Batch
from rsf_dist.errors import InputError
from rsf_dist.proposals import DefensiveProposal
from rsf_dist.proposals.base import DensityProposal
from rsf_dist.ratios.base import Ratio, log_ratios
from rsf_dist.ratios.info import RatioInfo, info_of


class ReweightedRatio:
    """log p/q of rows of a defensive mixture q, from log p/q0.

    Args:
        ratio: log p/q0.
        moved: q, a mixture that has q0 as its broad part.

    Raises:
        InputError: q0 or what it is mixed with has no density.
    """

    def __init__(self, ratio: Ratio, moved: DefensiveProposal):
        for part in (moved.broad, moved.moved):
            if not isinstance(part, DensityProposal):
                rule = "has no log_prob, by which a ratio that is not learned follows a proposal that moves"
                raise InputError("proposal", type(part).__name__, rule, "give it one, or set rounds=1")
        self.ratio, self.moved = ratio, moved
        known = info_of(ratio)  # of p/q0: its columns and held-out ratios do not hold for p/q
        self.info = RatioInfo(normalised=known.normalised, class_prior=known.class_prior)

    @property
    def log_bound(self) -> float | None:
        """The bound of log p/q0 less log of the share of q0; None where there is none."""
        bound = self.ratio.log_bound
        return None if bound is None else bound - math.log(self.moved.share)

    def log_ratio(self, batch: Batch) -> Tensor:
        """float64 [n]; -inf where log p/q0 is."""
        against_broad = log_ratios(self.ratio, batch)
        assert isinstance(self.moved.broad, DensityProposal)
        shift = (self.moved.broad.log_prob(batch) - self.moved.log_prob(batch)).double()
        return torch.where(against_broad == -torch.inf, against_broad, against_broad + shift)
