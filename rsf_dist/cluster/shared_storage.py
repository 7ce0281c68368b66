"""Checks of folders, before a run starts: every node sees them, and their disks have room."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import NodeDiedError, TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rsf_dist.errors import InputError

_T = TypeVar("_T")


def check_disk(path: str, needed: int, field: str) -> None:
    """Raise InputError unless a local folder can grow to `needed` bytes. A URI always passes.

    Args:
        path: the folder, which may not exist yet, or a URI.
        needed: bytes, those that the folder already holds included.
        field: the configuration's key, for the error.
    """
    if "://" in path:
        return
    folder = Path(path).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free, used = shutil.disk_usage(existing).free, _bytes_in(folder)
    if free + used < needed:
        rule = f"its disk has {free / 2**20:,.0f} MiB left, and the run may take {(needed - used) / 2**20:,.0f} MiB"
        raise InputError(field, path, rule, "free some space, name another disk, or ask for fewer rows")


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # the lock's temporary files come and go
            total += path.stat().st_size if path.is_file() else 0
    return total


def require_shared(path: str, field: str) -> None:
    """Raise InputError unless every node of the cluster sees a local folder. A URI always passes.

    The driver creates the folder if there is none, and writes a random token there. A task on each node reads the
    token back. These tasks reserve nothing and are placed by node, so that `run_in_task` is not for them.

    Args:
        path: the folder, or a URI.
        field: the configuration's key, for the error.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    if "://" in path or len(nodes) < 2:
        return
    folder, token = Path(path).absolute(), secrets.token_hex(16)
    probe = folder / f".probe-{token}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text(token)
        seen = on_nodes(partial(_read_text, str(probe)))
    except OSError as err:
        remedy = "free some space, or check the path and its permissions"
        raise InputError(field, path, f"cannot be written ({err})", remedy) from err
    finally:
        probe.unlink(missing_ok=True)
    blind = [node for node, text in seen.items() if text != token]
    if blind:
        rule = f"{len(blind)} of the cluster's {len(nodes)} nodes cannot see this folder"
        raise InputError(field, path, rule, "use a folder that all nodes share (NFS, EFS), or an s3:// or gs:// URI")


def on_nodes(function: Callable[[], _T]) -> dict[str, _T]:
    """Call a function on every node that is up, in tasks that reserve nothing, and return its results by node.

    Nodes that leave the cluster meanwhile are left out.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    calls = {node: on_node(function, node) for node in nodes}
    results = {node: _result(call) for node, call in calls.items()}
    return {node: result for node, result in results.items() if result is not _GONE}


def on_node(function: Callable[[], _T], node: str) -> ray.ObjectRef:
    """Call a function on a node, in a task that reserves nothing, and return the reference of its result."""
    return _call.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(function)


_GONE: Any = object()


def _result(call: ray.ObjectRef) -> Any:
    """Return a task's result, or _GONE if its node has left the cluster meanwhile."""
    try:
        return ray.get(call)
    except (TaskUnschedulableError, NodeDiedError, WorkerCrashedError):
        return _GONE


@ray.remote(num_cpus=0)
def _call(function: Callable[[], Any]) -> Any:
    return function()


def _read_text(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None
