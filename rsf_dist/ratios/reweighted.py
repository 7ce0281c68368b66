"""A ratio against one proposal q0, used with rows of another proposal q: log p/q = log p/q0 + log q0/q.

Both densities may be of a row's causes (a class, parameters, a latent), as long as the causes determine the row: the
importance correction is then exact. Where q draws a share a from q0, q0/q <= 1/a, so that a bound on p/q0 gives a bound
on p/q (Hesterberg, Technometrics 1995).
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
    """The ratio log p/q of rows of a defensive mixture q, from log p/q0.

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
                raise InputError("proposal", type(part).__name__, rule, "give it one, or set rounds=1", absolute=True)
        self.ratio, self.moved = ratio, moved
        against_broad = info_of(ratio)  # its columns and held-out log ratios do not hold for p/q
        self.info = RatioInfo(normalised=against_broad.normalised, class_prior=against_broad.class_prior)

    @property
    def log_bound(self) -> float | None:
        """The bound of log p/q0 less the log of q0's share. None means that log p/q0 has no bound."""
        bound = self.ratio.log_bound
        return None if bound is None else bound - math.log(self.moved.share)

    def log_ratio(self, batch: Batch) -> Tensor:
        """Return the log ratio of each row, float64 [n], -inf where log p/q0 is -inf."""
        against_broad = log_ratios(self.ratio, batch)
        assert isinstance(self.moved.broad, DensityProposal)
        shift = (self.moved.broad.log_prob(batch) - self.moved.log_prob(batch)).double()
        return torch.where(against_broad == -torch.inf, against_broad, against_broad + shift)
