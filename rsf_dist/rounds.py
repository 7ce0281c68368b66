"""A round: the sampler and the streams of a ratio, as the configuration says."""

from __future__ import annotations

from rsf_dist.build import build_envelope
from rsf_dist.config import RunConfig
from rsf_dist.proposals import Proposal
from rsf_dist.ratios import Ratio, RelativeRatio
from rsf_dist.sampler import RejectionSampler
from rsf_dist.store import RunStore


def round_sampler(
    config: RunConfig, proposal: Proposal, ratio: Ratio, seed: int, store: RunStore | None = None
) -> RejectionSampler:
    """What samples with the ratio; from a relative ratio's mixture where there is one. Raises InputError."""
    sampling = config.sampling
    return RejectionSampler(
        ratio.mixture if isinstance(ratio, RelativeRatio) else proposal,
        ratio,
        build_envelope(config.envelope),
        seed=seed,
        chunk_size=sampling.chunk_size,
        pool=sampling.pool,
        store=store,
        budget=sampling.budget,
    )
