"""A round: fit the ratio on fresh proposals, then sample with it."""

from __future__ import annotations

from typing import cast

import pyarrow as pa
import ray
import torch
from torch import Tensor

from rsf_dist.accepted import AcceptedSet
from rsf_dist.batch import to_table
from rsf_dist.build import build_envelope
from rsf_dist.config import ClassifierRatioConfig, RunConfig, TrainingConfig
from rsf_dist.errors import unwrapped
from rsf_dist.models import Network
from rsf_dist.progress import Progress
from rsf_dist.proposals import Proposal
from rsf_dist.ratios import ClassifierRatio, Ratio
from rsf_dist.ratios.classifier import Split, Splits, member_seed, network_spec, split_evidence
from rsf_dist.resources import check_ratio, confine
from rsf_dist.rng import Stage, Streams
from rsf_dist.sampler import RejectionSampler
from rsf_dist.store import RunStore
from rsf_dist.tasks.discrimination import DiscriminationTask
from rsf_dist.trainer import FineTuner

_BLOCK_ROWS = 256


def fit_ratio(
    config: ClassifierRatioConfig, target: Tensor, proposal: Proposal, seed: int, checkpoints: str | None = None
) -> ClassifierRatio:
    """Learn log p/q from target images uint8 [n, c, h, w] and fresh proposals.

    In one Ray task, or with `config.num_workers` through Ray Train, whose checkpoints go to `checkpoints`.
    Raises InputError, StatisticalRefusal.
    """
    check_ratio(config)
    with unwrapped():
        task = {"num_cpus": config.cpus, "num_gpus": config.gpus}
        if config.num_workers == 0:
            return ray.get(_fit.options(**task).remote(config, target, proposal, seed))
        splits = ray.get(_gather.options(**task).remote(config, target, proposal, seed))
        seeds = [member_seed(seed, member) for member in range(config.ensemble)]
        networks = [_fit_parallel(config, splits, one, checkpoints) for one in seeds]
        return ray.get(_calibrate.options(**task).remote(config, networks, splits))


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


@ray.remote
def _fit(config: ClassifierRatioConfig, target: Tensor, proposal: Proposal, seed: int) -> ClassifierRatio:
    confine(config.cpus)
    return ClassifierRatio.fit(target, _proposals(config, proposal, seed), config, seed)


@ray.remote
def _gather(config: ClassifierRatioConfig, target: Tensor, proposal: Proposal, seed: int) -> Splits:
    confine(config.cpus)
    return split_evidence(target, _proposals(config, proposal, seed), config, seed)


@ray.remote
def _calibrate(config: ClassifierRatioConfig, networks: list[Network], splits: Splits) -> ClassifierRatio:
    confine(config.cpus)
    spec = network_spec(config, channels=splits.fit.target.shape[1])
    return ClassifierRatio.calibrated(networks, spec, splits, config)


def _proposals(config: ClassifierRatioConfig, proposal: Proposal, seed: int) -> Tensor:
    return proposal.sample(config.num_proposals, Streams(seed, Stage.RATIO))["image"]


def _fit_parallel(config: ClassifierRatioConfig, splits: Splits, seed: int, checkpoints: str | None) -> Network:
    training = TrainingConfig(
        **config.optimizer.model_dump(),
        num_workers=config.num_workers,
        cpus_per_worker=config.cpus,
        use_gpu=config.gpus > 0,
    )
    task = DiscriminationTask(config, channels=splits.fit.target.shape[1])
    tuner = FineTuner(task, training, seed=seed, storage_path=checkpoints, name="ratio")
    generator = Streams(seed, Stage.RATIO).torch(purpose=6)
    fit, held_out = (_blocks(_balanced(split, generator)) for split in (splits.fit, splits.calibration))
    tuned = tuner.fit(ray.data.from_arrow(fit), ray.data.from_arrow(held_out))
    return cast(Network, tuned.load_model())


def _balanced(split: Split, generator: torch.Generator) -> pa.Table:
    """As many target rows (label 1, drawn with replacement) as proposals (label 0), shuffled."""
    n = len(split.proposals)
    again = torch.randint(len(split.target), (n,), generator=generator)
    order = torch.randperm(2 * n, generator=generator)
    images = torch.cat([split.proposals, split.target[again]])[order]
    return to_table({"image": images, "label": (order >= n).long()})


def _blocks(rows: pa.Table) -> list[pa.Table]:
    return [rows.slice(start, _BLOCK_ROWS) for start in range(0, rows.num_rows, _BLOCK_ROWS)]
