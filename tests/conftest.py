from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from small import small_run_in

from rsf_dist.config.load import parse_config
from rsf_dist.config.run import RunConfig

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

# For the tests' own S3 server; the cluster's workers inherit them.
for _name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    os.environ.setdefault(_name, "testing")
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

# Ray Train looks for nodes that are about to be taken away in an actor of its own: one process less to start.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

SYSTEM = {
    # A node whose processes are gone is missed after 5 refused checks, one a second.
    # A busy node has 10 s to answer each.
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    # Workers that have imported torch wait for the next task. By default all but one a CPU end after a second.
    "num_workers_soft_limit": 4,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run with larger numbers, and the tests marked `soak`")
    parser.addoption(
        "--bench",
        metavar="FILE",
        help="write the benchmarks' long form into this JSON; `make bench`",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A case may take long on a busy machine. The short form has the same cases every time.
    settings.register_profile("short", deadline=None, derandomize=True)
    settings.register_profile("soak", deadline=None, max_examples=1_000)
    settings.load_profile("soak" if config.getoption("--soak") else "short")


def pytest_collection() -> None:
    """Collect no garbage while a million objects are imported, which all stay."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Let later collections pass over what was imported, which would take half a second each time."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not (config.getoption("--soak") or config.getoption("--bench")):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="long form: make soak"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured."""
    for report in terminalreporter.stats.get("passed", []):
        if report.when == "call" and report.user_properties:
            measured = ", ".join(f"{name}: {value}" for name, value in report.user_properties)
            terminalreporter.write_line(f"{report.nodeid}: {measured}")


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """Start the session's cluster: two nodes of two CPUs each, on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    # Nobody reads the workers' logs, and following them takes a tenth of a core.
    head = {"include_dashboard": False, "include_log_monitor": False, "_system_config": SYSTEM}
    node = {"num_cpus": 2, "object_store_memory": 400 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=head | node)
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="session")
def ray_address(ray_cluster: Cluster) -> str:
    return ray_cluster.address


@pytest.fixture(autouse=True)
def _cluster_for_ray_tests(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("ray"):
        request.getfixturevalue("ray_address")


@pytest.fixture
def gaussians25(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the script of examples/gaussians25."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples" / "gaussians25")
    return import_module("main")


@pytest.fixture
def small_run(tmp_path) -> dict:
    """Return the configuration of a small main job, as nested dicts."""
    return small_run_in(tmp_path)


@pytest.fixture
def small_config(small_run: dict) -> RunConfig:
    return parse_config(small_run)
