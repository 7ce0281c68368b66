"""`rsf verify`: a run in order is said to be, and whatever is wrong is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small import small_run_in

from rsf_dist import cli
from rsf_dist.config.load import parse_config
from rsf_dist.runs import pipeline
from rsf_dist.runs.verification import verify
from rsf_dist.runtime.progress import PlainLines
from rsf_dist.storage.run_store import RunStore

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def sampled(tmp_path_factory, ray_address: str) -> Path:
    folder = tmp_path_factory.mktemp("sampled")
    pipeline.sample(parse_config(small_run_in(folder)))
    return folder / "run"


@pytest.fixture
def run(sampled: Path, tmp_path: Path) -> Path:
    shutil.copytree(sampled, tmp_path / "run")
    return tmp_path / "run"


def shards(run: Path) -> list[Path]:
    return sorted(run.glob("rounds/000/accepted/*.parquet"))


def wrong(run: Path) -> list[str]:
    return list(verify(str(run), num_chunks=99, rng=np.random.default_rng(0)).wrong)


def test_a_run_in_order(run: Path, capsys, monkeypatch) -> None:
    found = verify(str(run), num_chunks=99)
    listed = RunStore(run).round(0)
    assert found.wrong == ()
    assert found.num_chunks == listed.chunks
    assert found.num_rows == sum(pq.read_table(run / shard.path).num_rows for shard in listed.shards)
    monkeypatch.setattr("sys.argv", ["rsf", "verify", str(run), "--chunks", "2"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "in order:" in capsys.readouterr().out


def test_chunks_of_a_gpu_are_not_drawn_again_on_a_cpu(run: Path, capsys) -> None:
    """Whose rounding is another: that is said, and not that the run is wrong."""
    written = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(written.replace("gpus_per_actor: 0.0", "gpus_per_actor: 0.5"))
    found = verify(str(run), num_chunks=99, progress=PlainLines())
    assert (found.wrong, found.num_chunks) == ((), 0)
    assert found.num_rows >= 256  # the rest is checked
    assert "drawn on GPUs" in capsys.readouterr().err


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def edit_report(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    report["rounds"][0]["sampling"]["num_proposed"] += 1
    (run / "report.json").write_text(json.dumps(report))


def lie_twice(run: Path) -> None:
    """In the manifest and in report.json alike."""
    report = json.loads((run / "report.json").read_text())
    report["rounds"][0]["sampling"]["num_capped"] = 7
    (run / "report.json").write_text(json.dumps(report))
    RunStore(run).commit(lambda manifest: manifest.rounds[0].result.report.update({"num_capped": 7}))


def forge(run: Path, change) -> None:
    """Replace the rows of a shard, and its SHA-256 in the manifest with it: the file is whole."""
    store = RunStore(run)
    shard = store.round(0).shards[1]
    forged = store.write_shard(0, shard.chunk, change(store.read_shard(shard)))

    store.commit(lambda manifest: manifest.rounds[0].shards.__setitem__(1, forged))


def without_labels(rows):
    return rows.drop_columns(["label"])


def labels_as_text(rows):
    return rows.set_column(rows.column_names.index("label"), "label", rows["label"].cast(pa.string()))


def relabelled(rows):
    return rows.set_column(rows.column_names.index("label"), "label", [(rows["label"].to_numpy() + 1) % 10])


def reweighted(rows):
    return rows.set_column(rows.column_names.index("weight"), "weight", [rows["weight"].to_numpy() * 2])


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda run: flip(shards(run)[0]), ["missing or differs from its SHA-256"]),
        (lambda run: shards(run)[1].unlink(), ["missing or differs from its SHA-256"]),
        (
            lambda run: flip(run / "rounds/000/ratio/network-0.safetensors"),
            ["differs from", "without rounds/000/ratio"],
        ),
        (lie_twice, ["the manifest reports num_capped=7, and of the rows it is"]),
        (lambda run: flip(run / "rounds/000/pilot/pilot.npz"), ["drawn again without rounds/000/pilot"]),
        (lambda run: (run / "report.json").write_text("{"), ["has no entry for it, or is damaged"]),
        (edit_report, ["report.json has sampling.num_proposed"]),
        (lambda run: (run / "report.json").unlink(), ["report.json has no entry for it"]),
        (lambda run: forge(run, lambda rows: rows.slice(1)), ["gives different rows", "another fingerprint"]),
        (lambda run: forge(run, relabelled), ["gives different rows", "another fingerprint"]),
        (lambda run: forge(run, reweighted), ["gives different rows", "are not max(1, r/M)"]),
        (lambda run: forge(run, without_labels), [".parquet=label: this column is missing, and by the manifest int64"]),
        (lambda run: forge(run, labels_as_text), [".parquet=label: this column is string, and by the manifest int64"]),
    ],
    ids=[
        "bit",
        "gone",
        "ratio",
        "report twice",
        "pilot",
        "report cut",
        "report edited",
        "report gone",
        "row left out",
        "labels changed",
        "weights changed",
        "labels gone",
        "labels as text",
    ],
)
def test_what_is_wrong_is_named(harm, told: list[str], run: Path) -> None:
    harm(run)
    found = "\n".join(wrong(run))
    assert all(text in found for text in told), found


def test_the_command_lists_what_is_wrong(run: Path, capsys, monkeypatch) -> None:
    flip(shards(run)[0])
    assert len(wrong(run)) == 1  # and not that the libraries draw otherwise
    monkeypatch.setattr("sys.argv", ["rsf", "verify", str(run)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().out.startswith("wrong: rounds/000/accepted/chunk-")


@pytest.mark.parametrize("change", [without_labels, labels_as_text])
def test_rows_with_other_columns_are_not_trained_on(change, run: Path, capsys, monkeypatch) -> None:
    forge(run, change)
    shard = RunStore(run).round(0).shards[1].path
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["rsf", "train", str(run)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert len(told) == 1
    assert told[0].startswith(f"error: {shard}=label: this column is ")
