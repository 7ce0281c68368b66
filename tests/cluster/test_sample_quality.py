"""Proposals and accepted rows against held-out target images, on the session's cluster."""

import sys

import numpy as np
import pytest
import ray
import torch

import rsf_dist as rsf
from rsf_dist.config.model import ModelConfig
from rsf_dist.config.resources import Share
from rsf_dist.evaluation.sample_quality import two_sample_tests
from rsf_dist.ratios.info import HeldOut, RatioInfo

pytestmark = pytest.mark.ray
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actors cannot import a test module

N = 120


def grey(level: int, seed: int, n: int = N) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (level + 20 * torch.rand(n, 1, 8, 8, generator=generator)).to(torch.uint8)


class Bright:
    """Keeps bright images; says that it was not fitted to the first N target images."""

    log_bound = 0.0
    info = RatioInfo(held_out=HeldOut(index=np.arange(N)))

    def log_ratio(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        bright = batch["image"].float().mean(dim=(1, 2, 3)) > 100
        return torch.where(bright, 0.0, -torch.inf).double()


@pytest.mark.parametrize("feature_network", [None, ModelConfig(name="small_cnn", width=4)])
def test_accepted_rows_are_evaluated_on_held_out_target_images(feature_network: ModelConfig | None) -> None:
    """Held-out target images are bright, the others dark; proposals are of both kinds, accepted and moved ones bright.

    AUC's null sd with some 60 rows a side is sqrt(121/(12 60 60)) = .053. Were all target images used, accepted rows
    would be told from them; were before and after changed about, the two would be too.
    """
    target = torch.cat([grey(150, 1), grey(30, 2)])
    pool = rsf.DatasetProposal({"image": torch.cat([grey(150, 3, 400), grey(30, 4, 400)])})
    moved = rsf.DatasetProposal({"image": grey(150, 5, 400)})
    accepted = rsf.RejectionSampler(pool, Bright(), rsf.CertifiedEnvelope(), chunk_size=256).sample(N)
    found = two_sample_tests(Bright(), {"before": pool, "moved": moved}, accepted, target, feature_network, 0, Share())
    assert found is not None
    assert abs(found["after"].auc - 0.5) < 4 * 0.053
    assert abs(found["moved"].auc - 0.5) < 4 * 0.053
    assert found["before"].auc > 0.5 + 3 * 0.053
    assert found["before"].mmd_pvalue < 0.01 < found["after"].mmd_pvalue
    assert found["after"].features == ("image statistics" if feature_network is None else "features of small_cnn")
    assert (found["after"].num_first, found["after"].num_second) == (N, N)


def test_too_few_target_images_for_a_test() -> None:
    pool = rsf.DatasetProposal({"image": grey(150, 3, 400)})
    accepted = rsf.RejectionSampler(pool, Bright(), rsf.CertifiedEnvelope(), chunk_size=256).sample(N)
    assert two_sample_tests(rsf.ConstantRatio(), {"before": pool}, accepted, grey(150, 1, 9), None, 0, Share()) is None
