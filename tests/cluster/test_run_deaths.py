"""`rsf run` killed by SIGKILL between any two writes to its directory: run again, it tells what it would have told."""

import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dying
import faults
import pytest
import ray
import yaml
from faults import all_took, report_times, stepping_run, steps_taken_again, wait_until
from small import small_run_in

import rsf_dist as rsf
from rsf_dist.config.load import parse_config
from rsf_dist.runs import pipeline

pytestmark = pytest.mark.ray
ray.cloudpickle.register_pickle_by_value(faults)  # the workers cannot import a test module

RSF = [sys.executable, "-c", "from rsf_dist.cli import main; main()"]
DYING = [sys.executable, str(Path(dying.__file__))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture(scope="module")
def num_workers(soak: bool) -> int:
    """The number of training workers; the start of each takes as long as all of its steps."""
    return 2 if soak else 1


@pytest.fixture(scope="module")
def raw(folder: Path, num_workers: int) -> dict:
    """A run whose workers write down each of 300 steps, with a checkpoint every 100."""
    run = small_run_in(folder) | stepping_run(folder, folder / "log", holds_at=0)
    run["training"] |= {"steps": 300, "evaluate_every": 100, "num_workers": num_workers}
    return run


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody stopped.

    Args:
        result: the run.
        written: names of the files that its driver wrote, in order.
        seconds: wall time.
    """

    result: pipeline.RunResult
    written: list[str]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(raw: dict, folder: Path, ray_address: str) -> Undisturbed:
    written: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rsf.RunStore, "write", rsf.RunStore.write)  # to be put back
        dying.counted(lambda _, name, when: written.append(name) if when == "before" else None)
        started = time.monotonic()
        result = pipeline.run(parse_config(raw))
        seconds = time.monotonic() - started
    assert steps_taken_again(folder / "log", kills=0, every=100, last=300) == 0
    return Undisturbed(result, written, seconds)


def told(result: pipeline.RunResult) -> dict[str, Any]:
    """report.json without what it took."""
    report = result.report.model_dump(exclude={"seconds"})
    for described in report["rounds"]:
        described["sampling"].pop("seconds")
    return report


def kept(result: pipeline.RunResult) -> dict[str, dict[str, str]]:
    """SHA-256 of all that was kept, but for the pilot's seconds."""
    folders = result.store.manifest().folders
    folders["rounds/000/pilot"].pop("pilot.json")
    return folders


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_run_killed_between_two_writes_goes_on(raw, undisturbed, ray_address, tmp_path) -> None:
    whole, written = undisturbed.result, undisturbed.written
    kills, wanted = 0, range(1, len(written) + 1, 3)
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


def test_a_run_killed_while_it_fine_tunes_goes_on_from_its_checkpoint(
    raw, undisturbed, num_workers, ray_address, tmp_path, record_property
) -> None:
    """In the middle of training the driver writes nothing: killed 50 steps after the first of three checkpoints."""
    log = tmp_path / "log"
    mine = raw | {"output": str(tmp_path / "run")} | stepping_run(tmp_path, log, holds_at=150)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(mine))
    started = time.monotonic()
    driver = subprocess.Popen([*RSF, "run", str(tmp_path / "config.yaml"), "--address", ray_address])
    try:
        wait_until(lambda: all_took(log, 150, ranks=num_workers) or driver.poll() is not None, seconds=200)
    finally:
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
    assert not (tmp_path / "run" / "models" / "one_shot").exists()
    fine_tuned = pipeline.run(parse_config(mine))
    took = time.monotonic() - started
    assert steps_taken_again(log, kills=1, every=100, last=300) == 50
    trained, whole = fine_tuned.report.training["one_shot"], undisturbed.result
    assert [evaluation["step"] for evaluation in trained.evaluations] == [100, 200, 300]
    assert fine_tuned.report.rounds[0].fingerprint == whole.report.rounds[0].fingerprint
    assert trained == whole.report.training["one_shot"]
    models = [result.store.manifest().folders[""]["model.safetensors"] for result in (fine_tuned, whole)]
    assert models[0] == models[1]
    report_times(record_property, "driver killed", took, undisturbed.seconds, 50, "steps taken again")
