"""The objects that a configuration describes: image sets, proposal, envelope, task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, Uniform
from torchvision.transforms import v2

from rsf_dist.config import AugmentConfig, EnvelopeConfig, ImagesConfig, LawConfig, RunConfig, TransformConfig
from rsf_dist.envelope import BudgetEnvelope, Envelope, FixedEnvelope, PilotEnvelope
from rsf_dist.errors import InputError
from rsf_dist.images import ImageSet, load_images
from rsf_dist.proposals import AugmentProposal
from rsf_dist.ratios.classifier import MIN_TARGET_IMAGES, network_spec
from rsf_dist.rng import Stage, Streams
from rsf_dist.tasks import ClassificationTask


@dataclass(frozen=True)
class Inputs:
    """The images of a run, checked against each other.

    Args:
        source: labelled; what proposals are made from.
        target: of the place where the model must work; labels, if there are any, are dropped.
        test, source_test, oracle: labelled, for the evaluation; None where the configuration has none.
    """

    source: ImageSet
    target: ImageSet
    test: ImageSet | None
    source_test: ImageSet | None
    oracle: ImageSet | None


def load_inputs(config: RunConfig) -> Inputs:
    """Read every image set of the run. Raises InputError."""
    source = load_images(config.source, "source")
    source.require_labels("source")
    target = load_images(config.target, "target")
    target.require_like(source, "target")

    def labelled(images: ImagesConfig | None, field: str) -> ImageSet | None:
        if images is None:
            return None
        found = load_images(images, field)
        found.require_labels(field)
        found.require_like(source, field)
        return found

    evaluation = config.evaluation
    if len(target) < MIN_TARGET_IMAGES:
        raise InputError("target", f"{len(target)} images", f"a ratio needs {MIN_TARGET_IMAGES} or more", "give more")
    inputs = Inputs(
        source=source,
        target=ImageSet(target.images),
        test=labelled(evaluation.test, "evaluation.test"),
        source_test=labelled(evaluation.source_test, "evaluation.source_test"),
        oracle=labelled(evaluation.oracle, "evaluation.oracle"),
    )
    if inputs.oracle is not None and len(inputs.oracle) < config.sampling.num_accepted:
        rule = f"arms need equal rows, sampling.num_accepted={config.sampling.num_accepted}"
        raise InputError("evaluation.oracle", f"{len(inputs.oracle)} images", rule, "give more, or lower that")
    return inputs


def build_proposal(config: AugmentConfig, source: ImageSet) -> AugmentProposal:
    """Labelled source images under the configured augmentations. Raises InputError."""
    parameters: dict[str, Distribution] = {name: _law(law) for name, law in config.parameters.items()}
    prior = None if config.class_prior is None else torch.tensor(config.class_prior, dtype=torch.float64)
    try:
        return AugmentProposal(source, parameters, prior, _pipeline(config.transforms))
    except InputError as err:
        raise InputError(f"proposal.{err.field}", err.value, err.rule, err.remedy) from err


def build_envelope(config: EnvelopeConfig) -> Envelope:
    """How M is chosen. Raises InputError."""
    options = config.model_dump(exclude={"kind"})
    return {"fixed": FixedEnvelope, "pilot": PilotEnvelope, "budget": BudgetEnvelope}[config.kind](**options)


def build_task(config: RunConfig, source: ImageSet) -> ClassificationTask:
    """Classification into the source's classes."""
    return ClassificationTask(source.classes, config.model, channels=source.images.shape[1])


def try_out(config: RunConfig, inputs: Inputs) -> None:
    """Build everything once and pass two proposals through both networks, so that what cannot work is refused early."""
    build_envelope(config.envelope)
    proposal = build_proposal(config.proposal, inputs.source)
    with _blamed("proposal"):
        image = proposal.sample(2, Streams(config.seed, Stage.PILOT))["image"]
    if image.shape[1:] != inputs.target.images.shape[1:] or image.dtype != torch.uint8:
        found = f"{image.dtype} {list(image.shape[1:])}"
        rule = f"must leave images uint8 {list(inputs.target.images.shape[1:])}, as the target's"
        raise InputError("proposal.transforms", found, rule, "correct the steps")
    channels = image.shape[1]
    networks = {"ratio.network": network_spec(config.ratio, channels), "model": build_task(config, inputs.source).spec}
    for field, spec in networks.items():
        with _blamed(field), torch.inference_mode():
            spec.build(config.seed).eval()(image)


@contextmanager
def _blamed(field: str) -> Iterator[None]:
    """Whatever torch and torchvision say of the user's choices, as an InputError of `field`."""
    try:
        yield
    except InputError as err:
        raise InputError(err.field.replace("model.", f"{field}."), err.value, err.rule, err.remedy) from err
    except Exception as err:  # the libraries raise what they please
        raise InputError(field, "(as configured)", f"fails on a first batch: {err}", "correct it") from err


def _law(config: LawConfig) -> Distribution:
    if config.uniform is not None:
        return Uniform(*config.uniform)
    assert config.normal is not None
    return Normal(*config.normal)


def _pipeline(steps: tuple[TransformConfig, ...]) -> Callable[[Tensor], Tensor] | None:
    return (
        v2.Compose([_transform(step, f"transforms.{number}") for number, step in enumerate(steps)]) if steps else None
    )


def _transform(step: TransformConfig, field: str) -> v2.Transform:
    kind = getattr(v2, step.name, None)
    if not (isinstance(kind, type) and issubclass(kind, v2.Transform)):
        raise InputError(f"{field}.name", step.name, "is no transform of torchvision.transforms.v2", "correct the name")
    try:
        return kind(**step.options)
    except (TypeError, ValueError) as err:
        raise InputError(f"{field}.options", step.options, f"{step.name} refuses them ({err})", "see its docs") from err
