"""Kinds from outside of the package: each is one file here, and goes the way of the kinds that the package has."""

from typing import ClassVar, Literal

import pytest
import torch

from rsf_dist.builders.components import build_envelope, build_proposal, build_task
from rsf_dist.builders.context import RatioContext
from rsf_dist.builders.inputs import Inputs
from rsf_dist.builders.preflight import preflight
from rsf_dist.builders.ratio import make_ratio
from rsf_dist.config.envelope import ENVELOPE_KINDS, EnvelopeKind
from rsf_dist.config.load import parse_config
from rsf_dist.config.model import ModelConfig
from rsf_dist.config.proposal import PROPOSAL_KINDS, ProposalKind
from rsf_dist.config.task import TASK_KINDS, TaskKind
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.proposals import Proposal
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.envelope import Choice, Envelope
from rsf_dist.tasks import ClassificationTask, Task

MINIMAL = {
    "output": "runs/one",
    "source": {"kind": "digits"},
    "target": {"kind": "digits"},
    "sampling": {"num_accepted": 100},
    "model": {"width": 4},
    "ratio": {"kind": "label_shift", "target_prior": [0.5, 0.5]},
}


@pytest.fixture(autouse=True)
def _closed_again():
    """Forget what a test registers, for the tests that list every kind."""
    registries = (PROPOSAL_KINDS, ENVELOPE_KINDS, TASK_KINDS)
    known = [kinds.models for kinds in registries]
    yield
    for kinds, before in zip(registries, known, strict=True):
        for model in set(kinds.models) - set(before):
            kinds.forget(model)


def images(n, labels=True):
    pixels = torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(n) % 2, ("a", "b")) if labels else ImageSet(pixels)


def inputs():
    return Inputs(images(40), images(50, labels=False), None, None, None)


class Dimmed:
    """Source images, dimmed by a factor."""

    class_prior = torch.tensor([0.5, 0.5], dtype=torch.float64)

    def __init__(self, source, factor):
        self.source, self.factor = source, factor

    def sample(self, n, rng):
        row = torch.randint(len(self.source), (n,), generator=rng.torch())
        image = (self.source.images[row] * self.factor).to(torch.uint8)
        return {"image": image, "label": self.source.require_labels()[row]}


def register_dimmed():
    @PROPOSAL_KINDS.register
    class DimmedConfig(ProposalKind):
        kind: Literal["dimmed"]
        factor: float = 0.5

    @build_proposal.register
    def _(config: DimmedConfig, source: ImageSet) -> Proposal:
        return Dimmed(source, config.factor)


def test_a_proposal_kind_from_outside_goes_from_the_file_to_a_chunk():
    raw = MINIMAL | {"proposal": {"kind": "dimmed", "factor": 0.25}}
    with pytest.raises(InputError, match=r"proposal.kind=dimmed: must be one of augment, generator, dataset, custom"):
        parse_config(raw)  # the negative control: not registered yet
    register_dimmed()
    config = parse_config(raw)
    assert config.model_dump()["proposal"] == {"kind": "dimmed", "factor": 0.25}
    preflight(config, inputs())
    proposal = build_proposal(config.proposal, inputs().source)
    ratio = make_ratio(config.ratio, RatioContext(inputs(), proposal, config.seed))
    rows = ChunkWork(proposal, ratio, 0.0, 64, seed=0)(0).rows
    assert len(rows["label"]) == 64  # the class priors are equal, r = 1 = M
    assert 32 < int(rows["image"].max()) < 64  # a quarter of 255


def test_a_proposal_kind_without_a_builder_says_what_is_missing():
    @PROPOSAL_KINDS.register
    class Unbuilt(ProposalKind):
        kind: Literal["unbuilt"]

    with pytest.raises(InputError, match=r"^kind=unbuilt: no function builds a proposal of this kind"):
        build_proposal(Unbuilt(kind="unbuilt"), images(4))


class Median:
    """log M is the median of the pilot's log ratios, and grows from there."""

    num_pilot = 100

    def choose(self, pilot):
        return Choice(float(sorted(pilot.log_ratio)[len(pilot.log_ratio) // 2]), "median", margin=0.0)


def register_median():
    @ENVELOPE_KINDS.register
    class MedianConfig(EnvelopeKind):
        kind: Literal["median"]
        moves: ClassVar[bool] = True

    @build_envelope.register
    def _(config: MedianConfig) -> Envelope:
        return Median()


def test_an_envelope_kind_from_outside_goes_from_the_file_to_preflight():
    raw = MINIMAL | {"envelope": {"kind": "median"}}
    with pytest.raises(InputError, match=r"envelope.kind=median: must be one of fixed, certified"):
        parse_config(raw)
    register_median()
    config = parse_config(raw)
    preflight(config, inputs())
    assert build_envelope(config.envelope).num_pilot == 100


def test_facts_of_an_envelope_kind_from_outside_are_asked_of_its_model():
    """Its M moves, and rows of a stream cannot be taken back."""
    register_median()
    with pytest.raises(InputError, match="needs an M that stays"):
        parse_config(MINIMAL | {"envelope": {"kind": "median"}, "sampling": {"num_accepted": 100, "mode": "stream"}})


def test_an_envelope_kind_without_a_builder_says_what_is_missing():
    @ENVELOPE_KINDS.register
    class Unbuilt(EnvelopeKind):
        kind: Literal["unbuilt"]

    with pytest.raises(InputError, match=r"^kind=unbuilt: no function builds an envelope of this kind"):
        build_envelope(Unbuilt(kind="unbuilt"))


class Scaled:
    """Classification with the loss times a factor."""

    columns, metric = ClassificationTask.columns, ClassificationTask.metric

    def __init__(self, task, factor):
        self.task, self.factor = task, factor

    def __getattr__(self, name):
        if name == "task":  # not there yet, as in a copy that is being unpickled
            raise AttributeError(name)
        return getattr(self.task, name)

    def loss(self, model, batch):
        return self.factor * self.task.loss(model, batch)


def register_scaled():
    @TASK_KINDS.register
    class ScaledConfig(TaskKind):
        kind: Literal["scaled"]
        factor: float = 2.0

    @build_task.register
    def _(config: ScaledConfig, model: ModelConfig, source: ImageSet) -> Task:
        return Scaled(ClassificationTask(source.classes, model, source.images.shape[1]), config.factor)


def test_a_task_kind_from_outside_goes_from_the_file_to_a_loss():
    raw = MINIMAL | {"task": {"kind": "scaled", "factor": 3.0}}
    with pytest.raises(InputError, match=r"task.kind=scaled: must be one of classification, custom"):
        parse_config(raw)
    register_scaled()
    config = parse_config(raw)
    preflight(config, inputs())
    source = inputs().source
    task = build_task(config.task, config.model, source)
    plain = build_task(parse_config(MINIMAL).task, config.model, source)
    model, batch = plain.build_model(0).eval(), {"image": source.images, "label": source.require_labels()}
    assert torch.allclose(task.loss(model, batch), 3 * plain.loss(model, batch))


def test_a_task_from_outside_is_tried_before_anything_is_drawn():
    """Its loss is one number, where training needs one a row."""

    class Mean(Scaled):
        def loss(self, model, batch):
            return super().loss(model, batch).mean()

    @TASK_KINDS.register
    class MeanConfig(TaskKind):
        kind: Literal["mean"]

    @build_task.register
    def _(config: MeanConfig, model: ModelConfig, source: ImageSet) -> Task:
        return Mean(ClassificationTask(source.classes, model, source.images.shape[1]), 1.0)

    config = parse_config(MINIMAL | {"task": {"kind": "mean"}})
    with pytest.raises(InputError, match=r"^task.kind=mean: loss gives \[\] for .* rows"):
        preflight(config, inputs())


def test_a_task_kind_without_a_builder_says_what_is_missing():
    @TASK_KINDS.register
    class Unbuilt(TaskKind):
        kind: Literal["unbuilt"]

    with pytest.raises(InputError, match=r"^kind=unbuilt: no function builds a task of this kind"):
        build_task(Unbuilt(kind="unbuilt"), ModelConfig(), images(4))
