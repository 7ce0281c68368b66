"""Proposals, targets and ratios that the benchmarks share."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, Uniform

import rsf_dist as rsf
from rsf_dist.config.model import ModelConfig
from rsf_dist.data.batch import Batch
from rsf_dist.data.images import ImageSet
from rsf_dist.models.networks import in_pieces
from rsf_dist.models.spec import NetworkSpec
from rsf_dist.ratios.info import RatioInfo
from rsf_dist.runtime.device import device
from rsf_dist.sampling.chunk import ChunkWork

COMPONENTS, SCALE = 5, 1.3


def mixtures(dimensions: int, checked: bool | None = None) -> tuple[MixtureSameFamily, MixtureSameFamily, float]:
    """p, the wider q, and log M: p/q is at most SCALE^d, component by component. checked: torch's validate_args."""
    means = torch.randn(COMPONENTS, dimensions, generator=torch.Generator().manual_seed(0))
    p, q = (
        MixtureSameFamily(
            Categorical(torch.ones(COMPONENTS)),
            Independent(Normal(means, torch.full_like(means, scale), validate_args=checked), 1, validate_args=checked),
            validate_args=checked,
        )
        for scale in (1.0, SCALE)
    )
    return p, q, dimensions * math.log(SCALE)


def mixture_work(dimensions: int, chunk_size: int) -> ChunkWork:
    p, q, log_m = mixtures(dimensions)
    proposal = rsf.DistributionProposal(q)
    return ChunkWork(proposal, rsf.DensityRatio(p, proposal, log_bound=log_m), log_m, chunk_size, seed=0)


GARMENTS = 5_000
DISTRIBUTIONS = {
    "rotation": Uniform(-1.5, 1.5),
    "scale": Uniform(0.5, 1.3),
    "brightness": Uniform(0.2, 1.0),
    "translate_x": Uniform(-0.3, 0.3),
    "translate_y": Uniform(-0.3, 0.3),
    "noise": Uniform(0.0, 0.25),
}


def augmented() -> rsf.AugmentProposal:
    """Images of 28 x 28 under six parameters; what is on them costs nothing."""
    images = torch.randint(256, (GARMENTS, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return rsf.AugmentProposal(ImageSet(images, torch.arange(GARMENTS) % 10, tuple("abcdefghij")), DISTRIBUTIONS)


class Scored:
    """A network's logit of the image, as a classifier ratio has it, without its fit."""

    log_bound = 10.0
    info = RatioInfo(on_device=True)

    def __init__(self) -> None:
        self.network = NetworkSpec(ModelConfig(name="small_cnn", width=16), num_outputs=1, channels=1).build().eval()

    def log_ratio(self, batch: Batch) -> Tensor:
        """float64 [n]."""
        return in_pieces(self.network.to(device()), batch["image"]).flatten().double()
