"""Images and masks in two folders."""

import os

import numpy as np
import pytest
from bad_input.pictures import bomb
from data.annotated_files import image, load, masks, notes, on_its_side, refusal
from PIL import Image

from rsf_dist.config.images import MaskFolderConfig
from rsf_dist.data.images import load_images
from rsf_dist.errors import InputError

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


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty; copy it again"),
        (b"\x89PNG", "its format is none that Pillow knows, or its header is damaged; fix or remove it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS, not the image itself; fetch it"),
        (bomb(20_000), "it claims more than"),
        (bomb(12_000), "it claims more than"),
    ],
    ids=["empty", "short", "pointer", "huge", "large"],
)
def test_a_mask_that_cannot_be_read_is_refused_with_the_reason(data, reason, tmp_path):
    files = masks(tmp_path, NUMBERS)
    (tmp_path / "masks" / "0.png").write_bytes(data)
    assert f"masks/0.png=(a file): is not a readable image: {reason}" in refusal("mask_folder", **files)


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


@pytest.mark.parametrize("relative", ["root", "masks"])
def test_masks_below_the_images_are_no_images_however_the_folders_are_written(relative, tmp_path, monkeypatch):
    masks(tmp_path, NUMBERS)
    (tmp_path / "masks").rename(tmp_path / "images" / "masks")
    monkeypatch.chdir(tmp_path)
    files = {"root": tmp_path / "images", "masks": tmp_path / "images" / "masks"}
    files[relative] = files[relative].relative_to(tmp_path)
    assert load("mask_folder", **files).ids == ("0.png",)


def test_masks_that_the_images_hold_a_link_to_are_no_images(tmp_path):
    files = masks(tmp_path, NUMBERS)
    (tmp_path / "images" / "masks").symlink_to(tmp_path / "masks")
    assert load("mask_folder", **files).ids == ("0.png",)


def test_images_may_lie_in_a_folder_below_the_masks(tmp_path):
    files = masks(tmp_path, NUMBERS)
    (tmp_path / "images").rename(tmp_path / "masks" / "images")
    found = load("mask_folder", root=tmp_path / "masks" / "images", masks=files["masks"])
    assert found.ids == ("0.png",)
    assert found.annotations["mask"].tolist() == [NUMBERS]


def test_masks_and_images_are_found_through_links(tmp_path):
    files = masks(tmp_path / "set", NUMBERS)
    masks(tmp_path / "elsewhere", [[1, 1, 1], [0, 0, 0]])
    for name in ("images", "masks"):
        (tmp_path / "set" / name / "more").symlink_to(tmp_path / "elsewhere" / name)
    assert load("mask_folder", **files).annotations["mask"].tolist() == [NUMBERS, [[1, 1, 1], [0, 0, 0]]]


def test_a_folder_of_masks_that_leads_back_is_named_by_its_own_key(tmp_path):
    files = masks(tmp_path, NUMBERS)
    (tmp_path / "masks" / "again").symlink_to(tmp_path / "masks")
    error = refusal("mask_folder", **files)
    assert error.startswith(f"masks={tmp_path}/masks/again: is a link to a folder that it lies in")


def test_a_pipe_for_a_mask_is_refused_and_not_waited_for(tmp_path):
    files = masks(tmp_path, NUMBERS)
    (tmp_path / "masks" / "0.png").unlink()
    os.mkfifo(tmp_path / "masks" / "0.png")
    assert "masks/0.png=(no file): cannot be read: it is no file" in refusal("mask_folder", **files)


def test_lack_of_memory_is_no_damage_of_a_mask(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise MemoryError

    files = masks(tmp_path, NUMBERS)
    monkeypatch.setattr("rsf_dist.data.sources.mask_folder.np.asarray", fail)
    assert "is not a readable image: it does not fit into this machine's memory" in refusal("mask_folder", **files)


def test_images_that_use_twelve_of_sixteen_bits_are_not_read_as_black(tmp_path):
    for number in range(2):
        for folder, pixels in (("images", np.full((4, 4), 4095, np.uint16)), ("masks", np.full((4, 4), 1, np.uint8))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    config = MaskFolderConfig(root=str(tmp_path / "images"), masks=str(tmp_path / "masks"), channels=1)
    with pytest.raises(InputError, match="set `bits: 12`"):
        load_images(config)
    assert load_images(config.model_copy(update={"bits": 12})).images.unique().tolist() == [255]
