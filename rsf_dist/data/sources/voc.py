"""Source `voc`: images with boxes in one XML file each, as PASCAL VOC keeps them.

Pixels are numbered from 1 and a box includes the pixels of its corners: x0 = xmin - 1, x1 = xmax.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from rsf_dist.config.images import VocConfig
from rsf_dist.data.annotations import Box, Boxes, Frame
from rsf_dist.data.sources.annotated import (
    AnnotatedFiles,
    BoxReader,
    Notes,
    below,
    by_stem,
    folder,
    frame_of,
    image_files,
    read_text,
    refuse,
    require_boxes,
    require_file,
    sound_box,
)
from rsf_dist.data.sources.base import Listing, list_images
from rsf_dist.data.sources.found_files import files_below, name_below
from rsf_dist.errors import InputError

_MAX_BYTES = 10_000_000
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SUBFOLDERS = ("JPEGImages", "Annotations")
SUFFIX = ".xml"
"""The suffix of files of boxes."""


class _Object(NamedTuple):
    """An object as its file gives it. Numbers stay texts, since those of classes that are left out are not checked."""

    name: str
    corners: tuple[str | None, ...]
    difficult: bool


class _Described(NamedTuple):
    """The part of a file that is used, a small share of its tree: height and width, None where absent, and objects."""

    size: tuple[str | None, str | None]
    objects: tuple[_Object, ...]


@list_images.register
def _(config: VocConfig) -> Listing:
    root, notes = folder(config.root), Notes()
    image_root, xml_root = places(root)
    images = by_stem(image_root, image_files(image_root))
    files = by_stem(xml_root, sorted(path for path in files_below(xml_root) if path.suffix == SUFFIX))
    _require_images(files, images, image_root)
    stems = list(images) if config.split is None else _listed(root, config.split, images)
    described = {stem: _described(files[stem]) for stem in (stems if config.classes else images) if stem in files}
    classes = config.classes or _occurring(described)
    origins = [str(files.get(stem, images[stem])) for stem in stems]
    frames, boxes = [], []
    for stem, origin in zip(stems, origins, strict=True):
        file = described.get(stem)
        if file is None:
            notes.add("images without an XML file, taken as images without objects", origin)
        frames.append(frame_of(images[stem]) if file is None else _frame(file, images[stem], origin, notes))
        boxes.append([] if file is None else list(_boxes(file, frames[-1], classes, config, origin, notes)))
    require_boxes(boxes, classes, "root", root)
    paths = [images[stem] for stem in stems]
    reader = BoxReader(Boxes.pack(boxes), frames, origins, config)
    ids = [name_below(image_root, path) for path in paths]
    return Listing(ids, AnnotatedFiles(paths, config, reader), None, classes, notes.lines(), examples=notes.examples())


def places(root: Path) -> tuple[Path, Path]:
    """Return the folders of images and of XML files: the usual ones below a folder, or itself."""
    images, boxes = (root / name if os.path.isdir(root / name) else root for name in _SUBFOLDERS)
    return images, boxes


def list_of(root: Path, split: str) -> Path:
    """Return the path of the list of a split's images. Raises InputError where it leads out of the usual folder."""
    lists = root / "ImageSets" / "Main"
    return lists / f"{below(lists, split, 'split')}.txt"


def _require_images(files: dict[str, Path], images: dict[str, Path], image_root: Path) -> None:
    absent = [stem for stem in files if stem not in images]
    if absent:
        rule = f"has no image {absent[0]}.* in {image_root} ({len(absent):,} of {len(files):,} images are absent)"
        raise refuse(str(files[absent[0]]), absent[0], rule, "add the image, or remove the XML file")


def _listed(root: Path, split: str, images: dict[str, Path]) -> list[str]:
    """Return the images that a split lists, in its order."""
    path = list_of(root, split)
    if not os.path.isfile(path):
        lists = root / "ImageSets" / "Main"
        found = sorted(file.stem for file in lists.glob("*.txt"))
        raise InputError("split", split, f"is no list in {lists} {found}", "name one of these, or leave it out")
    stems: dict[str, None] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        stem = line.strip()
        if stem not in images:
            stem = stem.partition(" ")[0]  # a list of one class has a second column, 1 or -1
        if stem and (stem not in images or stem in stems):
            rule = "is listed twice" if stem in stems else f"is no image in {root}"
            raise refuse(f"{path}:{number}", stem, rule, "correct or remove the line")
        stems |= dict.fromkeys([stem] if stem else [])
    return list(stems)


class _Builder(ElementTree.TreeBuilder):
    """Builds a tree of a document without a DTD, whose entities could make it huge or name other files."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        """Refuse the declaration, before anything in it has an effect."""
        raise ValueError("it has a DTD")


def _parsed(path: Path) -> ElementTree.Element:
    require_file(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
        parser = ElementTree.XMLParser(target=_Builder())
        parser.feed(path.read_bytes())
        return parser.close()
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as err:  # LookupError: of an encoding
        raise refuse(str(path), "(a file)", f"is no XML file of boxes ({err})", "export it again") from err


def _described(path: Path) -> _Described:
    """Return what a file says of its image. Raises InputError where it is no XML or an object has no class."""
    tree = _parsed(path)
    return _Described((tree.findtext("size/height"), tree.findtext("size/width")), tuple(_objects(tree, path)))


def _objects(tree: ElementTree.Element, path: Path) -> Iterator[_Object]:
    for number, element in enumerate(tree.iterfind("object")):
        name = (element.findtext("name") or "").strip()
        if not name:
            raise refuse(f"{path}: object[{number}].name", name, "must name the object's class", "name it")
        corners = tuple(element.findtext(f"bndbox/{key}") for key in _CORNERS)
        yield _Object(name, corners, (element.findtext("difficult") or "0").strip() not in ("", "0"))


def _occurring(described: dict[str, _Described]) -> tuple[str, ...]:
    """Return the classes that occur, in alphabetical order."""
    return tuple(sorted({item.name for file in described.values() for item in file.objects}))


def _frame(file: _Described, image: Path, origin: str, notes: Notes) -> Frame:
    """Return the image's height and width, which the file gives, or else the image."""
    given = list(file.size)
    if None in given or given == ["0", "0"]:
        notes.add("files without a size, which is taken from the image", origin)
        return frame_of(image)
    height, width = (_number(text, f"{origin}: size") for text in given)
    if height != int(height) or width != int(width) or min(height, width) < 1:
        raise refuse(f"{origin}: size", given, "height and width must be positive whole numbers", "correct them")
    return int(height), int(width)


def _boxes(
    file: _Described, frame: Frame, classes: Sequence[str], config: VocConfig, origin: str, notes: Notes
) -> Iterator[Box]:
    for number, (name, corners, difficult) in enumerate(file.objects):
        where = f"{origin}: object[{number}]"
        if name not in classes:
            notes.add("objects of classes that `classes` leaves out", f"{where}, {name}")
            continue
        x0, y0, x1, y1 = (_number(text, f"{where}.{key}") for text, key in zip(corners, _CORNERS, strict=True))
        if x1 < x0 - 1 or y1 < y0 - 1:
            rule = "has a negative width or height"
            raise refuse(f"{where}.bndbox", [x0, y0, x1, y1], rule, "write xmin ymin xmax ymax, the smaller first")
        if min(x0, y0) == 0:
            notes.add("boxes that begin at pixel 0, though the first pixel is number 1", where)
            x0, y0 = max(x0, 1), max(y0, 1)
        crowd = config.difficult == "ignore" and difficult
        yield from sound_box((x0 - 1, y0 - 1, x1, y1), frame, classes.index(name), crowd, where, notes)


def _number(text: str | None, where: str) -> float:
    try:
        number = float(text or "nothing")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise refuse(where, text, "must be a finite number", "correct it, or remove the object")
    return number
