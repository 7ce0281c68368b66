"""Runs on a GPU, where there is one."""

import os
import sys

import pytest
import ray
import torch
from torch.distributions import Uniform

import rsf_dist as rsf
from rsf_dist.config.load import parse_config
from rsf_dist.data.images import ImageSet
from rsf_dist.ratios.info import RatioInfo
from rsf_dist.runs import pipeline, preparation
from rsf_dist.runs.rounds import stored_sampler
from rsf_dist.runs.verification import verify
from rsf_dist.runtime.progress import Progress

pytestmark = [pytest.mark.ray, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actors cannot import a test module

SHARED = {"min_actors": 2, "max_actors": 2, "cpus_per_actor": 0.5, "gpus_per_actor": 0.5}


@pytest.fixture(scope="module")
def gpu(ray_cluster):
    node = ray_cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=400 * 2**20)
    yield
    ray_cluster.remove_node(node)


class Brightness:
    """A ratio that requires images where they were rendered: on the GPU, except in the driver."""

    log_bound = 0.0
    info = RatioInfo(on_device=True)

    def __init__(self):
        self.driver = os.getpid()

    def log_ratio(self, batch):
        assert batch["image"].is_cuda or os.getpid() == self.driver
        return batch["image"].double().mean(dim=(1, 2, 3)) / 255 - 1


def test_actors_render_and_score_on_the_gpu_that_they_share(gpu) -> None:
    images = ImageSet(torch.full((10, 1, 8, 8), 255, dtype=torch.uint8), torch.arange(10), tuple("abcdefghij"))
    proposal = rsf.AugmentProposal(images, {"brightness": Uniform(0.0, 1.0), "noise": Uniform(0.0, 0.1)})
    pools = (SHARED, {"max_actors": 1, "gpus_per_actor": 1})
    two, one = (
        rsf.RejectionSampler(proposal, Brightness(), rsf.CertifiedEnvelope(), pool=rsf.PoolConfig(**pool)).sample(5_000)
        for pool in pools
    )
    assert two.fingerprint == one.fingerprint
    assert two.report.num_accepted == 5_000


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_main_job(gpu, small_run, precision: str) -> None:
    """All of it that can be, on the GPU; the rows are those of one actor that has it to itself."""
    small_run["ratio"] |= {"gpus": 1}
    small_run["ratio"]["network"] |= {"precision": precision}
    small_run["model"] |= {"precision": precision}
    small_run["sampling"]["pool"] = SHARED
    small_run["training"] |= {"use_gpu": True}
    config = parse_config(small_run)
    result = pipeline.run(config)
    assert result.report.rounds[0].ratio.quality.auc > 0.6
    assert verify(config.output).wrong == ()

    store = rsf.RunStore(config.output)
    seed_run = next(pipeline.seed_runs(config, preparation.prepare(config), store, Progress()))
    sampler = stored_sampler(seed_run, 0)
    sampler.store, sampler.pool = None, rsf.PoolConfig(max_actors=1, gpus_per_actor=1)
    assert sampler.sample(256).fingerprint == result.report.rounds[0].fingerprint
