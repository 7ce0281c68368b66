"""Source `voc`: images with boxes in one XML file each, as PASCAL VOC keeps them.

Pixels are numbered from 1 and a box includes the pixels of its corners: x0 = xmin - 1, x1 = xmax.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
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


@list_images.register
def _(config: VocConfig) -> Listing:
    root, notes = folder(config.root), Notes()
    image_root, xml_root = (root / name if os.path.isdir(root / name) else root for name in _SUBFOLDERS)
    images = by_stem(image_root, image_files(image_root))
    files = by_stem(xml_root, sorted(path for path in files_below(xml_root) if path.suffix == ".xml"))
    _require_images(files, images, image_root)
    stems = list(images) if config.split is None else _listed(root, config.split, images)
    trees = {stem: _parsed(files[stem]) for stem in (stems if config.classes else images) if stem in files}
    classes = config.classes or _occurring(trees, files)
    origins = [str(files.get(stem, images[stem])) for stem in stems]
    frames, boxes = [], []
    for stem, origin in zip(stems, origins, strict=True):
        tree = trees.get(stem)
        if tree is None:
            notes.add("images without an XML file, taken as images without objects", origin)
        frames.append(frame_of(images[stem]) if tree is None else _frame(tree, images[stem], origin, notes))
        boxes.append([] if tree is None else list(_boxes(tree, frames[-1], classes, config, origin, notes)))
    require_boxes(boxes, classes, "root", root)
    paths = [images[stem] for stem in stems]
    reader = BoxReader(Boxes.pack(boxes), frames, origins, config)
    ids = [name_below(image_root, path) for path in paths]
    return Listing(ids, AnnotatedFiles(paths, config, reader), None, classes, notes.lines())


def _require_images(files: dict[str, Path], images: dict[str, Path], image_root: Path) -> None:
    absent = [stem for stem in files if stem not in images]
    if absent:
        rule = f"has no image {absent[0]}.* in {image_root} ({len(absent):,} of {len(files):,} images are absent)"
        raise refuse(str(files[absent[0]]), absent[0], rule, "add the image, or remove the XML file")


def _listed(root: Path, split: str, images: dict[str, Path]) -> list[str]:
    """Return the images that a split lists, in its order."""
    lists = root / "ImageSets" / "Main"
    path = lists / f"{below(lists, split, 'split')}.txt"
    if not os.path.isfile(path):
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


def _occurring(trees: dict[str, ElementTree.Element], files: dict[str, Path]) -> tuple[str, ...]:
    """Return the classes that occur, in alphabetical order."""
    return tuple(sorted({name for stem, tree in trees.items() for _, _, name in _objects(tree, str(files[stem]))}))


def _objects(tree: ElementTree.Element, origin: str) -> Iterator[tuple[str, ElementTree.Element, str]]:
    """Yield the objects of a file with their place and class."""
    for number, element in enumerate(tree.iterfind("object")):
        where, name = f"{origin}: object[{number}]", (element.findtext("name") or "").strip()
        if not name:
            raise refuse(f"{where}.name", name, "must name the object's class", "name it")
        yield where, element, name


def _frame(tree: ElementTree.Element, image: Path, origin: str, notes: Notes) -> Frame:
    """Return the image's height and width, which the file gives, or else the image."""
    given = [tree.findtext(f"size/{key}") for key in ("height", "width")]
    if None in given or given == ["0", "0"]:
        notes.add("files without a size, which is taken from the image", origin)
        return frame_of(image)
    height, width = (_number(text, f"{origin}: size") for text in given)
    if height != int(height) or width != int(width) or min(height, width) < 1:
        raise refuse(f"{origin}: size", given, "height and width must be positive whole numbers", "correct them")
    return int(height), int(width)


def _boxes(
    tree: ElementTree.Element, frame: Frame, classes: Sequence[str], config: VocConfig, origin: str, notes: Notes
) -> Iterator[Box]:
    for where, element, name in _objects(tree, origin):
        if name not in classes:
            notes.add("objects of classes that `classes` leaves out", f"{where}, {name}")
            continue
        texts = [element.findtext(f"bndbox/{key}") for key in _CORNERS]
        x0, y0, x1, y1 = (_number(text, f"{where}.{key}") for text, key in zip(texts, _CORNERS, strict=True))
        if x1 < x0 - 1 or y1 < y0 - 1:
            rule = "has a negative width or height"
            raise refuse(f"{where}.bndbox", [x0, y0, x1, y1], rule, "write xmin ymin xmax ymax, the smaller first")
        if min(x0, y0) == 0:
            notes.add("boxes that begin at pixel 0, though the first pixel is number 1", where)
            x0, y0 = max(x0, 1), max(y0, 1)
        crowd = config.difficult == "ignore" and (element.findtext("difficult") or "0").strip() not in ("", "0")
        yield from sound_box((x0 - 1, y0 - 1, x1, y1), frame, classes.index(name), crowd, where, notes)


def _number(text: str | None, where: str) -> float:
    try:
        number = float(text or "nothing")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise refuse(where, text, "must be a finite number", "correct it, or remove the object")
    return number
