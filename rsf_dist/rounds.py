"""A round: sample with a ratio as the configuration says."""

from __future__ import annotations

from rsf_dist.accepted import AcceptedSet
from rsf_dist.build import build_envelope
from rsf_dist.config import RunConfig
from rsf_dist.progress import Progress
from rsf_dist.proposals import Proposal
from rsf_dist.ratios import Ratio
from rsf_dist.sampler import RejectionSampler
from rsf_dist.store import RunStore


def sample_round(
    config: RunConfig,
    proposal: Proposal,
    ratio: Ratio,
    seed: int,
    store: RunStore | None = None,
    round: int = 0,
    progress: Progress | None = None,
) -> AcceptedSet:
    """Sample as the configuration says. Raises InputError, StatisticalRefusal."""
    sampling = config.sampling
    sampler = RejectionSampler(
        proposal,
        ratio,
        build_envelope(config.envelope),
        seed=seed,
        chunk_size=sampling.chunk_size,
        pool=sampling.pool,
        store=store,
        budget=sampling.budget,
    )
    return sampler.sample(sampling.num_accepted, round, progress)
