"""Image sets written as files that other tools read: COCO, PASCAL VOC, YOLO, folders of masks.

Images are PNG files, so that the source of the same kind reads back what was written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image
from torch import Tensor

from rsf_dist.data.annotations import IGNORED, Box
from rsf_dist.data.images import ImageSet
from rsf_dist.data.regions import run_lengths
from rsf_dist.data.sources.annotated import below
from rsf_dist.errors import InputError


def write_coco(images: ImageSet, folder: Path) -> None:
    """Write `images/` and `annotations.json`, with boxes or masks. Categories are numbered from 1.

    A mask becomes a region of run lengths for each class in it. Read it with `background: null`.

    Raises:
        InputError: there are no boxes and no masks.
    """
    height, width = images.images.shape[2:]
    names = _write_images(images, folder / "images")
    entries = _box_entries(images) if "boxes" in images.annotations else _mask_entries(images)
    document = {
        "images": [
            {"id": number, "file_name": name, "height": height, "width": width} for number, name in enumerate(names, 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(images.classes, 1)],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(entries, 1)],
    }
    (folder / "annotations.json").write_text(json.dumps(document), "utf-8")


def write_voc(images: ImageSet, folder: Path) -> None:
    """Write `JPEGImages/`, `Annotations/` and the list ImageSets/Main/all.txt. Regions to ignore become `difficult`.

    Raises:
        InputError: there are no boxes.
    """
    boxes = list(_boxes(images))
    names = _write_images(images, folder / "JPEGImages")
    stems = [name.removesuffix(".png") for name in names]
    for stem, name, row in zip(stems, names, boxes, strict=True):
        path = folder / "Annotations" / f"{stem}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        ElementTree.ElementTree(_xml(images, name, row)).write(path, "utf-8")
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "all.txt").write_text("".join(f"{stem}\n" for stem in stems), "utf-8")


def write_yolo(images: ImageSet, folder: Path) -> None:
    """Write `images/`, `labels/` and data.yaml, where all images are both `train` and `val`.

    Raises:
        InputError: there are no boxes, or regions to ignore, which the format does not know.
    """
    boxes = list(_boxes(images))
    if any(box.crowd for row in boxes for box in row):
        raise InputError("box_crowd", "a region to ignore", "cannot be written as YOLO", "write COCO or VOC")
    for name, row in zip(_write_images(images, folder / "images"), boxes, strict=True):
        path = (folder / "labels" / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{_shares(box, *images.images.shape[2:])}\n" for box in row), "utf-8")
    document = {"names": dict(enumerate(images.classes)), "train": "images", "val": "images"}
    (folder / "data.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), "utf-8")


def write_masks(images: ImageSet, folder: Path) -> None:
    """Write `images/` and `masks/`. The classes' names are not among the files.

    Raises:
        InputError: there are no masks.
    """
    masks = _column(images, "mask")
    for name, mask in zip(_write_images(images, folder / "images"), masks, strict=True):
        path = folder / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.numpy()).save(path)


def _write_images(images: ImageSet, folder: Path) -> list[str]:
    """Write the images below a folder, and return their names there: their ids, or numbers, as PNG files."""
    digits = len(str(len(images)))
    ids = images.ids or [f"{number:0{digits}}" for number in range(len(images))]
    paths = [Path(below(folder, name, "ids")) for name in ids]
    names = [path.with_suffix(".png").as_posix() for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.as_posix()}.png" for path in paths]  # a.jpg beside a.bmp
    for name, image in zip(names, images.images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(folder / name)
    return names


def _column(images: ImageSet, name: str) -> Tensor:
    if name not in images.annotations:
        columns = list(images.annotations)
        raise InputError("images", columns, f"need a column `{name}`", "choose the format that their annotations fit")
    return images.annotations[name]


def _boxes(images: ImageSet) -> Iterator[list[Box]]:
    """Yield the boxes of each image."""
    corners, labels = _column(images, "boxes").tolist(), _column(images, "box_label")
    crowds = images.annotations.get("box_crowd", labels.new_full(labels.shape, -1)).tolist()
    for row in zip(corners, labels.tolist(), crowds, strict=True):
        padded = [Box((*box,), max(label, crowd), crowd >= 0) for box, label, crowd in zip(*row, strict=True)]
        yield [box for box in padded if box.label >= 0]


def _box_entries(images: ImageSet) -> Iterator[dict[str, Any]]:
    for image, row in enumerate(_boxes(images), 1):
        for (x0, y0, x1, y1), label, crowd in row:
            width, height = x1 - x0, y1 - y0
            yield {
                "image_id": image,
                "category_id": label + 1,
                "bbox": [x0, y0, width, height],
                "area": width * height,
                "iscrowd": int(crowd),
            }


def _mask_entries(images: ImageSet) -> Iterator[dict[str, Any]]:
    for image, mask in enumerate(_column(images, "mask").numpy(), 1):
        for label in np.unique(mask[mask != IGNORED]).tolist():
            region = mask == label
            rows, columns = np.nonzero(region.any(1))[0], np.nonzero(region.any(0))[0]
            x, y = int(columns[0]), int(rows[0])
            yield {
                "image_id": image,
                "category_id": label + 1,
                "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
                "area": int(region.sum()),
                "iscrowd": 0,
                "segmentation": {"size": list(region.shape), "counts": run_lengths(region)},
            }


def _xml(images: ImageSet, name: str, boxes: list[Box]) -> ElementTree.Element:
    depth, height, width = images.images.shape[1:]
    tree = ElementTree.Element("annotation")
    _add(tree, {"filename": name})
    _add(ElementTree.SubElement(tree, "size"), {"width": width, "height": height, "depth": depth})
    for (x0, y0, x1, y1), label, crowd in boxes:
        item = ElementTree.SubElement(tree, "object")
        _add(item, {"name": images.classes[label], "difficult": int(crowd)})
        corners = {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}
        _add(ElementTree.SubElement(item, "bndbox"), {key: f"{value:.17g}" for key, value in corners.items()})
    return tree


def _add(element: ElementTree.Element, texts: dict[str, object]) -> None:
    for key, text in texts.items():
        ElementTree.SubElement(element, key).text = str(text)


def _shares(box: Box, height: int, width: int) -> str:
    x0, y0, x1, y1 = box.corners
    shares = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
    return " ".join([str(box.label), *(f"{share:.9f}" for share in shares)])
