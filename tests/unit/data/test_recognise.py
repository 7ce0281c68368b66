"""The kind of image set that a path leads to."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.annotated_files import box, coco, image, masks, voc, voc_object, yolo

from rsf_dist.config.images import IMAGE_KINDS
from rsf_dist.data.sources import list_images
from rsf_dist.data.sources.recognise import recognise, recognise_parts
from rsf_dist.errors import InputError


def num_images(keys: dict) -> int:
    """Return the number of images that the source finds by these keys."""
    model = IMAGE_KINDS.find(keys["kind"])
    assert model is not None
    return len(list_images(model.model_validate(keys)).ids)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        recognise(str(path))
    return str(caught.value)


def class_folders(root: Path, *names: str) -> Path:
    for name in names:
        image(root / name / "a.png")
    return root


def idx(root: Path, *names: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        head = bytes([0, 0, 8, 3]) + np.array([2, 1, 1], ">i4").tobytes()
        (root / f"{name}-images-idx3-ubyte").write_bytes(head + bytes(2))
        head = bytes([0, 0, 8, 1]) + np.array([2], ">i4").tobytes()
        (root / f"{name}-labels-idx1-ubyte").write_bytes(head + bytes([0, 1]))
    return root


def parquet(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [b"x"] * 3}), path)
    return path


def test_folders_of_classes_and_folders_of_images_are_image_folders(tmp_path):
    for folder in (class_folders(tmp_path / "classes", "cat", "dog"), class_folders(tmp_path / "flat", "")):
        keys = recognise(str(folder))
        assert keys == {"kind": "image_folder", "root": str(folder)}
        assert num_images(keys) == len(list(folder.rglob("*.png")))


def test_of_an_unpacked_archive_the_folder_inside_is_taken(tmp_path):
    class_folders(tmp_path / "archive" / "photos", "cat", "dog")
    image(tmp_path / "__MACOSX" / "._a.png")
    assert recognise(str(tmp_path)) == {"kind": "image_folder", "root": str(tmp_path / "archive" / "photos")}


def test_a_single_class_folder_stays_a_class(tmp_path):
    assert recognise(str(class_folders(tmp_path, "cat")))["root"] == str(tmp_path)


def test_parts_of_a_data_set_are_told_apart_and_one_must_be_named(tmp_path):
    for part in ("train", "val"):
        class_folders(tmp_path / part, "cat", "dog")
    assert {name: keys["root"] for name, keys in recognise_parts(str(tmp_path)).items()} == {
        "train": str(tmp_path / "train"),
        "val": str(tmp_path / "val"),
    }
    assert f"holds 2 image sets: train, val; name one of them, e.g. {tmp_path / 'train'}" in refusal(tmp_path)


@pytest.mark.parametrize("place", ["coco.json", ""])
def test_coco_is_recognised_by_its_file_or_the_folder_of_it(place, tmp_path):
    coco(tmp_path, [box(1, [1, 1, 5, 5])])
    keys = recognise(str(tmp_path / place))
    assert keys == {"kind": "coco", "root": str(tmp_path / "images"), "annotations": str(tmp_path / "coco.json")}
    assert num_images(keys) == 2


def test_coco_as_its_authors_pack_it_gives_both_splits_and_takes_objects_before_keypoints(tmp_path):
    for split in ("train2017", "val2017"):
        coco(tmp_path, [box(1, [1, 1, 5, 5])])
        (tmp_path / "images").rename(tmp_path / split)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for name in ("instances", "person_keypoints"):
            (tmp_path / "annotations" / f"{name}_{split}.json").write_text((tmp_path / "coco.json").read_text())
        (tmp_path / "coco.json").unlink()
    parts = recognise_parts(str(tmp_path))
    assert {name: Path(keys["root"]).name for name, keys in parts.items()} == {
        "train2017": "train2017",
        "val2017": "val2017",
    }
    assert "instances_train2017.json" in refusal(tmp_path)


def test_coco_with_segmentations_and_no_boxes_has_masks(tmp_path):
    entry = {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    coco(tmp_path, [entry])
    assert recognise(str(tmp_path))["masks"] is True


def test_coco_whose_images_are_elsewhere_says_what_to_write(tmp_path):
    coco(tmp_path, [box(1, [1, 1, 5, 5])])
    (tmp_path / "images").rename(tmp_path.parent / "elsewhere")
    assert "names images such as a.png, which lie in no folder near it" in refusal(tmp_path / "coco.json")
    assert "needs the lists `images`" in refusal(written(tmp_path / "other.json", json.dumps({"images": []})))


def test_voc_in_its_folders_with_lists_and_beside_the_images(tmp_path):
    voc(tmp_path / "devkit" / "VOC2012", voc_object("cat", 1, 1, 5, 5))
    assert num_images(recognise(str(tmp_path / "devkit"))) == 1
    lists = tmp_path / "devkit" / "VOC2012" / "ImageSets" / "Main"
    written(lists / "train.txt", "a\n")
    written(lists / "val.txt", "")
    assert recognise(str(tmp_path / "devkit"))["split"] == "train"
    beside = tmp_path / "beside"
    voc(beside, voc_object("cat", 1, 1, 5, 5))
    (beside / "JPEGImages" / "a.jpg").rename(beside / "a.JPG")
    (beside / "Annotations" / "a.xml").rename(beside / "a.xml")
    assert recognise(str(beside))["kind"] == "voc"


def test_yolo_by_data_yaml_with_each_split_that_it_names(tmp_path):
    yolo(tmp_path, "0 .5 .5 .5 .5", "names: [cat, dog]\ntrain: images/train\nval: images/train\ntest: ''\n")
    for path in (tmp_path, tmp_path / "data.yaml"):
        assert [keys["split"] for keys in recognise_parts(str(path)).values()] == ["train", "val"]
        assert num_images(recognise(str(path))) == 2


def test_yolo_without_its_yaml_is_refused_with_what_to_write(tmp_path):
    yolo(tmp_path, "0 .5 .5 .5 .5")
    (tmp_path / "data.yaml").unlink()
    assert "no data.yaml that says what the classes are; write data.yaml with `names:" in refusal(tmp_path)


def test_images_with_masks_also_where_both_have_splits(tmp_path):
    masks(tmp_path / "one", [[0, 1, 1], [0, 0, 0]])
    assert recognise(str(tmp_path / "one"))["masks"] == str(tmp_path / "one" / "masks")
    for split in ("train", "val"):
        image(tmp_path / "two" / "images" / split / "a.JPG", 2, 3, format="JPEG")
        image(tmp_path / "two" / "masks" / split / "a.png", 2, 3)
    assert list(recognise_parts(str(tmp_path / "two"))) == ["train", "val"]


def test_class_folders_named_like_images_and_masks_stay_classes(tmp_path):
    image(tmp_path / "mask" / "a.png")
    image(tmp_path / "image" / "b.png")
    assert recognise(str(tmp_path))["kind"] == "image_folder"


def test_a_table_beside_its_images_counts_where_there_are_no_class_folders(tmp_path):
    image(tmp_path / "pictures" / "a.png")
    table = written(tmp_path / "labels.csv", "file,label\na.png,cat\n")
    expected = {"kind": "table", "file": str(table), "root": str(tmp_path / "pictures")}
    assert recognise(str(tmp_path)) == recognise(str(table)) == expected
    assert num_images(expected) == 1
    class_folders(tmp_path, "cat", "dog")
    assert recognise(str(tmp_path))["kind"] == "image_folder"


def test_a_table_whose_images_are_missing_or_that_has_no_paths_is_refused(tmp_path):
    assert "names images such as a.png" in refusal(written(tmp_path / "a.csv", "file,label\na.png,cat\n"))
    assert "has no column of paths, but id, label" in refusal(written(tmp_path / "b.csv", "id,label\n1,cat\n"))
    assert "holds no images" in refusal(written(tmp_path / "c.jsonl", ""))


def test_parquet_files_of_one_split_and_of_several(tmp_path):
    one = parquet(tmp_path / "one" / "data" / "train-0.parquet")
    assert num_images(recognise(str(tmp_path / "one"))) == num_images(recognise(str(one))) == 3
    parquet(one.parent / "test-0.parquet")
    assert list(recognise_parts(str(tmp_path / "one"))) == ["train", "test"]
    parquet(one.parent / "train-1.parquet")
    assert "move each split into a folder of its own" in refusal(tmp_path / "one")
    assert recognise("s3://bucket/data") == {"kind": "parquet", "root": "s3://bucket/data"}


def test_npz_and_idx_files_and_the_folders_that_hold_them(tmp_path):
    (tmp_path / "arrays").mkdir()
    np.savez(tmp_path / "arrays" / "a.npz", images=np.zeros((4, 2, 2), np.uint8))
    assert num_images(recognise(str(tmp_path / "arrays"))) == 4
    folder = idx(tmp_path / "raw", "train", "t10k")
    file = folder / "train-images-idx3-ubyte"
    assert recognise(str(folder)) == recognise(str(file)) == {"kind": "idx", "root": str(folder), "split": "train"}
    assert num_images(recognise_parts(str(folder))["test"]) == 2
    assert recognise(str(folder / "t10k-labels-idx1-ubyte"))["split"] == "test"


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_what_is_no_image_set_is_refused_with_what_was_looked_for(tmp_path):
    written(tmp_path / "empty" / "notes.md", "")
    assert "holds no image set; looked for images, alone or in one sub-folder a class" in refusal(tmp_path / "empty")
    assert "does not exist" in refusal(tmp_path / "absent")
    assert "is an archive; unpack it" in refusal(written(tmp_path / "a.tar.gz", ""))
    assert "is no file of an image set" in refusal(written(tmp_path / "a.docx", ""))
    assert "has no keys `names` and `train`" in refusal(written(tmp_path / "a.yaml", "output: runs/a"))
    image(tmp_path / "a.png")
    assert "is a single file with an image; name the folder" in refusal(tmp_path / "a.png")


def test_the_directory_of_a_run_is_no_image_set(tmp_path):
    image(tmp_path / "figures" / "a.png")
    written(tmp_path / "manifest.json", "{}")
    assert recognise(str(tmp_path))["kind"] == "image_folder"
    written(tmp_path / "config.yaml", "{}")
    assert "is the directory of a run" in refusal(tmp_path)


def test_nothing_is_decoded(tmp_path, monkeypatch):
    class_folders(tmp_path, "cat", "dog")
    written(tmp_path / "cat" / "broken.png", "no image")
    monkeypatch.setattr("PIL.Image.open", lambda *_: pytest.fail("an image was opened"))
    assert recognise(str(tmp_path))["kind"] == "image_folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_refused_by_name(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    assert "cannot be listed" in refusal(closed)
