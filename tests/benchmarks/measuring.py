"""The benchmarks measure two things in turn, in one run, and report the ratio of their medians.

`make bench` runs the long form and writes everything as one JSON. The short form is among the tests: it fails where a
ratio has become worse than what was measured before by more than its stated noise.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil

HERE = Path(__file__).parent
PACKAGES = ("rsf-dist", "ray", "torch", "torchvision", "numpy", "scipy", "pyarrow", "sbi")


@dataclass
class Measured:
    """A ratio of two things; or, in the long form alone, a number of seconds or bytes.

    Args:
        value: the ratio.
        reach: what it should come to, at least or at most.
        known, noise: what it came to when it was last looked at, and the share of that by which a busy machine may
            miss it.
        quartiles: of the ratio, repetition by repetition.
        seconds: median of either side, where the ratio is of times; startup: what is left out of them.
        detail: whatever explains it.
    """

    value: float
    reach: float
    at_least: bool
    known: float
    noise: float
    quartiles: list[float] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    startup: dict[str, float] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Return whether the value reaches its goal."""
        return self.value >= self.reach if self.at_least else self.value <= self.reach

    @property
    def held(self) -> bool:
        """Return whether the value is as good as the known one, up to noise."""
        if self.at_least:
            return self.value >= self.known * (1 - self.noise)
        return self.value <= self.known * (1 + self.noise)


class Bench:
    """Measures, and remembers what was measured.

    Args:
        full: the long form.
    """

    def __init__(self, full: bool):
        self.full = full
        self.measured: dict[str, Measured] = {}
        self._load = os.getloadavg()[0]

    def in_turn(
        self, ours: Callable[[], object], theirs: Callable[[], object], repetitions: int
    ) -> tuple[list[float], list[float]]:
        """Seconds of either, `repetitions` times in turn, after one of each that does not count."""
        ours(), theirs()
        pairs = [(seconds_of(ours), seconds_of(theirs)) for _ in range(repetitions)]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def speedup(
        self,
        name: str,
        ours: list[float],
        theirs: list[float],
        *,
        reach: float,
        known: float,
        noise: float,
        **more: Any,
    ) -> None:
        """Tell how many times as fast ours is: theirs/ours, both in seconds for the same work."""
        value = median(theirs) / median(ours)
        pairs = [b / a for a, b in zip(ours, theirs, strict=True)]
        spread = quantiles(pairs, n=4, method="inclusive") if len(pairs) > 1 else []
        seconds = {"ours": median(ours), "theirs": median(theirs)}
        self.tell(name, Measured(value, reach, True, known, noise, spread, seconds, **more))

    def tell(self, name: str, measured: Measured) -> None:
        """Keep what was measured. The short form fails at once where it has become worse, the long one at its end."""
        self.measured[name] = measured
        if not self.full:
            assert measured.held, f"{name}: {measured.value:.3g}, was {measured.known:.3g} ± {measured.noise:.0%}"

    def worse(self) -> list[str]:
        """Return the names of the values that have become worse."""
        return [name for name, one in self.measured.items() if not one.held]

    def to_json(self) -> str:
        """Form, machine, versions, commit, and every ratio."""
        told = {
            "form": "long" if self.full else "short",
            "machine": _machine() | {"load_before": self._load},
            "versions": _versions(),
            "commit": _commit(),
            "ratios": {name: {**asdict(one), "met": one.met} for name, one in self.measured.items()},
        }
        return json.dumps(told, indent=1)


def seconds_of(action: Callable[[], object]) -> float:
    """By the wall."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _machine() -> dict[str, Any]:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=40"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
