"""The room on the cluster's nodes: what does not fit is refused before anything expensive starts.

Errors name keys of the section that a check is given, and the caller locates them.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence

import ray
from ray.autoscaler.sdk import request_resources

from rsf_dist.config.resources import FOR_RAY_DATA, Reserving, Share
from rsf_dist.config.sampling import PoolConfig
from rsf_dist.config.training import TrainingConfig
from rsf_dist.errors import InputError

_POLL_SECONDS = 2.0


def nodes_up() -> list[Share]:
    """Return the CPUs and GPUs of each node that is up."""
    up = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Share(has.get("CPU", 0.0), has.get("GPU", 0.0)) for has in up]


def check_pool(pool: PoolConfig) -> None:
    """Raise InputError unless the cluster has room for `min_actors`, now or within `wait_seconds`."""
    one_takes = "gpus_per_actor" if pool.gpus_per_actor else "cpus_per_actor"
    key = "min_actors" if pool.min_actors > 1 else one_takes
    _require(key, getattr(pool, key), [Share.of_pool(pool)] * pool.min_actors, pool.wait_seconds)


def check_ratio(ratio: Reserving) -> None:
    """Raise InputError unless the cluster has room to make the ratio, now or within its `wait_seconds`."""
    for need in ratio.reservations():
        _require(need.field, need.value, need.shares, need.wait_seconds, need.reason)


def check_training(training: TrainingConfig, pool: PoolConfig | None = None) -> None:
    """Raise InputError unless the cluster has room for the workers and their source of rows, now or in `wait_seconds`.

    Ray Train takes its CPUs first. Without a CPU left, the workers would wait for their rows for ever.

    Args:
        training: the workers.
        pool: the sampler's actors, if rows are sampled during training. None means that Ray Data reads stored rows,
            for which it needs one CPU.
    """
    beside, why = [Share()], FOR_RAY_DATA
    if pool is not None:
        beside = [Share.of_pool(pool)] * pool.min_actors
        why = f", and {pool.min_actors} sampling actor(s) work at the same time as the training workers"
    wait_seconds = max(training.wait_seconds, pool.wait_seconds if pool else 0.0)
    _require("num_workers", training.num_workers, workers(training) + beside, wait_seconds, why)


def check_worker(training: TrainingConfig) -> None:
    """Raise InputError unless the cluster has room for one training worker, now or within `wait_seconds`.

    Pretraining and evaluation run in tasks with the share of one worker, also where nothing is fine-tuned.
    """
    key = "use_gpu" if training.use_gpu else "cpus_per_worker"
    _require(key, getattr(training, key), [Share.of_training(training)], training.wait_seconds)


def workers(training: TrainingConfig) -> list[Share]:
    """Return the share of each training worker."""
    return [Share.of_training(training)] * training.num_workers


def fits(shares: Sequence[Share], nodes: Sequence[Share]) -> bool:
    """Return whether the nodes have room for the shares, the largest placed first, each on the first node with room."""
    return _room_beside(shares, nodes) is not None


def _room_beside(shares: Sequence[Share], nodes: Sequence[Share]) -> list[Share] | None:
    """Return what each node has left once the shares are placed. None means that they do not fit."""
    room = list(nodes)
    for share in sorted(shares, key=lambda share: (share.gpus, share.cpus), reverse=True):
        home = next((i for i, left in enumerate(room) if left.cpus >= share.cpus and left.gpus >= share.gpus), None)
        if home is None:
            return None
        room[home] = Share(room[home].cpus - share.cpus, room[home].gpus - share.gpus)
    return room


def _require(key: str, value: object, shares: Sequence[Share], wait_seconds: float, why: str = "") -> None:
    """Raise InputError unless the shares fit the nodes that are up, or that come up within `wait_seconds`.

    Args:
        key: the key that the error names.
        value: the value of the key.
        shares: the processes that must run at the same time.
        wait_seconds: seconds to wait for a cluster that grows by itself; 0 refuses at once.
        why: a further reason, for the end of the error's rule.
    """
    end = time.monotonic() + wait_seconds
    if wait_seconds and not fits(shares, nodes_up()):
        request_resources(bundles=[{"CPU": share.cpus, "GPU": share.gpus} for share in shares])
        while not fits(shares, nodes_up()) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        request_resources(bundles=[])  # from here on the work itself keeps the nodes
    nodes = nodes_up()
    if not fits(shares, nodes):
        rule = f"needs {_format_shares(shares)}; the cluster has {_format_shares(nodes)} on {len(nodes)} node(s){why}"
        remedy = "lower it or what each takes, join a larger cluster, or set wait_seconds where it grows by itself"
        raise InputError(key, value, rule, remedy)


def _format_shares(shares: Sequence[Share]) -> str:
    """Format shares as in `2 × 0.5 CPU + 1 × (4 CPU, 1 GPU)`."""
    counts = Counter(
        f"({share.cpus:g} CPU, {share.gpus:g} GPU)" if share.gpus else f"{share.cpus:g} CPU" for share in shares
    )
    return " + ".join(f"{count} × {text}" for text, count in counts.items())


def max_actors(pool: PoolConfig, beside: Sequence[Share] = ()) -> int:
    """Return the pool's largest size: `max_actors`, or else as many as the nodes have room for.

    Other work `beside` the pool takes its room first. The size is never below `min_actors`.
    """
    if pool.max_actors is not None and not beside:
        return pool.max_actors
    room = max_tasks(Share.of_pool(pool), beside)
    return max(pool.min_actors, min(room, pool.max_actors or room))


def max_tasks(share: Share, beside: Sequence[Share] = ()) -> int:
    """Return how many processes with this share the nodes have room for, once the shares `beside` are placed."""
    return sum(_copies(share, node) for node in _room_beside(beside, nodes_up()) or [])


def _copies(share: Share, node: Share) -> int:
    by_gpus = node.gpus // share.gpus if share.gpus else math.inf
    return int(min(node.cpus // share.cpus, by_gpus))
