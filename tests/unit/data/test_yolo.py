"""Images with boxes in YOLO's format."""

import pytest
import torch
from data.annotated_files import image, load, notes, refusal, yolo

TRAIN = "images/train"


def test_shares_become_pixels_and_an_image_without_a_file_has_no_objects(tmp_path):
    found = load("yolo", root=yolo(tmp_path, "1 0.5 0.5 0.25 0.5\n\n0 .1 .1 .2 .2\n"))
    assert found.classes == ("cat", "dog")
    assert found.ids == ("images/train/a.png", "images/train/b.png")
    wanted = torch.tensor([[[15, 5, 25, 15], [0, 0, 8, 4]], [[0, 0, 0, 0], [0, 0, 0, 0]]], dtype=torch.float32)
    torch.testing.assert_close(found.annotations["boxes"], wanted)
    assert found.annotations["box_label"].tolist() == [[1, 0], [-1, -1]]
    assert "taken as images without objects: 1" in notes("yolo", root=tmp_path / "data.yaml")


def test_of_a_segment_the_box_around_it_is_taken(tmp_path):
    found = load("yolo", root=yolo(tmp_path, "0 0.25 0.5 0.5 0.25 0.75 1\n"))
    assert found.annotations["boxes"][0].tolist() == [[10, 5, 30, 20]]


@pytest.mark.parametrize(
    ("yaml", "split"),
    [
        ("names: {0: cat, 1: dog}\ntrain: images/train\nnc: 2", "train"),
        ("names: [cat, dog]\nval: ./images/train/", "val"),
        ("names: [cat, dog]\ntest: [images/train]", "test"),
        ("names: [cat, dog]\npath: images\ntrain: train", "train"),
        ("names: [cat, dog]\ntrain: ../images/train", "train"),  # as Roboflow writes it
        ("names: [cat, dog]\ntrain: list.txt", "train"),
    ],
)
def test_data_yaml_in_its_forms(yaml, split, tmp_path):
    yolo(tmp_path, "1 .5 .5 .5 .5", yaml)
    (tmp_path / "list.txt").write_text("./images/train/a.png\nimages/train/b.png\n")
    found = load("yolo", root=tmp_path, split=split)
    assert found.ids == ("images/train/a.png", "images/train/b.png")
    assert found.annotations["box_label"].tolist() == [[1], [-1]]


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("train: images/train", "names=None: must be a list of names"),
        ("names: {0: cat, 2: dog}\ntrain: images/train", "must be a list of names"),
        ("names: [cat, 3]\ntrain: images/train", "must be a list of names"),
        ("names: [cat, cat]\ntrain: images/train", "names a class twice"),
        ("names: [cat]\nnc: 2\ntrain: images/train", "nc=2: is not the number of `names`, 1"),
        ("names: [cat]\nval: images/train", "split=train: is no path in"),
        ("names: [cat]\ntrain: []", "split=train: is no path in"),
        ("names: [cat]\ntrain: [1]", "split=train: is no path in"),
        ("names: [cat]\ntrain: /etc", "must be the path of a file below"),
        ("names: [cat]\ntrain: ../../etc", "must be the path of a file below"),
        ("names: [cat]\npath: /\ntrain: etc", "must be the path of a file below"),
        ("names: [cat]\npath: 3\ntrain: images", "path=3: must be a path"),
        ("names: [cat]\ntrain: images/absent", "is neither a folder below"),
        ("names: [cat]\ntrain: labels", "train=labels: holds no images"),
        ("names: [cat]\ntrain: evil.txt", "evil.txt:1=../../etc/passwd: must be the path of a file below"),
        ("names: [cat]\ntrain: gone.txt", "gone.txt:1=images/x.png: is no file below"),
        ("names: [cat", "is not YAML"),
        ("names", "must have keys"),
        ("names: !!python/object/apply:os.system [ls]", "is not YAML"),
    ],
)
def test_a_faulty_data_yaml_is_refused(yaml, expected, tmp_path):
    yolo(tmp_path, "0 .5 .5 .5 .5", yaml)
    (tmp_path / "evil.txt").write_text("../../etc/passwd\n")
    (tmp_path / "gone.txt").write_text("images/x.png\n")
    assert expected in refusal("yolo", root=tmp_path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 .5 .5 .5", "must be `class x y width height`"),
        ("0 .5 .5 .5 .5 .9", "must be `class x y width height`"),
        ("0 .5 .5 .5 .5 .9 .9 .9", "must be `class x y width height`"),
        ("cat .5 .5 .5 .5", "must be `class x y width height`"),
        ("-1 .5 .5 .5 .5", "must be `class x y width height`"),
        ("0.5 .5 .5 .5 .5", "must be `class x y width height`"),
        ("2 .5 .5 .5 .5", "class 2 is none of the 2 `names`"),
        ("0 20 10 8 4", "numbers must be shares"),
        ("0 .5 nan .5 .5", "numbers must be shares"),
        ("0 .5 inf .5 .5", "numbers must be shares"),
        ("0 .5 .5 -.001 .5", "numbers must be shares"),
    ],
)
def test_a_faulty_line_is_refused_with_its_number(line, expected, tmp_path):
    error = refusal("yolo", root=yolo(tmp_path, f"0 .5 .5 .5 .5\n{line}\n"))
    assert error.startswith(f"{tmp_path}/labels/train/a.txt:2={line}: ")
    assert expected in error


def test_degenerate_boxes_are_clipped_or_left_out_and_told_of(tmp_path):
    root = yolo(tmp_path, "0 .5 .5 0 .5\n0 .95 .5 .2 1\n")
    boxes = load("yolo", root=root).annotations["boxes"][0]
    torch.testing.assert_close(boxes, torch.tensor([[34.0, 0, 40, 20]]))
    assert "left out: 1" in notes("yolo", root=root)
    assert "clipped: 1" in notes("yolo", root=root)
    assert "holds no box" in refusal("yolo", root=yolo(tmp_path, "0 .5 .5 0 .5\n"))


def test_classes_reorder_and_leave_out(tmp_path):
    root = yolo(tmp_path, "1 .5 .5 .5 .5\n0 .5 .5 .5 .5\n")
    assert load("yolo", root=root, classes=("dog", "cat")).annotations["box_label"][0].tolist() == [0, 1]
    assert load("yolo", root=root, classes=("dog", "owl")).annotations["box_label"][0].tolist() == [0]
    told = notes("yolo", root=root, classes=("dog", "owl"))
    assert "classes that data.yaml does not name: 1 (first: owl)" in told
    assert "leaves out: 1" in told


def test_boxes_are_shares_of_each_image_by_itself(tmp_path):
    yolo(tmp_path, "0 .5 .5 1 1\n")
    image(tmp_path / "images" / "train" / "c.png", 10, 10)
    (tmp_path / "labels" / "train" / "c.txt").write_text("0 .5 .5 1 1\n")
    found = load("yolo", root=tmp_path, size=(8, 16), resize="fit")
    assert found.annotations["boxes"][:, 0].tolist() == [[0, 0, 16, 8], [0, 0, 0, 0], [4, 0, 12, 8]]


def test_two_images_of_one_name_are_refused(tmp_path):
    yolo(tmp_path, "0 .5 .5 1 1\n")
    image(tmp_path / "images" / "train" / "a.jpg")
    assert "and both would have the same annotations" in refusal("yolo", root=tmp_path)


def test_a_root_without_data_yaml_is_refused(tmp_path):
    assert "data.yaml: does not exist" in refusal("yolo", root=tmp_path)


def test_names_too_long_for_a_file_are_no_files(tmp_path):
    long = "a" * 300
    root = yolo(tmp_path, "0 .5 .5 1 1\n", f"names: [cat]\ntrain: {long}\nval: ../{long}.txt\ntest: list.txt\n")
    (root / "list.txt").write_text(f"images/{long}.png\n")
    assert "is neither a folder below" in refusal("yolo", root=root)
    assert "must be the path of a file below" in refusal("yolo", root=root, split="val")
    assert "is no file below" in refusal("yolo", root=root, split="test")


def test_images_are_found_through_links_and_what_systems_leave_behind_is_none(tmp_path):
    root = yolo(tmp_path / "set", "0 .5 .5 1 1\n")
    image(tmp_path / "elsewhere" / "c.png")
    (root / "images" / "train" / "more").symlink_to(tmp_path / "elsewhere")
    image(root / "images" / "train" / "@eaDir" / "d.png")
    found = load("yolo", root=root)
    assert [name.removeprefix("images/train/") for name in found.ids] == ["a.png", "b.png", "more/c.png"]
