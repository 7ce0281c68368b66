"""Settings of the tests on Ray, which start many processes beside each other."""

import os

import pytest

# A process computes on one thread, as an actor does. Ray's workers and the commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_MINUTES = ("streaming", "main_job", "trainer", "examples", "run_deaths", "durability", "rounds", "sampler", "plan")
LONGEST_FIRST = [f"test_{name}.py" for name in _MINUTES]
"""The files that take minutes. One that came last would keep one of two processes busy while the other has ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first; the others stay in their order."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
