"""Everything that a configuration describes, built once and tried on two proposals before anything expensive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rsf_dist import user_code
from rsf_dist.batch import Batch, num_rows
from rsf_dist.build import Inputs, build_envelope, build_mixture, build_proposal, build_task, relative_alpha
from rsf_dist.chunk import score
from rsf_dist.config import (
    ClassifierRatioConfig,
    CustomRatioConfig,
    LabelShiftRatioConfig,
    ProductRatioConfig,
    RatioConfig,
    RewardRatioConfig,
    RunConfig,
)
from rsf_dist.errors import InputError
from rsf_dist.fitting import build_ratio, class_prior
from rsf_dist.images import ImageSet
from rsf_dist.models import NetworkSpec
from rsf_dist.proposals import Proposal
from rsf_dist.ratios.classifier import network_spec
from rsf_dist.rng import Stage, Streams


def try_out(config: RunConfig, inputs: Inputs) -> None:
    """Build everything once and pass two proposals through it, so that what cannot work is refused early."""
    build_envelope(config.envelope)
    proposal = build_proposal(config.proposal, inputs.source)
    alpha = relative_alpha(config)
    drawn_from = proposal if alpha is None else build_mixture(alpha, proposal, inputs.target)
    with _blamed("proposal"):
        rows = drawn_from.sample(2, Streams(config.seed, Stage.PILOT))
    _require_trainable(rows, inputs.target)
    if config.envelope.kind == "certified" and not has_bound(config.ratio):
        remedy = "use another kind, or set what bounds it: max_log_ratio, calibration: isotonic, max_score"
        raise InputError("envelope.kind", "certified", f"a {config.ratio.kind} ratio like this has no bound", remedy)
    _try_ratio(config.ratio, inputs, proposal, rows, config.seed, "ratio")
    task = build_task(config, inputs.source)
    with _blamed("model"):
        model = task.build_model(config.seed).eval()
    with _blamed("model"), torch.inference_mode():
        model(rows["image"])
    if config.evaluation.judge is not None:
        judge = NetworkSpec(config.evaluation.judge, num_outputs=1, channels=rows["image"].shape[1])
        _try_network(judge, rows, config.seed, "evaluation.judge")


def has_bound(config: RatioConfig) -> bool:
    """Whether a ratio so configured may have a bound; of laws and of one's own that shows when it is made."""
    if isinstance(config, ProductRatioConfig):
        return all(has_bound(factor) for factor in config.factors)
    if isinstance(config, ClassifierRatioConfig):
        limits = (config.max_log_ratio, config.relative_alpha)
        return config.calibration == "isotonic" or any(limit is not None for limit in limits)
    return not isinstance(config, RewardRatioConfig) or config.max_score is not None


def _require_trainable(rows: Batch, target: ImageSet) -> None:
    missing = sorted({"image", "label"} - rows.keys())
    if missing:
        raise InputError("proposal", sorted(rows), f"its rows lack the column {missing[0]}", "propose labelled images")
    image = rows["image"]
    if num_rows(rows) != 2 or image.shape[1:] != target.images.shape[1:] or image.dtype != torch.uint8:
        found = f"{image.dtype} {list(image.shape)}"
        rule = f"two proposals must be images uint8 {[2, *target.images.shape[1:]]}, as the target's"
        raise InputError("proposal", found, rule, "correct its steps")


def _try_ratio(config: RatioConfig, inputs: Inputs, proposal: Proposal, rows: Batch, seed: int, field: str) -> None:
    if isinstance(config, ProductRatioConfig):
        for number, factor in enumerate(config.factors):
            _try_ratio(factor, inputs, proposal, rows, seed, f"{field}.factors.{number}")
    elif isinstance(config, ClassifierRatioConfig):
        _try_network(network_spec(config, rows["image"].shape[1]), rows, seed, f"{field}.network")
    elif isinstance(config, LabelShiftRatioConfig) and config.target_prior is None:
        class_prior(proposal, field)
        spec = NetworkSpec(config.network, len(inputs.source.classes), rows["image"].shape[1])
        _try_network(spec, rows, seed, f"{field}.network")
    elif isinstance(config, CustomRatioConfig):
        user_code.load(config.factory, f"{field}.factory")  # it may take its time: called once, when it is needed
    else:
        with _blamed(field):
            score(build_ratio(config, inputs, proposal, seed, field), rows)


def _try_network(spec: NetworkSpec, rows: Batch, seed: int, field: str) -> None:
    with _blamed(field), torch.inference_mode():
        spec.build(seed).eval()(rows["image"])


@contextmanager
def _blamed(field: str) -> Iterator[None]:
    """Whatever torch and torchvision say of the user's choices, as an InputError of `field`."""
    try:
        yield
    except InputError as err:
        named = err.field  # what a network or a ratio says of itself does not know where in the file it stands
        if not named.startswith(field):
            named = re.sub(r"^(model|ratio)\.", f"{field}.", named)
        raise InputError(named, err.value, err.rule, err.remedy) from err
    except Exception as err:  # the libraries raise what they please
        raise InputError(field, "(as configured)", f"fails on a first batch: {err}", "correct it") from err
