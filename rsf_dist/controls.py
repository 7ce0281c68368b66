"""What rejection sampling is compared with at equal rows and steps: proposals at random, labelled target rows."""

from __future__ import annotations

import ray
import torch
from ray.data import Dataset

from rsf_dist.batch import to_table
from rsf_dist.config import RunConfig
from rsf_dist.envelope import FixedEnvelope
from rsf_dist.images import ImageSet
from rsf_dist.proposals import Proposal
from rsf_dist.ratios import ConstantRatio
from rsf_dist.rng import Stage, Streams
from rsf_dist.sampler import RejectionSampler
from rsf_dist.stream import RowStream

_BLOCKS = 16


def random_rows(config: RunConfig, proposal: Proposal, num_rows: int, seed: int) -> Dataset:
    """`num_rows` proposals as they come: the same sampler with p = q, its streams apart from the run's own."""
    return _random_sampler(config, proposal, num_rows, seed).sample(num_rows).dataset


def random_stream(config: RunConfig, proposal: Proposal, num_rows: int, seed: int) -> RowStream:
    """As `random_rows`, drawn while they are used."""
    return _random_sampler(config, proposal, num_rows, seed).row_stream(num_rows)


def _random_sampler(config: RunConfig, proposal: Proposal, num_rows: int, seed: int) -> RejectionSampler:
    sampling = config.sampling
    return RejectionSampler(
        proposal,
        ConstantRatio(),
        FixedEnvelope(0.0, num_pilot=64),
        seed=seed,
        chunk_size=min(sampling.chunk_size, num_rows),
        pool=sampling.pool,
        stage=Stage.CONTROL,
    )


def oracle_rows(images: ImageSet, num_rows: int, seed: int) -> Dataset:
    """Labelled target images, at most `num_rows` of them, in random order."""
    order = Streams(seed, Stage.CONTROL).numpy(purpose=3).permutation(len(images))[:num_rows]
    chosen = images.subset(torch.from_numpy(order))
    rows = to_table({"image": chosen.images, "label": chosen.require_labels("evaluation.oracle")})
    size = -(-rows.num_rows // _BLOCKS)
    return ray.data.from_arrow([rows.slice(start, size) for start in range(0, rows.num_rows, size)])
