"""Everything that rsf_dist does against Ray's own behaviour, for Ray 2.60.

Each workaround says what Ray does without it. tests/cluster/test_ray_workarounds.py asserts that Ray still does so: a
test that fails there, after an upgrade of Ray, means that its workaround can go. `Upstream:` names Ray's issue.

Three workarounds must come before Ray is imported or `ray.init` is called, and lie where they are needed: `probe` asks
whether a cluster answers, `runtime.home` whether Ray Train can be imported, and `runtime.ray_lines` hides a line.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.data  # its import sets the levels that `set_log_levels` sets again
from pyarrow import fs
from ray import exceptions
from ray.data import DataContext, Dataset

from rsf_dist.errors import ClusterFailure, RsfError

# Clusters


OWN_CLUSTER = "local"
"""The address with which `ray.init` starts a cluster of the process's own.

Without an address, `ray.init` joins whatever a file under Ray's temporary folder names, even a cluster that is dead.
Upstream: no issue known.
"""


# Signals


@contextmanager
def restored_sigterm() -> Iterator[None]:
    """Keep the process's SIGTERM handler over a block that calls `ray.init`.

    `ray.init` installs a handler that calls `sys.exit(15)`, in the middle of whatever must be left in order. A SIGTERM
    that comes within the block goes to the process's own handler.
    Upstream: ray-project/ray#17308; pull request #65749 would restore handlers, but only at `ray.shutdown`.
    """
    before = signal.getsignal(signal.SIGTERM)

    def restore() -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)

    try:
        yield
    except SystemExit as err:
        restore()
        if err.code == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        restore()


@contextmanager
def restored_sigint() -> Iterator[None]:
    """Keep Ctrl-C a KeyboardInterrupt over a block that calls a Ray Train trainer's `fit`.

    `fit` installs a SIGINT handler that calls `sys.exit(0)`, as if the run were complete, and leaves it installed.
    Upstream: introduced by ray-project/ray#53600; no issue known.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


# Tasks


def declare_task(function: Callable[..., Any], name: str, num_cpus: float, num_gpus: float) -> Any:
    """Return the function as a Ray task, whose process ends with it where it holds a GPU.

    Another task in this process would find torch bound to a GPU that by then may be lent to someone else. Ray ends the
    process only where `ray.remote` declares the GPU, and not where `options` asks for it.
    Upstream: no issue known.
    """
    return ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, name=name)(function)


# Ray Train


_TRAIN_ENVIRONMENT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25"}
_SNAPSHOT = "checkpoint_manager_snapshot.json"


@contextmanager
def frequent_train_polls() -> Iterator[None]:
    """Make Ray Train ask its workers for reports every 0.25 s over the block, unless the environment says otherwise.

    Ray Train takes one report a poll, and polls every 2 s: a training that evaluates often would wait for it.
    Upstream: no issue known.
    """
    ours = {name: value for name, value in _TRAIN_ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def remove_refused_snapshot(filesystem: fs.FileSystem, folder: str) -> None:
    """Remove Ray Train's own list of a run's checkpoints, where Ray Train would refuse to resume the run for it.

    Ray Train refuses a list that a crash cut off, that another version of Ray wrote, or that names a folder which is
    gone. It takes a run without a list, and rsf_dist finds checkpoints by what lies in the folder.
    Upstream: no issue known.

    Args:
        filesystem: where the run is kept.
        folder: the run's folder there.
    """
    path = f"{folder}/{_SNAPSHOT}"
    if filesystem.get_file_info(path).type != fs.FileType.File:
        return
    try:
        with filesystem.open_input_stream(path) as stream:
            snapshot = json.loads(stream.read())
        names = [entry["checkpoint_dir_name"] for entry in snapshot["checkpoint_results"]]
        readable = snapshot["ray_version"] == ray.__version__
    except (ValueError, KeyError, TypeError):
        names, readable = [], False
    folders = filesystem.get_file_info([f"{folder}/{name}" for name in names])
    if not readable or any(info.type != fs.FileType.Directory for info in folders):
        filesystem.delete_file(path)


# Ray Data


def preserve_order(dataset: Dataset) -> Dataset:
    """Make a Dataset give its blocks in their order, and return it.

    By default blocks come as they are finished, so that rows would come in another order each time.
    Upstream: no issue known.
    """
    dataset.context.execution_options.preserve_order = True
    return dataset


def raise_original_errors(dataset: Dataset) -> Dataset:
    """Make a Dataset raise the error of a mapped function itself, so that `unwrapped` finds it, and return it.

    By default a UserCodeException takes the error's place, and pickling loses the error that it came from.
    Upstream: ray-project/ray#46962, closed by this option.
    """
    dataset.context.raise_original_map_exception = True
    return dataset


def hide_progress_bars(dataset: Dataset) -> Dataset:
    """Keep Ray Data's progress bars for a Dataset off the terminal, where rsf_dist shows its own, and return it.

    Upstream: no issue known.
    """
    dataset.context.enable_progress_bars = False
    return dataset


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Draw Ray Data's progress bars over the block only if `shown`; they are on by default where tqdm is installed.

    Upstream: no issue known.
    """
    context = DataContext.get_current()
    before = context.enable_progress_bars
    context.enable_progress_bars = before and shown
    try:
        yield
    finally:
        context.enable_progress_bars = before


@contextmanager
def parquet_datasource_v1() -> Iterator[None]:
    """Read Parquet files with Ray Data's first reader inside the block.

    Each execution of a read by the second reader starts 32 actors that look at the files' footers.
    Upstream: no issue known.
    """
    context = DataContext.get_current().copy()
    context.use_datasource_v2 = False
    with DataContext.current(context):
        yield


# Logs


def set_log_levels(level: int) -> None:
    """Set the level of Ray Data's and Ray Train's logs; `ray.init(logging_level=)` leaves these two at INFO.

    Upstream: no issue known.
    """
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(level)


# Errors


_DEATHS = (
    exceptions.WorkerCrashedError,
    exceptions.RayActorError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
    exceptions.OutOfMemoryError,
    exceptions.OutOfDiskError,
    exceptions.ObjectStoreFullError,
    exceptions.ObjectLostError,
    exceptions.RaySystemError,
)
"""Ray's errors about processes and machines, and not about the code that they ran."""

_TRAIN_DEATHS = {
    "WorkerHealthCheckFailedError",
    "WorkerHealthCheckTimeoutError",
    "WorkerGroupStartupFailedError",
    "WorkerGroupStartupTimeoutError",
    "PreemptionError",
}
"""The same of Ray Train, by name: they live in private modules, which a sampling actor should not have to import."""


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the RsfError that another process raised, in place of the errors that Ray wraps it in.

    Ray raises a RayTaskError, Ray Data and Ray Train put their own errors around it, and Ray Train keeps one a rank. An
    error that is raised while an argument or a result is unpickled becomes the `client_exc` of a RaySystemError.
    Upstream: no issue known.

    Raises:
        ClusterFailure: a process or a machine died, in place of Ray's error.
    """
    try:
        yield
    except Exception as err:
        error = _find_ours(err) or _find_death(err)
        if error is None or error is err:
            raise
        _forget(err)
        raise error from None


def _forget(err: BaseException) -> None:
    """Free what an error's frames hold, Ray Data's actors among it.

    The frames would live as long as the error is held, and then until Python looks for cycles: Ray Data's tasks keep
    their errors, whose frames keep the tasks.
    """
    traceback.clear_frames(err.__traceback__)
    err.__traceback__ = err.__context__ = err.__cause__ = None
    gc.collect()


def _find_ours(err: BaseException) -> RsfError | None:
    # By module, because a RayTaskError is made an instance of the class that it stands for.
    ours = (e for e in _chain(err) if isinstance(e, RsfError) and type(e).__module__ == RsfError.__module__)
    return next(ours, None)


def _find_death(err: BaseException) -> ClusterFailure | None:
    return next((ClusterFailure(f"{type(e).__name__}: {e}") for e in _chain(err) if _is_death(e)), None)


def _is_death(err: BaseException) -> bool:
    if isinstance(err, exceptions.RayTaskError):  # an instance of its cause's class, which follows in the chain
        return False
    return isinstance(err, _DEATHS) or (type(err).__name__ in _TRAIN_DEATHS and "ray." in type(err).__module__)


def _chain(err: BaseException) -> Iterator[BaseException]:
    """Yield the error and all errors that it came from or stands for, each once."""
    waiting, seen = [err], set()
    for error in waiting:
        if id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        failures = getattr(error, "worker_failures", {}).values()  # Ray Train's, one a rank
        context = None if error.__suppress_context__ else error.__context__
        unread = getattr(error, "client_exc", None)
        within = (getattr(error, "cause", None), unread, error.__cause__, context, *failures)
        waiting += [inner for inner in within if isinstance(inner, BaseException)]
