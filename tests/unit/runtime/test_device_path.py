"""Images are made and scored on an actor's GPU, if it has one, and only accepted rows come back.

No GPU is needed: `elsewhere` stands for one. What it cannot tell is how fast a GPU is, and how it rounds.
"""

import contextlib
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from elsewhere import PLACE, Elsewhere, Held
from torch import nn
from torch.distributions import Independent, Normal, Uniform

from rsf_dist.builders import classifier_fit, preflight, prior_estimation
from rsf_dist.builders.context import RatioContext, WarmStart
from rsf_dist.config.model import ModelConfig, OptimizerConfig
from rsf_dist.config.ratio import ClassifierRatioConfig, LabelShiftRatioConfig
from rsf_dist.data.batch import num_rows, row_digests, to_cpu
from rsf_dist.data.images import ImageSet
from rsf_dist.proposals import AugmentProposal, DefensiveProposal, GeneratorProposal, TargetMixtureProposal
from rsf_dist.ratios import (
    ClassConditionalRatio,
    ClassifierRatio,
    LabelShiftRatio,
    ProductRatio,
    RelativeRatio,
    RewardRatio,
    VerifierRatio,
)
from rsf_dist.ratios.base import Screened
from rsf_dist.runtime.device import device, scaled_for_gpu, set_device
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.chunk import ChunkWork, propose_and_score
from rsf_dist.tasks import ClassificationTask
from rsf_dist.training import in_process

N = 150
DISTRIBUTIONS = {"rotation": Uniform(-1.0, 1.0), "brightness": Uniform(0.5, 1.0), "translate_x": Normal(0.0, 0.2)}


@contextlib.contextmanager
def elsewhere():
    """A process that was lent PLACE."""
    with pytest.MonkeyPatch.context() as patch, Elsewhere() as mode:
        patch.setattr(torch, "inference_mode", torch.no_grad)  # whose views keep count of something that Held has not
        set_device(PLACE)
        try:
            yield mode
        finally:
            set_device(torch.device("cpu"))


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


def augmented(**distributions):
    return AugmentProposal(photographs(), DISTRIBUTIONS | distributions)


def moved():
    return DefensiveProposal(augmented(), augmented(rotation=Uniform(-0.1, 0.1)), 0.3)


def with_target_rows():
    target = augmented().sample(20, Streams(9))
    return TargetMixtureProposal(
        augmented(noise=Uniform(0.0, 0.2)), {"image": target["image"], "label": target["label"]}, 0.2
    )


def painted():
    return GeneratorProposal(Painter(), Independent(Normal(torch.zeros(2), torch.ones(2)), 1))


def learned():
    """A fitted ratio, dropout and all: dim images are the target."""
    raw = {"network": {"width": 4}, "optimizer": {"steps": 5, "batch_size": 16}}
    images = photographs().images.repeat(4, 1, 1, 1)
    return ClassifierRatio.fit(images // 2, images, ClassifierRatioConfig.model_validate(raw))


def dimness(batch):
    """A user's function, which knows nothing of devices."""
    assert not any(isinstance(column, Held) for column in batch.values())
    return -batch["image"].float().mean(dim=(1, 2, 3)) / 255


class Screening(RewardRatio):
    """A user's ratio that gives up dark images early, and knows nothing of devices."""

    def __init__(self):
        super().__init__(dimness)

    def screened(self, batch, exponentials, log_m):
        log_ratio = self.log_ratio(dict(batch))
        return Screened(log_ratio, log_ratio > -0.3, torch.zeros_like(log_ratio))


def work(proposal, ratio):
    """Chunks that accept some rows and reject most."""
    keys = propose_and_score(proposal, ratio, Streams(5), N)[1] + Streams(5).numpy().exponential(size=N)
    return ChunkWork(proposal, ratio, float(np.quantile(keys, 0.8)), N, seed=5)


SHIFT = LabelShiftRatio([0.5, 0.3, 0.2], [1 / 3] * 3)
WORKS = {
    "augmented": lambda: work(augmented(), learned()),
    "noise": lambda: work(augmented(noise=Uniform(0.0, 0.2)), learned()),
    "painted": lambda: work(painted(), learned()),
    "moved": lambda: work(moved(), learned()),
    "with target rows": lambda: work(with_target_rows(), learned()),
    "relative": lambda: work(with_target_rows(), RelativeRatio(learned(), with_target_rows())),
    "a screen of one's own": lambda: work(augmented(), Screening()),
    "verdict first": lambda: work(
        augmented(), ProductRatio([VerifierRatio(lambda batch: batch["rotation"] > 0.5, ["rotation"]), learned()])
    ),
    "reward": lambda: work(augmented(), RewardRatio(dimness)),
    "given class": lambda: work(
        augmented(),
        ClassConditionalRatio(learned(), LabelShiftRatio([0.5, 0.3, 0.2], [1 / 3] * 3), np.array([0.1, 0.2, 0.3])),
    ),
}


@pytest.mark.parametrize("name", WORKS)
def test_a_chunk_has_the_same_rows_there_and_here(name):
    given = WORKS[name]()
    here = given(0)
    with elsewhere():
        there = given(0)
    assert 0 < num_rows(here.rows) < N / 2
    assert not any(isinstance(column, Held) for column in there.rows.values())
    assert row_digests(there.rows) == row_digests(here.rows)
    assert there.statistics == here.statistics


@pytest.mark.parametrize(
    "name", ["augmented", "noise", "moved", "with target rows", "relative", "painted", "given class"]
)
def test_only_log_ratios_and_accepted_rows_come_back(name):
    """And, once a chunk, whether all of a generator's numbers are finite."""
    given = WORKS[name]()
    with elsewhere() as mode:
        accepted = num_rows(given(0).rows)
    assert [what for what in mode.crossed if not isinstance(what, str)] == [(N,), (accepted, 1, 9, 9)]
    assert len([what for what in mode.crossed if isinstance(what, str)]) == (name == "painted")
    if name != "painted":  # each row's base image goes there once, each target row, and the row whose type is looked at
        images = sum(shape[0] for shape in mode.sent if len(shape) == 4 and shape[1:] == (1, 9, 9))
        noisy = name in ("noise", "with target rows", "relative")
        assert N <= images <= 2 * N + 2 if noisy else images == N


def test_rows_that_a_proposal_of_ones_own_gives_there_are_taken_too():
    class There(AugmentProposal):
        def sample(self, n, rng):
            return {name: column.to(device()) for name, column in super().sample(n, rng).items()}

    given = work(
        There(photographs(), DISTRIBUTIONS), ClassConditionalRatio(learned(), SHIFT, np.array([0.1, 0.2, 0.3]))
    )
    here = given(0)
    with elsewhere():
        assert row_digests(given(0).rows) == row_digests(here.rows)


def test_a_fitted_ratio_is_gone_on_from_wherever_it_was_used():
    ratio, rows = learned(), augmented().sample(10, Streams(1))
    config = ClassifierRatioConfig()
    with elsewhere():
        ratio.log_ratio(rows)
        _, networks = classifier_fit.warm_started(config, WarmStart(ratio, steps=5))
    assert not any(isinstance(value, Held) for value in networks[0].state_dict().values())


def test_what_a_verdict_rejects_is_never_made_there():
    given = WORKS["verdict first"]()
    with elsewhere() as mode:
        accepted = num_rows(given(0).rows)
    scored, images = mode.crossed
    passed = int((given.proposal.sample(N, Streams(5))["rotation"] > 0.5).sum())
    assert (scored, images) == ((passed,), (accepted, 1, 9, 9))
    assert accepted < passed < N / 2


@pytest.mark.parametrize("proposal", [augmented, painted, moved, with_target_rows])
def test_samples_come_to_the_cpu(proposal):
    here = proposal().sample(40, Streams(1))
    with elsewhere():
        there = to_cpu(proposal().sample(40, Streams(1)))
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
    here = in_process.fit_in_process(task, photographs(), config, seed=1).state_dict()
    with elsewhere():
        there = in_process.fit_in_process(task, photographs(), config, seed=1).state_dict()
    assert all(torch.equal(there[name], here[name]) for name in here)


@pytest.mark.parametrize("proposal", [augmented, painted, moved])
def test_what_is_drawn_twice_is_found_to_be_the_same_there(proposal):
    with elsewhere():
        preflight._draw_reproducibly(proposal(), seed=0)


def test_a_prior_and_means_are_estimated_there():
    """The functions of the Ray tasks run here without Ray."""
    images = photographs()
    task = ClassificationTask(images.classes, ModelConfig(width=4), channels=1)
    raw = {"kind": "label_shift", "num_proposals": 300, "optimizer": {"steps": 100, "batch_size": 32}}
    config = LabelShiftRatioConfig.model_validate(raw)
    inputs = SimpleNamespace(source=images, target=images)
    ratio, target = learned(), images.images.repeat(2, 1, 1, 1)

    def found():
        prior = prior_estimation._estimate_prior(config, task, RatioContext(inputs, augmented(), 1), None, 0)
        splits = classifier_fit._gather(ClassifierRatioConfig(num_proposals=50), target, moved(), 1, 1)
        return prior.prior, prior_estimation._class_log_mean_ratios(ratio, moved(), 3, 1, 512), splits.fit.proposals

    here = found()
    with elsewhere():
        there = found()
    assert all(np.array_equal(one, other) for one, other in zip(here, there, strict=True))


def test_a_gpu_gets_more_at_once_and_adds_up_in_a_fixed_order():
    """And is told so without being there."""
    for where, more, fixed in (("cuda", 4, True), ("cpu", 1, False)):
        set_device(torch.device(where))
        assert (scaled_for_gpu(32), torch.backends.cudnn.deterministic) == (32 * more, fixed)


def test_who_was_lent_nothing_computes_on_the_cpu(monkeypatch):
    """The driver, whatever it sees."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device() == torch.device("cpu")
    assert augmented().sample(5, Streams(1))["image"].device == torch.device("cpu")


@pytest.mark.parametrize(
    "mixes",
    [
        lambda there, here: there + here,
        lambda there, here: here[there.long()],
        lambda there, here: there.index_put_((torch.tensor([0]),), here[:1]),
        lambda there, here: here.index_put_((torch.tensor([0]),), there[:1]),
        lambda there, here: torch.stack([here.sum(), there.sum()]),
        lambda there, here: torch.cat([here, there]),
        lambda there, here: there.where(here > 0, 0.0),
    ],
)
def test_the_stand_in_mixes_as_little_as_a_gpu(mixes):
    with Elsewhere() as mode:
        there, here = torch.arange(3.0).to(PLACE), torch.arange(3.0)
        assert (mode.sent, mode.crossed) == ([(3,)], [])
        with pytest.raises(AssertionError, match="on the CPU"):
            mixes(there, here)
        assert (there * 2 + torch.tensor(1.0))[torch.tensor([2])].item() == 5  # as a GPU does
        assert there[there > 1].cpu().tolist() == [2]
    assert mode.crossed == ["aten::_local_scalar_dense", "aten::index", (1,)]
