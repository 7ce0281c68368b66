"""A disk that is full in the middle of a run: what was committed stays, and once there is room the run goes on."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
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
from rsf_dist.cluster.ray_workarounds import _chain
from rsf_dist.sampling import checkpoint
from rsf_dist.sampling.checkpoint import RoundCheckpoint
from rsf_dist.storage.lock import lock_owner, run_lock

pytestmark = pytest.mark.ray
ray.cloudpickle.register_pickle_by_value(faults)  # the actors cannot import a test module

WANTED = 15_000  # 60 chunks of 0.1 s, some 10 KiB a shard
MANIFEST_BLOCKS = 12  # left where the manifest is replaced while sampling goes on: a shard is the first without room


class SmallDisk:
    """A tmpfs of so many KiB."""

    def __init__(self, at: Path, kib: int):
        self.at = at
        at.mkdir()
        mounted = self._mount("-t", "tmpfs", "-o", f"size={kib}k", "none")
        if mounted.returncode:
            pytest.skip(f"mounts are not permitted here: {mounted.stderr.strip()}")

    def _mount(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["mount", *arguments, str(self.at)], capture_output=True, text=True)

    def grow(self, kib: int) -> None:
        assert self._mount("-o", f"remount,size={kib}k").returncode == 0

    def fill(self) -> Path:
        """With one file, until there is no room for another byte."""
        filler = self.at / "filler"
        with pytest.raises(OSError, match="No space left"):
            self._write_on(filler)
        return filler

    def _write_on(self, filler: Path) -> None:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> int:
        return os.statvfs(self.at).f_bavail


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk", 384)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk.at)], check=True)


def test_sampling_fills_the_disk_and_goes_on_where_there_is_room(disk, tmp_path, monkeypatch, record_property) -> None:
    """A shard finds no room; on the way out the manifest may find none either, and the error then says so."""
    monkeypatch.setattr(checkpoint, "COMMIT_SECONDS", 0.2)
    note = RoundCheckpoint.note
    monkeypatch.setattr(RoundCheckpoint, "note", lambda *given: note(*given) if disk.free() > MANIFEST_BLOCKS else None)
    mark = fingerprint_in_process(WANTED, tmp_path)
    started = time.monotonic()
    sampler(tmp_path / "undisturbed.log", rsf.RunStore(tmp_path / "undisturbed"), 0.1).sample(WANTED)
    undisturbed = time.monotonic() - started

    store, log = rsf.RunStore(disk.at / "run"), tmp_path / "log"
    deaths, started, full = Deaths(log, store), time.monotonic(), 0
    for kib in (512, 8192):
        with pytest.raises(rsf.InputError, match=r"No space left on device") as refused:
            sampler(log, store, 0.1).sample(WANTED)
        full += 1
        assert refused.value.exit_code == 2
        first = [one for one in _chain(refused.value) if isinstance(one, rsf.InputError)][-1]
        assert re.search(r"/rounds/000/accepted/chunk-\d{6}\.parquet$", first.value), first
        assert str(disk.at) in str(refused.value)
        assert refused.value.remedy.startswith("free some space")
        wait_until_still(log)
        assert not store.manifest().rounds[0].complete
        deaths.note()
        disk.grow(kib)
    accepted = sampler(log, store, 0.1).sample(WANTED)
    seconds = time.monotonic() - started
    assert full == 2
    assert 0 < deaths.known[0][1] < deaths.known[1][1] < committed(store)
    assert_same_rows(accepted, mark, WANTED)
    assert not list(disk.at.rglob("*.tmp"))
    report_times(record_property, "disk full twice", seconds, undisturbed, deaths.drawn_again())


def test_a_commit_to_a_full_disk_leaves_the_manifest_as_it_was(disk) -> None:
    store = rsf.RunStore(disk.at / "run")
    for count in range(3):
        described = {"count": str(count), "text": "x" * 10_000 * count}  # each needs more room than the one before
        store.commit(lambda manifest, described=described: manifest.folders.update({"a": described}))
    filler, before = disk.fill(), sorted(disk.at.rglob("*"))
    assert disk.free() == 0
    for _ in range(2):
        with pytest.raises(rsf.InputError, match=r"No space left .* free some space"):
            store.commit(lambda manifest: manifest.folders.update({"b": {"text": "x" * 10_000}}))
    assert store.manifest().folders == {"a": described}
    assert sorted(disk.at.rglob("*")) == before  # nothing half-written
    (disk.at / "run" / "manifest.json").write_bytes(b"")  # and the one before is whole, too
    assert store.manifest().folders["a"]["count"] == "1"
    filler.unlink()
    store.commit(lambda manifest: manifest.folders.update({"b": {}}))
    assert store.manifest().folders.keys() == {"a", "b"}


def test_a_full_disk_can_be_neither_claimed_nor_sampled_into(disk, tmp_path) -> None:
    store = rsf.RunStore(disk.at / "run")
    filler = disk.fill()
    with pytest.raises(rsf.InputError, match=r"No space left .* free some space"), run_lock(store):
        pytest.fail("held without a lock")
    with pytest.raises(rsf.InputError, match=r"No space left .* free some space"):
        sampler(tmp_path / "log", store).sample(10)
    assert not drawn(tmp_path / "log")
    filler.unlink()
    assert not list(disk.at.rglob("*.tmp"))
    with run_lock(store):
        disk.fill()
        time.sleep(0.1)
        assert lock_owner(store) is not None
    assert lock_owner(store) is None
