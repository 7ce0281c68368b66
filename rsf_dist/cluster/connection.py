"""Joining a Ray cluster, and leaving it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.data  # importing it sets the levels of its loggers, which `_join` sets again

from rsf_dist.errors import InputError
from rsf_dist.runtime import user_code


@contextmanager
def connect(address: str | None = None, verbose: bool = False, code_folder: str | None = None) -> Iterator[None]:
    """Join a Ray cluster for the length of the block, and leave it after.

    Args:
        address: of a running cluster, `auto` for the one on this machine; None: RAY_ADDRESS, or else a cluster of one's
            own that ends with the block. Where the process has joined one already, that is used and left as it is.
        verbose: show the workers' output, and Ray Data's progress bars.
        code_folder: a folder of modules that workers may import; without effect where a cluster was joined already.

    Raises:
        InputError: there is no cluster at the address.
    """
    joined_before = ray.is_initialized()
    if not joined_before:
        _join(address or os.environ.get("RAY_ADDRESS") or "local", verbose, code_folder)
    context = ray.data.DataContext.get_current()
    bars = context.enable_progress_bars
    context.enable_progress_bars = bars and verbose  # drawn where tqdm is installed
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        if not joined_before:
            ray.shutdown()


def ensure_cluster() -> None:
    """Join one, for a call from Python outside of `connect`."""
    if not ray.is_initialized():
        _join(os.environ.get("RAY_ADDRESS") or "local", verbose=False)


def _join(address: str, verbose: bool, code_folder: str | None = None) -> None:
    # Without an address, ray.init joins whatever a file under Ray's temporary folder names, a dead
    # cluster too; "local" never looks there.
    options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    if code_folder is not None:
        options["runtime_env"] = {
            "env_vars": {user_code.FOLDER_VARIABLE: str(Path(code_folder).expanduser().absolute())},
            "worker_process_setup_hook": "rsf_dist.runtime.user_code.allow_named_folder",
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
