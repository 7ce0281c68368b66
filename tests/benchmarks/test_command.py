"""The help and the demo are measured as a user waits for them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest
from measuring import Bench, Measured

pytestmark = pytest.mark.bench
RSF = str(Path(sys.executable).with_name("rsf"))


def seconds_to_run(*command: str) -> float:
    started = time.monotonic()
    subprocess.run(command, capture_output=True, check=True)
    return time.monotonic() - started


def test_the_help(bench: Bench) -> None:
    """Its imports: what it takes beyond a Python that does nothing."""
    if not bench.full:
        pytest.skip("no ratio: make bench")
    pairs = [(seconds_to_run(sys.executable, "-c", "pass"), seconds_to_run(RSF, "--help")) for _ in range(7)]
    bare, told = zip(*pairs, strict=True)
    seconds = {"rsf --help": median(told), "python -c pass": median(bare)}
    value = median(told) - median(bare)
    bench.tell("imports of rsf --help, seconds", Measured(value, 0.5, False, known=0.05, noise=2.0, seconds=seconds))


def test_the_demo(bench: Bench, tmp_path: Path) -> None:
    if not bench.full:
        pytest.skip("two minutes: make bench")
    value = seconds_to_run(RSF, "demo", "--output", str(tmp_path / "demo"))
    bench.tell("rsf demo, seconds", Measured(value, 120, False, known=130, noise=0.2))
