"""Shards that are whole by their SHA-256, and hold something else than the manifest says: named by file and column."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from in_process import CHUNK, sampler_into, without_ray
from ray.data import DataContext

from rsf_dist.config.sampling import Budget
from rsf_dist.errors import InputError
from rsf_dist.runs.verification import _read
from rsf_dist.sampling import accepted
from rsf_dist.sampling.accepted import AcceptedSet, check_schema, stored_dataset, stored_rows
from rsf_dist.storage.manifest import RoundProgress, Shard
from rsf_dist.storage.run_store import RunStore, _sha256

WANTED = 60
PATH = "rounds/000/accepted/chunk-000001.parquet"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return without_ray(monkeypatch)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sampled round, which every test has a copy of."""
    run = tmp_path_factory.mktemp("sampled") / "run"
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        sampler_into(RunStore(run)).sample(WANTED)
    return run


@pytest.fixture
def store(sampled: Path, tmp_path: Path, drawn: list[int]) -> RunStore:
    shutil.copytree(sampled, tmp_path / "run")
    return RunStore(tmp_path / "run")


def test_they_are_read_without_actors_for_their_footers(store, monkeypatch) -> None:
    """And whoever uses Ray Data besides keeps the reader that they have chosen."""
    asked = []

    def read(paths, **_):
        asked.append((len(paths), DataContext.get_current().use_datasource_v2))
        return SimpleNamespace(context=DataContext.get_current())

    monkeypatch.setattr(accepted.ray.data, "read_parquet", read)
    before = DataContext.get_current().use_datasource_v2
    dataset = stored_dataset(store, listed(store))
    assert asked == [(len(listed(store)), False)]
    assert dataset.context.execution_options.preserve_order
    assert DataContext.get_current().use_datasource_v2 == before
    assert not DataContext.get_current().execution_options.preserve_order


def relist(store: RunStore, shard: Shard) -> None:
    """Put the shard in the place of the second one, which the manifest tells of in the same words."""
    store.commit(lambda manifest: manifest.rounds[0].shards.__setitem__(1, shard))


def forge(store: RunStore, change: Callable[[pa.Table], pa.Table]) -> None:
    """Other rows in the second shard's place, with their right SHA-256 and number."""
    shard = listed(store)[1]
    assert shard.path == PATH
    relist(store, store.write_shard(0, shard.chunk, change(store.read_shard(shard))))


def described(store: RunStore) -> RoundProgress:
    found = store.round(0)
    assert found is not None
    return found


def listed(store: RunStore) -> list[Shard]:
    return described(store).shards


def retyped(column: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda rows: rows.set_column(rows.column_names.index(column), column, rows[column].cast(kind))


HARMS = {
    **{
        f"without {column}": (column, lambda rows, column=column: rows.drop_columns([column]), "missing, and by the")
        for column in ("x", "chunk", "accept_key", "weight")
    },
    "a column of one's own": ("mine", lambda rows: rows.append_column("mine", rows["x"]), "manifest missing"),
    "x as text": ("x", retyped("x", pa.string()), "string, and by the manifest double"),
    "x as float": ("x", retyped("x", pa.float32()), "float, and by the manifest double"),
    "chunk as double": ("chunk", retyped("chunk", pa.float64()), "double, and by the manifest int64"),
    "accept_key as text": ("accept_key", retyped("accept_key", pa.string()), "string, and by the manifest double"),
    "x renamed": ("x", lambda rows: rows.rename_columns({"x": "z"}), "missing, and by the manifest double"),
    "x in lists": (
        "x",
        lambda rows: rows.set_column(0, "x", pa.array([[x] for x in rows["x"].to_pylist()])),
        "list<element: double>, and by the manifest double",
    ),
}  # fmt: skip


def go_on(store: RunStore) -> object:
    """Resume as `rsf run` does: no stored row is drawn again."""
    return sampler_into(store, Budget(max_proposals=99 * CHUNK)).sample(2 * WANTED)


READERS = [lambda store: stored_rows(store, 0), AcceptedSet.load, go_on]


@pytest.mark.parametrize("read", READERS, ids=["stored_rows", "load", "go on"])
@pytest.mark.parametrize("harm", HARMS)
def test_wrong_columns_are_refused_in_one_line(harm: str, read, store: RunStore, drawn: list[int]) -> None:
    column, change, rule = HARMS[harm]
    forge(store, change)
    with pytest.raises(InputError) as caught:
        read(store)
    assert (caught.value.field, caught.value.value) == (PATH, column)
    assert rule in caught.value.rule
    assert str(caught.value).startswith(f"{PATH}={column}: this column is ")
    assert caught.value.remedy
    assert drawn == []


@pytest.mark.parametrize("harm", HARMS)
def test_verify_names_wrong_columns(harm: str, store: RunStore) -> None:
    column, change, _ = HARMS[harm]
    forge(store, change)
    ledgers, wrong, damaged = _read(store, described(store))
    assert len(wrong) == 1
    assert wrong[0].startswith(f"{PATH}={column}: this column is ")
    assert damaged == {1}
    assert len(ledgers) == len(listed(store)) - 1


def test_bytes_that_are_no_parquet_are_refused_in_one_line(store: RunStore) -> None:
    store.write(PATH, b"PAR1 or so")
    relist(store, Shard(1, PATH, 20, _sha256(b"PAR1 or so")))
    for read in READERS:
        with pytest.raises(InputError, match=rf"^{PATH}=.*: cannot be read as Parquet \(.*; restore the file"):
            read(store)
    _, wrong, damaged = _read(store, described(store))
    assert [line.partition("=")[0] for line in wrong] == [PATH]
    assert damaged == {1}


def test_what_is_in_order_is_read(store: RunStore) -> None:
    assert stored_rows(store, 0).num_rows == WANTED
    assert AcceptedSet.load(store).report.num_accepted == WANTED
    ledgers, wrong, damaged = _read(store, described(store))
    assert (len(ledgers), wrong, damaged) == (len(listed(store)), [], set())
    for shard in listed(store):
        assert check_schema(store.read_shard(shard), shard, described(store).columns).num_rows == shard.rows
