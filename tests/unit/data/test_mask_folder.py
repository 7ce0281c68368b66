"""Images and masks in two folders."""

import numpy as np
import pytest
from bad_input.pictures import bomb
from data.annotated_files import image, load, masks, notes, on_its_side, refusal
from PIL import Image

NUMBERS = [[0, 1, 2], [2, 255, 0]]


@pytest.mark.parametrize("mode", ["L", "P"])
def test_numbers_are_classes_and_colours_are_not(mode, tmp_path):
    files = masks(tmp_path, NUMBERS, [[1, 1, 1], [0, 0, 0]], mode=mode)
    found = load("mask_folder", **files)
    assert found.annotations["mask"].tolist() == [NUMBERS, [[1, 1, 1], [0, 0, 0]]]
    assert found.classes == ("0", "1", "2")
    assert found.ids == ("0.png", "1.png")
    assert load("mask_folder", **files, classes=("road", "car", "sky", "dog")).classes == ("road", "car", "sky", "dog")


def test_a_mask_of_one_bit_has_the_numbers_0_and_1(tmp_path):
    files = masks(tmp_path, NUMBERS)
    Image.fromarray(np.array([[0, 255, 0], [0, 0, 255]], np.uint8)).convert("1").save(tmp_path / "masks" / "0.png")
    assert load("mask_folder", **files).annotations["mask"].tolist() == [[[0, 1, 0], [0, 0, 1]]]


def test_a_label_beyond_the_classes_is_refused_with_its_file(tmp_path):
    error = refusal("mask_folder", **masks(tmp_path, NUMBERS), classes=("road", "car"))
    assert error.startswith(f"{tmp_path}/masks/0.png=2: numbers must be below 2")
    Image.fromarray(np.full((2, 3), 300, np.uint16)).save(tmp_path / "masks" / "0.png")
    files = {"root": tmp_path / "images", "masks": tmp_path / "masks"}
    assert "0.png=300" in refusal("mask_folder", **files, classes=("road",))
    assert "masks hold at most 255" in refusal("mask_folder", **files)


def test_colours_and_other_formats_are_refused(tmp_path):
    files = masks(tmp_path, NUMBERS)
    image(tmp_path / "masks" / "0.png", 2, 3)
    assert "0.png=PNG RGB: must be a PNG file with one number a pixel" in refusal("mask_folder", **files)
    Image.fromarray(np.array(NUMBERS, np.uint8)).save(tmp_path / "masks" / "0.png", "JPEG")
    assert "0.png=JPEG L: must be a PNG file" in refusal("mask_folder", **files)
    (tmp_path / "masks" / "0.png").rename(tmp_path / "masks" / "0.jpg")
    assert "0.jpg=.jpg: is no PNG file" in refusal("mask_folder", **files)


@pytest.mark.parametrize("data", [b"", b"\x89PNG", bomb(20_000), bomb(12_000)], ids=["empty", "short", "huge", "large"])
def test_a_mask_that_cannot_be_read_is_refused(data, tmp_path):
    files = masks(tmp_path, NUMBERS)
    (tmp_path / "masks" / "0.png").write_bytes(data)
    assert "masks/0.png=(a file): is not a readable image" in refusal("mask_folder", **files)


def test_a_mask_of_another_size_is_refused(tmp_path):
    files = masks(tmp_path, NUMBERS)
    image(tmp_path / "images" / "0.png", 2, 4)
    assert f"{tmp_path}/masks/0.png describes one of 2 x 3" in refusal("mask_folder", **files)


def test_masks_and_images_must_match(tmp_path):
    files = masks(tmp_path, NUMBERS, NUMBERS)
    (tmp_path / "images" / "1.png").unlink()
    assert len(load("mask_folder", **files)) == 1
    assert "masks of no image, left out: 1" in notes("mask_folder", **files)
    image(tmp_path / "images" / "x" / "0.png", 2, 3)
    assert "masks/x/0.png (1 of 2 images have none)" in refusal("mask_folder", **files)
    assert "is the folder of the images" in refusal("mask_folder", root=tmp_path / "masks", masks=tmp_path / "masks")


def test_masks_may_lie_in_a_folder_below_the_images(tmp_path):
    masks(tmp_path, NUMBERS)
    (tmp_path / "masks").rename(tmp_path / "images" / "masks")
    found = load("mask_folder", root=tmp_path / "images", masks=tmp_path / "images" / "masks")
    assert found.ids == ("0.png",)


def test_masks_of_0_and_255_are_told_of(tmp_path):
    files = masks(tmp_path, [[0, 255, 0], [0, 0, 0]])
    assert "masks with no numbers but 0 and 255, where 255 is ignored: 1" in notes(
        "mask_folder", **files, classes=("road", "car")
    )
    assert "0 and 255" in notes("mask_folder", **files)
    assert notes("mask_folder", **files, classes=("road", "car", "sky")) == ""
    assert notes("mask_folder", **masks(tmp_path, NUMBERS)) == ""
    only = load("mask_folder", **masks(tmp_path, [[255] * 3] * 2), classes=("road", "car"))
    assert only.annotations["mask"].unique().tolist() == [255]


def test_masks_move_with_the_pixels_and_are_never_mixed(tmp_path):
    files = masks(tmp_path, NUMBERS)
    # 2 x 3 fits 12 x 12 as 8 x 12, two rows below the top.
    mask = load("mask_folder", **files, size=(12, 12), resize="fit").annotations["mask"][0]
    assert mask[:, 0].tolist() == [255] * 2 + [0] * 4 + [2] * 4 + [255] * 2
    assert mask[3].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_mask_that_is_stored_as_its_image_is_turned_with_it(tmp_path):
    files = masks(tmp_path, NUMBERS)
    (tmp_path / "images" / "0.png").unlink()
    on_its_side(tmp_path / "images" / "0.jpg", 6, 2, 3)  # a quarter to the right
    assert load("mask_folder", **files).annotations["mask"].tolist() == [[[2, 0], [255, 1], [0, 2]]]
