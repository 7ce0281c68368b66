"""Source `coco`: images with boxes, or masks, in a JSON file of COCO's format."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsf_dist.config.images import CocoConfig
from rsf_dist.data.annotations import IGNORED, Box, Boxes, Frame
from rsf_dist.data.regions import polygon_mask, run_length_mask, uncompressed
from rsf_dist.data.sources.annotated import (
    AnnotatedFiles,
    BoxReader,
    MaskReader,
    Notes,
    below,
    folder,
    frame_of,
    read_text,
    refuse,
    require_boxes,
    sound_box,
)
from rsf_dist.data.sources.base import Listing, existing, list_images
from rsf_dist.errors import InputError

_MAX_MASK_CLASSES = IGNORED
_LARGEST_NUMBER = 1e9  # integers of JSON may be larger than any float
_LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class _Region:
    """The pixels of one object: polygons, or run lengths."""

    number: int
    polygons: tuple[np.ndarray, ...] = ()
    counts: np.ndarray | None = None

    def pixels(self, frame: Frame) -> np.ndarray:
        if self.counts is not None:
            return run_length_mask(self.counts, *frame)
        return np.logical_or.reduce([polygon_mask(points, *frame) for points in self.polygons])


@dataclass(frozen=True)
class _Masks:
    """Masks that are drawn when they are read."""

    regions: Sequence[Sequence[_Region]]
    frames: Sequence[Frame]
    background: int

    def frame(self, position: int) -> Frame:
        return self.frames[position]

    def read(self, position: int) -> np.ndarray:
        mask = np.full(self.frames[position], self.background, np.uint8)
        for region in self.regions[position]:
            mask[region.pixels(self.frames[position])] = region.number
        return mask


@list_images.register
def _(config: CocoConfig) -> Listing:
    root, path = folder(config.root), existing(config.annotations, "annotations")
    if not os.path.isfile(path):
        raise InputError("annotations", path, "must be a file", "name the JSON file with the annotations")
    file = _File(path, _read(path), Notes())
    names, frames, position_of = file.images(root)
    class_of, classes = file.classes(config)
    paths, origins = [root / name for name in names], [str(path)] * len(names)
    objects = list(file.objects(position_of, class_of))
    if config.masks:
        regions: list[list[_Region]] = [[] for _ in names]
        for item in sorted(objects, key=lambda item: not item.crowd):  # crowds below the objects that stand in them
            regions[item.position] += file.region(item, frames[item.position])
        _require_regions(regions, classes, path)
        background = IGNORED if config.background is None else classes.index(config.background)
        masks = MaskReader(_Masks(regions, frames, background), origins, config)
        return Listing(
            names,
            AnnotatedFiles(paths, config, masks),
            None,
            classes,
            file.notes.lines(),
            examples=file.notes.examples(),
        )
    boxes: list[list[Box]] = [[] for _ in names]
    for item in objects:
        boxes[item.position] += file.box(item, frames[item.position])
    file.suspect_corners()
    require_boxes(boxes, classes, "annotations", path)
    reader = BoxReader(Boxes.pack(boxes), frames, origins, config)
    return Listing(
        names, AnnotatedFiles(paths, config, reader), None, classes, file.notes.lines(), examples=file.notes.examples()
    )


def _require_regions(regions: list[list[_Region]], classes: tuple[str, ...], path: Path) -> None:
    if not any(region.number != IGNORED for image in regions for region in image):
        rule = f"holds no segmentation of the classes {list(classes)}"
        raise InputError("annotations", path, rule, "correct the path or `classes`, or leave `masks` out for boxes")


def _read(path: Path) -> dict[str, list[Any]]:
    """Return the lists of a file. Raises InputError unless all are there."""
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as err:
        raise refuse(str(path), "(a file)", f"is not JSON ({err})", "export it again") from err
    keys = list(document) if isinstance(document, dict) else type(document).__name__
    for name in _LISTS:
        if not isinstance(document, dict) or not isinstance(document.get(name), list):
            remedy = "export it again with annotations, or use `kind: image_folder` for images alone"
            raise refuse(str(path), keys, f"must hold a list `{name}`", remedy)
    return document


@dataclass(frozen=True)
class _Object:
    """One annotation of a known image and class."""

    entry: dict[str, Any]
    where: str
    position: int
    number: int
    crowd: bool


class _File:
    """A file of COCO's format, read entry by entry.

    Args:
        path: of the file.
        document: its lists.
        notes: for what is told of it.
    """

    def __init__(self, path: Path, document: dict[str, list[Any]], notes: Notes):
        self.path, self.document, self.notes = path, document, notes
        self._boxes = self._suspects = 0
        self._first_suspect = ""

    def images(self, root: Path) -> tuple[list[str], list[Frame], dict[int, int]]:
        """Return the images' names, heights and widths, and their positions by id."""
        position_of: dict[int, int] = {}
        names: dict[str, None] = {}
        for where, entry in self._entries("images"):
            number = self._whole(entry, "id", where)
            name = self._word(entry, "file_name", where)
            name = below(root, name, f"{where}.file_name")
            if number in position_of:
                raise refuse(f"{where}.id", number, "is the id of another image, too", "give each image its own id")
            if name in names:
                raise refuse(f"{where}.file_name", name, "is listed under two ids", "list each file once")
            position_of[number], names[name] = len(names), None
        self._require_files(root, list(names))
        frames = [self._frame(root / name, *of) for name, of in zip(names, self._entries("images"), strict=True)]
        return list(names), frames, position_of

    def _require_files(self, root: Path, names: list[str]) -> None:
        absent = [number for number, name in enumerate(names) if not os.path.isfile(root / name)]
        if absent:
            where, name = f"{self.path}: images[{absent[0]}].file_name", names[absent[0]]
            rule = f"is no file below {root} ({len(absent):,} of {len(names):,} files are absent)"
            raise refuse(where, name, rule, "correct `root`, or list only the images that are there")

    def _frame(self, path: Path, where: str, entry: dict[str, Any]) -> Frame:
        if entry.get("height") is None or entry.get("width") is None:
            self.notes.add("images without `width` and `height`, which are taken from their files", where)
            return frame_of(path)
        height, width = (self._whole(entry, key, where) for key in ("height", "width"))
        if min(height, width) < 1:
            raise refuse(where, f"{height} x {width}", "height and width must be positive", "correct them")
        return height, width

    def classes(self, config: CocoConfig) -> tuple[dict[int, int | None], tuple[str, ...]]:
        """Return the class's number of each category id, None for those that are left out, and the classes' names."""
        names: dict[int, str] = {}
        for where, entry in self._entries("categories"):
            number, name = self._whole(entry, "id", where), self._word(entry, "name", where)
            if number in names:
                raise refuse(f"{where}.id", number, "is the id of another category, too", "give each its own id")
            if name in names.values():
                raise refuse(f"{where}.name", name, "is the name of another category, too", "rename or join them")
            names[number] = name
        found = tuple(names[number] for number in sorted(names))
        classes = config.classes or self._with_background(found, config)
        self._check_classes(classes, found, config)
        return {number: classes.index(name) if name in classes else None for number, name in names.items()}, classes

    def _with_background(self, names: tuple[str, ...], config: CocoConfig) -> tuple[str, ...]:
        if not config.masks or config.background is None or config.background in names:
            return names
        return (config.background, *names)

    def _check_classes(self, classes: tuple[str, ...], found: tuple[str, ...], config: CocoConfig) -> None:
        if config.masks and config.background is not None and config.background not in classes:
            rule = f"must list {config.background}, the class of pixels that no annotation covers"
            raise InputError("classes", list(classes), rule, "add it, or set `background: null` to ignore these pixels")
        if config.masks and len(classes) > _MAX_MASK_CLASSES:
            rule = f"masks hold at most {_MAX_MASK_CLASSES} classes"
            raise InputError("classes", f"{len(classes)} classes", rule, "list fewer `classes`")
        for name in classes:
            if name not in found and not (config.masks and name == config.background):
                self.notes.add("classes that are no category of the file", name)

    def objects(self, position_of: dict[int, int], class_of: dict[int, int | None]) -> Iterator[_Object]:
        """Yield the annotations of known images and classes that are taken."""
        ids: set[int] = set()
        for where, entry in self._entries("annotations"):
            image = self._whole(entry, "image_id", where)
            where = f"{where} ({self._named(entry, where, ids)}image {image})"
            category = self._whole(entry, "category_id", where)
            if category not in class_of:
                rule = f"is no id of `categories` {list(class_of)}"
                raise refuse(f"{where}.category_id", category, rule, "declare the category, or correct the id")
            crowd = entry.get("iscrowd", 0)
            if crowd not in (0, 1) or isinstance(crowd, float):
                raise refuse(f"{where}.iscrowd", crowd, "must be 0 or 1", "correct it")
            label = class_of[category]
            if image not in position_of:
                self.notes.add("annotations of no image in the file, left out", where)
            elif label is None:
                self.notes.add("annotations of categories that `classes` leaves out", where)
            else:
                yield _Object(entry, where, position_of[image], label, bool(crowd))

    def _named(self, entry: dict[str, Any], where: str, ids: set[int]) -> str:
        """Return an annotation's id in words, which joins `ids`; nothing where it has none."""
        if "id" not in entry:
            return ""
        number = self._whole(entry, "id", where)
        if number in ids:
            raise refuse(f"{where}.id", number, "is the id of another annotation, too", "give each its own id")
        ids.add(number)
        return f"id {number}, "

    def box(self, item: _Object, frame: Frame) -> Iterator[Box]:
        """Yield the box of an annotation, clipped to its image, if anything is left."""
        box, where = item.entry.get("bbox"), f"{item.where}.bbox"
        if not isinstance(box, list) or len(box) != 4 or not _finite(box):
            raise refuse(where, box, "must be four finite numbers [x, y, width, height]", "correct or remove it")
        x, y, width, height = map(float, box)
        if width < 0 or height < 0:
            raise refuse(where, box, "has a negative width or height", "write [x, y, width, height] of its upper left")
        self._boxes += 1
        if (x + width > frame[1] + 1 or y + height > frame[0] + 1) and x < width <= frame[1] and y < height <= frame[0]:
            self._suspects += 1
            self._first_suspect = self._first_suspect or where
        yield from sound_box((x, y, x + width, y + height), frame, item.number, item.crowd, where, self.notes)

    def suspect_corners(self) -> None:
        """Tell of boxes that are too large for their image as [x, y, width, height], and fit as [x0, y0, x1, y1]."""
        if self._suspects * 10 >= max(1, self._boxes):
            text = "boxes that only fit as [x0, y0, x1, y1] and must be [x, y, width, height]"
            self.notes.add(text, self._first_suspect, self._suspects)

    def region(self, item: _Object, frame: Frame) -> Iterator[_Region]:
        """Yield the pixels of an annotation, if it has any."""
        number = IGNORED if item.crowd else item.number
        given, where = item.entry.get("segmentation"), f"{item.where}.segmentation"
        if isinstance(given, dict):
            yield _Region(number, counts=_run_lengths(given, frame, where))
        elif given is not None and not (isinstance(given, list) and all(isinstance(part, list) for part in given)):
            raise refuse(where, given, "must be a list of polygons [[x, y, x, y, …], …] or run lengths", "correct it")
        else:
            polygons = tuple(self._polygons(given or [], where))
            if polygons:
                yield _Region(number, polygons)
            else:
                self.notes.add("annotations without a segmentation, left out", item.where)

    def _polygons(self, polygons: list[list[Any]], where: str) -> Iterator[np.ndarray]:
        for polygon in polygons:
            if len(polygon) % 2 or not _finite(polygon):
                raise refuse(where, polygon, "must be an even number of finite numbers x, y, …", "correct or remove it")
            if len(polygon) < 6:
                self.notes.add("polygons of fewer than three points, left out", where)
            else:
                yield np.array(polygon, np.float64).reshape(-1, 2)

    def _entries(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, entry in enumerate(self.document[name]):
            where = f"{self.path}: {name}[{number}]"
            if not isinstance(entry, dict):
                raise refuse(where, entry, "must be an object with keys", "correct or remove it")
            yield where, entry

    def _whole(self, entry: dict[str, Any], key: str, where: str) -> int:
        value = entry.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise refuse(f"{where}.{key}", json.dumps(value), "must be a whole number", "number it")
        return value

    def _word(self, entry: dict[str, Any], key: str, where: str) -> str:
        value = entry.get(key)
        if not isinstance(value, str) or not value:
            raise refuse(f"{where}.{key}", json.dumps(value), "must be a text that is not empty", "name it")
        return value


def _finite(numbers: list[Any]) -> bool:
    return all(type(number) in (int, float) and abs(number) < _LARGEST_NUMBER for number in numbers)


def _run_lengths(given: dict[str, Any], frame: Frame, where: str) -> np.ndarray:
    """Return checked run lengths, which add up to the pixels of the image."""
    counts = given.get("counts")
    if given.get("size") != list(frame):
        remedy = "write the run lengths of the whole image"
        raise refuse(f"{where}.size", given.get("size"), f"must be the image's {list(frame)} [height, width]", remedy)
    try:
        counts = uncompressed(counts) if isinstance(counts, str) else counts
    except ValueError as err:
        raise refuse(f"{where}.counts", counts, f"is no text of run lengths ({err})", "export it again") from err
    sound = isinstance(counts, list) and all(type(count) is int and count >= 0 for count in counts)
    if not isinstance(counts, list) or not sound or sum(counts) != math.prod(frame):
        total = sum(counts) if isinstance(counts, list) and sound else counts
        rule = f"must be whole numbers from 0 that add up to height x width, {math.prod(frame):,}"
        raise refuse(f"{where}.counts", total, rule, "export it again")
    return np.array(counts, np.int64)
