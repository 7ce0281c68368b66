"""The survey of one image set: headers, counts, a sample, and what is wrong."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.annotated_files import box, coco, config, image, masks, on_its_side, yolo
from PIL import Image, ImageFile

from rsf_dist.inspection.survey import Survey, survey
from rsf_dist.runtime.progress import Progress


def look(kind: str, in_run: bool = False, labelled: bool = True, **options) -> Survey:
    return survey("source" if in_run else "", config(kind, **options), Progress(), labelled=labelled, in_run=in_run)


def lines(found: Survey) -> list[str]:
    return [finding.line() for finding in found.findings]


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the files that were decoded."""
    names: list[str] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: (names.append(str(self.filename)), load(self))[1])
    return names


def test_sizes_and_modes_come_from_headers_and_few_images_are_decoded(tmp_path, decoded):
    for number in range(300):
        image(tmp_path / ("cat" if number % 3 else "dog") / f"{number}.{'png' if number % 2 else 'jpg'}", 4, 6)
    found = look("image_folder", root=tmp_path)
    assert dict(found.headers.sizes) == {(4, 6): 300}
    assert dict(found.headers.modes) == {"RGB": 300}
    assert (found.counts, found.classes) == ((200, 100), ("cat", "dog"))
    assert found.sample is not None
    assert len(found.sample) == len(set(decoded)) <= 64 + 2  # one of each class beside those that are spread
    assert set(found.sample.labels.tolist()) == {0, 1}


def test_an_image_on_its_side_has_the_size_in_which_it_is_seen(tmp_path):
    on_its_side(tmp_path / "a.jpg", 6)
    assert list(look("image_folder", root=tmp_path).headers.sizes) == [(40, 20)]


def test_every_class_has_an_image_in_the_sample_however_rare_it_is(tmp_path):
    images, labels = np.zeros((1000, 2, 2), np.uint8), np.zeros(1000, np.int64)
    labels[500], labels[700] = 1, 2
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    sample = look("npz", root=tmp_path / "a.npz").sample
    assert sample is not None
    assert set(sample.labels.tolist()) == {0, 1, 2}


def test_passed_over_files_are_counted_with_the_first_three(tmp_path):
    image(tmp_path / "a.png")
    for number in range(5):
        (tmp_path / f"{number}.HEIC").write_bytes(b"")
    found = look("image_folder", root=tmp_path)
    assert found.passed_over[".heic"].count == 5
    assert found.passed_over[".heic"].examples == ("0.HEIC", "1.HEIC", "2.HEIC")
    assert not any("passed over" in line for line in lines(found))  # they have a list of their own


def test_what_a_source_notes_comes_with_the_first_three_places(tmp_path):
    found = look("yolo", root=yolo(tmp_path, "0 .5 .5 .5 .5\n" + "1 .95 .5 .5 .5\n" * 5))
    told = {finding.text.partition(":")[0]: finding.examples for finding in found.findings}
    places = told["boxes that reach beyond their image, clipped"]
    assert [place.rpartition(":")[2] for place in places] == ["2", "3", "4"]
    assert found.boxes == (1, 5)


def test_images_of_several_sizes_are_refused_in_a_run_without_a_size_and_drawn_all_the_same(tmp_path):
    image(tmp_path / "a.png", 10, 30)
    image(tmp_path / "b.png", 20, 10)
    told = "images of 2 sizes, from 20 x 10 to 10 x 30: set `size: [height, width]`"
    for in_run in (False, True):
        found = look("image_folder", in_run, labelled=not in_run, root=tmp_path)
        assert [(finding.text, finding.refused) for finding in found.findings] == [(told, in_run)]
        assert found.is_scaled
        assert found.sample is not None
        assert len(found.sample) == 2
    assert lines(look("image_folder", True, labelled=False, root=tmp_path, size=8)) == []


def test_large_photographs_are_decoded_to_thumbnails(tmp_path):
    image(tmp_path / "a.png", 10, 600)
    sample = look("image_folder", root=tmp_path).sample
    assert sample is not None
    assert sample.images.shape == (1, 3, 192, 192)


def test_files_that_are_no_images_are_refused_by_name_and_the_others_drawn(tmp_path):
    for name in "abcdef":
        image(tmp_path / f"{name}.png")
    for name in "bcde":
        (tmp_path / f"{name}.png").write_bytes(b"<!doctype html>")
    found = look("image_folder", root=tmp_path)
    broken = found.findings[0]
    assert broken.refused
    assert broken.text.startswith("4 of 6 files cannot be read (first: ")
    assert "b.png=15 bytes: is not a readable image: it is a web page" in broken.text
    assert len(broken.examples) == 3
    assert found.sample is not None
    assert found.sample.ids == ("a.png", "f.png")


def test_a_sound_header_over_damaged_pixels_is_refused_too(tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "b.png", 40, 40)
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    found = look("image_folder", True, labelled=False, root=tmp_path, size=8)
    assert [finding.refused for finding in found.findings] == [True]
    assert "b.png" in found.findings[0].text
    assert found.sample is not None
    assert found.sample.ids == ("a.png",)


def test_twelve_bits_in_files_of_sixteen_are_refused_with_what_to_set(tmp_path):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(4096, size=(8, 8)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    found = look("image_folder", True, labelled=False, root=tmp_path)
    assert [finding.refused for finding in found.findings] == [True]
    assert "source.bits=null: the brightest pixel of all 3 images with 16 bits is" in found.findings[0].text
    assert "set `bits: 12`" in found.findings[0].text
    assert list(found.headers.modes) == ["I;16"]
    assert found.sample is not None  # drawn one by one
    assert lines(look("image_folder", True, labelled=False, root=tmp_path, bits=12)) == []


def test_of_more_images_of_sixteen_bits_than_are_decoded_the_others_may_be_bright(tmp_path):
    for number in range(70):
        Image.fromarray(np.full((2, 2), 100 + number, np.uint16)).save(tmp_path / f"{number:02d}.png")
    found = look("image_folder", True, labelled=False, root=tmp_path).findings
    assert [(finding.refused, "set `bits: 8`" in finding.text) for finding in found[:1]] == [(False, True)]
    (tmp_path / "00.png").write_bytes(b"")
    assert look("image_folder", True, labelled=False, root=tmp_path).findings[0].refused


def test_colours_of_sixteen_bits_are_named_as_such(tmp_path):
    rows = b"".join(b"\0" + b"\xff\x00" * 6 for _ in range(2))  # two rows of two pixels
    (tmp_path / "a.png").write_bytes(png_of_sixteen_bits(2, 2, rows))
    assert list(look("image_folder", root=tmp_path).headers.modes) == ["RGB;16"]


def png_of_sixteen_bits(width: int, height: int, rows: bytes) -> bytes:
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_transparency_is_told_of_alpha_channels_and_of_palettes(tmp_path):
    for name in ("a", "b", "c"):
        image(tmp_path / f"{name}.png", 4, 4)
    Image.new("RGBA", (4, 4)).save(tmp_path / "d.png")
    Image.new("P", (4, 4)).save(tmp_path / "e.png", transparency=0)
    found = look("image_folder", root=tmp_path)
    told = next(finding for finding in found.findings if "alpha" in finding.text)
    assert told.text.startswith("2 of 5 images that were looked at have an alpha channel, and what is transparent bec")
    assert told.examples == ("d.png", "e.png")


def test_boxes_and_masks_are_counted_by_class(tmp_path):
    crowd = box(3, [0, 0, 9, 9], iscrowd=1)
    keys = coco(tmp_path / "boxes", [box(1, [1, 1, 5, 5]), box(2, [2, 2, 5, 5], category=90), crowd])
    found = look("coco", **keys)
    assert dict(zip(found.classes, found.boxes or (), strict=True)) == {"cat": 1, "dog": 0, "cow": 1}
    found = look("mask_folder", **masks(tmp_path / "masks", [[0, 0, 0], [0, 0, 0]], [[0, 1, 1], [255, 1, 1]]))
    assert (found.boxes, found.in_masks()) == (None, (2, 1))


def test_a_set_that_cannot_be_listed_is_a_finding_with_its_place(tmp_path):
    found = look("image_folder", True, root=tmp_path / "absent")
    assert (found.listing, [finding.refused for finding in found.findings]) == (None, [True])
    assert found.findings[0].line().startswith("source.root=")


def test_parquet_gives_headers_of_bytes_and_of_tensors_row_group_by_row_group(tmp_path):
    image(tmp_path / "a.png", 3, 5)
    data = (tmp_path / "a.png").read_bytes()
    pq.write_table(pa.table({"image": [data, data, b"no image", None, data]}), tmp_path / "a.parquet", row_group_size=2)
    headers = look("parquet", root=tmp_path / "a.parquet").headers
    assert (dict(headers.sizes), headers.num_unreadable) == ({(3, 5): 3}, 2)
    assert "row 2 (the first is 0)=8 bytes: is not a readable image" in str(headers.unreadable[0])
    tensors = [[[1, 2, 3]] * 2, [[4, 5, 6]] * 2]
    column = pa.array(tensors, pa.list_(pa.list_(pa.uint8())))
    pq.write_table(pa.table({"image": column}), tmp_path / "b.parquet")
    headers = look("parquet", root=tmp_path / "b.parquet").headers
    assert (dict(headers.sizes), dict(headers.modes)) == ({(2, 3): 2}, {"L": 2})


def test_only_what_is_taken_is_looked_at(tmp_path):
    for name in ("a", "b"):
        image(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"")
    found = look("image_folder", root=tmp_path, limit=2)
    assert (found.num_listed, len(found.taken), found.headers.num_unreadable) == (3, 2, 0)
