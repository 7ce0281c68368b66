"""The contact sheet."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.inspection import sheet
from rsf_dist.inspection.sheet import Panel, draw_sheet, write_sheet

MARGIN, TITLE, TILE = 16, 34, 148


def grey(count: int = 1, side: int = 37, level: int = 100) -> torch.Tensor:
    """Images that are enlarged four times, to exactly a tile."""
    return torch.full((count, 3, side, side), level, dtype=torch.uint8)


def first_tile(images: ImageSet, title: str = "source") -> np.ndarray:
    pixels = np.asarray(draw_sheet([Panel(title, images)]))
    return pixels[MARGIN + TITLE : MARGIN + TITLE + TILE, MARGIN : MARGIN + TILE].astype(int)


def colourful(tile: np.ndarray) -> np.ndarray:
    return np.ptp(tile, axis=2) > 40


def test_a_box_is_drawn_where_it_lies_and_in_the_colour_of_its_class():
    boxes = torch.tensor([[[10.0, 10, 30, 30], [0, 0, 0, 0]]])
    images = ImageSet(grey(), None, ("cat",), {"boxes": boxes, "box_label": torch.tensor([[0, -1]])})
    found = colourful(first_tile(images))
    rows, columns = np.nonzero(found)
    # Four times 10 to 30, and the width of the line.
    assert (abs(rows.min() - 40) <= 2, abs(rows.max() - 120) <= 2) == (True, True)
    assert (abs(columns.min() - 40) <= 2, abs(columns.max() - 120) <= 2) == (True, True)
    assert not found[60:100, 70:110].any()


def test_a_region_to_ignore_is_drawn_in_grey_and_an_image_without_boxes_as_it_is():
    boxes, none = torch.tensor([[[10.0, 10, 30, 30]]]), torch.tensor([[-1]])
    crowd = {"boxes": boxes, "box_label": none, "box_crowd": torch.tensor([[0]])}
    tile = first_tile(ImageSet(grey(), None, ("cat",), crowd))
    assert not colourful(tile).any()
    assert (tile[40:42, 60:100] == 160).all()
    tile = first_tile(ImageSet(grey(), None, ("cat",), {"boxes": boxes, "box_label": none}))
    assert (tile == 100).all()


def test_masks_colour_their_pixels_but_neither_the_background_nor_what_is_ignored():
    mask = torch.zeros(1, 37, 37, dtype=torch.uint8)
    mask[:, :10], mask[:, 10:20] = 1, 255
    found = colourful(first_tile(ImageSet(grey(), None, ("background", "cat"), {"mask": mask})))
    assert found[:40].all()
    assert not found[40:].any()
    # Without a class of that name every class is drawn.
    assert colourful(first_tile(ImageSet(grey(), None, ("sky", "cat"), {"mask": mask})))[80:].all()


def test_the_legend_of_masks_shows_the_colours_of_their_classes():
    mask = torch.ones(1, 37, 37, dtype=torch.uint8)
    with_masks = ImageSet(grey(), None, ("background", "cat"), {"mask": mask})
    title = np.asarray(draw_sheet([Panel("target", with_masks)]))[: MARGIN + TITLE].astype(int)
    assert colourful(title).any()
    title = np.asarray(draw_sheet([Panel("target", ImageSet(grey()))]))[: MARGIN + TITLE].astype(int)
    assert not colourful(title).any()


def test_small_images_are_enlarged_pixel_by_pixel_and_large_ones_reduced():
    pattern = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    pattern[0, :, 0, 0] = 255
    tile = first_tile(ImageSet(pattern))
    assert set(np.unique(tile)) == {0, 255}
    assert (tile[:74, :74] == 255).all()
    assert (first_tile(ImageSet(grey(side=400))) == 100).all()


def test_a_panel_shows_images_of_all_classes_however_many_there_are():
    labels = torch.tensor([0] * 500 + [1] * 500)
    images = torch.where(labels[:, None, None, None] > 0, grey(1, 8, 200), grey(1, 8, 50)).to(torch.uint8)
    pixels = np.asarray(draw_sheet([Panel("source", ImageSet(images, labels, ("a", "b")))]))
    assert abs(int((pixels == 200).sum()) - int((pixels == 50).sum())) < 0.1 * (pixels == 50).sum()


@pytest.mark.parametrize("name", ["日本", "a\x1b[31m", "x" * 500, ""])
def test_any_name_of_a_class_or_set_can_be_written(name):
    images = ImageSet(grey(2), torch.tensor([0, 1]), (name, "b"))
    assert draw_sheet([Panel(name, images)]).width == 1258


def test_grey_images_and_images_with_one_very_long_side_are_drawn():
    draw_sheet([Panel("a", ImageSet(torch.zeros(3, 1, 28, 28, dtype=torch.uint8)))])
    draw_sheet([Panel("a", ImageSet(torch.zeros(1, 3, 1, 4000, dtype=torch.uint8)))])


def test_the_file_is_a_png_and_nothing_else_is_left_behind(tmp_path):
    write_sheet([Panel("a", ImageSet(grey()))], tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").format == "PNG"
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_a_failure_to_write_names_the_file_and_keeps_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "sheet.png").write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sheet.os, "replace", full)
    with pytest.raises(InputError, match=r"--output=.*sheet.png: cannot be written \(No space left on device\)"):
        write_sheet([Panel("a", ImageSet(grey()))], Path(tmp_path / "sheet.png"))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("sheet.png", b"before")]
