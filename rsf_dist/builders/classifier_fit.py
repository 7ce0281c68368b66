"""The fit of a classifier ratio, in one Ray task or data parallel through Ray Train."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import pyarrow as pa
import ray
import torch
from torch import Tensor

from rsf_dist.builders.context import RatioContext, WarmStart
from rsf_dist.cluster.capacity import check_ratio
from rsf_dist.cluster.ray_workarounds import unwrapped
from rsf_dist.cluster.workers import run_in_task
from rsf_dist.config.ratio import ClassifierRatioConfig
from rsf_dist.config.training import TrainingConfig
from rsf_dist.data.arrow import to_table
from rsf_dist.models.networks import Network
from rsf_dist.proposals import Proposal
from rsf_dist.ratios import ClassifierRatio
from rsf_dist.ratios.classifier import Split, Splits, member_seed, network_spec, split_samples
from rsf_dist.runtime.device import to_cpu_copy
from rsf_dist.runtime.rng import Purpose, Stage, Streams
from rsf_dist.tasks.discrimination import DiscriminationTask
from rsf_dist.training.trainer import FineTuner

_BLOCK_ROWS = 256


def fit_classifier(config: ClassifierRatioConfig, context: RatioContext) -> ClassifierRatio:
    """Learn log p/q from the target images and fresh proposals.

    The fit runs in one Ray task, or with `config.num_workers` through Ray Train.

    Raises:
        InputError: too few target images, images that differ in shape, or a cluster that has no room.
        StatisticalRefusal: the loss is not finite.
    """
    check_ratio(config)
    target, proposal, seed = context.inputs.target.images, context.proposal, context.seed
    config, initial = warm_started(config.for_rows(target.shape[1:]), context.warm_start)
    split_seed = seed if context.split_seed is None else context.split_seed
    share = config.share
    if config.num_workers == 0:
        return run_in_task(_fit, config, target, proposal, seed, initial, split_seed, share=share)
    splits = run_in_task(_gather, config, target, proposal, seed, split_seed, share=share)
    with unwrapped():
        networks = [
            _fit_parallel(
                config, splits, member_seed(seed, member), context.checkpoints, initial[member] if initial else None
            )
            for member in range(config.ensemble)
        ]
    return run_in_task(_calibrate, config, networks, splits, share=share)


def warm_started(
    config: ClassifierRatioConfig, start: WarmStart
) -> tuple[ClassifierRatioConfig, Sequence[Network] | None]:
    """Return the configuration to fit with, and the networks to start from. None means new networks."""
    if start.steps is None or not isinstance(start.ratio, ClassifierRatio):
        return config, None
    optimizer = config.optimizer.model_copy(update={"steps": start.steps})
    networks = [to_cpu_copy(network) for network in start.ratio.networks]
    return config.model_copy(update={"optimizer": optimizer}), networks


def _fit(
    config: ClassifierRatioConfig,
    target: Tensor,
    proposal: Proposal,
    seed: int,
    initial: Sequence[Network] | None,
    split_seed: int,
) -> ClassifierRatio:
    proposals = _proposals(config, proposal, seed)
    return ClassifierRatio.fit(target, proposals, config, seed, initial=initial, split_seed=split_seed)


def _gather(config: ClassifierRatioConfig, target: Tensor, proposal: Proposal, seed: int, split_seed: int) -> Splits:
    return split_samples(target, _proposals(config, proposal, seed), config, split_seed)


def _calibrate(config: ClassifierRatioConfig, networks: list[Network], splits: Splits) -> ClassifierRatio:
    spec = network_spec(config, channels=splits.fit.target.shape[1])
    return ClassifierRatio.calibrated(networks, spec, splits, config)


def _proposals(config: ClassifierRatioConfig, proposal: Proposal, seed: int) -> Tensor:
    return proposal.sample(config.num_proposals, Streams(seed, Stage.RATIO))["image"].cpu()


def _fit_parallel(
    config: ClassifierRatioConfig, splits: Splits, seed: int, checkpoints: str | None, initial: Network | None
) -> Network:
    training = TrainingConfig(
        **config.optimizer.model_dump(),
        num_workers=config.num_workers,
        cpus_per_worker=config.cpus,
        use_gpu=config.gpus > 0,
    )
    task = DiscriminationTask(config, channels=splits.fit.target.shape[1])
    if initial is not None and config.freeze_backbone:
        initial = copy.deepcopy(initial).freeze_backbone()
    tuner = FineTuner(task, training, seed=seed, initial=initial, storage_path=checkpoints, name="ratio")
    generator = Streams(seed, Stage.RATIO).torch(Purpose.BALANCED_ROWS)
    fit, held_out = (_blocks(_balanced(split, generator)) for split in (splits.fit, splits.calibration))
    tuned = tuner.fit(ray.data.from_arrow(fit), ray.data.from_arrow(held_out))
    return cast(Network, tuned.load_model())


def _balanced(split: Split, generator: torch.Generator) -> pa.Table:
    """Return as many target rows (label 1, drawn with replacement) as proposals (label 0), shuffled."""
    n = len(split.proposals)
    resampled = torch.randint(len(split.target), (n,), generator=generator)
    order = torch.randperm(2 * n, generator=generator)
    images = torch.cat([split.proposals, split.target[resampled]])[order]
    return to_table({"image": images, "label": (order >= n).long()})


def _blocks(rows: pa.Table) -> list[pa.Table]:
    return [rows.slice(start, _BLOCK_ROWS) for start in range(0, rows.num_rows, _BLOCK_ROWS)]
