"""The connection to a Ray cluster: joining one, or starting one of the process's own, and leaving it again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from rsf_dist.cluster.ray_workarounds import OWN_CLUSTER, progress_bars, restored_sigterm, set_log_levels
from rsf_dist.errors import InputError
from rsf_dist.runtime import user_code


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
        InputError: no cluster answers at the address.
    """
    joined_before = ray.is_initialized()
    if not joined_before:
        _join(address or os.environ.get("RAY_ADDRESS") or OWN_CLUSTER, verbose, code_folder)
    try:
        with progress_bars(shown=verbose):
            yield
    finally:
        if not joined_before:
            ray.shutdown()


def ensure_cluster() -> None:
    """Join the cluster of RAY_ADDRESS, or start one, for a call from Python outside of `connect`."""
    if not ray.is_initialized():
        _join(os.environ.get("RAY_ADDRESS") or OWN_CLUSTER, verbose=False)


def _join(address: str, verbose: bool, code_folder: str | None = None) -> None:
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
    except (ConnectionError, RuntimeError, ValueError) as err:
        remedy = "start one (ray start --head), or correct the address"
        raise InputError("address", address, f"no Ray cluster answers ({err})", remedy) from err
    set_log_levels(level)
