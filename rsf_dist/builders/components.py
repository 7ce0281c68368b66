"""The proposal, the envelope and the task that a configuration describes (`builders.ratio` makes the ratio).

Each kind of proposal, envelope and task has a builder here. A kind of your own adds a builder:

    @build_proposal.register
    def _(config: ToyProposalConfig, source: ImageSet) -> Proposal:
        return ToyProposal(source, config.level)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, Uniform

from rsf_dist.config.envelope import (
    AdaptiveEnvelopeConfig,
    BudgetEnvelopeConfig,
    CertifiedEnvelopeConfig,
    CustomEnvelopeConfig,
    EnvelopeKind,
    FixedEnvelopeConfig,
    PilotEnvelopeConfig,
)
from rsf_dist.config.model import ModelConfig
from rsf_dist.config.proposal import (
    AugmentConfig,
    CustomProposalConfig,
    DatasetProposalConfig,
    DistributionConfig,
    GeneratorProposalConfig,
    ProposalKind,
    TransformConfig,
)
from rsf_dist.config.task import ClassificationTaskConfig, CustomTaskConfig, TaskKind
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError, located
from rsf_dist.models.networks import ExpectedImages
from rsf_dist.proposals import AugmentProposal, GeneratorProposal, PoolProposal, Proposal
from rsf_dist.proposals.prior import checked_prior
from rsf_dist.runtime import user_code
from rsf_dist.sampling.envelope import (
    AdaptiveEnvelope,
    BudgetEnvelope,
    CertifiedEnvelope,
    Envelope,
    FixedEnvelope,
    PilotEnvelope,
)
from rsf_dist.tasks import ClassificationTask, Task


@singledispatch
def build_proposal(config: ProposalKind, source: ImageSet) -> Proposal:
    """Build the proposal of a configuration.

    Args:
        config: the configuration.
        source: the images that proposals are made from: the source images, or the proposal's `own_images`.

    Raises:
        InputError: the configuration does not fit the images, or the user's own code fails.
    """
    rule, remedy = "no function builds a proposal of this kind", "register one with @build_proposal.register"
    raise InputError("kind", config.kind, rule, remedy)


@build_proposal.register
def _build_augment(config: AugmentConfig, source: ImageSet) -> Proposal:
    parameters: dict[str, Distribution] = {
        name: build_distribution(distribution) for name, distribution in (config.parameters or {}).items()
    }
    prior = None if config.class_prior is None else torch.tensor(config.class_prior, dtype=torch.float64)
    return AugmentProposal(source, parameters, prior, _pipeline(config.transforms))


@build_proposal.register
def _build_generator(config: GeneratorProposalConfig, source: ImageSet) -> Proposal:
    generator = user_code.call(config.factory, "factory", {"source": source}, config.options)
    if not isinstance(generator, nn.Module):
        rule = f"gives a {type(generator).__name__}"
        raise InputError("factory", config.factory, rule, "return a torch module")
    latent = Independent(Normal(torch.zeros(config.latent_dim), torch.ones(config.latent_dim)), 1)
    counts = torch.bincount(source.require_labels(), minlength=len(source.classes))
    prior = counts if config.class_prior is None else torch.tensor(config.class_prior, dtype=torch.float64)
    return GeneratorProposal(generator, latent, checked_prior(prior, len(source.classes)))


@build_proposal.register
def _build_pool(config: DatasetProposalConfig, source: ImageSet) -> Proposal:
    return PoolProposal(source)


@build_proposal.register
def _build_custom_proposal(config: CustomProposalConfig, source: ImageSet) -> Proposal:
    proposal = user_code.call(config.factory, "factory", {"source": source}, config.options)
    return of_kind(proposal, Proposal, config.factory)


@singledispatch
def build_envelope(config: EnvelopeKind) -> Envelope:
    """Build the envelope of a configuration. Raises InputError where the user's own code fails."""
    rule, remedy = "no function builds an envelope of this kind", "register one with @build_envelope.register"
    raise InputError("kind", config.kind, rule, remedy)


def _from_keys(envelope: Callable[..., Envelope]) -> Callable[[EnvelopeKind], Envelope]:
    """Return a builder that passes the configuration's keys to a class of the same parameters."""
    return lambda config: envelope(**config.model_dump(exclude={"kind"}))


build_envelope.register(FixedEnvelopeConfig, _from_keys(FixedEnvelope))
build_envelope.register(CertifiedEnvelopeConfig, _from_keys(CertifiedEnvelope))
build_envelope.register(PilotEnvelopeConfig, _from_keys(PilotEnvelope))
build_envelope.register(AdaptiveEnvelopeConfig, _from_keys(AdaptiveEnvelope))
build_envelope.register(BudgetEnvelopeConfig, _from_keys(BudgetEnvelope))


@build_envelope.register
def _build_custom_envelope(config: CustomEnvelopeConfig) -> Envelope:
    envelope = user_code.call(config.factory, "factory", {}, config.options)
    of_kind(envelope, Envelope, config.factory)
    num_pilot: object = envelope.num_pilot
    if not isinstance(num_pilot, int) or num_pilot < 1:
        raise InputError("factory", config.factory, f"its num_pilot is {num_pilot}", "name a count from 1")
    return envelope


@singledispatch
def build_task(config: TaskKind, model: ModelConfig, source: ImageSet) -> Task:
    """Build the task of a configuration, which trains `model` on rows like the source images.

    Raises:
        InputError: the configuration does not fit the images, or the user's own code fails.
    """
    rule, remedy = "no function builds a task of this kind", "register one with @build_task.register"
    raise InputError("kind", config.kind, rule, remedy)


@build_task.register
def _build_classification(config: ClassificationTaskConfig, model: ModelConfig, source: ImageSet) -> Task:
    channels, height, width = source.images.shape[1:]
    return ClassificationTask(
        source.classes, model, channels, ExpectedImages((height, width), source.resize, source.bits)
    )


@build_task.register
def _build_custom_task(config: CustomTaskConfig, model: ModelConfig, source: ImageSet) -> Task:
    arguments = {"classes": source.classes, "model": model, "channels": source.images.shape[1]}
    task = user_code.call(config.factory, "factory", arguments, config.options)
    return of_kind(task, Task, config.factory)


def of_kind(made: Any, protocol: Any, factory: str) -> Any:
    """Return what a user's factory made, if it has all of the protocol. Raises InputError, which names `factory`."""
    with user_code.reported_as("factory", factory, "returns an object whose attributes cannot be read"):
        fits = isinstance(made, protocol)
    if not fits:
        found = f"gives a {type(made).__name__}, which lacks something of a {protocol.__name__}"
        raise InputError("factory", factory, found, f"return a {protocol.__name__.lower()}")
    return made


def build_distribution(config: DistributionConfig) -> Distribution:
    """Build a scalar distribution."""
    if config.uniform is not None:
        return Uniform(*config.uniform)
    assert config.normal is not None
    return Normal(*config.normal)


def _pipeline(steps: tuple[TransformConfig, ...]) -> Callable[[Tensor], Tensor] | None:
    if not steps:
        return None
    from torchvision.transforms import v2  # here: few pipelines are configured, and it takes its time

    return v2.Compose([_transform(step, number) for number, step in enumerate(steps)])


def _transform(step: TransformConfig, number: int) -> nn.Module:
    from torchvision.transforms import v2

    kind = getattr(v2, step.name, None)
    with located(f"transforms.{number}"):
        if not (isinstance(kind, type) and issubclass(kind, v2.Transform)):
            raise InputError("name", step.name, "is no transform of torchvision.transforms.v2", "correct the name")
        try:
            return kind(**step.options)
        except (TypeError, ValueError) as err:
            rule, remedy = f"{step.name} refuses them ({err})", f"see torchvision.transforms.v2.{step.name}"
            raise InputError("options", step.options, rule, remedy) from err
