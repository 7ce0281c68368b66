"""The mixture q = a q0 + (1 - a) q1 of a broad proposal and a moved one. No mode of q0 is lost, since q0/q <= 1/a.

Defensive mixtures are Hesterberg's (Technometrics 1995); for p/q0 <= M they bound p/q by M/a, whatever q1 misses.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from rsf_dist.data.batch import Batch, LazyBatch, interleave
from rsf_dist.errors import InputError
from rsf_dist.proposals.base import Proposal, has_settable_class_prior
from rsf_dist.runtime.rng import Purpose, Streams


class DefensiveProposal:
    """Rows of `broad` with probability `share`, else rows of `moved`.

    Args:
        broad, moved: proposals of rows with the same columns.
        share: in (0, 1).

    Attributes:
        class_prior: the mixture's class prior [k]. It is there only where both proposals have one.

    Raises:
        InputError: the share is not in (0, 1); at sampling, the columns differ.
    """

    def __init__(self, broad: Proposal, moved: Proposal, share: float):
        if not 0 < share < 1:
            raise InputError("share", share, "must be in (0, 1)", "use e.g. 0.1")
        self.broad, self.moved, self.share = broad, moved, share
        priors = [getattr(part, "class_prior", None) for part in (broad, moved)]
        if priors[0] is not None and priors[1] is not None:
            self.class_prior = share * priors[0] + (1 - share) * priors[1]

    def sample(self, n: int, rng: Streams) -> LazyBatch:
        """Draw n rows of the mixture; columns that are lazy in either proposal stay lazy."""
        generator = rng.numpy(Purpose.DEFENSIVE_MIXTURE)
        from_broad = torch.from_numpy(generator.random(n) < self.share)
        count = int(from_broad.sum())
        # Each part has streams of its own: equal streams would make the draws of both parts dependent.
        of_broad, of_moved = (replace(rng, seed=int(seed)) for seed in generator.integers(2**63, size=2))
        broad = self.broad.sample(count + 1, of_broad)  # one row more, for the columns
        moved = self.moved.sample(n - count + 1, of_moved)
        if broad.keys() != moved.keys():
            rule = f"the broad proposal has {sorted(broad)}"
            raise InputError(
                "proposal", sorted(moved), rule, "give the refitted proposal the same columns", absolute=True
            )
        return interleave(broad, moved, from_broad)

    def with_class_prior(self, prior: Tensor) -> DefensiveProposal:
        """Return the mixture of both proposals with this class prior [k]. Raises InputError where one has none."""
        for part in (self.broad, self.moved):
            if not has_settable_class_prior(part):
                rule = "has no class prior that could be set"
                kind, remedy = type(part).__name__, "give it `class_prior` and `with_class_prior`"
                raise InputError("proposal", kind, rule, remedy, absolute=True)
        broad, moved = (part.with_class_prior(prior) for part in (self.broad, self.moved))  # type: ignore[attr-defined]
        return DefensiveProposal(broad, moved, self.share)

    def log_prob(self, batch: Batch) -> Tensor:
        """Return log q, float [n]. Raises AttributeError where one of the two has no density."""
        broad, moved = self.broad.log_prob(batch), self.moved.log_prob(batch)  # type: ignore[attr-defined]
        return torch.logaddexp(math.log(self.share) + broad, math.log1p(-self.share) + moved)
