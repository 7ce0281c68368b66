"""From folders to a report by two commands: `rsf init`, then `rsf run`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from data.annotated_files import image

RSF = [sys.executable, "-c", "from rsf_dist.cli import main; main()"]
FEWER = [
    "ratio.optimizer.steps=5", "ratio.num_proposals=100", "rounds.num_pilot=400", "rounds.num_rounds=2",
    "envelope.num_pilot=400", "sampling.num_accepted=50", "pretrain.steps=5", "training.steps=5",
    "evaluation.arms=[pretrained]", "sampling.pool.max_actors=1", "training.num_workers=1",
]  # fmt: skip


def rsf(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([*RSF, *words], capture_output=True, text=True, timeout=500, cwd=folder)


@pytest.mark.ray
def test_folders_become_a_configuration_that_runs(tmp_path: Path) -> None:
    for number in range(40):
        for name, inner, size in (("source", "ant bee", 40), ("target", "day night", 60), ("test", "ant bee", 50)):
            image(tmp_path / name / inner.split()[number % 2] / f"{number}.png", size, size + number % 3)
    made = rsf(tmp_path, "init", "source", "target", "test")
    assert made.returncode == 0, made.stderr
    assert "rsf run config.yaml" in made.stdout
    done = rsf(tmp_path, "run", "config.yaml", *FEWER, "--json")
    assert done.returncode == 0, done.stderr
    assert "proposals: the source images unchanged" not in done.stderr
    report = json.loads(done.stdout)
    assert report["output"].endswith("runs/target")
    assert set(report["evaluation"]["arms"]) == {"pretrained", "adaptive"}
    resolved = yaml.safe_load((tmp_path / "runs" / "target" / "config.yaml").read_text())
    assert resolved["sampling"]["chunk_size"] == 4096  # filled in: 32 x 32 pixels are small
    assert resolved["source"]["size"] == [32, 32]
