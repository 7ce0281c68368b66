"""A task reserves its share and computes with it; Ray is replaced by a fake."""

import pytest
import torch

from rsf_dist.cluster import ray_workarounds, workers
from rsf_dist.cluster.workers import run_in_task, run_in_tasks
from rsf_dist.config.ratio import ClassifierRatioConfig
from rsf_dist.config.resources import Share
from rsf_dist.config.sampling import PoolConfig
from rsf_dist.config.training import TrainingConfig
from rsf_dist.errors import InputError


class OneProcessRay:
    """Calls tasks in this process when they are asked for, and keeps what they reserved."""

    def __init__(self):
        self.reserved = []

    def remote(self, **options):
        self.reserved.append(options)

        class Task:
            def __init__(self, function):
                self.function = function

            def remote(self, *arguments):
                return lambda: self.function(*arguments)

        return Task

    def get(self, calls):
        return [call() for call in calls]

    def get_gpu_ids(self):
        return []


@pytest.fixture
def ray(monkeypatch):
    stand_in = OneProcessRay()
    threads = torch.get_num_threads()
    for module in (workers, ray_workarounds):
        monkeypatch.setattr(module, "ray", stand_in)
    monkeypatch.setattr(workers, "retain_freed_memory", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    yield stand_in
    torch.set_num_threads(threads)


def threads_for(number):
    return number, torch.get_num_threads()


def refuse():
    raise InputError("field", 1, "is wrong", "correct it")


def test_each_section_of_the_configuration_has_its_share():
    assert ClassifierRatioConfig(cpus=2, gpus=0.5).share == Share(2, 0.5)
    assert Share.of_pool(PoolConfig(cpus_per_actor=4, gpus_per_actor=0.25)) == Share(4, 0.25, num_threads=1)
    assert Share.of_training(TrainingConfig(cpus_per_worker=3)) == Share(3)
    assert Share.of_training(TrainingConfig(cpus_per_worker=0.5, use_gpu=True)) == Share(0.5, 1.0)


@pytest.mark.parametrize(
    ("share", "threads"),
    [
        (Share(), 1),
        (Share(3.5), 3),
        (Share(0.5), 1),  # a process cannot compute with less than one
        (Share.of_pool(PoolConfig(cpus_per_actor=4)), 1),  # so that a pilot's sums are those of an actor
    ],
)
def test_a_task_computes_with_the_threads_of_its_share(ray, share, threads):
    assert run_in_task(threads_for, 7, share=share) == (7, threads)


def test_a_task_declares_what_it_reserves(ray):
    """In `ray.remote`, which makes the process of a task with a GPU end with it."""
    run_in_task(threads_for, 7, share=Share(2, 0.5))
    assert ray.reserved == [{"num_cpus": 2, "num_gpus": 0.5, "name": "threads_for"}]


def test_results_of_several_tasks_come_in_the_order_of_their_arguments(ray):
    assert run_in_tasks(threads_for, [(number,) for number in (3, 1, 2)], share=Share()) == [(3, 1), (1, 1), (2, 1)]
    assert run_in_tasks(threads_for, [], share=Share()) == []
    assert len(ray.reserved) == 2


def test_a_task_raises_what_its_function_raises(ray):
    with pytest.raises(InputError, match="field=1: is wrong; correct it"):
        run_in_task(refuse, share=Share())
