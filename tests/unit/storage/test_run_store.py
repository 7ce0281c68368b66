import errno
import json
import math
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from records import progress_of, result_of

from rsf_dist.errors import InputError
from rsf_dist.runtime.uris import refuse_password
from rsf_dist.storage.manifest import Manifest, Shard
from rsf_dist.storage.run_store import RunStore

ROWS = pa.table({"x": [1.0, 2.0], "index": [3, 5]})


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "run")


def test_write_and_read(store):
    assert not store.exists("a/b.txt")
    store.write("a/b.txt", "one")
    store.write("a/b.txt", b"two")
    assert store.read("a/b.txt") == b"two"
    assert [path.name for path in (Path(store.uri) / "a").iterdir()] == ["b.txt"]  # no draft is left


def test_a_failed_write_leaves_the_old_file(store, monkeypatch):
    store.write("manifest.json", "old")
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(InputError, match=r"manifest\.json: cannot be written \(disk\)"):
        store.write("manifest.json", "new")
    assert store.read("manifest.json") == b"old"
    assert len(list(Path(store.uri).iterdir())) == 1  # no draft is left


def test_a_full_disk_says_so(store, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(full))
    with pytest.raises(InputError, match=r"No space left.*free some space, then run it again: it goes on"):
        store.write("a.txt", "x")


def test_what_is_written_is_flushed_before_it_gets_its_name(store, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda number: (events.append("flush"), fsync(number)))
    monkeypatch.setattr("os.replace", lambda *names: (events.append("rename"), replace(*names)))
    store.write("a.txt", "x")
    assert events == ["flush", "rename", "flush"]  # the file, its name, the folder that has the name


def test_absent_file(store):
    with pytest.raises(InputError, match="is not in this run's directory"):
        store.read("manifest.json")


def test_shard_round_trip(store):
    shard = store.write_shard(2, 7, ROWS)
    assert shard.path == "rounds/002/accepted/chunk-000007.parquet"
    assert shard.rows == 2
    assert store.read_shard(shard).equals(ROWS)


def test_a_shard_whose_bytes_changed_is_refused(store):
    shard = store.write_shard(0, 0, ROWS)
    data = bytearray(store.read(shard.path))
    data[10] ^= 1
    store.write(shard.path, bytes(data))
    with pytest.raises(InputError, match="differs from its SHA-256"):
        store.read_shard(shard)


def test_manifest_lists_what_was_committed(store):
    assert store.manifest() == Manifest(version=4, folders={}, rounds={})
    first, second = store.write_shard(0, 0, ROWS), store.write_shard(1, 4, ROWS)
    store.commit_round(0, progress_of(first))
    store.commit_round(1, progress_of(second))
    store.commit_round(0, progress_of(first, result=result_of(fingerprint="h")))
    assert store.manifest().rounds.keys() == {0, 1}
    assert store.round(0) == progress_of(first, result=result_of(fingerprint="h"))
    assert (store.round(0).complete, store.round(1).complete) == (True, False)
    assert store.round(1).shards == [second]
    assert store.round(2) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 4, "rou'])
def test_a_damaged_manifest_gives_way_to_the_one_before(store, damage):
    store.commit_round(0, progress_of())
    store.commit_round(1, progress_of())
    store.write("manifest.json", damage)
    assert store.manifest().rounds.keys() == {0}
    store.commit_round(1, progress_of())  # and the damaged one does not take its place
    store.write("manifest.json", damage)
    assert store.manifest().rounds.keys() == {0}


def test_a_manifest_beyond_repair_is_refused(store):
    store.write("manifest.json", "{")
    with pytest.raises(InputError, match="is damaged, and so is the one before it"):
        store.manifest()


@pytest.mark.parametrize(("version", "age"), [(1, "an older"), (3, "an older"), (5, "a newer")])
def test_a_manifest_of_another_version_is_refused(version, age, store):
    """It is not taken for a damaged one, so that the one before it does not take its place."""
    store.commit_round(0, progress_of())
    store.commit_round(1, progress_of())
    store.write("manifest.json", json.dumps({"version": version, "other": "parts"}))
    rule = (
        rf"output=.*/run: was written by {age} version of rsf_dist \(manifest version {version}, and .* reads 4\); name"
    )
    with pytest.raises(InputError, match=rule):
        store.manifest()
    before = store.read("manifest.json")
    with pytest.raises(InputError, match=rule):
        store.commit(lambda manifest: None)
    assert store.read("manifest.json") == before


def test_numbers_of_a_manifest_come_back_to_the_last_bit(store):
    """Sums of an empty chunk are minus infinity, for which strict JSON has no word."""
    numbers = {"sum": 0.1 + 0.2, "small": 5e-324, "large": 1.7976931348623157e308, "none": -math.inf}
    written = progress_of(log_m=1 / 3, drawn_at_log_m=-1e300, statistics=numbers)
    store.commit_round(0, written)
    assert store.round(0) == written
    assert store.round(0).statistics == numbers


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "rounds/../../x"])
def test_no_path_of_the_manifest_leaves_the_run(store, path, tmp_path):
    shard = Shard(0, path, 1, "0")
    for use in (lambda: store.read(path), lambda: store.write(path, "x"), lambda: store.read_shard(shard)):
        with pytest.raises(InputError, match="leaves the run's directory"):
            use()
    store.commit(lambda manifest: manifest.folders.update({"models": {path: "0"}}))
    with pytest.raises(InputError, match="leaves the run's directory"):
        store.load_folder("models", lambda folder: None)
    assert [found.name for found in tmp_path.iterdir()] == ["run"]


def test_store_travels_by_its_uri(store):
    shard = store.write_shard(0, 0, ROWS)
    copy = pickle.loads(pickle.dumps(store))
    assert copy.uri == store.uri
    assert copy.read_shard(shard).equals(ROWS)


def write_two(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "a.txt").write_text("one")
    (folder / "in" / "b.txt").write_text("two")


def test_a_kept_folder_comes_back(store):
    assert not store.is_intact("ratio")
    store.commit_folder("ratio", write_two)
    assert store.is_intact("ratio")
    assert store.load_folder("ratio", lambda folder: (folder / "in" / "b.txt").read_text()) == "two"
    assert store.manifest().folders["ratio"].keys() == {"a.txt", "in/b.txt"}


def test_a_kept_folder_is_listed_damaged_or_not(store):
    store.write_folder("ratio", write_two)
    assert not store.is_listed("ratio")
    store.commit_folder("ratio", write_two)
    Path(store.path("ratio/a.txt")).unlink()
    assert store.is_listed("ratio")
    assert not store.is_intact("ratio")


def test_a_folder_without_files_is_kept_too(store):
    store.commit_folder("ratio", lambda folder: None)
    assert store.is_intact("ratio")
    assert store.load_folder("ratio", lambda folder: list(folder.iterdir())) == []


def test_what_the_manifest_does_not_list_does_not_exist(store):
    store.write_folder("ratio", write_two)
    assert not store.is_intact("ratio")
    with pytest.raises(InputError, match="ratio is not in the manifest"):
        store.load_folder("ratio", lambda folder: None)


@pytest.mark.parametrize(
    ("harm", "told"),
    [(lambda file: file.unlink(), "is missing"), (lambda file: file.write_text("three"), "differs from its SHA-256")],
)
def test_a_damaged_folder_is_not_held(store, harm, told):
    store.commit_folder("ratio", write_two)
    harm(Path(store.path("ratio/in/b.txt")))
    assert not store.is_intact("ratio")
    with pytest.raises(InputError, match=f"ratio/in/b.txt {told}"):
        store.load_folder("ratio", lambda folder: None)
    store.commit_folder("ratio", write_two)
    assert store.is_intact("ratio")


def test_drafts_of_killed_writers_are_swept(store):
    store.write("a/b.txt", "one")
    left = [
        Path(store.path(name))
        for name in (f"a/b.txt.{32 * '1'}.tmp", f"c.json.{32 * 'a'}.tmp", f"lock.json.{32 * '3'}.tmp")
    ]
    for draft in left:
        draft.write_text("half")
    mine = Path(store.path("a/notes.tmp"))
    mine.write_text("the user's own")
    store.remove_drafts()
    assert [draft.exists() for draft in [*left, mine]] == [False, False, True, True]
    assert store.read("a/b.txt") == b"one"


def test_a_store_within_a_store(store):
    store.at("seed-1").write("a.txt", "here")
    assert store.read("seed-1/a.txt") == b"here"
    assert store.at("") is store


def test_unknown_file_system():
    with pytest.raises(InputError, match="is no path or URI"):
        RunStore("nosuch://bucket/run")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:hunter2@bucket/run",
        "s3://key:hunter2/with/slashes@bucket/run",
        "s3://bucket/run?region=eu&secret_key=hunter2",
        "abfs://:hunter2@account.blob.core.windows.net/run",
    ],
)
def test_a_password_in_a_uri_is_refused_and_not_shown(uri):
    with pytest.raises(InputError, match="carries a password; give it by the environment") as refused:
        RunStore(uri)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("uri", ["gs://anonymous@bucket/run", "s3://bucket/run@2:30?endpoint_override=localhost:9000"])
def test_what_only_looks_like_a_password_is_none(uri):
    refuse_password(uri, "output")


def test_the_manifest_before_is_kept_when_the_last_one_is_none(tmp_path):
    kept = RunStore(tmp_path)
    for name in ("a", "b"):
        kept.commit_folder(name, lambda folder: (folder / "x").write_text("x"))
    (tmp_path / "manifest.json").write_text("{}")
    kept.commit_folder("c", lambda folder: (folder / "x").write_text("x"))
    (tmp_path / "manifest.json").write_text("{")
    assert list(kept.manifest().folders) == ["a"]


def test_path_with_special_characters(tmp_path):
    store = RunStore(tmp_path / "a run #1 50%")
    store.write("x.txt", "here")
    assert (tmp_path / "a run #1 50%" / "x.txt").read_text() == "here"


def test_options_of_a_uri_stay_at_its_end():
    store = RunStore.__new__(RunStore)
    store.uri = "s3://bucket/run?endpoint_override=localhost:9000&scheme=http"
    wanted = "s3://bucket/run/seeds/000?endpoint_override=localhost:9000&scheme=http"
    assert store.path_for_ray("seeds/000") == wanted


def test_a_manifest_of_another_shape_gives_way_to_the_one_before(store):
    store.commit_round(0, progress_of())
    store.commit_round(1, progress_of())
    whole = {"version": 4, "rounds": {}, "folders": {}}
    for shape in (
        whole | {"rounds": []},
        whole | {"rounds": {"0": {}}},
        whole | {"more": 1},
        {"rounds": {}, "folders": {}},
    ):
        store.write("manifest.json", json.dumps(shape))
        assert store.manifest().rounds.keys() == {0}


def test_no_link_leads_out_of_the_run(store, tmp_path):
    store.write("a.txt", "x")
    (tmp_path / "elsewhere").mkdir()
    Path(store.path("rounds")).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="leaves the run's directory"):
        store.write_shard(0, 0, ROWS)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_uri_is_a_local_folder(tmp_path):
    assert RunStore(f"file://{tmp_path}/run").uri == f"{tmp_path}/run"
