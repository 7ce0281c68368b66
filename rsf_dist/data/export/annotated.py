"""Image sets with boxes or masks as other tools keep them: COCO, PASCAL VOC, YOLO, folders of masks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

from rsf_dist.data.annotations import IGNORED, Box
from rsf_dist.data.export.base import FileWriter, Writer, column, write_images
from rsf_dist.data.images import ImageSet
from rsf_dist.data.regions import run_lengths
from rsf_dist.errors import InputError

_ANNOTATIONS = "annotations.json"


class CocoWriter(FileWriter):
    """A writer of `images/` and `annotations.json`, with boxes or masks. Categories are numbered from 1.

    A mask becomes a region of run lengths for each class in it. Read it with `background: null`.
    """

    holds: ClassVar[frozenset[str]] = frozenset({"boxes", "mask"})

    def __init__(self, folder: Path, classes: tuple[str, ...], description: str = ""):
        super().__init__(folder, classes, description)
        self._images, self._entries = (_JsonArray(folder / f"{name}.part") for name in ("images", "annotations"))

    def write_files(self, images: ImageSet) -> list[str]:
        """Write the images and entries of a block. Raises InputError where there are no boxes and no masks."""
        height, width = images.images.shape[2:]
        entries = list(_box_entries(images) if "boxes" in images.annotations else _mask_entries(images))
        names = write_images(images, self.folder / "images")
        size = {"height": height, "width": width}
        first, next_entry = self.count + 1, self._entries.count + 1
        self._images.extend({"id": number, "file_name": name, **size} for number, name in enumerate(names, first))
        self._entries.extend(
            {"id": number, "image_id": first + image, **entry}
            for number, (image, entry) in enumerate(entries, next_entry)
        )
        return [f"images/{name}" for name in names]

    def close(self) -> None:
        """Join the file of annotations from its parts."""
        categories = [{"id": number, "name": name} for number, name in enumerate(self.classes, 1)]
        with (self.folder / _ANNOTATIONS).open("wb") as file:
            file.write(f'{{"categories": {json.dumps(categories)}, "images": ['.encode())
            self._images.move_to(file)
            file.write(b'], "annotations": [')
            self._entries.move_to(file)
            file.write(b"]}")


class _JsonArray:
    """The items of a JSON array, in a file of their own: there may be more of them than memory holds."""

    def __init__(self, path: Path):
        self._path, self.count = path, 0
        path.touch()

    def extend(self, items: Iterator[Mapping[str, Any]]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            for item in items:
                file.write(("," if self.count else "") + json.dumps(item))
                self.count += 1

    def move_to(self, file: Any) -> None:
        with self._path.open("rb") as part:
            shutil.copyfileobj(part, file)
        self._path.unlink()


class VocWriter(FileWriter):
    """A writer of `JPEGImages/`, `Annotations/` and ImageSets/Main/all.txt. Regions to ignore become `difficult`."""

    holds: ClassVar[frozenset[str]] = frozenset({"boxes"})

    def write_files(self, images: ImageSet) -> list[str]:
        """Write the images and XML files of a block. Raises InputError where there are no boxes."""
        boxes = list(boxes_of(images))
        names = write_images(images, self.folder / "JPEGImages")
        stems = [name.removesuffix(".png") for name in names]
        for stem, name, row in zip(stems, names, boxes, strict=True):
            path = self.folder / "Annotations" / f"{stem}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            ElementTree.ElementTree(_xml(images, name, row)).write(path, "utf-8")
        lists = self.folder / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        with (lists / "all.txt").open("a", encoding="utf-8") as file:
            file.writelines(f"{stem}\n" for stem in stems)
        return [f"JPEGImages/{name}" for name in names]


class YoloWriter(FileWriter):
    """A writer of `images/`, `labels/` and data.yaml, where all images are both `train` and `val`."""

    holds: ClassVar[frozenset[str]] = frozenset({"boxes"})

    def write_files(self, images: ImageSet) -> list[str]:
        """Write the images and text files of a block.

        Raises InputError where there are no boxes, or regions to ignore, which the format does not know.
        """
        boxes = list(boxes_of(images))
        if any(box.crowd for row in boxes for box in row):
            raise InputError("box_crowd", "a region to ignore", "cannot be written as YOLO", "write COCO or VOC")
        names = write_images(images, self.folder / "images")
        for name, row in zip(names, boxes, strict=True):
            path = (self.folder / "labels" / name).with_suffix(".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{_shares(box, *images.images.shape[2:])}\n" for box in row), "utf-8")
        return [f"images/{name}" for name in names]

    def close(self) -> None:
        """Write data.yaml."""
        document = {"names": dict(enumerate(self.classes)), "train": "images", "val": "images"}
        (self.folder / "data.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), "utf-8")


class MaskWriter(FileWriter):
    """A writer of `images/` and `masks/`, and of classes.txt with a name a line, in the order of their numbers."""

    holds: ClassVar[frozenset[str]] = frozenset({"mask"})

    def write_files(self, images: ImageSet) -> list[str]:
        """Write the images and masks of a block. Raises InputError where there are no masks."""
        masks = column(images, "mask")
        names = write_images(images, self.folder / "images")
        for name, mask in zip(names, masks, strict=True):
            path = self.folder / "masks" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.numpy()).save(path)
        return [f"images/{name}" for name in names]

    def close(self) -> None:
        """Write the classes' names."""
        (self.folder / "classes.txt").write_text("".join(f"{name}\n" for name in self.classes), "utf-8")


def write_coco(images: ImageSet, folder: Path) -> None:
    """Write an image set as `CocoWriter` does. Raises InputError where it has no boxes and no masks."""
    _write(CocoWriter, images, folder)


def write_voc(images: ImageSet, folder: Path) -> None:
    """Write an image set as `VocWriter` does. Raises InputError where it has no boxes."""
    _write(VocWriter, images, folder)


def write_yolo(images: ImageSet, folder: Path) -> None:
    """Write an image set as `YoloWriter` does. Raises InputError where it has no boxes, or regions to ignore."""
    _write(YoloWriter, images, folder)


def write_masks(images: ImageSet, folder: Path) -> None:
    """Write an image set as `MaskWriter` does. Raises InputError where it has no masks."""
    _write(MaskWriter, images, folder)


def _write(kind: type[Writer], images: ImageSet, folder: Path) -> None:
    writer = kind(folder, images.classes)
    writer.add(images)
    writer.close()


def boxes_of(images: ImageSet) -> Iterator[list[Box]]:
    """Yield the boxes of each image."""
    corners, labels = column(images, "boxes").tolist(), column(images, "box_label")
    crowds = images.annotations.get("box_crowd", labels.new_full(labels.shape, -1)).tolist()
    for row in zip(corners, labels.tolist(), crowds, strict=True):
        padded = [Box((*box,), max(label, crowd), crowd >= 0) for box, label, crowd in zip(*row, strict=True)]
        yield [box for box in padded if box.label >= 0]


def _box_entries(images: ImageSet) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the position of the image, and the entry without ids, of each box."""
    for image, row in enumerate(boxes_of(images)):
        for (x0, y0, x1, y1), label, crowd in row:
            width, height = x1 - x0, y1 - y0
            yield (
                image,
                {
                    "category_id": label + 1,
                    "bbox": [x0, y0, width, height],
                    "area": width * height,
                    "iscrowd": int(crowd),
                },
            )


def _mask_entries(images: ImageSet) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the position of the image, and the entry without ids, of each class in a mask."""
    for image, mask in enumerate(column(images, "mask").numpy()):
        for label in np.unique(mask[mask != IGNORED]).tolist():
            region = mask == label
            rows, columns = np.nonzero(region.any(1))[0], np.nonzero(region.any(0))[0]
            x, y = int(columns[0]), int(rows[0])
            yield (
                image,
                {
                    "category_id": label + 1,
                    "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
                    "area": int(region.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": list(region.shape), "counts": run_lengths(region)},
                },
            )


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
