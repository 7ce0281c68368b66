"""Socket 1: where x comes from. A new proposal is one file here and one line below."""

from rsf_dist.proposals.augment import AugmentProposal
from rsf_dist.proposals.base import DensityProposal, FiniteProposal, Pool, Proposal, Refittable
from rsf_dist.proposals.dataset import DatasetProposal
from rsf_dist.proposals.defensive import DefensiveProposal
from rsf_dist.proposals.distribution import DistributionProposal
from rsf_dist.proposals.generator import GeneratorProposal
from rsf_dist.proposals.pool import PoolProposal
from rsf_dist.proposals.target_mixture import TargetMixtureProposal

__all__ = [
    "AugmentProposal",
    "DatasetProposal",
    "DefensiveProposal",
    "DensityProposal",
    "DistributionProposal",
    "FiniteProposal",
    "GeneratorProposal",
    "Pool",
    "PoolProposal",
    "Proposal",
    "Refittable",
    "TargetMixtureProposal",
]
