"""`rsf run` killed by SIGKILL between any two writes to its directory: run again, it tells what it would have told."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dying
import pytest
import yaml
from small import small_run_in

import rsf_dist as rsf
from rsf_dist import pipeline
from rsf_dist.config import parse_config

pytestmark = pytest.mark.ray

DYING = [sys.executable, str(Path(dying.__file__))]


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> dict:
    return small_run_in(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def undisturbed(raw: dict, ray_address: str) -> tuple[pipeline.RunResult, list[str]]:
    """The run, and the names of what its driver wrote, in order."""
    written = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rsf.RunStore, "write", rsf.RunStore.write)  # to be put back
        dying.counted(lambda _, name, when: written.append(name) if when == "before" else None)
        return pipeline.run(parse_config(raw)), written


def told(result: pipeline.RunResult) -> dict[str, Any]:
    """report.json without what it took."""
    report = {name: value for name, value in result.report.items() if name != "seconds"}
    for described in report["rounds"]:
        described["sampling"].pop("seconds", None)
    return report


def kept(result: pipeline.RunResult) -> dict[str, dict[str, str]]:
    """SHA-256 of all that was kept, but for the pilot's seconds."""
    folders = result.store.manifest()["folders"]
    folders["rounds/000/pilot"].pop("pilot.json")
    return folders


@pytest.mark.timeout(7200)
def test_a_run_killed_between_two_writes_goes_on(raw, undisturbed, ray_address, tmp_path, soak: bool) -> None:
    whole, written = undisturbed
    after_training = written.index("models/one_shot/model.safetensors") + 1
    kills, wanted = 0, range(1, len(written) + 1, 3) if soak else [after_training]
    for number in wanted:
        mine = raw | {"output": str(tmp_path / f"run-{number}")}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(mine))
        arguments = [number, "before", "run", tmp_path / "config.yaml", "--address", ray_address]
        died = subprocess.run([*DYING, *map(str, arguments)], capture_output=True, text=True, timeout=300)
        assert died.returncode == -signal.SIGKILL, died.stderr
        kills += 1
        again = pipeline.run(parse_config(mine))
        assert told(again) == told(whole), written[number - 1]
        assert kept(again) == kept(whole), written[number - 1]
    assert kills == len(wanted) > 0
