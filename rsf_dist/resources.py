"""The cluster underneath: joining it, and refusing what it cannot hold before anything expensive starts."""

from __future__ import annotations

import logging
import math
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rsf_dist.config import ClassifierRatioConfig, PoolConfig, TrainingConfig
from rsf_dist.errors import InputError

_POLL_SECONDS = 2.0


@contextmanager
def cluster(address: str | None = None, verbose: bool = False) -> Iterator[None]:
    """Join a Ray cluster for the length of the block, and leave it after.

    Args:
        address: of a running cluster, `auto` for the one on this machine; None: RAY_ADDRESS, or else a cluster of one's
            own that ends with the block. Where the process has joined one already, that is used and left as it is.
        verbose: show the workers' output.

    Raises:
        InputError: there is no cluster at the address.
    """
    joined_before = ray.is_initialized()
    if not joined_before:
        _join(address or os.environ.get("RAY_ADDRESS") or "local", verbose)
    try:
        yield
    finally:
        if not joined_before:
            ray.shutdown()


def ensure_cluster() -> None:
    """Join one, for a call from Python outside of `cluster`."""
    if not ray.is_initialized():
        _join(os.environ.get("RAY_ADDRESS") or "local", verbose=False)


def _join(address: str, verbose: bool) -> None:
    # Without an address, ray.init joins whatever a file under Ray's temporary folder names, a dead
    # cluster too; "local" never looks there.
    options = {"include_dashboard": False} if address == "local" else {}
    level = logging.INFO if verbose else logging.ERROR
    if not verbose:  # read by Ray's C++ core when it starts, here and in the workers
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        ray.init(address=address, log_to_driver=verbose, logging_level=level, **options)
    except (ConnectionError, RuntimeError, ValueError) as err:
        remedy = "start one (ray start --head), or correct the address"
        raise InputError("address", address, f"no Ray cluster answers ({err})", remedy) from err
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(level)


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs."""

    cpus: float
    gpus: float


def cluster_resources() -> Resources:
    """Of all nodes that are up."""
    up = ray.cluster_resources()
    return Resources(up.get("CPU", 0.0), up.get("GPU", 0.0))


def check_pool(pool: PoolConfig) -> None:
    """InputError unless the cluster holds `min_actors`, or comes to hold them within `wait_seconds`."""
    count, cpus, gpus = pool.min_actors, pool.cpus_per_actor, pool.gpus_per_actor
    have = _wait_for([(cpus, gpus)] * count, pool.wait_seconds)
    _check("sampling.pool.min_actors", count, count * cpus, have.cpus, "CPUs")
    _check("sampling.pool.min_actors", count, count * gpus, have.gpus, "GPUs")


def check_ratio(ratio: ClassifierRatioConfig) -> None:
    """InputError unless the cluster holds what fits the ratio, or comes to hold it within `wait_seconds`."""
    count = max(1, ratio.num_workers)
    have = _wait_for([(ratio.cpus, ratio.gpus)] * count, ratio.wait_seconds)
    if ratio.num_workers:
        _check_workers("ratio", count, "cpus", ratio.cpus, have)
    _check("ratio.cpus", ratio.cpus, ratio.cpus, have.cpus, "CPUs")
    _check("ratio.gpus", ratio.gpus, count * ratio.gpus, have.gpus, "GPUs")


def check_training(training: TrainingConfig) -> None:
    """InputError unless the cluster holds the workers and leaves Ray Data a CPU, or comes to within `wait_seconds`."""
    count, cpus, gpus = training.num_workers, training.cpus_per_worker, float(training.use_gpu)
    have = _wait_for([(cpus, gpus)] * count + [(1.0, 0.0)], training.wait_seconds)
    _check("training.num_workers", count, count * gpus, have.gpus, "GPUs")
    _check_workers("training", count, "cpus_per_worker", cpus, have)


def _wait_for(bundles: list[tuple[float, float]], seconds: float) -> Resources:
    """What the cluster has, once it holds all (CPUs, GPUs) or has had `seconds` to bring nodes up for them."""
    end = time.monotonic() + seconds

    def short(have: Resources) -> bool:
        return any(
            sum(needed) > there
            for needed, there in zip(zip(*bundles, strict=True), (have.cpus, have.gpus), strict=True)
        )

    if short(cluster_resources()) and seconds:
        request_resources(bundles=[{"CPU": cpus, "GPU": gpus} for cpus, gpus in bundles])
        while short(cluster_resources()) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        request_resources(bundles=[])  # from here on the work itself keeps the nodes
    return cluster_resources()


def _check_workers(field: str, workers: int, cpus_key: str, cpus: float, have: Resources) -> None:
    """Ray Train takes its CPUs first; with none left, the workers would wait for their rows for ever."""
    if math.floor(have.cpus - workers * cpus) < 1:
        rule = f"{workers} worker(s) with {cpus:g} CPUs each leave Ray Data no whole CPU of the cluster's {have.cpus:g}"
        remedy = f"lower it, or {field}.{cpus_key} to {math.floor(100 * max(have.cpus - 1, 0.1) / workers) / 100:g}"
        raise InputError(f"{field}.num_workers", workers, rule, remedy)


def max_actors(pool: PoolConfig) -> int:
    """The pool's upper size: as configured, or as many actors as the cluster has CPUs (and GPUs) for."""
    if pool.max_actors is not None:
        return pool.max_actors
    have = cluster_resources()
    fits = have.cpus / pool.cpus_per_actor
    if pool.gpus_per_actor:
        fits = min(fits, have.gpus / pool.gpus_per_actor)
    return max(pool.min_actors, math.floor(fits))


def require_shared(path: str, field: str) -> None:
    """InputError unless every node of the cluster sees the local folder `path` (created if absent); URIs pass.

    The driver writes a random token there, and a task on each node reads it back.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    if "://" in path or len(nodes) < 2:
        return
    folder, token = Path(path).absolute(), secrets.token_hex(16)
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{token}"
    probe.write_text(token)
    try:
        seen = ray.get(
            [
                _read_text.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                    str(probe)
                )
                for node in nodes
            ]
        )
    finally:
        probe.unlink()
    blind = [node for node, text in zip(nodes, seen, strict=True) if text != token]
    if blind:
        rule = f"{len(blind)} of the cluster's {len(nodes)} nodes cannot see this folder"
        raise InputError(field, path, rule, "use a folder that all nodes share (NFS, EFS), or an s3:// or gs:// URI")


@ray.remote(num_cpus=0)
def _read_text(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None


def _check(field: str, value: object, needed: float, have: float, unit: str) -> None:
    if needed > have:
        rule = f"needs {needed:g} {unit}, the cluster has {have:g}"
        remedy = "lower it, join a larger cluster, or set wait_seconds beside it where the cluster grows by itself"
        raise InputError(field, value, rule, remedy)
