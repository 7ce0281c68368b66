"""examples/label_shift as a reader would run it, one seed of one shift with smaller numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rsf_dist.sampling.diagnostics import acceptance_interval

ROOT = Path(__file__).parents[2]
FASHION = Path("/usr/share/datasets/fashion-mnist")
ROWS = 500


def example(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "examples/label_shift/main.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=ROOT, env=os.environ | environment)


@pytest.mark.ray
@pytest.mark.soak  # two minutes
@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_label_shift_estimates_reweights_and_rejects(tmp_path: Path, ray_address: str) -> None:
    smaller = [
        "--seeds",
        1,
        "--shift",
        "one_class",
        "--rows",
        ROWS,
        "--steps",
        50,
        "--pretrain-steps",
        200,
        "--tune",
        "em",
    ]
    done = example(*smaller, "--output", tmp_path, RAY_ADDRESS=ray_address)
    assert done.returncode == 0, done.stderr
    [seed_run] = json.loads((tmp_path / "results.json").read_text())["seed_runs"]

    estimates = seed_run["estimates"]
    # No shift assumed: w is 1 in place of 9 and of nine times 1/9, (8^2 + 9 (8/9)^2)/10.
    assert estimates["no_shift"]["error"] == pytest.approx((64 + 64 / 9) / 10)
    assert all(estimates[name]["error"] < 0.1 * estimates["no_shift"]["error"] for name in ("bbse", "em"))

    sampling = seed_run["sampling"]["em"]
    one_over_m = 1 / (10 * max(estimates["em"]["prior"]))
    assert (sampling["num_accepted"], sampling["num_capped"]) == (ROWS, 0)
    assert sampling["one_over_m"] == pytest.approx(one_over_m)
    # A fixed seed; another would miss in 1 of 1,000. The negative control: half of M is refuted.
    low, high = acceptance_interval(sampling["num_proposed"], ROWS, stopped=True, confidence=0.999)
    assert low <= one_over_m <= high
    assert not low <= 2 * one_over_m <= high

    accuracy = seed_run["accuracy"]
    assert accuracy["start_em"] > accuracy["start"] + 0.1
    assert accuracy["rejected_em"] > accuracy["random"] + 0.1


def test_label_shift_without_its_files_is_refused(tmp_path: Path) -> None:
    refused = example("--root", tmp_path, "--output", tmp_path / "run")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: root=")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
