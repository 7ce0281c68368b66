"""The ratio that a configuration describes: built from laws and functions, or learned in Ray tasks or by Ray Train."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import ray
import torch
from scipy.special import softmax
from torch import Tensor, nn

from rsf_dist import user_code
from rsf_dist.accept import Floats
from rsf_dist.batch import to_table
from rsf_dist.build import Inputs, build_law, of_kind
from rsf_dist.config import (
    ClassifierRatioConfig,
    ClassPriorConfig,
    CustomRatioConfig,
    DensityRatioConfig,
    LabelShiftRatioConfig,
    ProductRatioConfig,
    RatioConfig,
    RewardRatioConfig,
    SamplingConfig,
    TrainingConfig,
    VerifierRatioConfig,
)
from rsf_dist.device import device, portable
from rsf_dist.errors import InputError, unwrapped
from rsf_dist.images import ImageSet
from rsf_dist.models import Network, in_pieces
from rsf_dist.pretraining import pretrain
from rsf_dist.proposals import DistributionProposal, Proposal
from rsf_dist.ratios import (
    ClassifierRatio,
    DensityRatio,
    LabelShiftRatio,
    ProductRatio,
    Ratio,
    RewardRatio,
    VerifierRatio,
)
from rsf_dist.ratios.base import log_ratios
from rsf_dist.ratios.class_prior import BiasCorrectedTemperature, ClassPrior, bbse, em
from rsf_dist.ratios.classifier import Split, Splits, member_seed, network_spec, split_evidence
from rsf_dist.ratios.given_class import class_log_means
from rsf_dist.resources import check_ratio, confine, in_task
from rsf_dist.rng import Stage, Streams
from rsf_dist.tasks import ClassificationTask, Task
from rsf_dist.tasks.discrimination import DiscriminationTask
from rsf_dist.trainer import FineTuner

_BLOCK_ROWS = 256
_ROWS_FOR_MEANS = 8_192
_CHUNK_OF_PRIOR, _CHUNK_OF_MEANS = 1, 2
"""Of their streams; the fit of a ratio has chunk 0."""


@dataclass(frozen=True)
class Before:
    """The round before: its ratio, and how many steps a classifier takes from there. None means that it begins anew."""

    ratio: Ratio | None = None
    steps: int | None = None

    def factor(self, number: int) -> Before:
        """Of a product."""
        return Before(self.ratio.factors[number] if isinstance(self.ratio, ProductRatio) else None, self.steps)

    def starting_point(self, config: ClassifierRatioConfig) -> tuple[ClassifierRatioConfig, Sequence[Network] | None]:
        """Return the configuration to fit with, and the networks to begin with; None means new ones."""
        if self.steps is None or not isinstance(self.ratio, ClassifierRatio):
            return config, None
        optimizer = config.optimizer.model_copy(update={"steps": self.steps})
        return config.model_copy(update={"optimizer": optimizer}), [
            portable(network) for network in self.ratio.networks
        ]


def make_ratio(
    config: RatioConfig,
    inputs: Inputs,
    proposal: Proposal,
    seed: int,
    checkpoints: str | None = None,
    field: str = "ratio",
    saved: Path | None = None,
    before: Before | None = None,
    split_seed: int | None = None,
) -> Ratio:
    """log p/q as configured, `proposal` being q; errors name `field`. Raises InputError, StatisticalRefusal.

    What is learned is learned in a Ray task; a classifier with `num_workers` through Ray Train, whose checkpoints go to
    `checkpoints`. With a folder that such a ratio's `save` filled, it is read from there, and nothing is learned.
    `split_seed` tells which target images stay apart; None: seed.
    """
    before = before or Before()
    if isinstance(config, ProductRatioConfig):
        return ProductRatio(
            [
                make_ratio(
                    factor, inputs, proposal, seed, checkpoints, f"{field}.factors.{number}", part, known, split_seed
                )
                for number, factor in enumerate(config.factors)
                for part, known in [(saved and saved / f"factor-{number}", before.factor(number))]
            ]
        )
    if isinstance(config, ClassifierRatioConfig):
        if saved is not None:
            return ClassifierRatio.load(saved)
        return fit_classifier(config, inputs.target.images, proposal, seed, checkpoints, before, split_seed)
    if isinstance(config, LabelShiftRatioConfig) and config.target_prior is None:
        if saved is not None:
            return LabelShiftRatio.load(saved, class_prior(proposal, field))
        task = ClassificationTask(inputs.source.classes, config.network, inputs.source.images.shape[1])
        estimate = estimate_prior(config, task, inputs, proposal, seed)
        return LabelShiftRatio(estimate.prior, class_prior(proposal, field), estimate=estimate)
    return build_ratio(config, inputs, proposal, seed, field)


def is_learned(config: RatioConfig) -> bool:
    """Whether the ratio is made against the proposal in use, and another proposal needs another one."""
    if isinstance(config, ProductRatioConfig):
        return any(is_learned(factor) for factor in config.factors)
    return isinstance(config, ClassifierRatioConfig | CustomRatioConfig)


def build_ratio(config: RatioConfig, inputs: Inputs, proposal: Proposal, seed: int, field: str = "ratio") -> Ratio:
    """A ratio that needs no fit of ours: from laws, a known prior, functions or a factory. Raises InputError."""
    if isinstance(config, DensityRatioConfig):
        return _parameter_ratio(config, proposal, field)
    if isinstance(config, RewardRatioConfig):
        score = user_code.bound(config.score, f"{field}.score", config.options)
        return RewardRatio(score, config.beta, config.max_score, config.columns)
    if isinstance(config, VerifierRatioConfig):
        return VerifierRatio(user_code.bound(config.passes, f"{field}.passes", config.options), config.columns)
    if isinstance(config, LabelShiftRatioConfig) and config.target_prior is not None:
        return LabelShiftRatio(config.target_prior, class_prior(proposal, field))
    if isinstance(config, CustomRatioConfig):
        given = {"target": inputs.target.images, "proposal": proposal, "seed": seed}
        ratio = user_code.call(config.factory, f"{field}.factory", given, config.options)
        return _with_bound(of_kind(ratio, Ratio, config.factory, f"{field}.factory"), config.factory, field)
    raise TypeError(f"{field}: a {config.kind} ratio is learned, not built")


def _with_bound(ratio: Ratio, factory: str, field: str) -> Ratio:
    bound: object = ratio.log_bound
    finite = isinstance(bound, Real) and not isinstance(bound, bool) and math.isfinite(bound)
    if bound is not None and not finite:
        rule = f"its log_bound is {bound}, neither None nor a finite number"
        raise InputError(f"{field}.factory", factory, rule, "give the supremum of log_ratio where it is known")
    return ratio


def class_prior(proposal: Proposal, field: str) -> Tensor:
    """The proposal's own q(y), [k]. Raises InputError where it has none."""
    prior = getattr(proposal, "class_prior", None)
    if prior is None:
        kind = type(proposal).__name__
        raise InputError(field, kind, "label shift needs the proposal's class_prior", "give your proposal one")
    return prior


def _parameter_ratio(config: DensityRatioConfig, proposal: Proposal, field: str) -> Ratio:
    laws = getattr(proposal, "parameters", {})
    unknown = sorted(config.parameters.keys() - laws.keys())
    if unknown:
        rule = "the proposal draws no such parameter"
        raise InputError(f"{field}.parameters", unknown[0], rule, "give it a law in proposal.parameters too")
    factors = [
        DensityRatio(build_law(law), DistributionProposal(laws[name], column=name))
        for name, law in config.parameters.items()
    ]
    return ProductRatio(factors) if len(factors) > 1 else factors[0]


def fit_classifier(
    config: ClassifierRatioConfig,
    target: Tensor,
    proposal: Proposal,
    seed: int,
    checkpoints: str | None = None,
    before: Before | None = None,
    split_seed: int | None = None,
) -> ClassifierRatio:
    """Learn log p/q from target images uint8 [n, c, h, w] and fresh proposals.

    In one Ray task, or with `config.num_workers` through Ray Train, whose checkpoints go to `checkpoints`. It goes on
    from what was there `before`. Raises InputError, StatisticalRefusal.
    """
    check_ratio(config)
    config, initial = (before or Before()).starting_point(config)
    split_seed = seed if split_seed is None else split_seed
    share = {"cpus": config.cpus, "gpus": config.gpus}
    if config.num_workers == 0:
        return in_task(_fit, config, target, proposal, seed, initial, split_seed, **share)
    splits = in_task(_gather, config, target, proposal, seed, split_seed, **share)
    with unwrapped():
        networks = [
            _fit_parallel(config, splits, member_seed(seed, member), checkpoints, initial[member] if initial else None)
            for member in range(config.ensemble)
        ]
    return in_task(_calibrate, config, networks, splits, **share)


def estimate_prior(
    config: LabelShiftRatioConfig | ClassPriorConfig,
    task: Task,
    inputs: Inputs,
    proposal: Proposal,
    seed: int,
    initial: nn.Module | None = None,
) -> ClassPrior:
    """The target's mix of classes, from its unlabelled images. Raises InputError, StatisticalRefusal.

    task: whose model learns to tell the classes of proposals apart, beginning with `initial` where that is given.
    """
    check_ratio(config, "rounds.class_prior" if isinstance(config, ClassPriorConfig) else "ratio")
    share = {"cpus": config.cpus, "gpus": config.gpus}
    return in_task(_estimate_prior, config, task, inputs, proposal, seed, initial, **share)


def _fit(
    config: ClassifierRatioConfig,
    target: Tensor,
    proposal: Proposal,
    seed: int,
    initial: Sequence[Network] | None,
    split_seed: int,
) -> ClassifierRatio:
    confine(config.cpus)
    proposals = _proposals(config, proposal, seed)
    return ClassifierRatio.fit(target, proposals, config, seed, initial=initial, split_seed=split_seed)


def _gather(config: ClassifierRatioConfig, target: Tensor, proposal: Proposal, seed: int, split_seed: int) -> Splits:
    confine(config.cpus)
    return split_evidence(target, _proposals(config, proposal, seed), config, split_seed)


def _calibrate(config: ClassifierRatioConfig, networks: list[Network], splits: Splits) -> ClassifierRatio:
    confine(config.cpus)
    spec = network_spec(config, channels=splits.fit.target.shape[1])
    return ClassifierRatio.calibrated(networks, spec, splits, config)


def mean_given_class(ratio: Ratio, proposal: Proposal, num_classes: int, seed: int, sampling: SamplingConfig) -> Floats:
    """log E_q[r | y] of each class, float64 [num_classes], from fresh proposals; see `class_log_means`."""
    share = {"cpus": sampling.pool.cpus_per_actor, "gpus": sampling.pool.gpus_per_actor}
    return in_task(_mean_given_class, ratio, proposal, num_classes, seed, sampling.chunk_size, **share)


def _mean_given_class(ratio: Ratio, proposal: Proposal, num_classes: int, seed: int, chunk_size: int) -> Floats:
    confine()
    found, labels = [], []
    for piece, start in enumerate(range(0, _ROWS_FOR_MEANS, chunk_size)):
        streams = Streams(seed, Stage.RATIO, chunk=_CHUNK_OF_MEANS + piece)
        rows = proposal.sample(min(chunk_size, _ROWS_FOR_MEANS - start), streams)
        found.append(log_ratios(ratio, rows).numpy())
        labels.append(rows["label"].numpy())
    return class_log_means(np.concatenate(found), np.concatenate(labels), num_classes)


def _estimate_prior(
    config: LabelShiftRatioConfig | ClassPriorConfig,
    task: Task,
    inputs: Inputs,
    proposal: Proposal,
    seed: int,
    initial: nn.Module | None,
) -> ClassPrior:
    """Fit a classifier on labelled proposals, calibrate it on others, and solve for the mix of the target images."""
    confine(config.cpus)
    chunk = _CHUNK_OF_PRIOR if isinstance(config, ClassPriorConfig) else 0
    rows = proposal.sample(config.num_proposals, Streams(seed, Stage.RATIO, chunk=chunk))
    drawn = ImageSet(rows["image"], rows["label"], inputs.source.classes)
    held_out = round(config.num_proposals * config.calibration_fraction)
    field = "rounds.class_prior.optimizer" if isinstance(config, ClassPriorConfig) else "ratio.optimizer"
    classifier = pretrain(task, drawn.subset(slice(held_out, None)), config.optimizer, seed, initial, field)
    classifier.to(device())
    source, target = (
        in_pieces(classifier, images, _numbers_per_row(classifier, images)).double().cpu().numpy()
        for images in (drawn.images[:held_out], inputs.target.images)
    )
    labels = rows["label"][:held_out].numpy()
    if config.method == "bbse":
        return bbse(softmax(source, axis=1), labels, softmax(target, axis=1), seed=seed)
    calibrated = BiasCorrectedTemperature.fit(source, labels)
    return em(calibrated(source), calibrated(target), seed=seed)


def _numbers_per_row(model: nn.Module, images: Tensor) -> int | None:
    return model.numbers_per_row(images) if isinstance(model, Network) else None


def _proposals(config: ClassifierRatioConfig, proposal: Proposal, seed: int) -> Tensor:
    return proposal.sample(config.num_proposals, Streams(seed, Stage.RATIO))["image"]


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
