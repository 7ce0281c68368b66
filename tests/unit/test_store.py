import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from rsf_dist.errors import InputError
from rsf_dist.store import RunStore

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
    with pytest.raises(OSError, match="disk"):
        store.write("manifest.json", "new")
    assert store.read("manifest.json") == b"old"


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
    assert store.manifest() == {"version": 1, "rounds": {}}
    first, second = store.write_shard(0, 0, ROWS), store.write_shard(1, 4, ROWS)
    store.commit_round(0, [first], {"fingerprint": "f"})
    store.commit_round(1, [second], {"fingerprint": "g"})
    store.commit_round(0, [first], {"fingerprint": "h"})
    rounds = store.manifest()["rounds"]
    assert rounds.keys() == {"0", "1"}
    assert rounds["0"] == {"fingerprint": "h", "shards": [{"path": first.path, "rows": 2, "sha256": first.sha256}]}


def test_store_travels_by_its_uri(store):
    shard = store.write_shard(0, 0, ROWS)
    copy = pickle.loads(pickle.dumps(store))
    assert copy.uri == store.uri
    assert copy.read_shard(shard).equals(ROWS)


def test_folders_go_up_and_down(store, tmp_path):
    store.upload_with("ratio", lambda folder: (folder / "ratio.json").write_text("{}"))
    (tmp_path / "down").mkdir()
    store.download("ratio", tmp_path / "down")
    assert (tmp_path / "down" / "ratio.json").read_text() == "{}"


def test_a_store_within_a_store(store):
    store.at("seed-1").write("a.txt", "here")
    assert store.read("seed-1/a.txt") == b"here"
    assert store.at("") is store


def test_unknown_file_system():
    with pytest.raises(InputError, match="is no path or URI"):
        RunStore("nosuch://bucket/run")


def test_path_with_special_characters(tmp_path):
    store = RunStore(tmp_path / "a run #1 50%")
    store.write("x.txt", "here")
    assert (tmp_path / "a run #1 50%" / "x.txt").read_text() == "here"


def test_options_of_a_uri_stay_at_its_end():
    store = RunStore.__new__(RunStore)
    store.uri = "s3://bucket/run?endpoint_override=localhost:9000&scheme=http"
    wanted = "s3://bucket/run/seeds/000?endpoint_override=localhost:9000&scheme=http"
    assert store.path_for_ray("seeds/000") == wanted
