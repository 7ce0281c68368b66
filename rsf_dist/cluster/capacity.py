"""The cluster underneath: joining it, and refusing what it cannot hold before anything expensive starts."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence

import ray
import ray.data  # importing it sets the levels of its loggers, which `_join` sets again
from ray.autoscaler.sdk import request_resources

from rsf_dist.config.resources import FOR_RAY_DATA, Bundle, Reserving
from rsf_dist.config.sampling import PoolConfig
from rsf_dist.config.training import TrainingConfig
from rsf_dist.errors import InputError

_POLL_SECONDS = 2.0


def nodes_up() -> list[Bundle]:
    """What each node that is up has."""
    up = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Bundle(has.get("CPU", 0.0), has.get("GPU", 0.0)) for has in up]


def check_pool(pool: PoolConfig) -> None:
    """InputError unless the cluster holds `min_actors`, or comes to hold them within `wait_seconds`."""
    bundles = [Bundle(pool.cpus_per_actor, pool.gpus_per_actor)] * pool.min_actors
    _require("sampling.pool.min_actors", pool.min_actors, bundles, pool.wait_seconds)


def check_ratio(ratio: Reserving, section: str = "ratio") -> None:
    """Refuse a ratio that the cluster has no room to make, now or within its `wait_seconds`. Raises InputError."""
    for need in ratio.reservations():
        _require(f"{section}.{need.field}", need.value, need.bundles, need.wait_seconds, need.reason)


def check_training(training: TrainingConfig, pool: PoolConfig | None = None) -> None:
    """InputError unless the cluster holds the workers and what feeds them, or comes to within `wait_seconds`.

    Ray Train takes its CPUs first; with none left, the workers would wait for their rows for ever. They are fed by Ray
    Data, which needs a CPU, or, where it is given, by the least number of actors of a sampler's `pool`.
    """
    beside, why = [Bundle(1.0)], FOR_RAY_DATA
    if pool is not None:
        beside = [Bundle(pool.cpus_per_actor, pool.gpus_per_actor)] * pool.min_actors
        why = f", and {pool.min_actors} sampling actor(s) work at the same time as the training workers"
    wait_seconds = max(training.wait_seconds, pool.wait_seconds if pool else 0.0)
    _require("training.num_workers", training.num_workers, workers(training) + beside, wait_seconds, why)


def workers(training: TrainingConfig) -> list[Bundle]:
    """What the training workers take."""
    return [Bundle(training.cpus_per_worker, float(training.use_gpu))] * training.num_workers


def fits(bundles: Sequence[Bundle], nodes: Sequence[Bundle]) -> bool:
    """Whether the bundles can be placed on the nodes, the largest first, each on the first node with room."""
    return _room_beside(bundles, nodes) is not None


def _room_beside(bundles: Sequence[Bundle], nodes: Sequence[Bundle]) -> list[Bundle] | None:
    """What each node has left once the bundles are placed; None where they do not fit."""
    room = list(nodes)
    for bundle in sorted(bundles, key=lambda one: (one.gpus, one.cpus), reverse=True):
        home = next((i for i, left in enumerate(room) if left.cpus >= bundle.cpus and left.gpus >= bundle.gpus), None)
        if home is None:
            return None
        room[home] = Bundle(room[home].cpus - bundle.cpus, room[home].gpus - bundle.gpus)
    return room


def _require(field: str, value: object, bundles: Sequence[Bundle], wait_seconds: float, why: str = "") -> None:
    """InputError, which ends with `why`, unless the bundles fit the nodes that are up, or come up while we wait."""
    end = time.monotonic() + wait_seconds
    if wait_seconds and not fits(bundles, nodes_up()):
        request_resources(bundles=[{"CPU": one.cpus, "GPU": one.gpus} for one in bundles])
        while not fits(bundles, nodes_up()) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        request_resources(bundles=[])  # from here on the work itself keeps the nodes
    nodes = nodes_up()
    if not fits(bundles, nodes):
        rule = (
            f"needs {_format_bundles(bundles)}; the cluster has {_format_bundles(nodes)} on {len(nodes)} node(s){why}"
        )
        remedy = "lower it or what each takes, join a larger cluster, or set wait_seconds where it grows by itself"
        raise InputError(field, value, rule, remedy)


def _format_bundles(bundles: Sequence[Bundle]) -> str:
    """E.g. 2 × 0.5 CPU + 1 × (4 CPU, 1 GPU)."""
    counts = Counter(f"({one.cpus:g} CPU, {one.gpus:g} GPU)" if one.gpus else f"{one.cpus:g} CPU" for one in bundles)
    return " + ".join(f"{count} × {bundle}" for bundle, count in counts.items())


def max_actors(pool: PoolConfig, beside: Sequence[Bundle] = ()) -> int:
    """The pool's upper size: as configured, but beside other work at most as many actors as it leaves room for.

    Where nothing is configured, as many as the nodes have CPUs (and GPUs) for; never fewer than `min_actors`.
    """
    if pool.max_actors is not None and not beside:
        return pool.max_actors
    actor = Bundle(pool.cpus_per_actor, pool.gpus_per_actor)
    room = sum(_copies(actor, node) for node in _room_beside(beside, nodes_up()) or [])
    return max(pool.min_actors, min(room, pool.max_actors or room))


def _copies(bundle: Bundle, node: Bundle) -> int:
    by_gpus = node.gpus // bundle.gpus if bundle.gpus else math.inf
    return int(min(node.cpus // bundle.cpus, by_gpus))
