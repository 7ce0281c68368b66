"""One writer a run: who holds it, and when its lock is stale."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from rsf_dist.errors import InputError
from rsf_dist.storage import lock
from rsf_dist.storage.lock import LOCK, LockOwner, lock_owner, run_lock
from rsf_dist.storage.run_store import RunStore

HOLDING = """
import sys, time
from rsf_dist.storage.lock import run_lock
from rsf_dist.storage.run_store import RunStore
with run_lock(RunStore(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "run")


@pytest.fixture
def elsewhere() -> LockOwner:
    return LockOwner("their token", "another-host", 17, time.time() - 60, "someone")


def leave(store: RunStore, theirs: LockOwner) -> None:
    store.write(LOCK, json.dumps(asdict(theirs)))


@pytest.fixture
def other_process(store: RunStore):
    process = subprocess.Popen([sys.executable, "-c", HOLDING, store.uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_it_is_held_for_the_length_of_the_block_and_leaves_nothing(store):
    with run_lock(store):
        mine = lock_owner(store)
        assert mine is not None
        assert (mine.pid, mine.host) == (os.getpid(), socket.gethostname())
        store.write("a.txt", "x")
    assert lock_owner(store) is None
    assert [path.name for path in Path(store.uri).iterdir()] == ["a.txt"]


def test_a_refused_run_leaves_no_directory(store):
    with pytest.raises(ZeroDivisionError), run_lock(store):
        raise ZeroDivisionError
    assert not Path(store.uri).exists()


def test_a_second_writer_is_told_who_holds_it(store, other_process):
    told = f"is held by process {other_process.pid} of .* on {socket.gethostname()}"
    with pytest.raises(InputError, match=told), run_lock(store):
        pytest.fail("both hold it")
    assert lock_owner(store).pid == other_process.pid


def test_a_second_run_of_the_same_process_is_refused_too(store):
    with run_lock(store), pytest.raises(InputError, match="is held by"), run_lock(store):
        pytest.fail("both hold it")


def test_of_several_processes_that_begin_at_once_one_holds_it(store):
    begun = [
        subprocess.Popen([sys.executable, "-c", HOLDING, store.uri], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    try:
        refused = [process for process in begun if wait_for_end_or_word(process) == b""]
        assert len(refused) == 3
        assert all(b"is held by process" in process.stderr.read() for process in refused)
    finally:
        for process in begun:
            process.kill()
            process.wait()


def wait_for_end_or_word(process: subprocess.Popen) -> bytes:
    """`run_lock`, or nothing where it ended."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_the_lock_of_a_killed_process_is_stale_at_once(store, other_process):
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    assert lock_owner(store).pid == other_process.pid  # it could not let go
    started = time.monotonic()
    with run_lock(store):
        assert lock_owner(store).pid == os.getpid()
    assert time.monotonic() - started < 5


def test_the_number_of_a_process_may_have_been_given_again(store):
    mine = LockOwner.this_process()
    assert mine.tick is not None
    leave(store, replace(mine, token="earlier", tick=mine.tick - 1000))
    with run_lock(store):
        assert lock_owner(store).token != "earlier"


def test_a_lock_without_ticks_goes_stale_by_the_clock(store):
    mine = replace(LockOwner.this_process(), token="theirs", tick=None)
    leave(store, mine)
    with pytest.raises(InputError, match="is held by"), run_lock(store):
        pytest.fail("both hold it")
    leave(store, replace(mine, started=mine.started - 1000))
    with run_lock(store):
        assert lock_owner(store).token != "theirs"


def test_a_clock_that_was_set_makes_no_lock_stale(store, monkeypatch):
    with run_lock(store):
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time() + 3600)
        with pytest.raises(InputError, match="is held by"), run_lock(store):
            pytest.fail("both hold it")


def test_a_lock_that_cannot_be_read_is_not_nobodys(store, elsewhere, monkeypatch):
    leave(store, elsewhere)

    def stale_handle(name: str) -> bytes:
        raise InputError("output", name, "cannot be read (Stale file handle)", "check the path")

    monkeypatch.setattr(store, "read", stale_handle)
    with pytest.raises(InputError, match="Stale file handle"), run_lock(store):
        pytest.fail("took what may be held")
    monkeypatch.undo()
    assert lock_owner(store) == elsewhere


def test_a_heart_that_stands_still_elsewhere_is_stale(store, elsewhere, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 2.0)
    leave(store, elsewhere)
    with run_lock(store):
        assert lock_owner(store).pid == os.getpid()


def test_a_heart_that_beats_elsewhere_is_alive(store, elsewhere, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 10.0)
    leave(store, elsewhere)
    beat = threading.Timer(0.5, leave, (store, replace(elsewhere, beat=1)))
    beat.start()
    with pytest.raises(InputError, match="is held by process 17 of someone on another-host"), run_lock(store):
        pytest.fail("both hold it")
    assert lock_owner(store).token == "their token"


def test_the_heart_beats(store, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    with run_lock(store):
        first = lock_owner(store).beat
        time.sleep(1)
        assert lock_owner(store).beat > first


def test_a_lock_that_was_taken_over_is_not_released(store, elsewhere):
    with run_lock(store):
        leave(RunStore(store.uri), elsewhere)
    assert lock_owner(store) == elsewhere


def test_who_was_taken_over_while_asleep_writes_no_more(store, elsewhere, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    with run_lock(store):
        within = store.at("seeds/000")
        store.commit_folder("before", lambda folder: (folder / "a.txt").write_text("a"))
        leave(RunStore(store.uri), elsewhere)
        for asleep in (store, within):
            with pytest.raises(InputError, match=r"was taken from this process, .* by process 17 of"):
                asleep.commit_folder("after", lambda folder: (folder / "b.txt").write_text("b"))
        store.filesystem.delete_file(store.path(LOCK))  # that one is done with it, and has let go
        with pytest.raises(InputError, match="was taken from this process"):
            store.write("report.json", "{}")
        time.sleep(0.3)  # several beats
        assert lock_owner(store) is None
    assert list(store.manifest().folders) == ["before"]
    assert not store.at("seeds/000").exists("manifest.json")


def test_a_half_written_lock_is_nobodys(store):
    store.write(LOCK, "{")
    assert lock_owner(store) is None
    with run_lock(store):
        assert lock_owner(store).pid == os.getpid()


def test_of_two_that_take_over_at_once_one_wins(store, monkeypatch):
    leave(store, replace(LockOwner.this_process(), token="dead", tick=0))
    outcomes, inside = [], threading.Event()

    def take() -> None:
        try:
            with run_lock(store):
                outcomes.append("held")
                inside.wait(10)
        except InputError:
            outcomes.append("refused")
            inside.set()

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "refused"]
