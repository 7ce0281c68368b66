"""Source `yolo`: images with boxes in one text file each, as YOLO keeps them.

A line is `class x y width height`, the middle and sides as shares of the image, or `class x y x y x y …`, a polygon.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rsf_dist.config.images import YoloConfig
from rsf_dist.config.safe_yaml import read as read_yaml
from rsf_dist.data.annotations import Box, Boxes
from rsf_dist.data.sources.annotated import (
    AnnotatedFiles,
    BoxReader,
    Notes,
    below,
    by_stem,
    image_files,
    read_text,
    refuse,
    require_boxes,
    sound_box,
)
from rsf_dist.data.sources.base import Listing, existing, list_images
from rsf_dist.data.sources.found_files import name_below
from rsf_dist.errors import InputError

_SLACK = 0.01  # shares that rounding carries beyond the image


@list_images.register
def _(config: YoloConfig) -> Listing:
    path = _description(config)
    document, notes = _read(path), Notes()
    names = _names(document, path)
    classes, root = config.classes or names, path.parent
    for name in classes:
        if name not in names:
            notes.add("classes that data.yaml does not name", name)
    files = [file for place in _places(document, config.split, path) for file in _images(root, place, path)]
    if not files:
        raise refuse(f"{path}: {config.split}", document[config.split], "holds no images", "correct the path")
    by_stem(root, files)
    labels = [_label_file(root, file) for file in files]
    boxes = [list(_boxes(file, names, classes, notes)) for file in labels]
    require_boxes(boxes, classes, "root", f"{path} ({labels[0]} and others)")
    ids = [name_below(root, file) for file in files]
    reader = BoxReader(Boxes.pack(boxes), None, [str(file) for file in labels], config)
    return Listing(ids, AnnotatedFiles(files, config, reader), None, classes, notes.lines(), examples=notes.examples())


def files_read(config: YoloConfig) -> Iterator[Path]:
    """Yield data.yaml, and a split's lists, images, and the text files that may be there. Raises InputError."""
    path = _description(config)
    yield path
    for place in _places(_read(path), config.split, path):
        yield from [path.parent / place] if os.path.isfile(path.parent / place) else []
        for image in _images(path.parent, place, path):
            yield from (image, _label_file(path.parent, image))


def _description(config: YoloConfig) -> Path:
    path = existing(config.root)
    path = path / "data.yaml" if os.path.isdir(path) else path
    if not os.path.isfile(path):
        raise InputError("root", path, "does not exist", "name data.yaml, or the folder that it lies in")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        document = read_yaml(read_text(path))
    except ValueError as err:
        raise refuse(str(path), "(a file)", f"is not YAML ({err})", "correct it") from err
    if not isinstance(document, dict):
        raise refuse(str(path), type(document).__name__, "must have keys `names`, `train`, …", "name data.yaml")
    return document


def _names(document: dict[str, Any], path: Path) -> tuple[str, ...]:
    """Return the classes' names: of a list, or of a dictionary with the keys 0, 1, …"""
    given = document.get("names")
    names = given
    if isinstance(given, dict):
        names = [given.get(number) for number in range(len(given))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise refuse(f"{path}: names", given, "must be a list of names, or a dictionary 0: name, …", "name all classes")
    if len(set(names)) < len(names):
        raise refuse(f"{path}: names", given, "names a class twice", "rename one of them")
    if document.get("nc", len(names)) != len(names):
        raise refuse(f"{path}: nc", document["nc"], f"is not the number of `names`, {len(names)}", "correct it")
    return tuple(names)


def _places(document: dict[str, Any], split: str, path: Path) -> list[str]:
    """Return the folders, or lists, of a split's images, below the folder of data.yaml."""
    given = document.get(split)
    listed = given if isinstance(given, list) else [given]
    places = [place for place in listed if isinstance(place, str) and place]
    if len(places) < len(listed) or not places:
        keys = [key for key in ("train", "val", "test") if key in document]
        raise InputError("split", split, f"is no path in {path}, which has {keys}", "name one of these")
    base = document.get("path") or "."
    if not isinstance(base, str):
        raise refuse(f"{path}: path", base, "must be a path", "correct it, or leave it out")
    return [_place(path, base, place, f"{path}: {split}") for place in places]


def _place(path: Path, base: str, place: str, where: str) -> str:
    joined = posixpath.normpath(posixpath.join(base, place))
    if joined == ".":
        return joined
    # Roboflow writes ../train/images for the folder train/images that lies beside data.yaml.
    beside = joined.removeprefix("../")
    return below(path.parent, beside if os.path.exists(path.parent / beside) else joined, where)


def _images(root: Path, place: str, path: Path) -> Iterator[Path]:
    """Yield the images of a folder, or of a text file that lists them."""
    found = root / place
    if os.path.isdir(found):
        yield from image_files(found)
    elif found.suffix == ".txt" and os.path.isfile(found):
        for number, line in enumerate(read_text(found).splitlines(), start=1):
            if line.strip():
                where = f"{found}:{number}"
                file = root / below(root, line.strip(), where)
                if not os.path.isfile(file):
                    raise refuse(where, line.strip(), f"is no file below {root}", "correct or remove the line")
                yield file
    else:
        raise refuse(str(path), place, f"is neither a folder below {root} nor a text file", "correct the path")


def _label_file(root: Path, image: Path) -> Path:
    """Return the path of an image's text file: `labels` for the last `images` in its path, if there is one."""
    parts = list(image.relative_to(root).with_suffix(".txt").parts)
    folders = [number for number, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return root.joinpath(*parts)


def _boxes(path: Path, names: Sequence[str], classes: Sequence[str], notes: Notes) -> Iterator[Box]:
    if not os.path.isfile(path):
        notes.add("images without a text file, taken as images without objects", str(path))
        return
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        label, shares = _parsed(line, where)
        if label >= len(names):
            rule = f"class {label} is none of the {len(names)} `names` of data.yaml"
            raise refuse(where, line, rule, "name the class, or correct the line")
        if names[label] not in classes:
            notes.add("objects of classes that `classes` leaves out", f"{where}, {names[label]}")
            continue
        yield from sound_box(_corners(shares), (1, 1), classes.index(names[label]), False, where, notes)


def _parsed(line: str, where: str) -> tuple[int, list[float]]:
    """Return a line's class and numbers."""
    words = line.split()
    try:
        label, shares = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        label, shares = -1, []
    if label < 0 or (len(shares) != 4 and (len(shares) < 6 or len(shares) % 2)):
        rule = "must be `class x y width height`, or a class and at least three corners x y"
        raise refuse(where, line, rule, "correct or remove the line")
    outside = [share for share in shares if not -_SLACK <= share <= 1 + _SLACK]
    if outside or (len(shares) == 4 and min(shares[2:]) < 0):
        rule = "numbers must be shares of the image's width and height, in [0, 1]"
        raise refuse(where, line, rule, "divide pixels by the image's width and height")
    return label, shares


def _corners(shares: list[float]) -> tuple[float, float, float, float]:
    if len(shares) == 4:
        x, y, width, height = shares
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return min(shares[::2]), min(shares[1::2]), max(shares[::2]), max(shares[1::2])
