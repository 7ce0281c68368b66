"""Accepted rows written in the formats of other tools, and read back."""

import csv
import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
import torch
from data.annotated_files import load
from stored_runs import (
    accepted_rows,
    begin,
    class_folders,
    config_of,
    drawn_chunks,
    store_round,
    stored_run,
    with_boxes,
    with_masks,
)

from rsf_dist.config.model import ModelConfig
from rsf_dist.data.batch import concat, select
from rsf_dist.data.export import WRITERS
from rsf_dist.errors import InputError
from rsf_dist.models.spec import NetworkSpec, save_network
from rsf_dist.outputs import export as export_module
from rsf_dist.outputs.export import export
from rsf_dist.runtime.progress import Progress
from rsf_dist.storage.run_store import RunStore

NAMES = [f"{name}/{name}-{number}.png" for name in ("cat", "dog") for number in range(4)]


def refused(*arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        export(*map(str, arguments), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "provenance.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def readable(folder: Path, format: str, **options):
    """What our own source of a format reads back, in the order of the rows."""
    if format == "folder":
        return load("table", file=folder / "provenance.csv", path_column="file", **options)
    if format == "parquet":
        return load("parquet", root=folder, **options)
    return load("table", file=folder / "train" / "metadata.jsonl", path_column="file_name", **options)


@pytest.mark.parametrize("format", ["folder", "parquet", "huggingface"])
def test_a_labelled_run_reads_back_pixel_for_pixel(format, tmp_path):
    config = stored_run(tmp_path)
    rows, done = accepted_rows(config), export(config.output, str(tmp_path / "out"), format)
    assert (done.num_rows, done.seed, done.round, done.has_source) == (20, 0, 0, True)
    found = readable(tmp_path / "out", format)
    assert torch.equal(found.images, rows["image"])
    assert torch.equal(found.labels, rows["label"])
    assert found.classes == ("cat", "dog")
    assert not ray.is_initialized()


def test_class_folders_read_back_as_such(tmp_path):
    config = stored_run(tmp_path)
    export(config.output, str(tmp_path / "out"))
    found, rows = load("image_folder", root=tmp_path / "out"), accepted_rows(config)
    order = [f"{found.classes[label]}/{chunk:06d}-{index:02d}.png" for label, chunk, index in
             zip(rows["label"].tolist(), rows["chunk"].tolist(), rows["index"].tolist(), strict=True)]  # fmt: skip
    assert sorted(order) == sorted(found.ids)
    assert torch.equal(found.images[[found.ids.index(name) for name in order]], rows["image"])


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_rows_stay_grey_and_colours_stay_colours(channels, tmp_path):
    root = class_folders(tmp_path / "source", channels=channels)
    source = {"kind": "image_folder", "root": str(root), "channels": channels}
    config = config_of(source, tmp_path / "run")
    store_round(begin(config), 0, drawn_chunks(config, 0), 20)
    export(config.output, str(tmp_path / "out"), "parquet")
    found = load("parquet", root=tmp_path / "out", channels=channels)
    assert torch.equal(found.images, accepted_rows(config)["image"])


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_boxes_read_back(format, tmp_path):
    config = stored_run(tmp_path, change=with_boxes)
    out = tmp_path / "out"
    export(config.output, str(out), format)
    options = {
        "coco": {"root": out / "images", "annotations": out / "annotations.json"},
        "voc": {"root": out, "split": "all", "classes": ("cat", "dog")},
        "yolo": {"root": out},
    }
    found, rows = load(format, **options[format]), with_boxes(accepted_rows(config))
    assert torch.equal(found.images, rows["image"])
    assert torch.equal(
        found.annotations["box_label"], torch.cat([with_boxes(c)["box_label"] for c in drawn_chunks(config, 0)])[:20]
    )
    present = found.annotations["box_label"] >= 0
    assert (
        found.annotations["boxes"][present]
        .unique(dim=0)
        .allclose(torch.tensor([[0, 3, 12, 10], [1, 2, 5, 6.5]]), atol=1e-5)
    )
    assert [row["source"] for row in table_of(out)] == [NAMES[number] for number in rows["base_index"].tolist()]


def test_masks_read_back_from_both_formats_that_hold_them(tmp_path):
    config = stored_run(tmp_path, change=with_masks)
    rows = with_masks(accepted_rows(config))
    out = tmp_path / "out"
    export(config.output, str(out), "masks")
    assert (out / "classes.txt").read_text() == "cat\ndog\n"
    found = load("mask_folder", root=out / "images", masks=out / "masks", classes=("cat", "dog"))
    export(config.output, str(tmp_path / "coco"), "coco")
    files = {"root": tmp_path / "coco" / "images", "annotations": tmp_path / "coco" / "annotations.json"}
    for read in (found, load("coco", **files, masks=True, background=None)):
        assert torch.equal(read.images, rows["image"])
        assert torch.equal(read.annotations["mask"], rows["mask"])


def test_boxes_and_masks_in_tables(tmp_path):
    config = stored_run(tmp_path, change=lambda rows: with_masks(with_boxes(rows)))
    export(config.output, str(tmp_path / "parquet"), "parquet")
    table = pq.read_table(tmp_path / "parquet").to_pylist()
    assert table[0]["objects"] == {"bbox": [[1.0, 2.0, 4.0, 4.5]], "category": ["cat"], "iscrowd": [0]}
    assert table[1]["objects"]["category"] == ["cat", "dog"]
    assert table[0]["mask"]["bytes"][:4] == b"\x89PNG"
    export(config.output, str(tmp_path / "hf"), "huggingface")
    lines = (tmp_path / "hf" / "train" / "metadata.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["objects"] == table[0]["objects"]
    assert (tmp_path / "hf" / "train" / first["mask_file_name"]).read_bytes() == table[0]["mask"]["bytes"]


def test_provenance_of_every_row(tmp_path):
    config = stored_run(tmp_path)
    rows = accepted_rows(config)
    export(config.output, str(tmp_path / "out"))
    table = table_of(tmp_path / "out")
    assert list(table[0]) == [
        "file",
        "label",
        "source",
        "round",
        "chunk",
        "index",
        "log_ratio",
        "weight",
        "seed",
        "rotation",
    ]
    assert [(int(row["chunk"]), int(row["index"])) for row in table] == list(
        zip(rows["chunk"].tolist(), rows["index"].tolist(), strict=True)
    )
    assert [row["source"] for row in table] == [NAMES[number] for number in rows["base_index"].tolist()]
    assert [row["label"] for row in table] == [row["source"].split("/")[0] for row in table]
    assert torch.tensor([float(row["rotation"]) for row in table]).equal(rows["rotation"])
    assert {(row["round"], row["seed"], float(row["log_ratio"]), float(row["weight"])) for row in table} == {
        ("0", "0", 0.0, 1.0)
    }
    parquet = tmp_path / "parquet"
    export(config.output, str(parquet), "parquet")
    assert pq.read_table(parquet)["source"].to_pylist() == [row["source"] for row in table]


def test_source_names_are_those_of_when_the_run_began(tmp_path):
    config = stored_run(tmp_path)
    (tmp_path / "source" / "cat" / "cat-0.png").rename(tmp_path / "source" / "cat" / "zz.png")
    export(config.output, str(tmp_path / "out"), "parquet")
    rows = accepted_rows(stored_run(tmp_path / "again"))
    assert pq.read_table(tmp_path / "out")["source"].to_pylist() == [NAMES[n] for n in rows["base_index"].tolist()]


def test_a_run_that_keeps_no_names_lists_its_source_again_with_start_and_limit(tmp_path):
    source = {"kind": "image_folder", "root": str(class_folders(tmp_path / "source")), "start": 2, "limit": 4}
    config = config_of(source, tmp_path / "run")
    store_round(begin(config, keeps_names=False), 0, drawn_chunks(config, 0), 20)
    export(config.output, str(tmp_path / "out"), "parquet")
    names = ["cat/cat-1.png", "cat/cat-2.png", "dog/dog-1.png", "dog/dog-2.png"]
    found = pq.read_table(tmp_path / "out")["source"].to_pylist()
    assert found == [names[number] for number in accepted_rows(config)["base_index"].tolist()]


class Lines(Progress):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def add_an_image(source: Path) -> None:
    class_folders(source, ("bird",), each=1)


def swap_two_images(source: Path) -> None:
    (source / "cat" / "cat-0.png").rename(source / "cat" / "zz.png")


def move_away(source: Path) -> None:
    source.rename(source.with_name("elsewhere"))


@pytest.mark.parametrize("change", [add_an_image, swap_two_images, move_away])
def test_a_run_that_keeps_no_names_never_names_images_that_changed_since(change, tmp_path):
    source = {"kind": "image_folder", "root": str(class_folders(tmp_path / "source"))}
    config = config_of(source, tmp_path / "run")
    store, chunks, rows = begin(config, keeps_names=False), drawn_chunks(config, 0), accepted_rows(config)
    store_round(store, 0, chunks, 20)
    change(tmp_path / "source")
    told = refused(config.output, tmp_path / "out")  # the order of the classes is not known either
    assert told.startswith("source=8 images: differ" if change is swap_two_images else "source")
    spec = NetworkSpec(ModelConfig(width=4), 2, 3, ("cat", "dog"))
    store.commit_folder("", lambda folder: save_network(spec.build(), spec, folder))
    lines = Lines()
    assert not export(config.output, str(tmp_path / "out"), progress=lines).has_source
    assert [row["label"] for row in table_of(tmp_path / "out")] == [("cat", "dog")[n] for n in rows["label"].tolist()]
    assert {row["source"] for row in table_of(tmp_path / "out")} == {""}
    assert lines.said[-1].startswith("no row names its source image, which is not certain: source")


def test_names_that_are_damaged_are_not_used(tmp_path):
    config = stored_run(tmp_path)
    names = Path(config.output) / "inputs" / "source_names.json"
    names.write_text(names.read_text().replace("cat-0", "cat-9"))
    export(config.output, str(tmp_path / "same"), "parquet")
    found = pq.read_table(tmp_path / "same")["source"].to_pylist()
    assert found == [NAMES[number] for number in accepted_rows(config)["base_index"].tolist()]
    (tmp_path / "source" / "cat" / "cat-0.png").unlink()
    assert "source=7 images: differ" in refused(config.output, tmp_path / "out")
    (names.parent / "digests.json").unlink()
    assert "of which it keeps no digest" in refused(config.output, tmp_path / "out")


def test_parameters_that_are_named_like_columns_of_the_export_are_kept_under_another_name(tmp_path):
    taken = ("source", "seed", "file", "file_name", "mask_file_name", "objects", "seed_parameter")

    def named(rows):
        return rows | {name: rows["rotation"] + number for number, name in enumerate(taken)}

    config = stored_run(tmp_path, change=named)
    rows = named(accepted_rows(config))
    for format in ("folder", "parquet", "huggingface"):
        export(config.output, str(tmp_path / format), format)
    table = pq.read_table(tmp_path / "parquet")
    assert table["source"].to_pylist() == [NAMES[number] for number in rows["base_index"].tolist()]
    assert set(table["seed"].to_pylist()) == {0}
    lines = (tmp_path / "huggingface" / "train" / "metadata.jsonl").read_text().splitlines()
    for name in taken:
        written = {"seed": "seed_parameter_", "seed_parameter": name}.get(name, f"{name}_parameter")
        assert torch.tensor(table[written].to_pylist()).equal(rows[name])
        assert torch.tensor([float(row[written]) for row in table_of(tmp_path / "folder")]).equal(rows[name])
        assert torch.tensor([json.loads(line)[written] for line in lines]).equal(rows[name])


def test_rows_that_trace_back_to_no_image(tmp_path):
    config = stored_run(tmp_path, change=lambda rows: {k: v for k, v in rows.items() if k != "base_index"})
    assert not export(config.output, str(tmp_path / "out")).has_source
    assert {row["source"] for row in table_of(tmp_path / "out")} == {""}
    mixed = stored_run(tmp_path / "mixed", change=lambda rows: rows | {"base_index": rows["base_index"] - 4})
    export(mixed.output, str(tmp_path / "mixed-out"))  # -1 is what a target row of a mixture has
    found = {row["source"] for row in table_of(tmp_path / "mixed-out")}
    assert found == {"", *NAMES[:4]}


def test_blocks_leave_no_trace(tmp_path, monkeypatch):
    config = stored_run(tmp_path, change=with_boxes)
    sizes = []
    for name, rows_at_once in (("one", 256), ("three", 3)):
        monkeypatch.setattr(export_module, "_BLOCK_ROWS", rows_at_once)
        for format in ("coco", "yolo", "huggingface"):
            export(config.output, str(tmp_path / name / format), format)
    monkeypatch.setattr(WRITERS["coco"], "write", lambda self, images, about: sizes.append(len(images)))
    export(config.output, str(tmp_path / "sizes"), "coco")
    assert max(sizes) == 3
    assert sum(sizes) == 20
    files = [path for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
    assert len(files) > 60
    for path in files:
        assert path.read_bytes() == (tmp_path / "three" / path.relative_to(tmp_path / "one")).read_bytes()


def test_rows_that_a_larger_m_gave_up_are_left_out_and_weights_follow_it(tmp_path):
    config = stored_run(tmp_path)
    chunks = drawn_chunks(config, 0)
    for rows in chunks:  # two capped rows, above the M that came later and above the first M alone
        rows["log_ratio"][:2] = torch.tensor([1.5, 0.8])
        rows["accept_key"][:2] = torch.tensor([1.6, 0.9])
    everything = concat(chunks)
    kept = select(everything, everything["accept_key"] > 1.0)
    assert 0 < len(kept["index"]) < len(everything["index"])
    store_round(RunStore(config.output), 0, chunks, len(kept["index"]), log_m=1.0)
    export(config.output, str(tmp_path / "out"), "parquet")
    table = pq.read_table(tmp_path / "out")
    assert table["index"].to_pylist() == kept["index"].tolist()
    weights = {round(weight, 5) for weight in table["weight"].to_pylist()}
    assert weights == {1.0, round(math.exp(0.5), 5)}  # r/M = e^1.5 / e^1


def test_the_seed_and_the_round_are_chosen(tmp_path):
    config = stored_run(tmp_path, seeds=3, seed=5)
    for seed in (5, 7):
        done = export(config.output, str(tmp_path / f"out-{seed}"), "parquet", seed=seed)
        assert done.seed == seed
        table = pq.read_table(tmp_path / f"out-{seed}")
        assert table["index"].to_pylist() == accepted_rows(config, seed=seed)["index"].tolist()
        assert set(table["seed"].to_pylist()) == {seed}
    assert export(config.output, str(tmp_path / "first"), "parquet").seed == 5
    assert "--seed=8: is no seed of this run, whose seeds are 5, 6, 7" in refused(config.output, seed=8)
    at = RunStore(config.output).at("seeds/000")
    store_round(at, 5, drawn_chunks(config, 5, round=1), 10, round=1)
    assert export(config.output, str(tmp_path / "last")).round == 1
    assert {row["round"] for row in table_of(tmp_path / "last")} == {"1"}
    assert export(config.output, str(tmp_path / "zero"), round=0).num_rows == 20
    assert "--round=2: is no round" in refused(config.output, round=2)


def test_a_run_without_accepted_rows_is_refused_in_one_line(tmp_path):
    source = {"kind": "image_folder", "root": str(class_folders(tmp_path / "source"))}
    config = config_of(source, tmp_path / "run")
    assert "name the directory of an rsf run" in refused(tmp_path / "run")
    store = begin(config)
    told = refused(config.output, tmp_path / "out")
    assert "has not accepted the rows to train on yet (no round is done); run it again: it goes on" in told
    store_round(store, 0, drawn_chunks(config, 0), 20, last=False)
    assert "rounds done: 0" in refused(config.output, tmp_path / "out")
    assert "--round 0" in refused(config.output, tmp_path / "out")
    assert export(config.output, str(tmp_path / "out"), round=0).num_rows == 20
    progress = store.round(0).model_copy(update={"result": None})
    store.commit_round(0, progress)
    assert "no round is done" in refused(config.output, tmp_path / "more", round=0)


@pytest.mark.parametrize("format", ["coco", "voc", "yolo", "masks", "zip"])
def test_a_format_that_labels_do_not_fit(format, tmp_path):
    config = stored_run(tmp_path)
    told = refused(config.output, tmp_path / "out", format=format)
    assert told.startswith(f"--format={format}: ")
    assert told.endswith("choose one of folder, parquet, huggingface")
    assert not (tmp_path / "out").exists()


def test_formats_that_boxes_and_masks_do_not_fit(tmp_path):
    boxed, masked = (stored_run(tmp_path / str(n), change=add) for n, add in enumerate((with_boxes, with_masks)))
    for format in ("folder", "masks"):
        assert refused(boxed.output, format=format).endswith("coco, voc, yolo, parquet, huggingface")
    for format in ("folder", "voc", "yolo"):
        assert refused(masked.output, format=format).endswith("coco, masks, parquet, huggingface")


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_nothing_is_written_over_and_nothing_half_written_is_left(tmp_path):
    config = stored_run(tmp_path)
    there = tmp_path / "there"
    there.mkdir()
    assert "exists already" in refused(config.output, there)
    assert "must be a local folder" in refused(config.output, "s3://bucket/out")
    assert "names no folder" in refused(config.output, "")
    assert "cannot be made" in refused(config.output, tmp_path / "source" / "cat" / "cat-0.png" / "out")
    shard = Path(config.output) / "rounds/000/accepted/chunk-000002.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    before = left_behind(tmp_path)
    for above in ("x" * 300, f"deep/{'x' * 300}", f"deep/er/{'x' * 300}/still"):
        assert "cannot be made" in refused(config.output, tmp_path / above / "out")
        assert left_behind(tmp_path) == before
    assert "differs from its SHA-256" in refused(config.output, tmp_path / "deep" / "er" / "out")
    assert left_behind(tmp_path) == before


def test_by_default_the_folder_lies_beside_the_run(tmp_path, monkeypatch):
    config = stored_run(tmp_path)
    assert export(config.output + "/").output == f"{config.output}-folder"
    monkeypatch.chdir(tmp_path / "source")
    uri = Path(config.output).as_uri()
    assert export(uri, format="parquet").output == f"{config.output}-parquet"
    assert (tmp_path / "run-parquet").stat().st_mode & 0o777 == (tmp_path / "source").stat().st_mode & 0o777


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "x" * 300, "a\\b"])
def test_classes_that_can_name_no_folder(name, tmp_path):
    source = {"kind": "image_folder", "root": str(class_folders(tmp_path / "source")), "classes": ["cat", "dog", name]}
    config = config_of(source, tmp_path / "run")
    chunks = [rows | {"label": rows["label"] * 2} for rows in drawn_chunks(config, 0)]
    store_round(begin(config), 0, chunks, 20)
    assert "can name no folder; export as parquet or huggingface" in refused(config.output, tmp_path / "out")
    export(config.output, str(tmp_path / "out"), "parquet")
    assert load("parquet", root=tmp_path / "out").classes == ("cat", "dog", name)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: {"x": rows["rotation"], **{k: v for k, v in rows.items() if k != "image"}}, "only images"),
        (lambda rows: rows | {"image": rows["image"].float()}, "must be uint8"),
        (lambda rows: rows | {"image": rows["image"].repeat(1, 2, 1, 1)}, "neither grey nor RGB"),
        (lambda rows: rows | {"label": rows["label"] + 7}, r"label=.*must lie in \[0, 2\)"),
        (
            lambda rows: with_boxes(rows) | {"box_label": rows["label"][:, None] + 7},
            r"box_label=.*must lie in \[0, 2\)",
        ),
        (lambda rows: with_masks(rows) | {"mask": rows["image"][:, 0] | 2}, r"mask=.*must lie in \[0, 2\)"),
    ],
)
def test_rows_that_are_no_pictures_of_known_classes(change, told, tmp_path):
    config = stored_run(tmp_path, change=change)
    with pytest.raises(InputError, match=told):
        export(config.output, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_unlabelled_rows_lie_in_one_folder(tmp_path):
    config = stored_run(tmp_path, change=lambda rows: {k: v for k, v in rows.items() if k != "label"})
    export(config.output, str(tmp_path / "out"))
    found = load("image_folder", root=tmp_path / "out")
    assert found.labels is None
    assert torch.equal(found.images, accepted_rows(config)["image"])  # names in order of chunk and index


def test_numbers_that_json_does_not_know_are_null(tmp_path):
    config = stored_run(tmp_path, change=lambda rows: rows | {"rotation": rows["rotation"] * torch.nan})
    export(config.output, str(tmp_path / "out"), "huggingface")
    lines = (tmp_path / "out" / "train" / "metadata.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["rotation"] for line in lines] == [None] * 20


def test_rows_of_chunk_numbers_beyond_six_digits_keep_names_of_their_own(tmp_path):
    config = stored_run(tmp_path, change=lambda rows: rows | {"chunk": rows["chunk"] + 999_999})
    export(config.output, str(tmp_path / "out"))
    assert len({row["file"] for row in table_of(tmp_path / "out")}) == 20
