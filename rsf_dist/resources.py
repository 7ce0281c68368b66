"""The cluster underneath: joining it, and refusing what it cannot hold before anything expensive starts."""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.data  # importing it sets the levels of its loggers, which `_join` sets again
import torch
from ray.autoscaler.sdk import request_resources
from ray.exceptions import NodeDiedError, TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rsf_dist import user_code
from rsf_dist.config import (
    ClassifierRatioConfig,
    ClassPriorConfig,
    LabelShiftRatioConfig,
    PoolConfig,
    ProductRatioConfig,
    RatioConfig,
    TrainingConfig,
)
from rsf_dist.device import compute_on
from rsf_dist.errors import InputError, unwrapped
from rsf_dist.memory import keep_freed

_POLL_SECONDS = 2.0
_T = TypeVar("_T")


@contextmanager
def cluster(address: str | None = None, verbose: bool = False, code: str | None = None) -> Iterator[None]:
    """Join a Ray cluster for the length of the block, and leave it after.

    Args:
        address: of a running cluster, `auto` for the one on this machine; None: RAY_ADDRESS, or else a cluster of one's
            own that ends with the block. Where the process has joined one already, that is used and left as it is.
        verbose: show the workers' output, and Ray Data's progress bars.
        code: a folder of modules that workers may import; without effect where a cluster was joined already.

    Raises:
        InputError: there is no cluster at the address.
    """
    joined_before = ray.is_initialized()
    if not joined_before:
        _join(address or os.environ.get("RAY_ADDRESS") or "local", verbose, code)
    context = ray.data.DataContext.get_current()
    bars = context.enable_progress_bars
    context.enable_progress_bars = bars and verbose  # drawn where tqdm is installed
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        if not joined_before:
            ray.shutdown()


def confine(cpus: float = 1) -> None:
    """Keep this process to its share: a thread a CPU, and the GPU that it asked for or none (Ray leaves them visible).

    And let it keep the memory that it frees: it is here for work that asks for the same again and again.
    """
    torch.set_num_threads(max(1, int(cpus)))
    keep_freed()
    lent = bool(ray.get_gpu_ids())
    if not lent:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    compute_on(torch.device("cuda" if lent and torch.cuda.is_available() else "cpu"))


def in_task(function: Callable[..., _T], *arguments: Any, cpus: float, gpus: float = 0) -> _T:
    """What the function gives in a Ray task of its own, with that share of a node. Raises what it raises.

    Where it has a GPU, its process ends with it: another task there would find torch bound to a GPU that by then may be
    someone else's. Ray does so for what is declared with `num_gpus`, and not where `options` says it.
    """
    task = ray.remote(num_cpus=cpus, num_gpus=gpus)(function)
    with unwrapped():
        return ray.get(task.remote(*arguments))


def ensure_cluster() -> None:
    """Join one, for a call from Python outside of `cluster`."""
    if not ray.is_initialized():
        _join(os.environ.get("RAY_ADDRESS") or "local", verbose=False)


def _join(address: str, verbose: bool, code: str | None = None) -> None:
    # Without an address, ray.init joins whatever a file under Ray's temporary folder names, a dead
    # cluster too; "local" never looks there.
    options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    if code is not None:
        options["runtime_env"] = {
            "env_vars": {user_code.FOLDER_VARIABLE: str(Path(code).expanduser().absolute())},
            "worker_process_setup_hook": "rsf_dist.user_code.allow_named_folder",
        }
    level = logging.INFO if verbose else logging.ERROR
    try:
        with _own_termination():
            ray.init(address=address, log_to_driver=verbose, logging_level=level, **options)
    except (ConnectionError, RuntimeError, ValueError) as err:
        remedy = "start one (ray start --head), or correct the address"
        raise InputError("address", address, f"no Ray cluster answers ({err})", remedy) from err
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(level)


@contextmanager
def _own_termination() -> Iterator[None]:
    """Ray takes SIGTERM over, and would exit with 15 in the middle of whatever is to be left in order."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class Bundle:
    """What one process needs, on one node."""

    cpus: float
    gpus: float = 0.0


def nodes_up() -> list[Bundle]:
    """What each node that is up has."""
    up = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Bundle(has.get("CPU", 0.0), has.get("GPU", 0.0)) for has in up]


def check_pool(pool: PoolConfig) -> None:
    """InputError unless the cluster holds `min_actors`, or comes to hold them within `wait_seconds`."""
    bundles = [Bundle(pool.cpus_per_actor, pool.gpus_per_actor)] * pool.min_actors
    _require("sampling.pool.min_actors", pool.min_actors, bundles, pool.wait_seconds)


def check_ratio(ratio: RatioConfig | ClassPriorConfig, place: str = "ratio") -> None:
    """InputError unless the cluster holds what fits the ratio, or comes to hold it within `wait_seconds`."""
    if isinstance(ratio, ProductRatioConfig):
        for number, factor in enumerate(ratio.factors):
            check_ratio(factor, f"{place}.factors.{number}")
    if not isinstance(ratio, ClassifierRatioConfig | LabelShiftRatioConfig | ClassPriorConfig):
        return
    if isinstance(ratio, ClassifierRatioConfig) and ratio.num_workers:
        bundles = [Bundle(ratio.cpus, ratio.gpus)] * ratio.num_workers + [Bundle(1.0)]
        _require(f"{place}.num_workers", ratio.num_workers, bundles, ratio.wait_seconds, _FOR_RAY_DATA)
    field, value = (f"{place}.gpus", ratio.gpus) if ratio.gpus else (f"{place}.cpus", ratio.cpus)
    _require(field, value, [Bundle(ratio.cpus, ratio.gpus)], ratio.wait_seconds)


def check_training(training: TrainingConfig, pool: PoolConfig | None = None) -> None:
    """InputError unless the cluster holds the workers and what feeds them, or comes to within `wait_seconds`.

    Ray Train takes its CPUs first; with none left, the workers would wait for their rows for ever. They are fed by Ray
    Data, which needs a CPU, or, where it is given, by the least number of actors of a sampler's `pool`.
    """
    beside, why = [Bundle(1.0)], _FOR_RAY_DATA
    if pool is not None:
        beside = [Bundle(pool.cpus_per_actor, pool.gpus_per_actor)] * pool.min_actors
        why = f", and {pool.min_actors} sampling actor(s) work at the same time as the training workers"
    wait_seconds = max(training.wait_seconds, pool.wait_seconds if pool else 0.0)
    _require("training.num_workers", training.num_workers, workers(training) + beside, wait_seconds, why)


_FOR_RAY_DATA = ", and Ray Data needs a whole CPU that the workers leave"


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
        rule = f"needs {_in_words(bundles)}; the cluster has {_in_words(nodes)} on {len(nodes)} node(s){why}"
        remedy = "lower it or what each takes, join a larger cluster, or set wait_seconds where it grows by itself"
        raise InputError(field, value, rule, remedy)


def _in_words(bundles: Sequence[Bundle]) -> str:
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


def ship_code(folder: str) -> None:
    """Let what was imported from the folder travel to the workers by value, for those that cannot import it."""
    for module in user_code.imported_from(folder):
        ray.cloudpickle.register_pickle_by_value(module)


def check_disk(path: str, needed: int, field: str) -> None:
    """InputError unless the local folder `path`, which may not exist yet, can grow to `needed` bytes; URIs pass."""
    if "://" in path:
        return
    folder = Path(path).absolute()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free, taken = shutil.disk_usage(there).free, _bytes_in(folder)
    if free + taken < needed:
        rule = f"its disk has {free / 2**20:,.0f} MiB left, and the run may take {(needed - taken) / 2**20:,.0f} MiB"
        raise InputError(field, path, rule, "free some space, name another disk, or ask for fewer rows")


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # the lock's drafts come and go
            total += path.stat().st_size if path.is_file() else 0
    return total


def require_shared(path: str, field: str) -> None:
    """InputError unless every node of the cluster sees the local folder `path` (created if absent); URIs pass.

    The driver writes a random token there, and a task on each node reads it back.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    if "://" in path or len(nodes) < 2:
        return
    folder, token = Path(path).absolute(), secrets.token_hex(16)
    probe = folder / f".probe-{token}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text(token)
        reading = {node: _read_text.options(scheduling_strategy=_on(node)).remote(str(probe)) for node in nodes}
        seen = {node: _told(text) for node, text in reading.items()}
    except OSError as err:
        remedy = "free some space, or check the path and its permissions"
        raise InputError(field, path, f"cannot be written ({err})", remedy) from err
    finally:
        probe.unlink(missing_ok=True)
    blind = [node for node, text in seen.items() if text not in (token, _GONE)]
    if blind:
        rule = f"{len(blind)} of the cluster's {len(nodes)} nodes cannot see this folder"
        raise InputError(field, path, rule, "use a folder that all nodes share (NFS, EFS), or an s3:// or gs:// URI")


_GONE = object()


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


def _told(text: ray.ObjectRef) -> object:
    """What the task read; _GONE where its node has left the cluster meanwhile."""
    try:
        return ray.get(text)
    except (TaskUnschedulableError, NodeDiedError, WorkerCrashedError):
        return _GONE


@ray.remote(num_cpus=0)
def _read_text(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None
