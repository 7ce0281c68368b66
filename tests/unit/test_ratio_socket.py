"""Kinds from outside of the package: registered by their own module, and used like the package's own."""

from typing import Literal

import pytest
import torch

from rsf_dist.builders.context import RatioContext
from rsf_dist.builders.inputs import Inputs
from rsf_dist.builders.preflight import preflight
from rsf_dist.builders.ratio import load_ratio, make_ratio
from rsf_dist.config.load import dump_config, parse_config, parse_text
from rsf_dist.config.ratio import RATIO_KINDS, RatioKind
from rsf_dist.config.run import RunConfig
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError, located
from rsf_dist.proposals import AugmentProposal
from rsf_dist.ratios import ProductRatio, Ratio, RatioInfo
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.chunk import ChunkWork


class ToyRatio:
    """Keep label 1 alone: r = 1 there, else 0."""

    log_bound = 0.0
    info = RatioInfo(columns=("label",))

    def __init__(self, wanted: int):
        self.wanted = wanted

    def log_ratio(self, batch):
        return torch.where(batch["label"] == self.wanted, 0.0, -torch.inf).double()


class ToyRatioConfig(RatioKind):
    kind: Literal["toy"]
    wanted: int = 1


@pytest.fixture(autouse=True)
def _registered():
    """One line registers the kind; it is forgotten after, for the tests that list every kind."""
    RATIO_KINDS.register(ToyRatioConfig)
    yield
    RATIO_KINDS.forget(ToyRatioConfig)


@make_ratio.register
def make_toy(config: ToyRatioConfig, context: RatioContext) -> Ratio:
    return ToyRatio(config.wanted)


@pytest.fixture
def images() -> ImageSet:
    pixels = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(50) % 2, ("zero", "one"))


@pytest.fixture
def inputs(images) -> Inputs:
    return Inputs(source=images, target=ImageSet(images.images), test=None, source_test=None, oracle=None)


def config_with(**sections) -> RunConfig:
    digits = {"kind": "digits"}
    raw = {"output": "run", "source": digits, "target": digits, "sampling": {"num_accepted": 10}}
    return parse_config(raw | {"model": {"width": 4}} | sections)


def test_a_ratio_kind_from_outside_goes_from_the_configuration_to_a_chunk(images, inputs):
    config = config_with(ratio={"kind": "toy", "wanted": 0}, envelope={"kind": "certified"})
    preflight(config, inputs)
    proposal = AugmentProposal(images, {})
    ratio = make_ratio(config.ratio, RatioContext(inputs, proposal, seed=0))
    chunk = ChunkWork(proposal, ratio, log_m=0.0, chunk_size=200, seed=0)(0)
    # M = 1 accepts each row of label 0, about half of 200, and no other
    labels = proposal.sample(200, Streams(0))["label"]
    assert chunk.rows["label"].tolist() == [0] * len(chunk.rows["label"])
    assert abs(len(chunk.rows["label"]) - 100) < 4 * 50**0.5
    assert set(labels.tolist()) == {0, 1}  # the control: proposals have both


def test_a_ratio_kind_from_outside_is_a_factor_is_read_back_and_is_made_again(inputs, tmp_path):
    config = config_with(ratio={"kind": "product", "factors": [{"kind": "toy"}, {"kind": "toy", "wanted": 0}]})
    assert parse_text(dump_config(config)) == config
    context = RatioContext(inputs, AugmentProposal(inputs.source, {}), seed=0)
    ratio = load_ratio(config.ratio, context, tmp_path)
    assert isinstance(ratio, ProductRatio)
    assert [factor.wanted for factor in ratio.factors] == [1, 0]


def test_a_ratio_kind_from_outside_has_the_errors_of_the_packages_own():
    with pytest.raises(InputError, match=r"ratio\.wantd=1: unknown key; did you mean wanted\?"):
        config_with(ratio={"kind": "toy", "wantd": 1})
    with pytest.raises(InputError, match=r"ratio\.kind=toyy: must be one of classifier, .*, toy.*did you mean toy\?"):
        config_with(ratio={"kind": "toyy"})


def test_a_ratio_kind_without_a_maker_is_refused(inputs):
    class Unmade(RatioKind):
        kind: Literal["unmade"] = "unmade"

    context = RatioContext(inputs, AugmentProposal(inputs.source, {}), seed=0)
    with (
        pytest.raises(InputError, match=r"^ratio\.factors\.1\.kind=unmade: .*make_ratio\.register"),
        located("ratio.factors.1"),
    ):
        make_ratio(Unmade(), context)
