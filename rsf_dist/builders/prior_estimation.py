"""Estimates of the target's class prior and of a ratio's mean within each class, in Ray tasks."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax
from torch import Tensor, nn

from rsf_dist.builders.context import RatioContext
from rsf_dist.builders.inputs import Inputs
from rsf_dist.cluster.capacity import check_ratio
from rsf_dist.cluster.workers import run_in_task
from rsf_dist.config.class_prior import ClassPriorConfig, PriorEstimatorConfig
from rsf_dist.config.ratio import LabelShiftRatioConfig
from rsf_dist.config.resources import Share
from rsf_dist.config.sampling import SamplingConfig
from rsf_dist.data.batch import to_cpu
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError, located
from rsf_dist.models.networks import Network, in_pieces
from rsf_dist.proposals import Proposal
from rsf_dist.ratios import Ratio
from rsf_dist.ratios.base import log_ratios
from rsf_dist.ratios.class_conditional import class_log_means
from rsf_dist.ratios.class_prior import BiasCorrectedTemperature, ClassPrior, bbse, em
from rsf_dist.runtime.device import device
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.tasks import Task
from rsf_dist.training.in_process import fit_in_process
from rsf_dist.types import Floats

_ROWS_FOR_MEANS = 8_192

_CHUNK_OF_RATIO, _CHUNK_OF_PRIOR, _CHUNK_OF_MEANS = 0, 1, 2
"""Chunk numbers of the random streams: a ratio's fit, the last round's class prior, the first rows for the means."""


def class_prior(proposal: Proposal) -> Tensor:
    """Return the proposal's own q(y), [k]. Raises InputError where the proposal has none."""
    prior = getattr(proposal, "class_prior", None)
    if prior is None:
        kind = type(proposal).__name__
        raise InputError("", kind, "label shift needs the proposal's class_prior", "give your proposal one")
    return prior


def estimate_prior(config: LabelShiftRatioConfig, task: Task, context: RatioContext) -> ClassPrior:
    """Estimate the target's class prior for a label shift ratio.

    Args:
        config: how to estimate it.
        task: the classification task of the classifier, which starts from a new network.
        context: the images, the proposal and the seed.

    Raises:
        InputError: the cluster has no room, or the proposals or images do not suit the estimator.
        StatisticalRefusal: the classifier does not tell the classes apart, or its fit failed.
    """
    return _estimate_in_task(config, task, context, None, _CHUNK_OF_RATIO)


def estimate_class_prior(
    config: ClassPriorConfig, task: Task, inputs: Inputs, proposal: Proposal, seed: int, initial: nn.Module
) -> ClassPrior:
    """Estimate the target's class prior for the last round's proposal.

    Args:
        config: how to estimate it.
        task: the task whose model learns to tell the classes apart.
        inputs: the run's images.
        proposal: the last round's proposal.
        seed: the seed of the fit and of the bootstrap.
        initial: the model to start from.

    Raises:
        InputError, StatisticalRefusal: as estimate_prior.
    """
    context = RatioContext(inputs, proposal, seed)
    return _estimate_in_task(config, task, context, initial, _CHUNK_OF_PRIOR)


def _estimate_in_task(
    config: PriorEstimatorConfig, task: Task, context: RatioContext, initial: nn.Module | None, chunk: int
) -> ClassPrior:
    check_ratio(config)
    return run_in_task(_estimate_prior, config, task, context, initial, chunk, share=config.share)


def class_log_mean_ratios(
    ratio: Ratio, proposal: Proposal, num_classes: int, seed: int, sampling: SamplingConfig
) -> Floats:
    """Estimate log E_q[r | y] of each class, float64 [num_classes], from fresh proposals; see `class_log_means`."""
    share = Share.of_pool(sampling.pool)
    return run_in_task(_class_log_mean_ratios, ratio, proposal, num_classes, seed, sampling.chunk_rows, share=share)


def _class_log_mean_ratios(ratio: Ratio, proposal: Proposal, num_classes: int, seed: int, chunk_size: int) -> Floats:
    scores, labels = [], []
    for piece, start in enumerate(range(0, _ROWS_FOR_MEANS, chunk_size)):
        streams = Streams(seed, Stage.RATIO, chunk=_CHUNK_OF_MEANS + piece)
        rows = to_cpu(proposal.sample(min(chunk_size, _ROWS_FOR_MEANS - start), streams))
        with located("ratio"):
            scores.append(log_ratios(ratio, rows).numpy())
        labels.append(rows["label"].numpy())
    return class_log_means(np.concatenate(scores), np.concatenate(labels), num_classes)


def _estimate_prior(
    config: PriorEstimatorConfig, task: Task, context: RatioContext, initial: nn.Module | None, chunk: int
) -> ClassPrior:
    """Fit a classifier on labelled proposals, calibrate it on others, and solve for the target's class prior."""
    inputs, seed = context.inputs, context.seed
    rows = to_cpu(context.proposal.sample(config.num_proposals, Streams(seed, Stage.RATIO, chunk=chunk)))
    drawn = ImageSet(rows["image"], rows["label"], inputs.source.classes)
    held_out = round(config.num_proposals * config.calibration_fraction)
    if initial is None:
        with located("network"):
            initial = task.build_model(seed)
    with located("optimizer"):
        classifier = fit_in_process(task, drawn.subset(slice(held_out, None)), config.optimizer, seed, initial)
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
