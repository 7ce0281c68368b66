"""On a GPU, where there is one: what the stand-in of test_device_path.py cannot tell."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, Uniform

from rsf_dist.config.ratio import ClassifierRatioConfig
from rsf_dist.data.batch import num_rows, row_digests, to_cpu
from rsf_dist.data.images import ImageSet
from rsf_dist.proposals import AugmentProposal, GeneratorProposal
from rsf_dist.ratios import ClassifierRatio
from rsf_dist.runtime.device import set_device
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.chunk import ChunkWork, propose_and_score

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

N = 2_000
DISTRIBUTIONS = {"rotation": Uniform(-1.0, 1.0), "brightness": Uniform(0.5, 1.0), "translate_x": Normal(0.0, 0.2)}


@pytest.fixture
def on_gpu():
    set_device(torch.device("cuda"))
    yield
    set_device(torch.device("cpu"))


def photographs():
    images = torch.randint(256, (300, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return ImageSet(images, torch.arange(300) % 3, ("a", "b", "c"))


def learned(precision="float32"):
    raw = {"network": {"width": 8, "precision": precision}, "optimizer": {"steps": 30, "batch_size": 64}}
    images = photographs().images
    return ClassifierRatio.fit(images // 2, images, ClassifierRatioConfig.model_validate(raw))


def work(**distributions):
    return chunks_of(AugmentProposal(photographs(), DISTRIBUTIONS | distributions))


def chunks_of(proposal):
    ratio = learned()
    log_ratio, exponentials = propose_and_score(proposal, ratio, Streams(5), N)[1:]
    return ChunkWork(proposal, ratio, float(np.quantile(log_ratio + exponentials, 0.8)), N, seed=5)


def test_a_chunk_is_that_of_the_cpu_up_to_rounding():
    given = work()
    here = given(0)
    set_device(torch.device("cuda"))
    try:
        there, again = given(0), given(0)
    finally:
        set_device(torch.device("cpu"))
    assert row_digests(there.rows) == row_digests(again.rows)
    assert there.statistics == again.statistics
    both, at_here, at_there = np.intersect1d(here.rows["index"], there.rows["index"], return_indices=True)
    assert len(both) > 0.98 * max(num_rows(here.rows), num_rows(there.rows))
    differ = here.rows["log_ratio"][at_here] - there.rows["log_ratio"][at_there]
    assert differ.abs().max() < 0.02  # convolutions multiply in TF32
    pixels = here.rows["image"][at_here].int() - there.rows["image"][at_there].int()
    assert pixels.abs().max() <= 1


class Painter(nn.Module):
    def forward(self, z):
        return (z[:, :1, None, None] * torch.linspace(-1, 1, 28, device=z.device)).sigmoid().expand(-1, 1, 28, 28)


WORKS = {  # and what the CPU waits for
    "augmented": (lambda: work(noise=Uniform(0.0, 0.2)), 2),  # log ratios, accepted rows
    "generated": (lambda: chunks_of(GeneratorProposal(Painter(), Independent(Normal(torch.zeros(2), 1.0), 1))), 3),
    # and once, whether all numbers are finite
}


@pytest.mark.parametrize("name", WORKS)
def test_what_the_cpu_waits_for(name, on_gpu):
    made, times = WORKS[name]
    given = made()
    given(0)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            given(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in waits if "synchronizing" in str(one.message)]
    assert len(waits) == times, [f"{one.filename}:{one.lineno}" for one in waits]


def test_noise_is_standard_normal_and_each_row_has_its_own(on_gpu):
    proposal = AugmentProposal(photographs(), {"noise": Uniform(0.1, 0.1001), "brightness": Uniform(0.0, 1e-6)})
    shape = (12_000, 1, 28, 28)  # more than a block
    drawn = proposal.sample(shape[0], Streams(1))
    whole = drawn["image"].cpu()
    some = torch.tensor([3, 5_000, 5_001, 11_999, 7])
    assert torch.equal(drawn.select(some)["image"].cpu(), whole[some])
    assert torch.equal(proposal.sample(shape[0], Streams(1)).select(some)["image"].cpu(), whole[some])
    assert len(whole.flatten(1).unique(dim=0)) == len(whole)
    assert not torch.equal(whole, proposal.sample(shape[0], Streams(2))["image"].cpu())
    # Of noise on black the positive half is left, E = s/sqrt(2 pi). Five standard errors: a false alarm in two million.
    mean, expected = whole.double().mean() / 255, 0.1 / np.sqrt(2 * np.pi)
    assert abs(mean - expected) < 5 * 0.1 / np.sqrt(whole.numel()) + 1e-4  # and rounding to 256 levels


def test_a_fit_gives_the_same_ratio_again(on_gpu):
    rows = to_cpu(AugmentProposal(photographs(), DISTRIBUTIONS).sample(500, Streams(1)))
    assert torch.equal(learned().log_ratio(rows), learned().log_ratio(rows))


def test_bfloat16_is_near_float32(on_gpu):
    ratio = learned()
    rows = to_cpu(AugmentProposal(photographs(), DISTRIBUTIONS).sample(500, Streams(1)))
    before = ratio.log_ratio(rows)
    for network in ratio.networks:
        network.precision = "bfloat16"
    differ = (ratio.log_ratio(rows) - before).abs()
    assert 0 < differ.median() < 0.05 * before.abs().max()


def test_what_was_used_there_is_used_on_the_cpu_afterwards(on_gpu):
    given = work()
    given(0)
    set_device(torch.device("cpu"))
    assert num_rows(replace(given, chunk_size=100)(0).rows) > 0
