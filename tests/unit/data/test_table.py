"""Image sets from CSV, TSV and JSON Lines: paths, labels, and each mistake named by the line it stands in."""

import csv
import json
import pickle
from codecs import BOM_UTF8
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsf_dist.config.images import TableConfig
from rsf_dist.data.images import ImageSet, load_images
from rsf_dist.data.sources import columns, list_images
from rsf_dist.errors import InputError


def write_images(folder: Path, *names: str) -> None:
    """Write images of 2 x 3 whose grey level is 10, 20, 30, …"""
    for number, name in enumerate(names, start=1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2), (10 * number,) * 3).save(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path, "a.png", "b.png", "c.png")
    return tmp_path


def load(folder: Path, text: str | bytes, name: str = "t.csv", labelled: bool = True, **keys) -> ImageSet:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_images(TableConfig(file=str(folder / name), **keys), labelled)


def refusal(folder: Path, text: str | bytes, name: str = "t.csv", **keys) -> InputError:
    with pytest.raises(InputError) as caught:
        load(folder, text, name, **keys)
    assert "\n" not in str(caught.value)
    assert caught.value.rule
    assert caught.value.remedy
    return caught.value


def levels(images: ImageSet) -> list[int]:
    return images.images[:, 0, 0, 0].tolist()


def test_rows_are_images_in_the_table_s_order(folder):
    images = load(folder, "path,label\nb.png,dog\na.png,cat\nc.png,dog\n")
    assert levels(images) == [20, 10, 30]
    assert images.images.shape == (3, 3, 2, 3)
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [1, 0, 1]
    assert images.ids == ("b.png", "a.png", "c.png")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", BOM_UTF8 + b"path,label\na.png,x\nb.png,y\n"),
        ("t.csv", b"path;label\r\na.png;x\r\nb.png;y\r\n"),
        ("t.csv", b"path\tlabel\na.png\tx\nb.png\ty\n"),
        ("t.TSV", b"path\tlabel\na.png\tx\nb.png\ty"),
        ("t.txt", b"path|label\na.png|x\n\nb.png|y\n"),
        ("t.csv", b'note,Path , label\n"two\nlines, ""quoted""",a.png, x\n,b.png,y \n'),
        ("t.tsv", b"note\tpath\tlabel\n1,5\ta.png\tx\n2,5\tb.png\ty\n"),
        ("t.jsonl", BOM_UTF8 + b'{"path": "a.png", "label": "x"}\n\n{"label": "y", "more": [1], "path": "b.png"}\n'),
    ],
)
def test_separators_quotes_and_marks_of_editors(folder, name, text):
    images = load(folder, text, name)
    assert (levels(images), images.labels.tolist(), images.classes) == ([10, 20], [0, 1], ("x", "y"))


def test_only_images_that_are_taken_are_decoded(folder):
    (folder / "c.png").write_text("no image")
    text = "path\na.png\nb.png\nc.png\n"
    assert levels(load(folder, text, start=1, limit=1)) == [20]
    err = refusal(folder, text)
    assert err.field == f"{folder}/c.png ({folder}/t.csv line 4)"
    assert "is not a readable image" in err.rule


def test_reading_can_be_pickled(folder):
    (folder / "t.csv").write_text("path\na.png\nb.png\n")
    listing = list_images(TableConfig(file=str(folder / "t.csv")))
    assert pickle.loads(pickle.dumps(listing.read))([1, 0])["image"][:, 0, 0, 0].tolist() == [20, 10]


def test_paths_start_from_the_table_s_folder_or_from_root(tmp_path):
    write_images(tmp_path, "pictures/deep/a.png")
    (tmp_path / "tables").mkdir()
    images = load(tmp_path / "tables", "path\n./deep/../deep/a.png\n", root=str(tmp_path / "pictures"))
    assert images.ids == ("deep/a.png",)
    err = refusal(tmp_path / "tables", "path\ndeep/a.png\n")
    assert err.field == f"{tmp_path}/tables/t.csv line 2"
    assert f"there is no file {tmp_path}/tables/deep/a.png" in err.rule


def test_only_an_absolute_path_leads_out_of_the_folder(tmp_path):
    write_images(tmp_path, "a.png", "tables-too/b.png")
    (tmp_path / "tables").mkdir()
    assert load(tmp_path / "tables", f"path\n{tmp_path}/a.png\n").ids == (f"{tmp_path}/a.png",)
    for path in ("../a.png", "x/../../a.png", "../tables-too/b.png"):
        err = refusal(tmp_path / "tables", f"path\n{path}\n")
        assert err.field == f"{tmp_path}/tables/t.csv line 2"
        assert err.value == path
        assert "leads out of the folder" in err.rule
        assert "write the absolute path" in err.remedy


def test_columns_are_found_by_name_or_named(folder):
    text = "id,Filename,kind,class\n0,a.png,k,x\n1,b.png,l,y\n"
    assert load(folder, text).classes == ("x", "y")
    assert load(folder, text, label_column="kind").classes == ("k", "l")
    assert load(folder, text, label_column="").labels is None
    assert load(folder, "where\na.png\n", path_column="where").labels is None
    assert levels(load(folder, "image,path\nb.png,a.png\n")) == [10]  # path comes before image


@pytest.mark.parametrize(
    ("text", "keys", "field", "rule"),
    [
        ("where,what\na.png,x\n", {}, "path_column", "but where, what"),
        ("path,what\na.png,x\n", {"label_column": "clas"}, "label_column", "but path, what"),
        ("path,what\na.png,x\n", {"path_column": "Path"}, "path_column", "but path, what"),
        ("path,path\na.png,b.png\n", {}, "path_column", "has this column 2 times"),
    ],
)
def test_a_column_that_is_not_there_is_refused_with_those_that_are(folder, text, keys, field, rule):
    err = refusal(folder, text, **keys)
    assert err.field == field
    assert rule in err.rule


@pytest.mark.parametrize(
    ("cells", "classes", "labels", "names"),
    [
        (["1", "0", "3"], (), [1, 0, 3], ("0", "1", "2", "3")),
        (["1.0", "0", "1.0"], (), [1, 0, 1], ("0", "1")),  # as pandas writes whole numbers beside empty cells
        (["1", "0", "1"], ("x", "y"), [1, 0, 1], ("x", "y")),
        (["b", "a", "b"], ("b", "c", "a"), [0, 2, 0], ("b", "c", "a")),
        (["010", "007", "010"], (), [1, 0, 1], ("007", "010")),
        (["2_1", "1_0", "2_1"], (), [1, 0, 1], ("1_0", "2_1")),  # numbers to Python alone
        (["٣", "٢", "٣"], (), [1, 0, 1], ("٢", "٣")),
        (["3", "5", "5"], ("5", "3"), [1, 0, 0], ("5", "3")),
        (["True", "False", "True"], (), [1, 0, 1], ("False", "True")),
        (["1", "x", "1.5"], (), [0, 2, 1], ("1", "1.5", "x")),
    ],
)
def test_labels_are_words_or_class_numbers(folder, cells, classes, labels, names):
    rows = zip(["a.png", "b.png", "c.png"], cells, strict=True)
    images = load(folder, "path,label\n" + "".join(f"{path},{cell}\n" for path, cell in rows), classes=classes)
    assert images.labels.tolist() == labels
    assert images.classes == names


WRONG_LABELS = [
    (["x", " ", "y"], (), 3, "(empty)", "has no label"),
    (["x", "NaN", "y"], (), 3, "(empty)", "has no label"),
    (["0", "-1", "1"], (), 3, "-1", "must lie in [0, 2)"),
    (["0", "1", "2"], ("x", "y"), 4, "2", "must lie in [0, 2)"),
    (["0", "100000", "2"], (), 3, "100000", "class numbers below 100,000"),
    (["x", "y", "z"], ("x", "y"), 4, "z", "is not one of the classes ['x', 'y']"),
    (["1", "0.25", "2"], (), 3, "0.25", "words or whole numbers"),
    (["0", "1", "1"], ("1", "0"), 2, "0", "is the name of class 1, and the number of the class named 1"),
]


@pytest.mark.parametrize(("cells", "classes", "line", "value", "rule"), WRONG_LABELS)
def test_labels_that_are_not_wanted_are_not_looked_at(folder, cells, classes, line, value, rule):
    rows = zip(["a.png", "b.png", "c.png"], cells, strict=True)
    text = "path,label\n" + "".join(f"{path},{cell}\n" for path, cell in rows)
    images = load(folder, text, labelled=False, classes=classes)
    assert (images.labels, levels(images)) == (None, [10, 20, 30])


def test_without_labels_a_limit_still_takes_sound_classes_in_turn_and_a_missing_file_is_refused(folder):
    text = "path,label\na.png,x\nb.png,x\nc.png,y\n"
    assert levels(load(folder, text, labelled=False, limit=2)) == [10, 30]
    assert levels(load(folder, text.replace("y", ""), labelled=False, limit=2)) == [10, 20]
    assert "there is no file" in refusal(folder, text.replace("c.png", "d.png"), labelled=False).rule


@pytest.mark.parametrize(("cells", "classes", "line", "value", "rule"), WRONG_LABELS)
def test_a_wrong_label_is_named_by_its_line(folder, cells, classes, line, value, rule):
    rows = zip(["a.png", "b.png", "c.png"], cells, strict=True)
    err = refusal(folder, "path,label\n" + "".join(f"{path},{cell}\n" for path, cell in rows), classes=classes)
    assert err.field == f"{folder}/t.csv line {line}"
    assert str(err.value) == value
    assert rule in err.rule


@pytest.mark.parametrize(
    ("text", "line", "rule"),
    [
        (b"path,label\na.png,x\nb.png\n", 3, "must have 2 cells"),
        (b"path,label\na.png,x,y\n", 2, "must have 2 cells"),
        (b'path,label\na.png,x\nb.png,"y\nc.png,z\n', 3, "cannot be read as CSV"),
        (b"path,label\na.png,x\n,y\n", 3, "has no path"),
        (b"path,label\na.png,x\nb.png,y\n./a.png,x\n", 4, "is named in line 2 already"),
        (b"path,label\na.png,x\nz.png,y\nzz.png,y\n", 3, "as 1 more are"),
        (b"path,label\na.png,x\ns3://bucket/b.png,y\n", 3, "there is no file"),
        (b"path,label\na.png,x\nb\0.png,y\n", 3, "there is no file"),
        (b"path,label\na.png,x\nb.png,\xe9t\xe9\n", 3, "must be UTF-8"),
        (b'note,path\n"two\nlines",a.png\nx,z.png\n', 4, "there is no file"),
    ],
)
def test_a_broken_row_is_named_by_its_line(folder, text, line, rule):
    err = refusal(folder, text)
    assert err.field == f"{folder}/t.csv line {line}"
    assert rule in err.rule


@pytest.mark.parametrize(
    ("text", "line", "rule"),
    [
        ('{"path": "a.png"}\n{"path": "b.png"\n', 2, "is not JSON"),
        ('{"path": "a.png"}\n\n["b.png"]\n', 3, "must be a JSON object"),
        ("[" * 100_000, 1, "is not JSON"),
        ('{"path": "a.png"}\n{"file": "b.png"}\n', 2, "has no path"),
        ('{"path": "a.png"}\n{"path": 7}\n', 2, "has no path"),
        ('{"path": "a.png"}\n{"path": "\\ud800.png"}\n', 2, "there is no file"),
        ('{"path": "a.png"}\n{"path": "b.png", "label": "x"}\n', 1, "has no label"),
        ('{"path": "a.png", "label": "x"}\n{"path": "b.png", "label": ["x"]}\n', 2, "a word or a whole number"),
        ('{"path": "a.png", "label": 1}\n{"path": "b.png", "label": NaN}\n', 2, "has no label"),
        (f'{{"path": "a.png", "label": {10**30}}}\n', 1, "words or whole numbers"),
    ],
)
def test_a_broken_line_of_json_is_named(folder, text, line, rule):
    err = refusal(folder, text, "t.jsonl")
    assert err.field == f"{folder}/t.jsonl line {line}"
    assert rule in err.rule


def test_labels_of_json_are_words_numbers_or_flags(folder):
    for labels, numbers, classes in [
        ([2, 0], [2, 0], ("0", "1", "2")),
        ([True, False], [1, 0], ("false", "true")),
        (["y", "x"], [1, 0], ("x", "y")),
    ]:
        rows = [{"path": path, "label": label} for path, label in zip(["a.png", "b.png"], labels, strict=True)]
        images = load(folder, "\n".join(map(json.dumps, rows)), "t.ndjson")
        assert (images.labels.tolist(), images.classes) == (numbers, classes)


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("t.csv", b"", "holds no images"),
        ("t.csv", b"path,label\n", "holds no images"),
        ("t.jsonl", b"\n", "holds no images"),
        ("t.csv", "path\na.png\n".encode("utf-16"), "must be UTF-8"),
        ("t.xlsx", b"PK", "must end in .csv"),
        ("t.parquet", b"PAR1", "must end in .csv"),
    ],
)
def test_a_file_that_is_no_table_is_refused(folder, name, text, rule):
    assert rule in refusal(folder, text, name).rule


def test_a_table_that_is_not_there_is_refused_by_its_key(folder):
    (folder / "folder.csv").mkdir()
    for name, rule in [("none.csv", "does not exist"), ("folder.csv", "must be a file")]:
        with pytest.raises(InputError, match=rule) as caught:
            load_images(TableConfig(file=str(folder / name)))
        assert caught.value.field == "file"


def test_images_of_several_sizes_need_a_size(folder):
    Image.new("L", (5, 5), 70).save(folder / "b.png")
    text = "path\na.png\nb.png\n"
    err = refusal(folder, text)
    assert err.field == "size"
    assert "b.png" in err.rule
    assert load(folder, text, size=(4, 4), channels=1).images.shape == (2, 1, 4, 4)


def test_a_table_that_python_s_csv_module_wrote_is_read_back(folder):
    """Names with separators, quotes and line breaks."""
    names = ['a,"b".png', "c;d.png", "line\nbreak.png", " spaces .png"]
    write_images(folder, *names)
    with (folder / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *([name, "x"] for name in names)])
    images = load_images(TableConfig(file=str(folder / "t.csv")))
    assert images.ids == tuple(names)
    assert levels(images) == [10, 20, 30, 40]


def test_lack_of_memory_is_said_as_that(folder, monkeypatch):
    def fail(*given):
        raise MemoryError

    monkeypatch.setattr(columns, "decode_deep", fail)
    error = refusal(folder, "path\na.png\nb.png\n")
    assert (error.field, error.value) == ("file", "2 images")
    assert error.rule == "do not fit into this machine's memory"


def test_twelve_bits_in_sixteen_are_refused_or_scaled_by_bits(folder):
    for name, level in (("a", 4095), ("b", 2184)):
        Image.fromarray(np.full((2, 2), level, np.uint16)).save(folder / f"{name}.png")
    text = "path\na.png\nb.png\n"
    error = refusal(folder, text)
    assert (error.field, "`bits: 12`" in error.remedy) == ("bits", True)
    assert levels(load(folder, text, bits=12)) == [255, 136]  # 2184 / 4095 = 8 / 15
    assert levels(load(folder, text, bits=16)) == [16, 8]
    assert "brighter than 1023" in refusal(folder, text, bits=10).rule
