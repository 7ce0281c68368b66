"""The objects that a configuration describes: image sets, proposal, envelope, task; ratios are for `fitting`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, Uniform

from rsf_dist import user_code
from rsf_dist.config import (
    AugmentConfig,
    EnvelopeConfig,
    GeneratorProposalConfig,
    ImagesConfig,
    LawConfig,
    ProposalConfig,
    RunConfig,
    ShiftedImagesConfig,
    ShiftedTargetConfig,
    TargetConfig,
    TargetImagesConfig,
    TransformConfig,
)
from rsf_dist.envelope import (
    AdaptiveEnvelope,
    BudgetEnvelope,
    CertifiedEnvelope,
    Envelope,
    FixedEnvelope,
    PilotEnvelope,
)
from rsf_dist.errors import InputError
from rsf_dist.images import ImageSet, load_images
from rsf_dist.place import make_images
from rsf_dist.proposals import AugmentProposal, GeneratorProposal, Proposal
from rsf_dist.proposals.prior import checked_prior
from rsf_dist.ratios.classifier import MIN_TARGET_IMAGES
from rsf_dist.rng import Stage, Streams
from rsf_dist.tasks import ClassificationTask, Task


@dataclass(frozen=True)
class Inputs:
    """The images of a run, checked against each other.

    Args:
        source: labelled; what proposals are made from.
        target: of the place where the model must work; its labels are dropped.
        test, source_test, oracle: labelled, for the evaluation; None where the configuration has none.
    """

    source: ImageSet
    target: ImageSet
    test: ImageSet | None
    source_test: ImageSet | None
    oracle: ImageSet | None

    def digests(self) -> dict[str, str]:
        """SHA-256 of each set that is there, for a run to tell whether it goes on with the images it began with."""
        sets = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: images.digest() for name, images in sets.items() if images is not None}


def load_inputs(config: RunConfig) -> Inputs:
    """Read, or make, every image set of the run. Raises InputError."""
    source = load_images(config.source, "source")
    source.require_labels("source")
    target = _read_or_made(config.target, "target", config, source)
    target.require_like(source, "target")

    def labelled(images: TargetImagesConfig | None, field: str) -> ImageSet | None:
        if images is None:
            return None
        found = _read_or_made(images, field, config, source)
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


_PLACE_CHUNKS = {"target": 0, "evaluation.oracle": 1, "evaluation.test": 2}
"""Which stream each made set draws from; renumbering them would change the images."""


def _read_or_made(
    images: TargetConfig | TargetImagesConfig, field: str, config: RunConfig, source: ImageSet
) -> ImageSet:
    """The images; those of kind `shifted` are made as the target is. Errors name `field`, or target.shift."""
    if isinstance(images, ImagesConfig):
        return load_images(images, field)
    assert isinstance(config.target, ShiftedTargetConfig)  # else the configuration would have been refused
    count = images.num_images if isinstance(images, ShiftedImagesConfig) else images.num_unlabelled
    base = load_images(images.base, f"{field}.base")
    base.require_labels(f"{field}.base")
    base.require_like(source, f"{field}.base")
    try:
        return make_images(base, config.target.shift, count, Streams(config.seed, Stage.PLACE, 0, _PLACE_CHUNKS[field]))
    except InputError as err:
        raise InputError("target.shift.prior", err.value, f"{err.rule} ({field}.base)", err.remedy) from err


def build_proposal(config: ProposalConfig, source: ImageSet) -> Proposal:
    """Source images under the configured augmentations, a generator's, or the user's own. Raises InputError."""
    if isinstance(config, AugmentConfig):
        return _augmented(config, source)
    if isinstance(config, GeneratorProposalConfig):
        return _generated(config, source)
    proposal = user_code.call(config.factory, "proposal.factory", {"source": source}, config.options)
    return of_kind(proposal, Proposal, config.factory, "proposal.factory")


def _augmented(config: AugmentConfig, source: ImageSet) -> AugmentProposal:
    parameters: dict[str, Distribution] = {name: build_law(law) for name, law in config.parameters.items()}
    prior = None if config.class_prior is None else torch.tensor(config.class_prior, dtype=torch.float64)
    with _within("proposal"):
        return AugmentProposal(source, parameters, prior, _pipeline(config.transforms))


def _generated(config: GeneratorProposalConfig, source: ImageSet) -> GeneratorProposal:
    generator = user_code.call(config.factory, "proposal.factory", {"source": source}, config.options)
    if not isinstance(generator, nn.Module):
        found = f"gives a {type(generator).__name__}"
        raise InputError("proposal.factory", config.factory, found, "return a torch module")
    latent = Independent(Normal(torch.zeros(config.latent_dim), torch.ones(config.latent_dim)), 1)
    counts = torch.bincount(source.require_labels("source"), minlength=len(source.classes))
    prior = counts if config.class_prior is None else torch.tensor(config.class_prior, dtype=torch.float64)
    with _within("proposal"):
        return GeneratorProposal(generator, latent, checked_prior(prior, len(source.classes)))


@contextmanager
def _within(section: str) -> Iterator[None]:
    """What the block refuses, by the name that it has in the configuration."""
    try:
        yield
    except InputError as err:
        raise InputError(f"{section}.{err.field}", err.value, err.rule, err.remedy) from err


def build_envelope(config: EnvelopeConfig) -> Envelope:
    """How M is chosen. Raises InputError."""
    options = config.model_dump(exclude={"kind"})
    if config.kind == "custom":
        envelope = user_code.call(config.factory, "envelope.factory", {}, config.options)
        of_kind(envelope, Envelope, config.factory, "envelope.factory")
        num_pilot: object = envelope.num_pilot
        if not isinstance(num_pilot, int) or num_pilot < 1:
            raise InputError("envelope.factory", config.factory, f"its num_pilot is {num_pilot}", "name a count from 1")
        return envelope
    return _ENVELOPES[config.kind](**options)


_ENVELOPES: dict[str, Callable[..., Envelope]] = {
    "fixed": FixedEnvelope,
    "certified": CertifiedEnvelope,
    "pilot": PilotEnvelope,
    "adaptive": AdaptiveEnvelope,
    "budget": BudgetEnvelope,
}


def build_task(config: RunConfig, source: ImageSet) -> Task:
    """Classification into the source's classes, or a task of the user's own. Raises InputError."""
    channels = source.images.shape[1]
    if config.task.kind == "classification":
        return ClassificationTask(source.classes, config.model, channels)
    given = {"classes": source.classes, "model": config.model, "channels": channels}
    task = user_code.call(config.task.factory, "task.factory", given, config.task.options)
    return of_kind(task, Task, config.task.factory, "task.factory")


def of_kind(made: Any, protocol: Any, factory: str, field: str) -> Any:
    """What a user's factory made, if it is what it should be. Raises InputError naming `field`."""
    with user_code.blamed(field, factory, "gives what fails when it is looked at"):
        fits = isinstance(made, protocol)
    if not fits:
        found = f"gives a {type(made).__name__}, which lacks something of a {protocol.__name__}"
        raise InputError(field, factory, found, f"return a {protocol.__name__.lower()}")
    return made


def build_law(config: LawConfig) -> Distribution:
    """A scalar law."""
    if config.uniform is not None:
        return Uniform(*config.uniform)
    assert config.normal is not None
    return Normal(*config.normal)


def _pipeline(steps: tuple[TransformConfig, ...]) -> Callable[[Tensor], Tensor] | None:
    if not steps:
        return None
    from torchvision.transforms import v2  # here: few pipelines are configured, and it takes its time

    return v2.Compose([_transform(step, f"transforms.{number}") for number, step in enumerate(steps)])


def _transform(step: TransformConfig, field: str) -> nn.Module:
    from torchvision.transforms import v2

    kind = getattr(v2, step.name, None)
    if not (isinstance(kind, type) and issubclass(kind, v2.Transform)):
        raise InputError(f"{field}.name", step.name, "is no transform of torchvision.transforms.v2", "correct the name")
    try:
        return kind(**step.options)
    except (TypeError, ValueError) as err:
        raise InputError(f"{field}.options", step.options, f"{step.name} refuses them ({err})", "see its docs") from err
