"""Drawn rows are kept, whatever dies or is damaged, and the final rows are those of an undisturbed run."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import faults
import numpy as np
import pytest
import ray
import yaml
from faults import (
    Deaths,
    assert_same_rows,
    committed,
    drawing_processes,
    drawn,
    fingerprint_in_process,
    report_times,
    sampler,
    wait_until_still,
)
from processes import own_processes

import rsf_dist as rsf
from rsf_dist import cli
from rsf_dist.config.load import dump_config, parse_config
from rsf_dist.storage.lock import run_lock

pytestmark = pytest.mark.ray
ray.cloudpickle.register_pickle_by_value(faults)  # the actors cannot import a test module

WANTED = 20_000  # some 80 chunks of 0.2 s
TWO = rsf.PoolConfig(min_actors=2, max_actors=2, max_tasks_in_flight=1)
CHUNKS_IN_FLIGHT = 10  # of one actor with one task: a quarter of a wave's 80 chunks for each of two actors
DYING = [sys.executable, str(Path(__file__).with_name("dying.py"))]
RSF = [sys.executable, "-c", "from rsf_dist.cli import main; main()"]


@pytest.fixture(scope="module")
def undisturbed(ray_address: str, tmp_path_factory) -> tuple[rsf.AcceptedSet, Path, float]:
    """The rows, the store that has them, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    accepted = sampler(folder / "log", rsf.RunStore(folder / "run"), pool=TWO).sample(WANTED)
    return accepted, folder / "run", time.monotonic() - started


# A driver writes pilot.json, pilot.npz and the manifest, then the manifest and the one before it at every commit.
@pytest.mark.parametrize(
    "deaths",
    [
        pytest.param([(7, "before"), (3, "after")], id="twice", marks=pytest.mark.soak),
        pytest.param([(1, "before"), (3, "after")], id="in the pilot", marks=pytest.mark.soak),
        pytest.param([(4, "before"), (5, "after")], id="at the first commit", marks=pytest.mark.soak),
        pytest.param([(8, "after"), (5, "before")], id="later", marks=pytest.mark.soak),
        pytest.param([(8, "before"), (1, "before"), (2, "after"), (4, "before")], id="often", marks=pytest.mark.soak),
    ],
)
def test_a_sampling_driver_killed_between_commits_again_and_again(
    deaths, undisturbed, ray_address, tmp_path, record_property
) -> None:
    accepted, _, seconds = undisturbed
    store, log = rsf.RunStore(tmp_path / "run"), tmp_path / "log"
    started, known, kills = time.monotonic(), Deaths(log, store), 0
    for writes, when in deaths:
        arguments = [writes, when, "sample", ray_address, store.uri, log, WANTED]
        kills += subprocess.run([*DYING, *map(str, arguments)], timeout=200).returncode == -signal.SIGKILL
        wait_until_still(log)
        known.note()
    final = sampler(log, store, pool=TWO).sample(WANTED)
    assert kills == len(deaths)
    assert_same_rows(final, accepted.fingerprint, WANTED)
    # At each death, of each actor: a task in hand, and two that were done and not committed; of some eight in all.
    again = known.drawn_again(most=len(deaths) * 3 * TWO.max_actors * CHUNKS_IN_FLIGHT)
    report_times(record_property, f"{kills} kills", time.monotonic() - started, seconds, again)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 20))])
def test_killed_actors_change_nothing(seed: int, undisturbed, tmp_path, record_property) -> None:
    """SIGKILL pool actors while they work, at times and in an order drawn from the seed."""
    accepted, _, seconds = undisturbed
    started = time.monotonic()
    with Killer(seed, kills=3, log=tmp_path / "log") as killer:
        disturbed = sampler(tmp_path / "log", None, pool=TWO).sample(WANTED)
    took = time.monotonic() - started
    assert killer.killed > 0
    assert_same_rows(disturbed, accepted.fingerprint, WANTED)
    chunks = [chunk for chunk, _ in drawn(tmp_path / "log")]
    again = len(chunks) - len(set(chunks))
    assert again <= killer.killed * CHUNKS_IN_FLIGHT
    report_times(record_property, f"{killer.killed} kills", took, seconds, again)


def test_killed_tasks_change_nothing(ray_address, tmp_path) -> None:
    """The same holds for work so short that it runs in tasks."""
    mark = fingerprint_in_process(5_000, tmp_path)
    with Killer(0, kills=1, log=tmp_path / "log", of="ray::MapBatches", seconds=0.3) as killer:
        disturbed = sampler(tmp_path / "log", None, pool=TWO).sample(5_000)
    assert killer.killed == 1
    assert_same_rows(disturbed, mark, 5_000)


class Killer:
    """Kills pool actors by their process ids, one every second or so; only such as have drawn a chunk for this log."""

    def __init__(self, seed: int, kills: int, log: Path, of: str = "ray::MapWorker", seconds: float = 1.5):
        self.rng, self.wanted, self.killed, self.log = np.random.default_rng(seed), kills, 0, log
        self.of, self.seconds = of, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while self.killed < self.wanted and not self._stop.wait(self.rng.exponential(self.seconds)):
            drawing = drawing_processes(self.log)
            actors = [actor for actor in own_processes(self.of) if actor.pid in drawing]
            if actors:
                self.rng.choice(actors).kill()
                self.killed += 1


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE = {
    "shard cut": (lambda run: truncate(sorted(run.glob("rounds/000/accepted/*.parquet"))[3]), [3]),
    "shard gone": (lambda run: sorted(run.glob("rounds/000/accepted/*.parquet"))[5].unlink(), [5]),
    "manifest cut": (lambda run: truncate(run / "manifest.json"), []),  # the one before lists the same chunks
    "pilot cut": (lambda run: truncate(run / "rounds/000/pilot/pilot.npz"), []),
}


@pytest.mark.parametrize(
    "damage",
    [pytest.param(list(DAMAGE), id="all"), *(pytest.param([one], id=one, marks=pytest.mark.soak) for one in DAMAGE)],
)
def test_damaged_files_are_made_again(damage, undisturbed, tmp_path) -> None:
    accepted, run, _ = undisturbed
    shutil.copytree(run, tmp_path / "run")
    redrawn = [chunk for name in damage for chunk in DAMAGE[name][1]]
    for name in damage:
        DAMAGE[name][0](tmp_path / "run")
    again = sampler(tmp_path / "log", rsf.RunStore(tmp_path / "run"), pool=TWO).sample(WANTED)
    assert_same_rows(again, accepted.fingerprint, WANTED)
    assert sorted(chunk for chunk, _ in drawn(tmp_path / "log")) == redrawn


@pytest.mark.soak
def test_an_older_manifest_is_gone_on_from(undisturbed, tmp_path) -> None:
    accepted, log, run = undisturbed[0], tmp_path / "log", tmp_path / "run"
    store = rsf.RunStore(run)
    first = sampler(log, store, pool=TWO).sample(WANTED // 3)
    np.testing.assert_array_equal(first.ledger, accepted.ledger[: WANTED // 3])
    older, chunks = (run / "manifest.json").read_bytes(), committed(store)
    for _ in range(2):  # it goes on for more rows, its last chunk's surplus included; then the manifest is set back
        before = len(drawn(log))
        assert sampler(log, store, pool=TWO).sample(WANTED).fingerprint == accepted.fingerprint
        assert min(chunk for chunk, _ in drawn(log)[before:]) == chunks
        (run / "manifest.json").write_bytes(older)


def test_another_ratio_does_not_go_on(undisturbed, tmp_path) -> None:
    shutil.copytree(undisturbed[1], tmp_path / "run")
    other = sampler(tmp_path / "log", rsf.RunStore(tmp_path / "run"))
    other.ratio = rsf.ProductRatio([other.ratio] * 2)
    with pytest.raises(rsf.InputError, match=r"draws and scores other rows than when the run in .* began"):
        other.sample(WANTED)


@pytest.fixture
def config_file(small_run: dict, tmp_path: Path) -> Path:
    small_run["sampling"] |= {"num_accepted": 6000}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(small_run))
    return path


def test_a_second_writer_and_another_configuration_are_refused(
    config_file: Path, small_run: dict, monkeypatch, capsys
) -> None:
    store = rsf.RunStore(small_run["output"])
    with run_lock(store):
        second = subprocess.run([*RSF, "run", str(config_file)], capture_output=True, text=True, timeout=100)
        assert second.returncode == 2
        assert f"is held by process {os.getpid()} of" in second.stderr
    store.write("config.yaml", dump_config(parse_config(small_run)))
    changed = [str(config_file), "seed=1", "sampling.chunk_size=1024", "sampling.pool.max_actors=3"]
    monkeypatch.setattr("sys.argv", ["rsf", "run", *changed])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    expected = "holds another run: seed=1 (was 0), sampling.chunk_size=1024 (was 512); restore"
    assert expected in capsys.readouterr().err
