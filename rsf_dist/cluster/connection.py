"""The connection to a Ray cluster: joining one, or starting one of the process's own, and leaving it again."""

from __future__ import annotations

import logging
import os
import shutil
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from rsf_dist.cluster.fetching import offer_packed_images
from rsf_dist.cluster.probe import no_token, require_cluster, require_loopback
from rsf_dist.cluster.ray_workarounds import OWN_CLUSTER, progress_bars, restored_sigterm, set_log_levels
from rsf_dist.errors import ClusterFailure, InputError, RsfError
from rsf_dist.runtime import user_code

_SHARED_MEMORY = Path("/dev/shm")
_RAY_ADDRESS = "RAY_ADDRESS"

_log = logging.getLogger(__name__)


@contextmanager
def connect(address: str | None = None, verbose: bool = False, code_folder: str | None = None) -> Iterator[None]:
    """Join a Ray cluster for the length of the block, and leave it after.

    A cluster that the process has joined before is used as it is, and not left.

    Args:
        address: of a running cluster; `auto` means the cluster on this machine. None means RAY_ADDRESS, or else a
            cluster of the process's own, which ends with the block.
        verbose: show the workers' output, and Ray Data's progress bars.
        code_folder: a folder of modules that workers may import. It has no effect on a cluster joined before.

    Raises:
        InputError: no cluster answers at the address or it asks for a token; or the folder for Ray's files is no good.
        ClusterFailure: Ray does not start on this machine.
    """
    joined_before = ray.is_initialized()
    if not joined_before:
        _join_or_start(address, verbose, code_folder)
    offer_packed_images()
    try:
        with progress_bars(shown=verbose):
            yield
    finally:
        if not joined_before:
            ray.shutdown()


def ensure_cluster() -> None:
    """Join the cluster of RAY_ADDRESS, or start one, for a call from Python outside of `connect`."""
    if not ray.is_initialized():
        _join_or_start(None, verbose=False)
    offer_packed_images()


def _join_or_start(address: str | None, verbose: bool, code_folder: str | None = None) -> None:
    field, found = _found(address)
    if found != OWN_CLUSTER:
        require_cluster(field, found)
        _join(found, verbose, code_folder, field)
        return
    require_loopback()
    _require_absolute_folder()
    free = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else None
    _join(OWN_CLUSTER, verbose, code_folder)
    _warn_of_slow_store(free, int(ray.cluster_resources().get("object_store_memory", 0)))


def _found(address: str | None) -> tuple[str, str]:
    """Return the address that counts, behind the name of the argument or variable that it came from.

    In Ray, RAY_ADDRESS takes the place of the address `auto`.
    """
    variable = os.environ.get(_RAY_ADDRESS)
    if variable and address in (None, "", "auto"):
        return _RAY_ADDRESS, variable
    return "address", address or OWN_CLUSTER


def _join(address: str, verbose: bool, code_folder: str | None = None, field: str = "address") -> None:
    options: dict[str, Any] = {"include_dashboard": False} if address == OWN_CLUSTER else {}
    if code_folder is not None:
        options["runtime_env"] = {
            "env_vars": {user_code.FOLDER_VARIABLE: str(Path(code_folder).expanduser().absolute())},
            "worker_process_setup_hook": "rsf_dist.runtime.user_code.allow_named_folder",
        }
    level = logging.INFO if verbose else logging.ERROR
    try:
        with restored_sigterm():
            ray.init(address=address, log_to_driver=verbose, logging_level=level, **options)
    except Exception as err:  # Ray raises bare ones, too
        ray.shutdown()  # what had started by then
        raise _failure(field, address, err) from err
    set_log_levels(level)


def _failure(field: str, address: str, err: Exception) -> RsfError:
    """Return the error that says why Ray did not join a cluster, or did not start one."""
    if isinstance(err, AuthenticationError):
        return no_token("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "(not set)"), err)
    said = textwrap.shorten(str(err.__cause__ or err), 300, placeholder=" …")
    if address != OWN_CLUSTER:
        remedy = "run it on a node of the cluster, as the user who started it and with its versions of Ray and Python"
        return InputError(field, address, f"Ray could not join this cluster ({said})", remedy)
    if isinstance(err, OSError) and not isinstance(err, (ConnectionError, TimeoutError)):
        return _unusable_folder(said)
    return ClusterFailure(f"Ray did not start on this machine: {said}")


def _require_absolute_folder() -> None:
    """Raise InputError where Ray would look for its sockets below another folder in each process."""
    name = _folder_variable()
    if name in os.environ and not Path(os.environ[name]).is_absolute():
        raise _unusable_folder("it is no absolute path")


def _unusable_folder(why: str) -> InputError:
    name = _folder_variable()
    rule = f"Ray cannot keep its files and sockets below this folder ({why})"
    remedy = f"set {name} to another folder, with a short path, that you may write to"
    return InputError(name, os.environ.get(name, "(not set, which means /tmp)"), rule, remedy)


def _folder_variable() -> str:
    """Return the name of the variable that Ray takes the folder of its files from."""
    return next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "RAY_TMPDIR")


def _warn_of_slow_store(free: int | None, size: int) -> None:
    """Warn where Ray put its object store on disk, as it does where the shared memory is smaller.

    Args:
        free: bytes of shared memory that were free when Ray started. None means that this machine has none.
        size: bytes of Ray's object store.
    """
    if free is not None and free < size:
        _log.warning(
            "warning: %s has %d MiB free and Ray's object store takes %d MiB: it lies on disk, which is slow; "
            "enlarge %s (docker run --shm-size=%dm)",
            *(_SHARED_MEMORY, free >> 20, size >> 20, _SHARED_MEMORY, (size >> 20) * 11 // 10),
        )
