"""Preflight: build every object of a configuration once and pass a few proposals through it, before the run starts.

The user's own code runs here first, in this process and under a timeout. A class that is broken, or hangs, is refused
within seconds and before the cluster is joined.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import singledispatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsf_dist.builders.components import build_envelope, build_proposal, build_task
from rsf_dist.builders.context import RatioContext
from rsf_dist.builders.inputs import Inputs
from rsf_dist.builders.network_trials import Fit, pass_images, try_single_rows, try_training
from rsf_dist.builders.pool_size import require_large_pool
from rsf_dist.builders.prior_estimation import class_prior
from rsf_dist.builders.ratio import make_ratio
from rsf_dist.config.model import ModelConfig
from rsf_dist.config.ratio import (
    ClassifierRatioConfig,
    CustomRatioConfig,
    LabelShiftRatioConfig,
    ProductRatioConfig,
    RatioKind,
)
from rsf_dist.config.rounds import RoundsConfig
from rsf_dist.config.run import RunConfig
from rsf_dist.data.batch import Batch, select, to_cpu
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError, StatisticalRefusal, located
from rsf_dist.models.networks import require_batch_norm
from rsf_dist.models.spec import NetworkSpec
from rsf_dist.proposals import DefensiveProposal, DensityProposal, Pool, Proposal, Refittable
from rsf_dist.ratios import Ratio
from rsf_dist.ratios.classifier import network_spec
from rsf_dist.runtime import user_code
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.runtime.timeouts import time_limit
from rsf_dist.sampling import envelope as envelopes
from rsf_dist.sampling.chunk import ChunkWork, propose
from rsf_dist.sampling.envelope import Envelope, Pilot
from rsf_dist.tasks import ClassificationTask, Task

STEP_SECONDS = 60.0
"""Timeout of each step of the preflight: importing and building an object of the user's, or passing a few rows."""

_CHUNK_ROWS, _NETWORK_ROWS, _MOST_PILOT_ROWS, _MOST_REFIT_ROWS = 32, 2, 100_000, 10_000


def preflight(config: RunConfig, inputs: Inputs) -> None:
    """Build every object once and pass a few proposals through it, to refuse early what cannot work.

    Raises:
        InputError: something in the configuration, or in the user's own code, does not work.
    """
    with located("envelope"), _tried(config.envelope):
        envelope = build_envelope(config.envelope)
    with located("proposal"), _tried(config.proposal):
        proposal = build_proposal(config.proposal, inputs.proposed_from)
        rows = _draw_reproducibly(proposal, config.seed)
    _require_trainable(rows, inputs)
    if config.proposal.is_pool or isinstance(proposal, Pool):
        require_large_pool(config, proposal)
    if config.rounds.num_rounds > 1:
        _try_rounds(config, inputs, proposal, rows)
    needs_bound = config.envelope.needs_bound and config.sampling.top_k is None
    if needs_bound:
        _require_bound(config.ratio.may_have_bound, config.ratio)
    context = RatioContext(inputs, proposal, config.seed)
    with located("ratio"):
        try_ratio(config.ratio, RatioCheck(context, rows, needs_bound))
    with located("envelope"), _tried(config.envelope):
        _try_envelope(envelope)
    _try_task(config, inputs.source, select(rows, slice(_NETWORK_ROWS)))
    if config.evaluation.feature_network is not None:
        spec = NetworkSpec(config.evaluation.feature_network, num_outputs=1, channels=rows["image"].shape[1])
        with located("evaluation"):
            _try_network(spec, rows, config.seed, "feature_network")


def try_chunk(proposal: Proposal, ratio: Ratio, seed: int, value: str) -> None:
    """Propose, score and accept one small chunk in this process.

    Raises:
        InputError: the user's code fails, or a log ratio is NaN or +inf, which is blamed on `value`.
    """
    log_m = 0.0 if ratio.log_bound is None else ratio.log_bound
    chunk = ChunkWork(proposal, ratio, log_m, _CHUNK_ROWS, seed, Stage.PILOT)(0, section="")
    count = chunk.statistics.num_nonfinite
    if count:
        rule = f"gives NaN or +inf for {count} of {_CHUNK_ROWS} proposals"
        remedy = "fix the ratio there; the proposal must have density wherever the target has"
        raise InputError("", value, rule, remedy)


def _draw_reproducibly(proposal: Proposal, seed: int) -> Batch:
    """Draw a few rows. Raises InputError where equal streams do not give equal rows."""
    rows, again = (to_cpu(propose(proposal, Streams(seed, Stage.PILOT), _CHUNK_ROWS)) for _ in range(2))
    for name, column in rows.items():
        if name not in again or not _alike(column, again[name]):
            kind, rule = type(proposal).__name__, f"draws another {name} from the same random streams"
            raise InputError("", kind, rule, "draw from rng alone: rng.torch(), rng.numpy(), rng.torch_global()")
    return rows


def _alike(first: Tensor, second: Tensor) -> bool:
    """Return True if both columns are equal, up to what a GPU's rounding may do to pixels."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    pixels = 2.0 if first.dtype == torch.uint8 and first.ndim > 1 else 0.0
    return torch.allclose(first.double(), second.double(), rtol=1e-2, atol=1e-3 + pixels, equal_nan=True)


def _require_trainable(rows: Batch, inputs: Inputs) -> None:
    missing = sorted({"image", "label"} - rows.keys())
    if missing:
        raise InputError("proposal", sorted(rows), f"its rows lack the column {missing[0]}", "propose labelled images")
    image, label, like = rows["image"], rows["label"], list(inputs.target.images.shape[1:])
    if list(image.shape[1:]) != like or image.dtype != torch.uint8:
        found = f"{image.dtype} {list(image.shape)}"
        rule = f"{len(image)} proposals must be images uint8 {[len(image), *like]}, as the target's"
        raise InputError("proposal", found, rule, "correct its steps")
    if label.ndim != 1 or label.is_floating_point() or label.dtype == torch.bool:
        found, rule = f"{label.dtype} {list(label.shape)}", f"its labels must be integers [{len(image)}]"
        raise InputError("proposal", found, rule, "give each row one class number")
    outside = label[(label < 0) | (label >= len(inputs.source.classes))]
    if len(outside):
        rule = f"its labels must lie in [0, {len(inputs.source.classes)}), the source's classes"
        raise InputError("proposal", int(outside[0]), rule, "correct the labels")


def _require_movable(proposal: Proposal, ratio: RatioKind) -> None:
    kind, remedy, learned = type(proposal).__name__, "give it one, or set rounds=1", ratio.is_learned
    if not isinstance(proposal, Refittable):
        raise InputError("proposal", kind, "has no `refit`, which rounds need", remedy)
    if not learned and not isinstance(proposal, DensityProposal):
        rule = "has no `log_prob`, by which a ratio that is not learned follows a proposal that moves"
        raise InputError("proposal", kind, rule, remedy)
    if learned and ratio.has_density_factors:
        rule = "has factors of kind density beside learned ones, and these cannot follow a proposal that moves"
        raise InputError("ratio", ratio.kind, rule, "leave them out, or set rounds=1")


def _try_rounds(config: RunConfig, inputs: Inputs, proposal: Proposal, rows: Batch) -> None:
    """Try a refit of the proposal, and the network of the class prior's classifier."""
    rounds = config.rounds
    _require_movable(proposal, config.ratio)
    with located("proposal"), _tried(config.proposal):
        _try_refit(proposal, rounds, rows, config.seed)
    if rounds.class_prior is not None and rounds.class_prior.network is not None:
        spec = NetworkSpec(rounds.class_prior.network, len(inputs.source.classes), rows["image"].shape[1])
        with located("rounds.class_prior"):
            fit = Fit("optimizer.batch_size", rounds.class_prior.optimizer.batch_size)
            _try_network(spec, rows, config.seed, "network", fit)


def _try_refit(proposal: Proposal, rounds: RoundsConfig, rows: Batch, seed: int) -> None:
    """Refit to as many rows as a round accepts, unless these are very many, by repeating a few rows."""
    assert isinstance(proposal, Refittable)
    if rounds.num_accepted <= _MOST_REFIT_ROWS:
        again = torch.arange(rounds.num_accepted) % _CHUNK_ROWS
        moved = proposal.refit(select(rows, again), seed, rounds.max_components)
        _draw_reproducibly(DefensiveProposal(proposal, moved, rounds.defensive_share), seed)


def _require_bound(bounded: bool, ratio: RatioKind) -> None:
    if not bounded:
        remedy = "use another kind, or set what bounds it: max_log_ratio, calibration: isotonic, max_score"
        rule = f"a {ratio.kind} ratio like this has no bound"
        raise InputError("envelope.kind", "certified", rule, remedy, absolute=True)


@dataclass(frozen=True)
class RatioCheck:
    """The values that a ratio is tried with before the cluster is joined.

    Args:
        context: what the ratio is made from.
        rows: a few proposals.
        needs_bound: the run's envelope rests on the ratio's bound.
    """

    context: RatioContext
    rows: Batch
    needs_bound: bool

    def for_factor(self, number: int) -> RatioCheck:
        """Return the check of a product's factor."""
        return replace(self, context=self.context.for_factor(number))

    def try_network(self, spec: NetworkSpec, *fits: Fit) -> None:
        """Pass a few proposals through the network of the ratio, and a row as each fit does. Raises InputError."""
        _try_network(spec, self.rows, self.context.seed, "network", *fits)


@singledispatch
def try_ratio(config: RatioKind, check: RatioCheck) -> None:
    """Refuse early a ratio that cannot work. Raises InputError.

    A ratio that needs no cluster is made, and draws a chunk. A kind of your own that needs the cluster may register a
    check of its parts.
    """
    if not config.needs_cluster:
        _try_made(config, check)


@try_ratio.register
def _try_product(config: ProductRatioConfig, check: RatioCheck) -> None:
    for number, factor in enumerate(config.factors):
        with located(f"factors.{number}"):
            try_ratio(factor, check.for_factor(number))


@try_ratio.register
def _try_classifier(config: ClassifierRatioConfig, check: RatioCheck) -> None:
    rows, workers = config.optimizer.batch_size, config.num_workers
    if workers == 0:  # in one task, a step has at least one row of each side
        rows, workers = max(2, rows), 1
    fits = [] if config.freeze_backbone else [Fit("optimizer.batch_size", rows, workers)]
    check.try_network(network_spec(config, check.rows["image"].shape[1]), *fits)


@try_ratio.register
def _try_label_shift(config: LabelShiftRatioConfig, check: RatioCheck) -> None:
    if config.target_prior is not None:
        _try_made(config, check)
        return
    class_prior(check.context.proposal)
    num_classes, channels = len(check.context.inputs.source.classes), check.rows["image"].shape[1]
    fit = Fit("optimizer.batch_size", config.optimizer.batch_size)
    check.try_network(NetworkSpec(config.network or ModelConfig(), num_classes, channels), fit)


@try_ratio.register
def _try_custom(config: CustomRatioConfig, check: RatioCheck) -> None:
    """Make what a class makes. A function may learn, perhaps in Ray tasks, and is only called when it is needed."""
    with _tried(config):
        is_class = isinstance(user_code.load(config.factory, "factory"), type)
    if is_class:
        _try_made(config, check)


def _try_made(config: RatioKind, check: RatioCheck) -> None:
    context = check.context
    with _tried(config) as named:
        made = make_ratio(config, context)
        try_chunk(context.proposal, made, context.seed, named)
    if check.needs_bound:
        _require_bound(made.log_bound is not None, config)


def _try_envelope(envelope: Envelope) -> None:
    """Let the envelope choose M for a made-up pilot of Gaussian log ratios with bound 10."""
    generator = np.random.default_rng(0)
    log_ratio = np.minimum(generator.normal(size=min(envelope.num_pilot, _MOST_PILOT_ROWS)), 10.0)
    pilot = Pilot(log_ratio, log_ratio + generator.exponential(size=len(log_ratio)), log_bound=10.0)
    try:
        envelopes.choose(envelope, pilot)
    except StatisticalRefusal:  # it refuses this pilot, which is not the real one
        return


def _try_network(spec: NetworkSpec, rows: Batch, seed: int, section: str, *fits: Fit) -> None:
    images, name = rows["image"][:_NETWORK_ROWS], spec.config.name
    with located(section), _tried(spec.config):
        network = spec.build(seed)
        _require_logits(pass_images(network, images, name), spec.num_outputs, name)
        if fits:
            try_training(lambda: network.train()(images), name)
    try_single_rows(lambda: network.train()(images[:1]), fits)


def _try_task(config: RunConfig, source: ImageSet, rows: Batch) -> None:
    with located("task"), _tried(config.task):
        task = build_task(config.task, config.model, source)
    with located("model"), _tried(config.model):
        model: object = task.build_model(config.seed)
        if isinstance(model, nn.Module):
            logits = pass_images(model, rows["image"], config.model.name)
            _require_logits(logits, len(source.classes), config.model.name)
            if type(task) is ClassificationTask:  # other tasks are tried below
                trained = model.train()
                try_training(lambda: task.loss(trained, rows), config.model.name)
    if "batch_norm" in config.evaluation.arms:
        assert isinstance(model, nn.Module)
        require_batch_norm(model)
    if type(task) is not ClassificationTask:  # a subclass of it is code of the user, too
        key = "factory" if hasattr(config.task, "factory") else "kind"
        with located("task"), _tried(config.task):
            _try_own_task(task, model, rows, key, getattr(config.task, key))
    assert isinstance(model, nn.Module)
    trained = model.train()
    try_single_rows(lambda: task.loss(trained, select(rows, slice(1))), _fits_of_model(config))
    of_target = [arm for arm in ("pseudo_labels", "oracle") if arm in config.evaluation.arms]
    more = sorted(set(task.columns) - {"image", "label"})
    if config.evaluation.test and of_target and more:
        rule = f"the task needs {more}, which target images do not have"
        remedy = "leave these arms out of evaluation.arms (for rsf compare: of --arms)"
        raise InputError("evaluation.arms", ", ".join(of_target), rule, remedy)


def _fits_of_model(config: RunConfig) -> list[Fit]:
    """List the batches that the run's model is trained on."""
    training, prior = config.training, config.rounds.class_prior
    fits = [Fit("training.batch_size", training.batch_size, training.num_workers)]
    if config.pretrain is not None:
        fits.append(Fit("pretrain.batch_size", config.pretrain.batch_size))
    moves_prior = config.rounds.num_rounds > 1 and config.ratio.leaves_class_prior_open
    if moves_prior and prior is not None and prior.network is None:
        fits.append(Fit("rounds.class_prior.optimizer.batch_size", prior.optimizer.batch_size))
    return fits


def _require_logits(logits: object, num_outputs: int, value: object) -> None:
    shape = [_NETWORK_ROWS, num_outputs]
    if not isinstance(logits, Tensor) or list(logits.shape) != shape:
        found = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise InputError("", value, f"gives {found} for {_NETWORK_ROWS} images", f"give logits of shape {shape}")
    if not bool(logits.isfinite().all()):
        raise InputError("", value, "gives logits that are NaN or infinite", "give it sound weights")


def _try_own_task(task: Task, model: Any, rows: Batch, key: str, value: str) -> None:
    """Call once every method of the task that the trainer calls. An InputError names this key and its value."""
    from torchmetrics import MetricCollection  # here: it takes long to import

    def require(fits: bool, rule: str, remedy: str) -> None:
        if not fits:
            raise InputError(key, value, rule, remedy)

    require(isinstance(model, nn.Module), f"build_model gives a {type(model).__name__}", "give a torch module")
    missing = sorted(set(task.columns) - rows.keys())
    require(not missing, f"needs the columns {missing}, which proposals lack", "correct `columns`, or propose them")
    loss = task.loss(model.train(), rows)
    shape = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
    require(shape == [_NETWORK_ROWS], f"loss gives {shape} for {_NETWORK_ROWS} rows", "give one number a row")
    require(loss.requires_grad, "loss has no gradient", "compute it from the model's output, without detaching")
    metrics = task.metrics()
    kind = type(metrics).__name__
    require(isinstance(metrics, MetricCollection), f"metrics gives a {kind}", "give a MetricCollection")
    with torch.inference_mode():
        task.update(metrics, model.eval(), rows)
    found = sorted(metrics.compute())
    require(task.metric in found, f"metric={task.metric} is not among {found}", "name one of them")
    with TemporaryDirectory() as folder:
        task.save(model, Path(folder))
        for name in ("model.safetensors", "model.json"):
            require((Path(folder) / name).is_file(), f"save writes no {name}", "write it")
        loaded = task.load(Path(folder))
    require(isinstance(loaded, nn.Module), f"load gives a {type(loaded).__name__}", "give the model that was saved")


@contextmanager
def _tried(config: Any) -> Iterator[str]:
    """Turn every failure of the block, and a timeout, into an InputError of the section itself.

    Args:
        config: the section. The error's value is the import path in it, or else its name or kind.

    Yields:
        The error's value.
    """
    named = (getattr(config, key, None) for key in ("factory", "score", "passes", "name", "kind"))
    value = next(filter(None, named))
    try:
        with time_limit(STEP_SECONDS, "", value):
            yield value
    except (StatisticalRefusal, InputError):
        raise
    except (Exception, SystemExit) as err:  # libraries and user code raise any exception
        raise InputError("", value, f"fails on a first batch ({type(err).__name__}: {err})", "correct it") from err
