"""A run in an object store: a real S3 server on this machine, whose log counts what it was asked."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import faults
import pytest
import ray
from faults import (
    Deaths,
    assert_same_rows,
    committed,
    drawn,
    fingerprint_in_process,
    report_times,
    sampler,
    wait_until_still,
)

import rsf_dist as rsf
from rsf_dist.config.load import parse_config
from rsf_dist.runs import preparation
from rsf_dist.runs.verification import verify
from rsf_dist.sampling import checkpoint
from rsf_dist.storage import lock
from rsf_dist.storage.lock import LOCK, LockOwner, lock_owner, run_lock

pytestmark = pytest.mark.ray
ray.cloudpickle.register_pickle_by_value(faults)  # the actors cannot import a test module

WANTED = 6_000  # 24 chunks of 0.2 s


class S3:
    """moto's server, as a process of its own.

    Args:
        folder: for its log.
    """

    def __init__(self, folder: Path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.log = folder / "s3.log"
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self._create_bucket()

    def _create_bucket(self) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/bucket", method="PUT")
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(request, timeout=10).close()
                return
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < end
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.2)

    def uri(self, name: str) -> str:
        return f"s3://bucket/{name}?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"

    def store(self, name: str) -> rsf.RunStore:
        return rsf.RunStore(self.uri(name))

    def requests(self, method: str, name: str) -> int:
        """Return the number of answered requests for objects within `name`."""
        return sum(f"{method} /bucket/{name}" in line for line in self.log.read_text().splitlines())


@pytest.fixture(scope="module")
def s3(tmp_path_factory) -> Iterator[S3]:
    server = S3(tmp_path_factory.mktemp("s3"))
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
def frequent_commits(monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "COMMIT_SECONDS", 0.2)


def test_sampling_that_ends_twice_goes_on(s3, tmp_path, record_property, frequent_commits) -> None:
    """First its time is up, then its proposal fails."""
    mark = fingerprint_in_process(WANTED, tmp_path)
    started = time.monotonic()
    sampler(tmp_path / "undisturbed.log", s3.store("undisturbed")).sample(WANTED)
    undisturbed = time.monotonic() - started
    store, log = s3.store("twice"), tmp_path / "log"
    deaths, started = Deaths(log, store), time.monotonic()
    with pytest.raises(rsf.StatisticalRefusal, match="where the budget ends"):
        sampler(log, store, budget=rsf.Budget(max_seconds=0.5)).sample(WANTED)
    wait_until_still(log)
    deaths.note()
    with pytest.raises(rsf.InputError, match="ConnectionError: the camera went away"):
        sampler(log, store, fails_at=20).sample(WANTED)
    wait_until_still(log)
    deaths.note()
    accepted = sampler(log, store).sample(WANTED)
    seconds = time.monotonic() - started
    assert 0 < deaths.known[0][1] <= deaths.known[1][1] < committed(store)
    assert_same_rows(accepted, mark, WANTED)
    loaded = rsf.AcceptedSet.load(store)
    assert loaded.report == accepted.report
    assert_same_rows(loaded, mark, WANTED)
    assert s3.requests("PUT", "twice/rounds/000/accepted/") >= len({chunk for chunk, _ in drawn(log)})
    assert s3.requests("GET", "twice/rounds/000/accepted/") > 0
    report_times(record_property, "twice ended, on S3", seconds, undisturbed, deaths.drawn_again())


def test_a_store_that_does_not_answer_for_a_while_costs_only_that(s3, tmp_path, record_property) -> None:
    mark, store, log = fingerprint_in_process(WANTED, tmp_path), s3.store("silent"), tmp_path / "log"
    silent = []

    def silence() -> None:
        while not committed(store):
            time.sleep(0.1)
        s3.process.send_signal(signal.SIGSTOP)
        try:
            before = s3.log.stat().st_size
            time.sleep(3)
            silent.append(s3.log.stat().st_size == before)
        finally:
            s3.process.send_signal(signal.SIGCONT)

    silencer = threading.Thread(target=silence)
    silencer.start()
    accepted = sampler(log, store).sample(WANTED)
    silencer.join()
    assert silent == [True]
    assert_same_rows(accepted, mark, WANTED)
    chunks = [chunk for chunk, _ in drawn(log)]
    assert len(chunks) == len(set(chunks))


def test_one_writer_a_run(s3, monkeypatch) -> None:
    store = s3.store("locked")
    with run_lock(store):
        assert lock_owner(store).pid == os.getpid()
        with pytest.raises(rsf.InputError, match=f"is held by process {os.getpid()} of"), run_lock(store):
            pytest.fail("both hold it")
    assert lock_owner(store) is None
    elsewhere = replace(LockOwner.this_process(), token="theirs", host="another-host")

    monkeypatch.setattr(lock, "STALE_SECONDS", 8.0)
    store.write(LOCK, json.dumps(asdict(elsewhere)))
    beat = threading.Timer(0.5, store.write, (LOCK, json.dumps(asdict(replace(elsewhere, beat=1)))))
    beat.start()
    with pytest.raises(rsf.InputError, match=r"is held by .* on another-host"), run_lock(store):
        pytest.fail("its heart beats")

    monkeypatch.setattr(lock, "STALE_SECONDS", 2.0)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    with run_lock(store):  # its heart stands still
        assert lock_owner(store).pid == os.getpid()
        time.sleep(0.5)
        assert lock_owner(store).beat > 0
    assert lock_owner(store) is None
    assert s3.requests("PUT", "locked/lock.json") > 3


@pytest.mark.soak
def test_the_main_job(s3, small_run, tmp_path) -> None:
    """Sampling, Ray Train's checkpoints, the report; then a look at all of it."""
    small_run["output"] = s3.uri("job")
    small_run["training"] |= {"steps": 10, "num_workers": 1, "cpus_per_worker": 1}
    result = rsf.run(parse_config(small_run))
    assert result.report.rounds[0].sampling.num_accepted == 256
    config = parse_config(small_run)
    test = preparation.load_inputs(config).test
    accuracy = float((result.load_model()(test.images).argmax(1) == test.labels).float().mean())
    assert result.report.evaluation.arms["one_shot"] == [pytest.approx(accuracy)]
    mark = result.report.rounds[0].fingerprint
    assert s3.requests("PUT", f"job/checkpoints/one_shot-{mark[:8]}/checkpoint_") > 0
    for name in ("config.yaml", "manifest.json", "model.safetensors", "report.json", "report.html"):
        assert result.store.exists(name)
    assert lock_owner(result.store) is None

    found = verify(result.store.uri, num_chunks=2)
    assert found.wrong == ()
    assert found.num_chunks == 2
    assert found.num_files > 0

    written = s3.requests("PUT", "job/rounds/000/accepted/")
    again = rsf.run(config)  # there is nothing left to be done
    assert again.report.rounds[0].fingerprint == result.report.rounds[0].fingerprint
    assert s3.requests("PUT", "job/rounds/000/accepted/") == written
