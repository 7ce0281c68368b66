"""Socket 1: where x comes from. A new proposal is one file here and one line below."""

from rsf_dist.proposals.augment import AugmentProposal
from rsf_dist.proposals.base import DensityProposal, Proposal
from rsf_dist.proposals.distribution import DistributionProposal

__all__ = ["AugmentProposal", "DensityProposal", "DistributionProposal", "Proposal"]
