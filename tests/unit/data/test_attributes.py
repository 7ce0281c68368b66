"""Columns of numbers beside the images of a CSV, JSON Lines, Parquet or npz file, up to the rows that a ratio sees."""

import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bad_input.case import sound_run
from PIL import Image

from rsf_dist.config.images import NpzConfig, ParquetConfig, TableConfig
from rsf_dist.config.load import parse_config
from rsf_dist.data.images import load_images
from rsf_dist.data.sources import list_images
from rsf_dist.data.sources.base import InOnePass
from rsf_dist.data.sources.streamed import StreamedImages
from rsf_dist.errors import InputError
from rsf_dist.proposals import PoolProposal
from rsf_dist.ratios import VerifierRatio
from rsf_dist.sampling.chunk import ChunkWork

AGES, SCORES = [3, 50, 7, 20], [0.5, 1.0, -2.0, 1e-3]


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), grey).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def source(tmp_path):
    """Return a function that writes a source of a kind with columns, and returns its configuration."""
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(number))

    def write(kind, attributes=("age", "score"), **columns):
        columns = {"label": ["a", "b", "a", "b"], "age": AGES, "score": SCORES} | columns
        names = list(columns)
        rows = list(zip(*(columns[name] for name in names), strict=kind != "npz"))
        given = {"channels": 1, "attributes": attributes}
        if kind == "csv":
            lines = [",".join(["path", *names])]
            lines += [",".join([f"{number}.png", *map(str, row)]) for number, row in enumerate(rows)]
            (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
            return TableConfig(file=str(tmp_path / "rows.csv"), **given)
        if kind == "jsonl":
            lines = [
                json.dumps({"path": f"{n}.png", **dict(zip(names, row, strict=True))}) for n, row in enumerate(rows)
            ]
            (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
            return TableConfig(file=str(tmp_path / "rows.jsonl"), **given)
        if kind == "parquet":
            table = {"image": [png(number) for number in range(4)], **{name: columns[name] for name in names}}
            pq.write_table(pa.table(table), tmp_path / "rows.parquet", row_group_size=3)
            return ParquetConfig(root=str(tmp_path / "rows.parquet"), **given)
        arrays = {name: np.array(columns[name]) for name in names if name != "label"}
        images = np.arange(4, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
        np.savez(tmp_path / "rows.npz", images=images, labels=np.arange(4) % 2, **arrays)
        return NpzConfig(root=str(tmp_path / "rows.npz"), **given)

    return write


KINDS = ["csv", "jsonl", "parquet", "npz"]


@pytest.mark.parametrize("kind", KINDS)
def test_columns_come_with_the_images_that_are_taken(kind, source):
    config = source(kind)
    images = load_images(config)
    assert images.annotations["age"].tolist() == AGES
    assert images.annotations["age"].dtype == torch.int64
    assert images.annotations["score"].tolist() == SCORES
    assert images.annotations["score"].dtype == torch.float64
    part = load_images(config.model_copy(update={"start": 1, "limit": 2}))
    assert part.annotations["age"].tolist() == [AGES[grey] for grey in part.images[:, 0, 0, 0].tolist()]
    assert images.digest() != load_images(source(kind, age=[3, 50, 7, 21])).digest()
    assert load_images(source(kind, attributes=())).annotations == {}  # the negative control: none were asked for
    assert load_images(config, labelled=False).annotations == {}
    assert pickle.loads(pickle.dumps(list_images(config).read))([2])["age"].tolist() == [7]


def test_large_arrays_are_still_read_in_one_pass(source, monkeypatch):
    monkeypatch.setattr("rsf_dist.data.sources.npz.LARGE_BYTES", 1)
    read = list_images(source("npz")).read
    assert isinstance(read, InOnePass)
    assert isinstance(read.read, StreamedImages)
    blocks = list(read.blocks([[0, 1], [3]]))
    assert [block["age"].tolist() for block in blocks] == [[3, 50], [20]]
    assert [block["image"][:, 0, 0, 0].tolist() for block in blocks] == [[0, 1], [3]]
    assert load_images(source("npz")).annotations["score"].tolist() == SCORES


@pytest.mark.parametrize("kind", KINDS)
def test_a_verifier_sees_them_in_the_rows_of_a_pool(kind, source):
    ratio = VerifierRatio(lambda batch: (batch["age"] > 5) & (batch["score"] < 1), columns=["age", "score"])
    rows = ChunkWork(PoolProposal(load_images(source(kind))), ratio, 0.0, 4, seed=0, pool_size=4)(0).rows
    assert rows["base_index"].tolist() == [2, 3]
    assert rows["age"].tolist() == [7, 20]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("ages", "told"),
    [
        ([3, "old", 7, 20], "age must be a finite number"),
        ([3, "1_0", 7, 20], "age must be a finite number"),
        ([3, "inf", 7, 20], "age must be a finite number"),
        ([3, "", 7, 20], "has no age; fill it in, or remove the row"),
        ([3, "nan", 7, 20], "has no age"),
        ([3, str(2**63), 7, 20], "age must fit into 64 bits"),
        ([3, "-1e999", 7, 20], "age must be a finite number"),
    ],
)
def test_what_is_no_number_is_refused_with_its_row(kind, ages, told, source):
    with pytest.raises(InputError, match=told) as caught:
        load_images(source(kind, age=[str(age) for age in ages]))
    place = {"csv": "rows.csv line 3", "jsonl": "rows.jsonl line 2", "parquet": "rows.parquet row 1"}[kind]
    assert place in str(caught.value)


def test_empty_cells_and_numbers_without_an_end_are_refused_where_types_know_them(source):
    for ages, told in [([3, None, 7, 20], "has no age"), ([3.0, float("inf"), 7.0, 20.0], "must be a finite number")]:
        with pytest.raises(InputError, match=told):
            load_images(source("parquet", age=ages))
    with pytest.raises(InputError, match=r"image 1 \(the first is 0\)=\(empty\): has no age"):
        load_images(source("npz", age=[3.0, float("nan"), 7.0, 20.0]))
    assert load_images(source("parquet", age=[True, False, True, True])).annotations["age"].tolist() == [1, 0, 1, 1]
    assert load_images(source("csv", age=["1e300", " 2 ", "-3", "+4"])).annotations["age"].tolist() == [1e300, 2, -3, 4]
    assert load_images(source("csv", age=["true", "False", "1", "0"])).annotations["age"].tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_not_there_is_named(kind, source):
    with pytest.raises(InputError, match=r"attributes=wage: .* no such"):
        load_images(source(kind, attributes=("wage",)))


def test_an_npz_array_of_another_length_is_refused(source):
    with pytest.raises(InputError, match=r"attributes=age \[3\]: must have one number for each of the 4 images"):
        load_images(source("npz", age=[1, 2, 3]).model_copy(update={"attributes": ("age",)}))


@pytest.mark.parametrize(
    ("attributes", "told"),
    [(["weight"], "weight is a column of rows already"), (["age", "age"], "age is there twice"), ("age", "list")],
)
def test_names_that_rows_have_already_are_refused(attributes, told, tmp_path):
    raw = sound_run(tmp_path)
    raw["source"]["attributes"] = attributes
    with pytest.raises(InputError, match=told) as caught:
        parse_config(raw)
    assert caught.value.field.startswith("source.attributes")
