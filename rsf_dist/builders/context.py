"""The values that a ratio is made from, besides its configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rsf_dist.builders.inputs import Inputs
from rsf_dist.proposals import Proposal
from rsf_dist.ratios import ProductRatio, Ratio


@dataclass(frozen=True)
class WarmStart:
    """A fitted ratio to start from, and the number of optimizer steps to take from there.

    Args:
        ratio: the ratio of the round before. None means that every network starts anew.
        steps: optimizer steps. None means as many as the configuration says, from new networks.
    """

    ratio: Ratio | None = None
    steps: int | None = None

    def for_factor(self, number: int) -> WarmStart:
        """Return the warm start of a product's factor."""
        factor = self.ratio.factors[number] if isinstance(self.ratio, ProductRatio) else None
        return replace(self, ratio=factor)


@dataclass(frozen=True)
class RatioContext:
    """The values that a ratio is made from, besides its configuration.

    Args:
        inputs: the run's images.
        proposal: q, against which log p/q is made.
        seed: the seed of everything that is fitted.
        split_seed: the seed that chooses the held-out target images. None means `seed`.
        checkpoints: the folder, a path or a URI, for the checkpoints of Ray Train. None means its default.
        warm_start: what the fit starts from.
    """

    inputs: Inputs
    proposal: Proposal
    seed: int
    split_seed: int | None = None
    checkpoints: str | None = None
    warm_start: WarmStart = WarmStart()

    def for_factor(self, number: int) -> RatioContext:
        """Return the context of a product's factor."""
        return replace(self, warm_start=self.warm_start.for_factor(number))
