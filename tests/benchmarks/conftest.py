from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import clocks
import pytest
import ray
import torch
import workloads
from measuring import Bench, Measured

from rsf_dist.runtime.allocator import retain_freed_memory

for module in (clocks, workloads):  # workers cannot import them
    ray.cloudpickle.register_pickle_by_value(module)

MEASURED = pytest.StashKey[dict[str, Measured]]()


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The session's measurements; told at its end, and written where `--bench FILE` says so."""
    file = request.config.getoption("--bench")
    measuring = Bench(full=file is not None)
    request.config.stash[MEASURED] = measuring.measured
    yield measuring
    if file:
        Path(file).write_text(measuring.to_json() + "\n")
        assert not measuring.worse(), f"worse than before: {', '.join(measuring.worse())}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A table of the ratios; ✗: short of its reach."""
    for name, one in config.stash.get(MEASURED, {}).items():
        spread = f"({one.quartiles[0]:.3g} to {one.quartiles[-1]:.3g})" if one.quartiles else ""
        mark, sign = " " if one.met else "✗", "≥" if one.at_least else "≤"
        terminalreporter.write_line(f"{mark} {one.value:8.3g} {spread:16} wanted {sign} {one.reach:<6g} {name}")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch uses one thread, as in an actor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    retain_freed_memory()
    yield
    torch.set_num_threads(threads)
