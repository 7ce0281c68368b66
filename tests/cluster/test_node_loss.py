"""A node that goes without a word, in the middle of sampling: its chunks are drawn elsewhere, and nothing changes."""

import threading
import time
from pathlib import Path

import faults
import pytest
import ray
from faults import Deaths, assert_same_rows, committed, drawn, fingerprint_in_process, report_times, sampler, wait_until

import rsf_dist as rsf

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
ray.cloudpickle.register_pickle_by_value(faults)  # the actors cannot import a test module


@pytest.mark.parametrize("least", [pytest.param(1, marks=pytest.mark.soak), 3])
def test_a_lost_node_changes_nothing(least: int, ray_cluster, tmp_path, soak, record_property) -> None:
    """One actor a node; with 3 as the least, the pool cannot be what it was any more."""
    wanted = 200_000 if soak else 20_000  # 80 chunks
    pool = rsf.PoolConfig(min_actors=least, max_actors=3, cpus_per_actor=2)
    store, log = rsf.RunStore(tmp_path / "run"), tmp_path / "log"
    mark = fingerprint_in_process(wanted, tmp_path)
    with third_node(ray_cluster) as third:
        deaths, started = Deaths(log, store), time.monotonic()
        remover = threading.Thread(target=third.remove_when_at_work, args=(log, deaths))
        remover.start()
        accepted = sampler(log, store, pool=pool, nodes=3).sample(wanted)
        seconds = time.monotonic() - started
        remover.join()
        assert third.removed
    assert_same_rows(accepted, mark, wanted)
    assert sum(node == third.id for _, node in drawn(log)) > 0
    begun_before = deaths.known[-1][0]
    assert any(node != third.id for _, node in drawn(log)[begun_before:])  # there was work left for the others
    again = deaths.drawn_again()
    if soak:
        report_times(
            record_property, "node lost", seconds, undisturbed_seconds(ray_cluster, tmp_path, pool, wanted), again
        )


def undisturbed_seconds(ray_cluster, folder: Path, pool: rsf.PoolConfig, wanted: int) -> float:
    """Return the seconds that the same rows take where all three nodes stay."""
    with third_node(ray_cluster):
        started = time.monotonic()
        sampler(folder / "undisturbed.log", rsf.RunStore(folder / "undisturbed"), pool=pool, nodes=3).sample(wanted)
        return time.monotonic() - started


class third_node:
    """A node of two CPUs that joins for the block."""

    def __init__(self, cluster):
        self.cluster, self.removed = cluster, False

    def __enter__(self) -> "third_node":
        before = {node["NodeID"] for node in ray.nodes()}
        self.node = self.cluster.add_node(num_cpus=2, object_store_memory=200 * 2**20)
        (self.id,) = {node["NodeID"] for node in ray.nodes()} - before
        return self

    def __exit__(self, *_) -> None:
        if not self.removed:
            self.remove()
        wait_until(lambda: not self.is_alive())

    def remove(self) -> None:
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.removed = True

    def is_alive(self) -> bool:
        return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == self.id)

    def remove_when_at_work(self, log: Path, deaths: Deaths) -> None:
        """Once it draws, and something has been committed."""
        wait_until(lambda: committed(deaths.store) and any(node == self.id for _, node in drawn(log)))
        before = committed(deaths.store)
        self.remove()
        deaths.note(before)
