"""A plan against the run that it forecasts, on the session's cluster."""

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import yaml
from processes import own_processes

from rsf_dist.config.load import dump_config, parse_config
from rsf_dist.config.run import RunConfig
from rsf_dist.demo.digits_domain import make_domain
from rsf_dist.forecast.plan_run import plan_run
from rsf_dist.runs import pipeline

pytestmark = pytest.mark.ray


def test_a_plan_forecasts_its_run_and_leaves_nothing_behind(small_config: RunConfig) -> None:
    output = Path(small_config.output)
    found = plan_run(small_config, actors=2)
    assert not output.exists()
    assert found.costs.ratio_seconds > 0
    assert found.costs.startup_seconds > 0
    assert found.num_pilot == 2_000

    took = pipeline.sample(small_config).report.rounds[0].sampling
    assert found.proposals == pytest.approx(took.num_proposed, rel=0.5)
    assert found.acceptance_interval[0] < took.acceptance_interval[1]
    assert took.acceptance_interval[0] < found.acceptance_interval[1]
    shards = sum(shard.stat().st_size for shard in output.glob("rounds/000/accepted/*.parquet"))
    assert 1 / 1.5 < found.disk_bytes / shards < 1.5

    # What the run's directory holds is used, and not touched.
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    again = plan_run(small_config, actors=2)
    assert (again.costs.ratio_seconds, again.costs.pilot_seconds) == (None, 0.0)
    assert (again.log_m, again.acceptance) == (took.log_m, pytest.approx(found.acceptance))
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


ROOT = Path(__file__).parents[2]
RSF = [sys.executable, "-c", "from rsf_dist.cli import main; main()"]
UNEVALUATED = {"test": None, "source_test": None, "oracle": None, "arms": ["one_shot"]}


def digits_config(folder: Path) -> RunConfig:
    """The demo's, without rounds."""
    make_domain(folder / "domain")
    raw = yaml.safe_load((ROOT / "rsf_dist" / "demo" / "digits.yaml").read_text())
    raw["target"]["root"] = str(folder / "domain" / "unlabelled")
    raw["sampling"] |= {"pool": {"max_actors": 2}, "chunk_size": 8192}
    raw["envelope"] = {"kind": "budget", "acceptance": 0.005}
    return parse_config(raw | {"rounds": 1, "evaluation": UNEVALUATED, "output": str(folder / "run")})


def fashion_config(folder: Path) -> RunConfig:
    """examples/fashion_shift's, without rounds."""
    raw = yaml.safe_load((ROOT / "examples" / "fashion_shift" / "config.yaml").read_text())
    raw["sampling"]["pool"] = {"max_actors": 2}
    raw["envelope"] = {"kind": "budget", "acceptance": 0.02}
    return parse_config(raw | {"rounds": 1, "evaluation": UNEVALUATED, "output": str(folder / "run")})


class ActorClock(threading.Thread):
    """The CPU seconds of pool actors that start from now on, read while they live."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._others = {actor.pid for actor in own_processes("ray::MapWorker")}  # of measured chunks, ending late
        self._seconds: dict[int, float] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.3):
            for actor in own_processes("ray::MapWorker"):
                with contextlib.suppress(psutil.Error):
                    if actor.pid in self._others:
                        continue
                    self._seconds[actor.pid] = sum(actor.cpu_times()[:2])

    def stop(self) -> float:
        self._over.set()
        self.join()
        return sum(self._seconds.values())


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("configured", [digits_config, fashion_config])
def test_a_plan_is_within_a_factor_of_its_run(configured, tmp_path: Path, record_property) -> None:
    """The test runs both examples and needs an idle machine; the ratios are printed and recorded."""
    config = configured(tmp_path)
    found = plan_run(config, actors=2)
    clock = ActorClock()
    clock.start()
    report = pipeline.sample(config).report
    cpu_seconds, took = clock.stop(), report.rounds[0].sampling
    shards = sum(shard.stat().st_size for shard in Path(config.output).glob("rounds/000/accepted/*.parquet"))
    ratios = {
        "acceptance": found.acceptance / took.acceptance_rate,
        "proposals": found.proposals / took.num_proposed,
        "wall time": found.seconds / report.seconds["sampling"],
        "CPU time": 3600 * found.cpu_hours / cpu_seconds,
        "disk": found.disk_bytes / shards,
    }
    print({name: round(ratio, 2) for name, ratio in ratios.items()})
    for name, ratio in ratios.items():
        record_property(f"forecast of {name} to what it took", round(ratio, 2))
    assert all(1 / 1.5 < ratio < 1.5 for ratio in ratios.values()), ratios


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("configured", [digits_config, fashion_config])
def test_a_plan_of_rounds_is_within_a_factor_of_them_all(
    configured, tmp_path: Path, ray_address: str, record_property
) -> None:
    """The same holds for the unchanged examples and all their rounds together, in a new driver with new workers.

    Sampling the digits takes 20 s in all, of which the start of workers may be 5 or 15: as much is allowed beside the
    factor.
    """
    raw = configured(tmp_path).model_dump()
    example = "rsf_dist/demo/digits.yaml" if configured is digits_config else "examples/fashion_shift/config.yaml"
    own = yaml.safe_load((ROOT / example).read_text())
    config = parse_config(raw | {name: own[name] for name in ("rounds", "envelope")})
    found = plan_run(config, actors=2).rounds
    (tmp_path / "config.yaml").write_text(dump_config(config))
    command = [*RSF, "sample", str(tmp_path / "config.yaml"), "--address", ray_address]
    subprocess.run(command, check=True, timeout=1000)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    rounds = [told["sampling"] for told in report["rounds"]]
    took = report["seconds"]["rounds"] + report["seconds"]["sampling"]
    shards = sum(shard.stat().st_size for shard in Path(config.output).glob("rounds/*/accepted/*.parquet"))
    ratios = {
        "proposals": found.proposals / sum(told["num_proposed"] for told in rounds),
        "wall time": found.seconds / took,
        "ratio time": found.ratio_seconds / report["seconds"]["ratio"],
        "disk": found.disk_bytes / shards,
    }
    print({name: round(ratio, 2) for name, ratio in ratios.items()})
    for name, ratio in ratios.items():
        record_property(f"forecast of {name} to what it took", round(ratio, 2))
    assert found.num_rounds == len(rounds)
    if abs(found.seconds - took) < 15:
        ratios.pop("wall time")
    assert all(1 / 1.5 < ratio < 1.5 for ratio in ratios.values()), ratios


@pytest.mark.soak
def test_the_command_prints_json_and_knows_another_run(small_run: dict, tmp_path: Path, ray_address: str) -> None:
    config, output = tmp_path / "config.yaml", Path(small_run["output"])
    config.write_text(yaml.safe_dump(small_run))
    output.mkdir()
    (output / "config.yaml").write_text(yaml.safe_dump(small_run | {"seed": 1}))
    command = [*RSF, "plan", str(config), "--json"]
    done = subprocess.run([*command, "--address", ray_address, "--actors", "100"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["actors"] == 100
    assert found["options"][0]["name"] == "configured"
    assert any("holds another run" in warning for warning in found["warnings"])
    assert [path.name for path in output.iterdir()] == ["config.yaml"]
