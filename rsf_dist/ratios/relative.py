"""The relative ratio, bounded by construction: r_a(x) = p(x) / (a p(x) + (1 - a) q(x)) <= 1/a.

With r = p/q it is r / (a r + 1 - a) (Yamada, Suzuki, Kanamori, Hachiya & Sugiyama, Neural Computation 2013). Accepting
at M = 1/a gives exactly p if, and only if, proposals come from the mixture a p + (1 - a) q: for proposals from q alone
it would give p q/(a p + (1 - a) q). So this ratio takes a `TargetMixtureProposal`, and refuses rows that come from
none. Of the proposals a share a is accepted. Degenerate cases: a to 0 is r itself, without a bound; a to 1 accepts the
target rows alone, and everything else at random.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from rsf_dist.data.batch import Batch
from rsf_dist.errors import InputError
from rsf_dist.proposals.target_mixture import COMPONENT, TargetMixtureProposal
from rsf_dist.ratios.base import Ratio, SavableRatio, log_ratios


class RelativeRatio:
    """log r_a(x) = -log(a + (1 - a)/r(x)).

    Args:
        ratio: p/q of the target and of the mixture's proposal, normalised (a constant factor would change the law).
        mixture: where rows come from; its share of target rows is a. Rows that the ratio's figures are taken from
            (`test_index`) are better left out of it.
    """

    normalised = True
    on_device = True

    def __init__(self, ratio: Ratio, mixture: TargetMixtureProposal):
        self.ratio, self.mixture, self.alpha = ratio, mixture, mixture.alpha
        self.log_bound = -math.log(mixture.alpha)
        for known in ("quality", "test_index"):
            if hasattr(ratio, known):
                setattr(self, known, getattr(ratio, known))
        on_target = getattr(ratio, "target_log_ratio", None)
        self.target_log_ratio = None if on_target is None else self._relative(torch.from_numpy(on_target)).numpy()

    def save(self, folder: Path) -> None:
        """Write the ratio that it is made of, where that can be written."""
        if isinstance(self.ratio, SavableRatio):
            self.ratio.save(folder)

    def log_ratio(self, batch: Batch) -> Tensor:
        """float64 [n], at most -log a; a row with r = +inf, which only the target can give, has exactly that."""
        if COMPONENT not in batch:
            rule = "a relative ratio is exact only for proposals of which the target has its share"
            raise InputError(
                "column", COMPONENT, f"is missing: {rule}", "propose from the TargetMixtureProposal itself"
            )
        return self._relative(log_ratios(self.ratio, batch))

    def _relative(self, log_ratio: Tensor) -> Tensor:
        alpha = torch.tensor(self.alpha, dtype=torch.float64)
        return -torch.logaddexp(alpha.log(), torch.log1p(-alpha) - log_ratio)
