"""The files by which a packed image set is found again: those that its source reads, and no others."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import annotated_files as annotated
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotated_files import config
from PIL import Image

from rsf_dist.config.images import ImagesKind
from rsf_dist.data.source_files import source_files, source_key
from rsf_dist.data.sources import list_images

Written = tuple[ImagesKind, list[str]]


def image_folder(root: Path) -> Written:
    annotated.image(root / "cat" / "a.PNG")
    annotated.image(root / "dog" / "b.jpg")
    return config("image_folder", root=root), ["cat/a.PNG", "dog/b.jpg"]


def mask_folder(root: Path) -> Written:
    given = annotated.masks(root, [[0, 1, 255]] * 2)
    return config("mask_folder", **given), ["images/0.png", "masks/0.png"]


def coco(root: Path) -> Written:
    names = ["a.png", 'odd " \\ name', ".hidden/ü"]
    entries = [{"id": n, "file_name": name, "height": 20, "width": 40} for n, name in enumerate(names, start=1)]
    given = annotated.coco(root, [annotated.box(1, [1, 2, 10, 10])], images=entries)
    for name in names[1:]:
        annotated.image(root / "images.png")
        (root / "images" / name).parent.mkdir(exist_ok=True)
        (root / "images.png").rename(root / "images" / name)
    return config("coco", **given), ["coco.json", *(f"images/{name}" for name in names)]


def voc(root: Path) -> Written:
    annotated.voc(root, annotated.voc_object("cat", 1, 2, 10, 10))
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    files = ["JPEGImages/a.jpg", "Annotations/a.xml", "ImageSets/Main/train.txt"]
    return config("voc", root=root, split="train"), files


def yolo(root: Path) -> Written:
    annotated.yolo(root, "0 0.5 0.5 0.5 0.5\n", "names: [cat]\ntrain: [images/train, list.txt]\n")
    annotated.image(root / "more" / "c.png")
    (root / "list.txt").write_text("more/c.png\n")
    files = ["data.yaml", "list.txt", "more/c.png", "labels/train/a.txt", "images/train/a.png", "images/train/b.png"]
    return config("yolo", root=root / "data.yaml"), files


def npz(root: Path) -> Written:
    np.savez(root / "a.npz", images=np.zeros((3, 1, 2, 2), np.uint8), labels=np.array([0, 1, 0]))
    return config("npz", root=root / "a.npz"), ["a.npz"]


def idx(root: Path) -> Written:
    def data(*shape: int) -> bytes:
        return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes() + bytes(int(np.prod(shape)))

    (root / "MNIST" / "raw").mkdir(parents=True)
    (root / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(data(3, 2, 2))
    (root / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(data(3)))
    names = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"]
    return config("idx", root=root, classes=("a", "b")), [f"MNIST/raw/{name}" for name in names]


def table(root: Path) -> Written:
    annotated.image(root / "x" / "a.png")
    (root / "t.csv").write_text("path\nx/a.png\n")
    return config("table", file=root / "t.csv"), ["t.csv", "x/a.png"]


def parquet(root: Path) -> Written:
    annotated.image(root.parent / "a.png")
    cells = [(root.parent / "a.png").read_bytes()]
    (root / "part").mkdir()
    pq.write_table(pa.table({"image": cells}), root / "part" / "0.parquet")
    return config("parquet", root=root), ["part/0.parquet"]


KINDS = [image_folder, mask_folder, coco, voc, yolo, npz, idx, table, parquet]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def written(request, tmp_path) -> tuple[Path, ImagesKind, list[str]]:
    root = tmp_path / "root"
    root.mkdir()
    return (root, *request.param(root))


def test_the_files_that_a_source_reads_count(written):
    root, source, files = written
    assert list_images(source).ids
    stamps = list(source_files(source))
    assert sorted(stamp.path for stamp in stamps) == sorted(str(root / file) for file in files)
    assert all(stamp.is_here() for stamp in stamps)
    keys = {source_key(source, True, None).name}
    for file in files:
        os.utime(root / file, (1, 1))
        keys.add(source_key(source, True, None).name)
    assert len(keys) == 1 + len(files)


def test_other_files_do_not_count_wherever_they_grow(written):
    root, source, _ = written
    before = source_key(source, True, None)
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in ("train.log", "notes.md", "other.csv", ".swp", "t10k-images-idx3-ubyte"):
            (folder / name).write_text("grows")
        (folder / "nothing.png.lnk").symlink_to("nothing")
        (folder / "itself.lnk").symlink_to("itself.lnk")
    assert source_key(source, True, None) == before


@pytest.mark.parametrize("kind", [coco, yolo, npz, table])
def test_images_that_nothing_names_do_not_count(kind, tmp_path):
    source, _ = kind(tmp_path)
    before = source_key(source, True, None)
    Image.new("RGB", (4, 4)).save(tmp_path / "screenshot.png")
    assert source_key(source, True, None) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_text(""),
        lambda file: file.write_text('{"images": [{"file_name": "\\q"}, {"file_name": "\\u0000"}]}'),
        lambda file: file.write_bytes(b'{"file_name": "\xff"}'),
    ],
)
def test_a_damaged_file_of_annotations_is_left_to_its_source_to_tell(damage: Callable[[Path], Any], tmp_path):
    source, _ = coco(tmp_path)
    whole = source_key(source, True, None).name
    damage(tmp_path / "coco.json")
    assert source_key(source, True, None).name != whole


def test_names_of_images_are_found_however_the_file_is_laid_out(tmp_path):
    source, files = coco(tmp_path)
    document = json.loads((tmp_path / "coco.json").read_text())
    (tmp_path / "coco.json").write_text(json.dumps(document, indent=2, ensure_ascii=False).replace(":", " :"))
    assert len(list(source_files(source))) == len(files)
