"""Headers of images: what files tell before they are decoded."""

import pytest
from data.annotated_files import config, image, load, on_its_side
from PIL import Image, ImageFile

from rsf_dist.data.decoding import Header, header_of
from rsf_dist.data.sources import headers, list_images
from rsf_dist.data.sources.headers import evenly
from rsf_dist.errors import InputError


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_a_header_is_read_without_decoding(suffix, tmp_path, monkeypatch):
    image(tmp_path / f"a.{suffix}", 3, 5)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("the image was decoded"))
    found = header_of(tmp_path / f"a.{suffix}")
    assert (found.height, found.width, found.has_alpha) == (3, 5, False)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_height_and_width_are_those_of_the_upright_image(orientation, tmp_path):
    on_its_side(tmp_path / "a.jpg", orientation, 3, 5)
    assert header_of(tmp_path / "a.jpg")[:2] == ((3, 5) if orientation < 5 else (5, 3))


def test_a_file_that_is_no_image_is_refused_with_the_reason(tmp_path):
    (tmp_path / "a.png").write_bytes(b"version https://git-lfs.github.com")
    with pytest.raises(InputError, match=r"a\.png=\d+ bytes: is not a readable image: it is a pointer of Git LFS"):
        header_of(tmp_path / "a.png")
    with pytest.raises(InputError, match="it is no file"):
        header_of(tmp_path)


def test_a_run_is_told_of_transparency_and_looks_at_no_more_files_than_it_should(tmp_path, monkeypatch):
    for number in range(9):
        mode = "RGBA" if number in (0, 8) else "RGB"
        Image.new(mode, (4, 4)).save(tmp_path / f"{number}.png")
    told = (
        "2 of 9 images that were looked at have an alpha channel, and what is transparent becomes black (first: 0.png)"
    )
    assert load("image_folder", root=tmp_path).notes == (told,)
    assert load("image_folder", root=tmp_path, start=1, limit=7).notes == ()
    monkeypatch.setattr(headers, "_LOOKED_AT", 3)
    assert load("image_folder", root=tmp_path).notes == (told.replace("2 of 9", "2 of 3"),)


def test_images_in_memory_have_headers_too():
    listing = list_images(config("digits"))
    assert dict(headers.read_headers(listing, [0, 5])) == dict.fromkeys([0, 5], Header(8, 8, "L"))


def test_positions_are_chosen_evenly_with_both_ends():
    assert evenly(range(10, 20), 4) == [10, 13, 16, 19]
    assert evenly([3, 5], 4) == [3, 5]
    assert evenly([], 4) == []
