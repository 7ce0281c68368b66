"""The relative ratio r_a(x) = p(x) / (a p(x) + (1 - a) q(x)) <= 1/a, bounded by construction.

With r = p/q it is r / (a r + 1 - a) (Yamada, Suzuki, Kanamori, Hachiya & Sugiyama, Neural Computation 2013). Accepting
at M = 1/a gives exactly p if, and only if, proposals come from the mixture a p + (1 - a) q. For proposals from q alone
the accepted rows would follow p q/(a p + (1 - a) q). So this ratio takes a `TargetMixtureProposal`, and refuses other
rows. A share a of the proposals is accepted. Degenerate cases: a to 0 is r itself, without a bound; a to 1 accepts
the target rows alone, and everything else at random.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rsf_dist.data.batch import Batch
from rsf_dist.errors import InputError
from rsf_dist.proposals.target_mixture import COMPONENT, TargetMixtureProposal
from rsf_dist.ratios.base import Ratio, SavableRatio, log_ratios
from rsf_dist.ratios.info import RatioInfo, info_of


class RelativeRatio:
    """The ratio log r_a(x) = -log(a + (1 - a)/r(x)).

    Args:
        ratio: p/q of the target and of the mixture's proposal, normalised (a constant factor would change
            the distribution).
        mixture: the proposal, whose share of target rows is a. Target rows that the ratio's figures are taken from
            (`info.held_out`) are better left out of it.
    """

    def __init__(self, ratio: Ratio, mixture: TargetMixtureProposal):
        self.ratio, self.mixture, self.alpha = ratio, mixture, mixture.alpha
        self.log_bound = -math.log(mixture.alpha)
        self.info = self._info(info_of(ratio))

    def _info(self, of_ratio: RatioInfo) -> RatioInfo:
        held_out = of_ratio.held_out
        if held_out is not None and held_out.log_ratio is not None:
            held_out = replace(held_out, log_ratio=self._relative(torch.from_numpy(held_out.log_ratio)).numpy())
        return replace(
            of_ratio, normalised=True, columns=None, on_device=True, held_out=held_out, bounded_by_construction=True
        )

    def save(self, folder: Path) -> None:
        """Write the ratio r, where r can be written."""
        if isinstance(self.ratio, SavableRatio):
            self.ratio.save(folder)

    def log_ratio(self, batch: Batch) -> Tensor:
        """Return the log ratio of each row, float64 [n], at most -log a. A row with r = +inf has exactly -log a."""
        if COMPONENT not in batch:
            rule = "a relative ratio is exact only for proposals of which the target has its share"
            raise InputError(
                "column",
                COMPONENT,
                f"is missing: {rule}",
                "propose from the TargetMixtureProposal itself",
                absolute=True,
            )
        return self._relative(log_ratios(self.ratio, batch))

    def _relative(self, log_ratio: Tensor) -> Tensor:
        alpha = torch.tensor(self.alpha, dtype=torch.float64)
        return -torch.logaddexp(alpha.log(), torch.log1p(-alpha) - log_ratio)
