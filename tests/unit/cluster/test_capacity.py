"""Placing shares on nodes, and waiting for room; a cluster in name only."""

import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from rsf_dist.cluster import capacity, connection, workers
from rsf_dist.cluster.capacity import fits
from rsf_dist.cluster.shared_storage import check_disk
from rsf_dist.config.ratio import ClassifierRatioConfig
from rsf_dist.config.resources import Share
from rsf_dist.config.sampling import PoolConfig
from rsf_dist.config.training import TrainingConfig
from rsf_dist.errors import InputError
from rsf_dist.runtime.device import device, set_device

TWO_BY_TWO = [Share(2), Share(2)]


@pytest.mark.parametrize(
    ("bundles", "nodes", "placed"),
    [
        ([Share(1)] * 4, TWO_BY_TWO, True),
        ([Share(1)] * 5, TWO_BY_TWO, False),
        ([Share(3)], TWO_BY_TWO, False),  # 4 CPUs in all, but no node with 3
        ([Share(1.5), Share(1.5), Share(1)], TWO_BY_TWO, False),  # half a CPU is left on either node
        ([Share(0.5), Share(0.5), Share(1)], [Share(2)], True),
        ([Share(1, 1)] * 2, [Share(8), Share(4, 2)], True),
        ([Share(1, 1)] * 2, [Share(8), Share(1, 2)], False),
        ([Share(4), Share(1, 1)], [Share(4, 1), Share(4)], True),  # the one with a GPU first
    ],
)
def test_fits(bundles, nodes, placed):
    assert fits(bundles, nodes) is placed


@pytest.fixture
def cluster(monkeypatch):
    nodes = [Share(2)]
    asked = []

    def request(bundles):
        asked.append(bundles)
        if bundles:
            nodes.append(Share(8, 1))

    monkeypatch.setattr(capacity, "nodes_up", lambda: nodes)
    monkeypatch.setattr(capacity, "request_resources", request)
    return asked


def test_what_is_missing_is_refused_at_once_unless_one_may_wait(cluster):
    with pytest.raises(InputError, match=r"^min_actors=4: needs 4 × 1 CPU; the cluster has 1 × 2 CPU on 1 node"):
        capacity.check_pool(PoolConfig(min_actors=4))
    assert cluster == []
    capacity.check_pool(PoolConfig(min_actors=4, wait_seconds=60))
    assert cluster == [[{"CPU": 1.0, "GPU": 0.0}] * 4, []]  # asked for, and given back to the work's own demand


def test_an_actor_that_fits_no_node_is_refused_by_what_it_takes(cluster):
    with pytest.raises(InputError, match=r"^cpus_per_actor=64\.0: needs 1 × 64 CPU; the cluster has 1 × 2 CPU"):
        capacity.check_pool(PoolConfig(cpus_per_actor=64))
    with pytest.raises(InputError, match=r"^gpus_per_actor=0\.5: needs 1 × \(1 CPU, 0\.5 GPU\)"):
        capacity.check_pool(PoolConfig(gpus_per_actor=0.5))


def test_waiting_ends(cluster, monkeypatch):
    monkeypatch.setattr(capacity, "_POLL_SECONDS", 0.01)
    with pytest.raises(InputError, match=r"^gpus=9"):
        capacity.check_ratio(ClassifierRatioConfig(gpus=9, wait_seconds=0.05))


def test_workers_must_leave_ray_data_a_cpu(cluster):
    with pytest.raises(InputError, match="Ray Data needs a whole CPU"):
        capacity.check_training(TrainingConfig(num_workers=2))
    capacity.check_training(TrainingConfig(num_workers=2, cpus_per_worker=0.5))


def test_as_many_actors_as_the_nodes_have_room_for(monkeypatch):
    monkeypatch.setattr(capacity, "nodes_up", lambda: [Share(0), Share(8, 1), Share(3)])
    assert capacity.max_actors(PoolConfig()) == 11
    assert capacity.max_actors(PoolConfig(cpus_per_actor=2)) == 5  # 4 and 1
    assert capacity.max_actors(PoolConfig(cpus_per_actor=4)) == 2
    assert capacity.max_actors(PoolConfig(gpus_per_actor=0.25)) == 4
    assert capacity.max_actors(PoolConfig(max_actors=3)) == 3


def test_training_on_a_stream_needs_workers_and_actors_at_once(monkeypatch):
    monkeypatch.setattr(capacity, "nodes_up", lambda: [Share(2)])
    workers = TrainingConfig(num_workers=2, cpus_per_worker=0.5)
    capacity.check_training(workers, PoolConfig())
    capacity.check_training(TrainingConfig(num_workers=2, cpus_per_worker=0.75), PoolConfig(cpus_per_actor=0.5))
    with pytest.raises(
        InputError, match=r"needs 2 × 0.5 CPU \+ 2 × 1 CPU; .*2 sampling actor\(s\) work at the same time"
    ):
        capacity.check_training(workers, PoolConfig(min_actors=2))


def test_actors_take_what_other_work_leaves(monkeypatch):
    monkeypatch.setattr(capacity, "nodes_up", lambda: [Share(4), Share(2)])
    workers = capacity.workers(TrainingConfig(num_workers=2, cpus_per_worker=1.5))
    assert capacity.max_actors(PoolConfig(), workers) == 3  # 1 CPU on the first node, 2 on the second
    assert capacity.max_actors(PoolConfig(max_actors=2), workers) == 2
    assert capacity.max_actors(PoolConfig(max_actors=9), workers) == 3


def test_a_disk_with_too_little_room_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 2**20))
    check_disk(str(tmp_path / "not" / "there yet"), 3 * 2**20, "output")
    check_disk("s3://bucket/run", 2**60, "output")
    with pytest.raises(InputError, match="its disk has 3 MiB left, and the run may take 4 MiB; free some space"):
        check_disk(str(tmp_path / "not" / "there yet"), 4 * 2**20, "output")
    (tmp_path / "run" / "rounds").mkdir(parents=True)
    (tmp_path / "run" / "rounds" / "shard").write_bytes(bytes(2**20))  # a run that goes on has some of it already
    check_disk(str(tmp_path / "run"), 4 * 2**20, "output")
    with pytest.raises(InputError, match="has 3 MiB left, and the run may take 4 MiB"):
        check_disk(str(tmp_path / "run"), 5 * 2**20, "output")


@pytest.mark.parametrize(
    ("lent", "works", "where", "seen"), [([0], True, "cuda", "0"), ([], True, "cpu", ""), ([0], False, "cpu", "0")]
)
def test_a_worker_computes_on_the_gpu_that_it_was_lent(lent, works, where, seen, monkeypatch):
    """And not on one that it merely sees, nor where torch has no use for it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(capacity.ray, "get_gpu_ids", lambda: lent)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: works)
    monkeypatch.setattr(workers, "retain_freed_memory", lambda: None)
    threads = torch.get_num_threads()
    try:
        workers.limit_to_allocation(1)
        assert torch.get_num_threads() == 1
        assert (device(), os.environ["CUDA_VISIBLE_DEVICES"]) == (torch.device(where), seen)
    finally:
        torch.set_num_threads(threads)
        set_device(torch.device("cpu"))


@pytest.mark.parametrize("verbose", [False, True])
def test_ray_datas_progress_bars_are_off_meanwhile(verbose, monkeypatch):
    monkeypatch.setattr(capacity.ray, "is_initialized", lambda: True)
    context = capacity.ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "enable_progress_bars", True)
    with connection.connect(verbose=verbose):
        assert context.enable_progress_bars == verbose
    assert context.enable_progress_bars
