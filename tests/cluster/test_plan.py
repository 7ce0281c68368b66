"""A plan against the run that it forecasts, on the session's cluster."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rsf_dist import pipeline
from rsf_dist.config import RunConfig
from rsf_dist.planning import plan_run

pytestmark = pytest.mark.ray


def test_a_plan_forecasts_its_run_and_leaves_nothing_behind(small_config: RunConfig) -> None:
    output = Path(small_config.output)
    found = plan_run(small_config, actors=2)
    assert not output.exists()
    assert found.costs.ratio_seconds > 0
    assert found.costs.startup_seconds > 0.5  # actors import torch
    assert found.num_pilot == 2_000

    took = pipeline.sample(small_config).report["rounds"][0]["sampling"]
    assert found.proposals == pytest.approx(took["num_proposed"], rel=0.5)
    assert found.acceptance_interval[0] < took["acceptance_interval"][1]
    assert took["acceptance_interval"][0] < found.acceptance_interval[1]
    shards = sum(shard.stat().st_size for shard in output.glob("rounds/000/accepted/*.parquet"))
    assert 1 / 1.5 < found.disk_bytes / shards < 1.5

    # What the run's directory holds is used, and not touched.
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    again = plan_run(small_config, actors=2)
    assert (again.costs.ratio_seconds, again.costs.pilot_seconds) == (0.0, 0.0)
    assert (again.log_m, again.acceptance) == (took["log_m"], pytest.approx(found.acceptance))
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


@pytest.mark.soak
def test_the_command_prints_json_and_knows_another_run(small_run: dict, tmp_path: Path, ray_address: str) -> None:
    place, output = tmp_path / "config.yaml", Path(small_run["output"])
    place.write_text(yaml.safe_dump(small_run))
    output.mkdir()
    (output / "config.yaml").write_text(yaml.safe_dump(small_run | {"seed": 1}))
    command = [sys.executable, "-c", "from rsf_dist.cli import main; main()", "plan", str(place), "--json"]
    done = subprocess.run([*command, "--address", ray_address, "--actors", "100"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["actors"] == 100
    assert found["options"][0]["name"] == "configured"
    assert any("holds another run" in warning for warning in found["warnings"])
    assert [path.name for path in output.iterdir()] == ["config.yaml"]
