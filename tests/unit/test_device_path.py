"""Where an actor has a GPU, images are made and scored there, and only what is accepted comes back.

No GPU is needed: `elsewhere` stands for one. What it cannot tell is how fast a GPU is, and how it rounds.
"""

import contextlib
import pickle

import numpy as np
import pytest
import torch
from elsewhere import PLACE, Elsewhere, Held
from torch import nn
from torch.distributions import Independent, Normal, Uniform

from rsf_dist import fitting, models, pretraining
from rsf_dist.batch import num_rows, row_digests, select
from rsf_dist.chunk import ChunkWork, draw
from rsf_dist.config import ClassifierRatioConfig, ModelConfig, OptimizerConfig
from rsf_dist.images import ImageSet
from rsf_dist.proposals import AugmentProposal, DefensiveProposal, GeneratorProposal, augment, generator
from rsf_dist.ratios import ClassifierRatio, GivenClassRatio, LabelShiftRatio, ProductRatio, RewardRatio, VerifierRatio
from rsf_dist.ratios import classifier as classifiers
from rsf_dist.rng import Streams
from rsf_dist.tasks import ClassificationTask

N = 150
LAWS = {"rotation": Uniform(-1.0, 1.0), "brightness": Uniform(0.5, 1.0), "translate_x": Normal(0.0, 0.2)}


@contextlib.contextmanager
def elsewhere():
    """What goes to the process's device goes to PLACE."""
    with pytest.MonkeyPatch.context() as patch, Elsewhere() as mode:
        for module in (augment, classifiers, fitting, generator, models, pretraining):
            patch.setattr(module, "device", lambda: PLACE)
        # torch has generators for real devices only; the same numbers come from one here.
        real = torch.Generator
        patch.setattr(torch, "Generator", lambda device="cpu": real())
        patch.setattr(torch, "inference_mode", torch.no_grad)  # whose views keep count of something that Held has not
        yield mode


def photographs():
    shape = (30, 1, 9, 9)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return ImageSet(images, torch.arange(30) % 3, ("a", "b", "c"))


class Painter(nn.Module):
    """z -> grey images of 9 x 9."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(2, 81), nn.Sigmoid())

    def forward(self, z):
        return self.layers(z).reshape(-1, 1, 9, 9)


def augmented(**laws):
    return AugmentProposal(photographs(), LAWS | laws)


def moved():
    return DefensiveProposal(augmented(), augmented(rotation=Uniform(-0.1, 0.1)), 0.3)


def painted():
    return GeneratorProposal(Painter(), Independent(Normal(torch.zeros(2), torch.ones(2)), 1))


def learned(precision="float32"):
    """A fitted ratio, dropout and all: dim images are the target."""
    raw = {"network": {"width": 4, "precision": precision}, "optimizer": {"steps": 5, "batch_size": 16}}
    images = photographs().images.repeat(4, 1, 1, 1)
    return ClassifierRatio.fit(images // 2, images, ClassifierRatioConfig.model_validate(raw))


def dimness(batch):
    """A user's function, which knows nothing of devices."""
    assert not any(isinstance(column, Held) for column in batch.values())
    return -batch["image"].float().mean(dim=(1, 2, 3)) / 255


def work(proposal, ratio):
    """Chunks that accept some rows and reject most."""
    keys = draw(proposal, ratio, Streams(5), N)[1] + Streams(5).numpy().exponential(size=N)
    return ChunkWork(proposal, ratio, float(np.quantile(keys, 0.8)), N, seed=5)


SHIFT = LabelShiftRatio([0.5, 0.3, 0.2], [1 / 3] * 3)
WORKS = {
    "augmented": lambda: work(augmented(), learned()),
    "noise": lambda: work(augmented(noise=Uniform(0.0, 0.2)), learned()),
    "painted": lambda: work(painted(), learned()),
    "moved": lambda: work(moved(), learned()),
    "verdict first": lambda: work(
        augmented(), ProductRatio([VerifierRatio(lambda batch: batch["rotation"] > 0.5, ["rotation"]), learned()])
    ),
    "reward": lambda: work(augmented(), RewardRatio(dimness)),
    "given class": lambda: work(
        augmented(),
        GivenClassRatio(learned(), LabelShiftRatio([0.5, 0.3, 0.2], [1 / 3] * 3), np.array([0.1, 0.2, 0.3])),
    ),
}


@pytest.mark.parametrize("name", sorted(WORKS.keys() - {"noise"}))  # whose numbers are another generator's there
def test_a_chunk_has_the_same_rows_there_and_here(name):
    given = WORKS[name]()
    here = given(0)
    with elsewhere():
        there = given(0)
    assert 0 < num_rows(here.rows) < N / 2
    assert not any(isinstance(column, Held) for column in there.rows.values())
    assert row_digests(there.rows) == row_digests(here.rows)
    assert there.statistics == here.statistics


@pytest.mark.parametrize(("name", "waits"), [("augmented", 0), ("noise", 0), ("painted", 1), ("given class", 0)])
def test_only_log_ratios_and_accepted_rows_come_back(name, waits):
    """waits: once a chunk, a generator's numbers are looked at, whether they are finite."""
    given = WORKS[name]()
    with elsewhere() as mode:
        accepted = num_rows(given(0).rows)
    assert [what for what in mode.crossed if not isinstance(what, str)] == [(N,), (accepted, 1, 9, 9)]
    assert len([what for what in mode.crossed if isinstance(what, str)]) == waits


def test_what_a_verdict_rejects_is_never_made_there():
    given = WORKS["verdict first"]()
    with elsewhere() as mode:
        accepted = num_rows(given(0).rows)
    scored, images = mode.crossed
    passed = int((given.proposal.sample(N, Streams(5))["rotation"] > 0.5).sum())
    assert (scored, images) == ((passed,), (accepted, 1, 9, 9))
    assert accepted < passed < N / 2


def test_noise_there_is_the_rows_own_whatever_else_is_made():
    proposal = augmented(noise=Uniform(0.0, 0.2))
    with elsewhere():
        whole, outline = proposal.sample(N, Streams(1)), proposal.outline(N, Streams(1))
        some = select(outline, torch.tensor([3, 140]))["image"].cpu()
    assert torch.equal(some, whole["image"][[3, 140]])
    assert not torch.equal(whole["image"], augmented().sample(N, Streams(1))["image"])


@pytest.mark.parametrize("proposal", [augmented, painted, moved])
def test_samples_are_on_the_cpu(proposal):
    here = proposal().sample(40, Streams(1))
    with elsewhere():
        there = proposal().sample(40, Streams(1))
    assert row_digests(there) == row_digests(here)


def test_what_was_used_there_travels_to_where_there_is_no_such_device():
    proposal, ratio = painted(), learned()
    rows = proposal.sample(10, Streams(1))
    with elsewhere():
        ratio.log_ratio(proposal.sample(10, Streams(1)))
        assert all(
            isinstance(one, Held) for module in (proposal.generator, *ratio.networks) for one in module.buffers()
        )
        assert any(isinstance(one.data, Held) for one in proposal.generator.parameters())
        sent = pickle.dumps((proposal, ratio))
    again, ratio_again = pickle.loads(sent)
    assert torch.equal(again.sample(10, Streams(1))["image"], rows["image"])
    assert torch.equal(ratio_again.log_ratio(rows), learned().log_ratio(rows))


def test_ratios_are_fitted_there():
    here, images = learned(), augmented().sample(40, Streams(1))
    with elsewhere():
        there = learned()
        assert torch.equal(there.log_ratio(images), here.log_ratio(images))
    assert there.quality == here.quality


def test_models_are_pretrained_there_and_come_back():
    task = ClassificationTask(("a", "b", "c"), ModelConfig(width=4), channels=1)
    config = OptimizerConfig(steps=5, batch_size=8)
    here = pretraining.pretrain(task, photographs(), config, seed=1).state_dict()
    with elsewhere():
        there = pretraining.pretrain(task, photographs(), config, seed=1).state_dict()
    assert all(torch.equal(there[name], here[name]) for name in here)
