"""Ray 2.60 needs our workarounds. A test that fails here, with another Ray, names one that can go."""

import gc
import inspect
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from pyarrow import fs
from ray._private import ray_constants, services
from ray.data import DataContext
from ray.exceptions import RaySystemError, WorkerCrashedError
from ray.train import CheckpointConfig
from ray.train.v2._internal import constants
from ray.train.v2._internal import exceptions as train_exceptions
from ray.train.v2._internal.exceptions import CheckpointManagerInitializationError
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2.api import exceptions as train_api_exceptions
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from rsf_dist.cluster import ray_workarounds
from rsf_dist.cluster.ray_workarounds import (
    OWN_CLUSTER,
    declare_task,
    parquet_datasource_v1,
    preserve_order,
    raise_original_errors,
    remove_refused_snapshot,
    restored_sigint,
    restored_sigterm,
    unwrapped,
)
from rsf_dist.errors import ClusterFailure, InputError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test module


# Clusters


def test_ray_init_without_an_address_joins_even_a_dead_cluster(tmp_path, monkeypatch):
    """The cluster that the file names is gone, because nothing listens at port 1."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray_current_cluster").write_text("192.0.2.1:1")
    assert services.canonicalize_bootstrap_address(None, str(tmp_path)) == "192.0.2.1:1"
    assert services.canonicalize_bootstrap_address(OWN_CLUSTER, str(tmp_path)) is None


def test_ray_init_asks_a_dead_address_for_long_and_looks_a_minute_for_a_node():
    assert ray_constants.NUM_REDIS_GET_RETRIES == 20  # each takes up to 30 s, and a second between them
    assert ray_constants.GCS_SERVER_REQUEST_TIMEOUT_SECONDS == 60
    assert "timeout" not in inspect.signature(ray.init).parameters


# Signals


def test_ray_init_takes_sigterm_over():
    """In a process of its own, which has a handler before."""
    code = (
        "import logging, ray, signal\n"
        "def own(*_): pass\n"
        "signal.signal(signal.SIGTERM, own)\n"
        "ray.init(address='local', num_cpus=1, include_dashboard=False, logging_level=logging.ERROR)\n"
        "print(signal.getsignal(signal.SIGTERM) is own)\n"
        "ray.shutdown()\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert printed.stdout.split() == ["False"]


@pytest.fixture
def own_handlers():
    """Handlers as before, once the test is over."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sigterm_is_given_back(own_handlers):
    with restored_sigterm():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == own_handlers[signal.SIGTERM]


def test_a_sigterm_in_the_block_goes_to_its_own_handler(own_handlers):
    """And not to a SystemExit, as which Ray's handler raises it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), restored_sigterm():
        sys.exit(signal.SIGTERM)
    with pytest.raises(SystemExit), restored_sigterm():
        sys.exit(1)


def test_ray_train_takes_sigint_over_and_exits_with_0(own_handlers):
    """At the third Ctrl-C whatever the controller does, and at the first where it is gone."""
    controller = SimpleNamespace(abort=SimpleNamespace(remote=lambda: None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "get", lambda aborted: None)
        DataParallelTrainer._register_sigint_handler(None, controller)
        handler = signal.getsignal(signal.SIGINT)
        assert handler is not own_handlers[signal.SIGINT]
        handler(signal.SIGINT, None)
        handler(signal.SIGINT, None)
        with pytest.raises(SystemExit) as caught:
            handler(signal.SIGINT, None)
    assert caught.value.code == 0


def test_an_exit_in_training_is_an_interrupt(own_handlers):
    def fit():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(0)

    with pytest.raises(KeyboardInterrupt), restored_sigint():
        fit()
    assert signal.getsignal(signal.SIGINT) == own_handlers[signal.SIGINT]


# Ray Train


def test_ray_train_polls_its_workers_every_two_seconds():
    assert constants.DEFAULT_HEALTH_CHECK_INTERVAL_S == 2.0
    assert list(ray_workarounds._TRAIN_ENVIRONMENT) == [constants.HEALTH_CHECK_INTERVAL_S_ENV_VAR]


@pytest.mark.parametrize("snapshot", ['{"checkpoint_results": [', "another version", "a folder that is gone"])
def test_ray_train_refuses_a_run_for_its_own_list(snapshot, tmp_path):
    entry = {"checkpoint_dir_name": "checkpoint_1", "metrics": {}}
    version = "1.0" if snapshot == "another version" else ray.__version__
    results = [] if snapshot == "another version" else [entry]
    if snapshot[0] != "{":
        known = {"checkpoint_results": results, "latest_checkpoint_result": entry, "ray_version": version}
        snapshot = json.dumps(known)
    path = tmp_path / "run" / "checkpoint_manager_snapshot.json"
    path.parent.mkdir()
    path.write_text(snapshot)

    def resume():
        return CheckpointManager(CheckpointConfig(), StorageContext(str(tmp_path), "run"))

    with pytest.raises(CheckpointManagerInitializationError):
        resume()
    remove_refused_snapshot(fs.LocalFileSystem(), str(tmp_path / "run"))
    resume()


def test_the_errors_of_ray_train_still_have_these_names():
    modules = (train_exceptions, train_api_exceptions)
    assert all(any(hasattr(module, name) for module in modules) for name in ray_workarounds._TRAIN_DEATHS)


# Ray Data


def first_block_last(rows: dict, folder: Path) -> dict:
    """End with block 0 once the others have ended."""
    others = [folder / str(number) for number in (1, 2, 3)]
    if 0 in rows["data"]:
        end = time.monotonic() + 60
        while not all(path.exists() for path in others) and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(1.0)  # for the others' results to reach the driver
    else:
        (folder / str(rows["data"][0])).touch()
    return rows


@pytest.mark.ray
@pytest.mark.parametrize("ordered", [False, True])
def test_blocks_come_as_they_are_finished(ordered, tmp_path):
    rows = ray.data.from_numpy([np.array([number]) for number in range(4)])
    rows = rows.map_batches(first_block_last, batch_size=None, fn_args=(tmp_path,))
    if ordered:
        rows = preserve_order(rows)
    numbers = [int(row["data"]) for row in rows.iter_rows()]
    assert sorted(numbers) == [0, 1, 2, 3]
    assert (numbers[0] == 0) is ordered


def refuse(rows: dict) -> dict:
    raise InputError("field", 1, "is wrong", "correct it")


@pytest.mark.ray
def test_a_mapped_functions_error_is_lost_on_its_way():
    rows = ray.data.from_numpy(np.arange(4)).map_batches(refuse)
    with pytest.raises(Exception, match="UDF failed") as plain, unwrapped():
        rows.materialize()
    assert not isinstance(plain.value, InputError)
    with pytest.raises(InputError, match="field=1: is wrong"), unwrapped():
        raise_original_errors(rows).materialize()


def test_ray_data_reads_parquet_with_32_actors_and_draws_bars_by_default():
    from ray.data._internal.datasource_v2.formats.parquet import footer_file_indexer

    assert footer_file_indexer._DEFAULT_NUM_ACTORS == 32
    assert DataContext().use_datasource_v2
    assert DataContext().enable_progress_bars
    with parquet_datasource_v1():
        assert not DataContext.get_current().use_datasource_v2
    assert DataContext.get_current().use_datasource_v2


def test_importing_ray_data_sets_the_level_of_its_log():
    """In a process of its own, where it is not imported yet."""
    code = (
        "import logging; log = logging.getLogger('ray.data'); log.setLevel(logging.CRITICAL)\n"
        "import ray.data; print(log.level == logging.CRITICAL)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert printed.stdout.split() == ["False"]


# Errors


@ray.remote
def refuse_in_a_task() -> None:
    refuse({})


@ray.remote(max_retries=0)
def die() -> None:
    import os

    os._exit(1)


@pytest.mark.ray
def test_ray_wraps_what_a_task_raises():
    with pytest.raises(InputError) as plain:
        ray.get(refuse_in_a_task.remote())
    assert type(plain.value) is not InputError
    assert "ray::refuse_in_a_task" in str(plain.value)  # the traceback of another process, in a message of ours
    with pytest.raises(InputError) as ours, unwrapped():
        ray.get(refuse_in_a_task.remote())
    assert str(ours.value) == "field=1: is wrong; correct it"


class Unreadable:
    def __reduce__(self):
        return refuse, ({},)


@ray.remote
def take(thing: Unreadable) -> None:
    pass


@pytest.mark.ray
def test_ray_takes_what_unpickling_raises_for_an_error_of_its_own():
    for get in (lambda: ray.get(ray.put(Unreadable())), lambda: ray.get(take.remote(Unreadable()))):
        with pytest.raises(RaySystemError):
            get()
        with pytest.raises(InputError) as ours, unwrapped():
            get()
        assert str(ours.value) == "field=1: is wrong; correct it"


@pytest.mark.ray
def test_ray_says_that_a_worker_died_in_an_error_of_its_own():
    with pytest.raises(WorkerCrashedError):
        ray.get(die.remote())
    with pytest.raises(ClusterFailure, match=r"^the cluster failed \(WorkerCrashedError"), unwrapped():
        ray.get(die.remote())


class Refusing:
    def __call__(self, rows: dict) -> dict:
        return refuse(rows)


def refuse_in_an_actor() -> None:
    rows = ray.data.from_numpy(np.arange(4)).map_batches(Refusing, compute=ray.data.ActorPoolStrategy(size=1))
    list(raise_original_errors(rows).iter_batches())


def actor_pools() -> int:
    """Return the number of Ray Data's actor pools that are alive in this process."""
    return sum(type(thing).__name__ == "ActorPoolMapOperator" for thing in gc.get_objects())


@pytest.mark.ray
def test_an_error_of_ray_data_keeps_its_actor_pool_alive():
    """Until Python looks for cycles; that `unwrapped` frees what an error holds is tested without Ray."""
    gc.collect()
    gc.disable()
    try:
        before = actor_pools()
        with pytest.raises(InputError):
            refuse_in_an_actor()
        assert actor_pools() > before
    finally:
        gc.enable()


# Tasks


def test_only_a_declared_gpu_ends_the_process_with_its_task():
    def function():
        pass

    optional = ray.remote(function)
    optional.options(num_gpus=1)
    assert optional._default_options.get("max_calls") in (None, 0)
    assert declare_task(function, "function", num_cpus=0, num_gpus=1)._default_options["max_calls"] == 1
