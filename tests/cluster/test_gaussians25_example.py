"""examples/gaussians25 as a reader would run it, with smaller numbers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARMS = {f"{ratio}, {envelope}" for ratio in ("classifier", "discriminator") for envelope in ("pilot", "budget", "drs")}
LINE = re.compile(r"(\w+(?:, \w+)?) +(\d\.\d{4}) +\d+ +\d+(?: +-?\d\.\d{4}){3}(?: +\d\.\d{4} +[\d,]+)?")


def gaussians25(output: Path, *arguments: object, timeout: int) -> tuple[dict, dict[str, re.Match]]:
    """results.json, and the table's lines by their first word."""
    command = [sys.executable, "examples/gaussians25/main.py", *map(str, arguments), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (output / "scatter.png").read_bytes().startswith(b"\x89PNG")
    lines = [LINE.fullmatch(line) for line in done.stdout.splitlines()[1:]]
    assert None not in lines, done.stdout
    return json.loads((output / "results.json").read_text()), {line[1]: line for line in lines if line}


@pytest.mark.soak
@pytest.mark.ray
def test_rejection_leaves_more_good_rows(tmp_path: Path) -> None:
    rows = 1_000
    results, table = gaussians25(tmp_path, "--steps", 400, "--ratio-steps", 500, "--rows", rows, timeout=400)
    quality, sampling = results["quality"], results["sampling"]
    assert table.keys() == quality.keys() == ARMS | {"real", "generator"}
    assert sampling.keys() == ARMS
    assert {name: float(line[2]) for name, line in table.items()} == pytest.approx(
        {name: one["good"] for name, one in quality.items()}, abs=5e-5
    )
    # 1 - exp(-8) = 0.99966 of a Gaussian in the plane lies within four standard deviations: 6 of 1,000 rows beyond
    # would be seen in 1 of 700,000 samples.
    assert quality["real"]["good"] >= 0.995
    assert all(one["num_accepted"] == rows for one in sampling.values())
    # A share of 1,000 rows has a standard deviation of at most 0.016, the difference of two 0.022: 0.2 is 9 of these.
    # The negative control: the discriminator of so short a training has not learned the ratio and misses the margin.
    assert quality["classifier, budget"]["good"] > quality["generator"]["good"] + 0.2
    assert quality["discriminator, budget"]["good"] < quality["generator"]["good"] + 0.2
    # Binomial at the pilot's quantile: 0.2 with a standard deviation of 0.003 from the pilot and 0.006 from the rows.
    assert sampling["classifier, budget"]["acceptance_rate"] == pytest.approx(0.2, abs=0.03)
    # The shifted ratio never exceeds its M.
    assert sampling["classifier, drs"]["num_capped"] == sampling["discriminator, drs"]["num_capped"] == 0


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_learned_ratio_leaves_98_percent_good(tmp_path: Path) -> None:
    results, _ = gaussians25(tmp_path, timeout=1700)
    quality = results["quality"]
    assert quality["generator"]["good"] < 0.95  # else there is nothing to repair
    assert quality["classifier, budget"]["good"] >= 0.98
    assert quality["classifier, budget"]["modes"] == 25
