"""The contact sheet: some images of each set in a PNG file, with their classes, boxes and masks."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rsf_dist.data.annotations import IGNORED
from rsf_dist.data.images import ImageSet
from rsf_dist.data.resizing import resized, with_channels
from rsf_dist.data.sources.base import printable
from rsf_dist.data.sources.headers import evenly
from rsf_dist.errors import InputError
from rsf_dist.inspection.inspection import Inspection

_COLUMNS, _ROWS, _TILE, _GAP, _CAPTION, _TITLE, _MARGIN = 8, 3, 148, 6, 18, 34, 16
_LARGEST_ENLARGED = 74  # pixels: smaller images are enlarged by whole numbers, pixel by pixel
_INK, _PALE = (30, 30, 30), (110, 110, 110)


@dataclass(frozen=True)
class Panel:
    """A part of the sheet: its title, and the images to choose from."""

    title: str
    images: ImageSet


def panels_of(inspection: Inspection) -> list[Panel]:
    """Return a panel for each image set of which some images could be decoded, and one for the proposals."""
    surveyed = [(each, each.sample) for each in inspection.surveys if each.sample is not None]
    panels = [Panel(f"{each.name or 'images'}: {len(each.taken):,} images", sample) for each, sample in surveyed]
    if inspection.proposals is not None:
        panels.append(Panel("proposals", inspection.proposals))
    return panels


def require_apart(path: Path, inspection: Inspection) -> None:
    """Raise InputError where the sheet would lie among the images, and join them."""
    for each in inspection.surveys:
        root = getattr(each.config, "root", None)
        if root and each.config.takes_all_below and path.resolve().is_relative_to(Path(root).expanduser().resolve()):
            raise InputError("--output", path, f"would become an image of {root}", "name a file elsewhere")


def write_sheet(panels: Sequence[Panel], path: Path) -> None:
    """Draw a contact sheet and write it as a PNG file.

    Raises:
        InputError: the file cannot be written.
    """
    image = draw_sheet(panels)
    try:
        with TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / "sheet.png"
            image.save(draft)
            os.replace(draft, path)
    except OSError as err:
        raise InputError("--output", path, f"cannot be written ({err.strerror})", "name another file") from err


def draw_sheet(panels: Sequence[Panel]) -> Image.Image:
    """Draw a contact sheet, one panel below the other."""
    drawn = [_panel(panel) for panel in panels]
    height = sum(image.height for image in drawn) + 2 * _MARGIN
    sheet = Image.new("RGB", (_COLUMNS * (_TILE + _GAP) - _GAP + 2 * _MARGIN, height), "white")
    top = _MARGIN
    for image in drawn:
        sheet.paste(image, (_MARGIN, top))
        top += image.height
    return sheet


def _panel(panel: Panel) -> Image.Image:
    images = panel.images
    chosen = _chosen(images)
    tiles = [_tile(images, position) for position in chosen]
    num_rows = -(-len(tiles) // _COLUMNS)
    row_height = max((tile.height for tile in tiles), default=0) + _CAPTION + _GAP
    drawn = Image.new("RGB", (_COLUMNS * (_TILE + _GAP) - _GAP, _TITLE + num_rows * row_height + _MARGIN), "white")
    pen = ImageDraw.Draw(drawn)
    pen.text((0, 6), printable(panel.title), _INK, font=_font(17))
    _draw_legend(pen, pen.textlength(printable(panel.title), font=_font(17)) + 3 * _GAP, images, chosen)
    for number, (position, tile) in enumerate(zip(chosen, tiles, strict=True)):
        left = number % _COLUMNS * (_TILE + _GAP)
        top = _TITLE + number // _COLUMNS * row_height
        drawn.paste(tile, (left + (_TILE - tile.width) // 2, top))
        caption = _shortened_to(_caption(images, position), _TILE, pen)
        pen.text((left, top + tile.height + 2), caption, _PALE, font=_font(12))
    return drawn


def _draw_legend(pen: ImageDraw.ImageDraw, left: float, images: ImageSet, chosen: Sequence[int]) -> None:
    """Write the colours of the masks' classes into the title's line, as many as there is room for."""
    if "mask" not in images.annotations:
        return
    for number in _drawn_classes(images.annotations["mask"][list(chosen)], images.classes):
        name = printable(images.classes[number])
        width = pen.textlength(name, font=_font(12)) + 14
        if left + width > _COLUMNS * (_TILE + _GAP):
            return
        pen.rectangle((left, 11, left + 9, 20), fill=_colour(number))
        pen.text((left + 14, 9), name, _PALE, font=_font(12))
        left += width + 2 * _GAP


def _drawn_classes(mask: Tensor, classes: Sequence[str]) -> list[int]:
    """Return the classes in masks that are drawn: all but the background, and what is ignored."""
    background = 0 if classes and classes[0] == "background" else IGNORED
    return [number for number in mask.unique().tolist() if number not in (background, IGNORED)]


def _chosen(images: ImageSet) -> list[int]:
    """Return the positions of the images to draw, class after class, spread over all of them."""
    positions = list(range(len(images)))
    if images.labels is not None:
        positions = torch.argsort(images.labels, stable=True).tolist()
    return evenly(positions, _COLUMNS * _ROWS)


def _caption(images: ImageSet, position: int) -> str:
    if images.labels is not None:
        return images.classes[int(images.labels[position])]
    return images.ids[position].rpartition("/")[2] if images.ids else ""


def _shortened_to(text: str, width: int, pen: ImageDraw.ImageDraw) -> str:
    text = printable(text)
    if pen.textlength(text, font=_font(12)) <= width:
        return text
    while text and pen.textlength(text + "…", font=_font(12)) > width:
        text = text[:-1]
    return text + "…"


def _tile(images: ImageSet, position: int) -> Image.Image:
    """Return an image in the size of a tile, with its boxes and its mask."""
    from torchvision.transforms.v2 import functional as F

    image = with_channels(images.images[position], 3)
    scale = _TILE / max(image.shape[-2:])
    if max(image.shape[-2:]) <= _LARGEST_ENLARGED:
        scale = float(int(scale))
    size = max(1, round(image.shape[-2] * scale)), max(1, round(image.shape[-1] * scale))
    nearest = F.InterpolationMode.NEAREST_EXACT
    small = F.resize(image, list(size), interpolation=nearest) if scale > 1 else resized(image, size, "stretch")
    annotations = {name: column[position] for name, column in images.annotations.items()}
    if "mask" in annotations:
        mask = F.resize(annotations["mask"][None], list(size), interpolation=nearest)[0]
        small = _with_mask(small, mask, images.classes)
    if "boxes" in annotations:
        small = _with_boxes(small, annotations, scale, images.classes)
    return F.to_pil_image(small)


def _with_mask(image: Tensor, mask: Tensor, classes: Sequence[str]) -> Tensor:
    """Return the image with each class of its mask in a colour."""
    from torchvision.utils import draw_segmentation_masks

    present = _drawn_classes(mask, classes)
    if not present:
        return image
    layers = torch.stack([mask == number for number in present])
    return draw_segmentation_masks(image, layers, alpha=0.5, colors=[_colour(number) for number in present])


def _with_boxes(image: Tensor, columns: dict[str, Tensor], scale: float, classes: Sequence[str]) -> Tensor:
    """Return the image with its boxes, each in the colour of its class; regions to ignore are grey."""
    from torchvision.utils import draw_bounding_boxes

    labels = columns["box_label"].tolist()
    crowd = columns.get("box_crowd", torch.full_like(columns["box_label"], -1)).tolist()
    shown = [number for number, pair in enumerate(zip(labels, crowd, strict=True)) if max(pair) >= 0]
    if not shown:
        return image
    names = [printable(classes[max(labels[number], crowd[number])]) for number in shown]
    colours = [_colour(labels[number]) if labels[number] >= 0 else (160, 160, 160) for number in shown]
    return draw_bounding_boxes(image, columns["boxes"][shown] * scale, labels=names, colors=colours, width=2)


def _colour(number: int) -> tuple[int, int, int]:
    """Return the colour of a class: hues as far apart as the golden ratio puts them."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
