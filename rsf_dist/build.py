"""The objects that a configuration describes: image sets, proposal, envelope, task."""

from __future__ import annotations

from collections.abc import Callable
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
    return Inputs(
        source=source,
        target=ImageSet(target.images),
        test=labelled(evaluation.test, "evaluation.test"),
        source_test=labelled(evaluation.source_test, "evaluation.source_test"),
        oracle=labelled(evaluation.oracle, "evaluation.oracle"),
    )


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
