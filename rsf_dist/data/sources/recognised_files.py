"""The image sets that single files describe: COCO's JSON, YOLO's data.yaml, tables of paths."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rsf_dist.config.safe_yaml import read as read_yaml
from rsf_dist.data.sources.columns import find_column
from rsf_dist.data.sources.found_files import folders_of
from rsf_dist.data.sources.table import LABELS, PATHS
from rsf_dist.data.sources.text_tables import first_row
from rsf_dist.errors import InputError

_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_SPLITS = ("train", "val", "test")
_FOR_ANNOTATIONS = ("annotations", "annotation", "labels", "metadata")
_NEAR = ("images", "data")


def is_coco(file: Path) -> bool:
    """Return True for a JSON file with the three lists of COCO's format. It is searched, and not parsed."""
    return all(_holds(file, name) for name in ("images", "annotations", "categories"))


def coco_keys(file: Path) -> dict[str, Any]:
    """Return the keys of a file of COCO's format. Raises InputError."""
    if not is_coco(file):
        rule = "is not of COCO's format: it needs the lists `images`, `annotations` and `categories`"
        raise InputError("path", file, rule, "name another file")
    name = _first_name(file)
    root = folder_with(name, file) if name else None
    if root is None:
        rule = f"names images such as {name}, which lie in no folder near it"
        remedy = f"write a configuration with `kind: coco`, `annotations: {file}` and the `root` of the images"
        raise InputError("path", file, rule, remedy)
    keys = {"kind": "coco", "root": str(root), "annotations": str(file)}
    return keys if _holds(file, "bbox") or not _holds(file, "segmentation") else keys | {"masks": True}


def yolo_parts(file: Path) -> dict[str, dict[str, Any]]:
    """Return the splits of a YAML file as YOLO writes it; none if it is of another kind."""
    try:
        document = read_yaml(file.read_text("utf-8-sig"))
    except (OSError, ValueError):  # a configuration, or none of our business
        return {}
    if not isinstance(document, dict) or "names" not in document:
        return {}
    splits = [split for split in _SPLITS if document.get(split)]
    return {split: {"kind": "yolo", "root": str(file), "split": split} for split in splits}


def table_keys(file: Path) -> dict[str, Any]:
    """Return the keys of a table of paths. Raises InputError where its first path is no file's."""
    row = first_row(file)
    column = find_column(None, PATHS, list(row), "path_column", str(file))
    if column is None:
        rule = f"has no column of paths, but {', '.join(row)}"
        raise InputError("path", file, rule, f"name the column {PATHS[0]}")
    text = str(row[column])
    root = folder_with(text, file)
    if root is None:
        rule = f"names images such as {text}, which lie in no folder near it"
        remedy = f"write a configuration with `kind: table`, `file: {file}` and the `root` of the images"
        raise InputError("path", file, rule, remedy)
    keys = {"kind": "table", "file": str(file)}
    return keys if root == file.parent else keys | {"root": str(root)}


def is_labelled_table(file: Path) -> bool:
    """Return True for a table whose first row has the path of an image that is there, and a label."""
    try:
        table_keys(file)
        return find_column(None, LABELS, list(first_row(file)), "label_column", str(file)) is not None
    except InputError:
        return False


def folder_with(name: str, file: Path) -> Path | None:
    """Return the folder near a file in which the file's relative paths start, told from one of them.

    These are its own folder, or the one above if its own is for annotations alone, and the folders in it; those named
    like it (train2017 for instances_train2017.json) come first.
    """
    return next((folder for folder in _near(file) if os.path.isfile(folder / name)), None)


def _near(file: Path) -> Iterable[Path]:
    bases = [file.parent, file.parent.parent] if file.parent.name.lower() in _FOR_ANNOTATIONS else [file.parent]
    for base in bases:
        yield base
        inside = folders_of(base)
        inner = [folder for name in _NEAR if (base / name).is_dir() for folder in folders_of(base / name)]
        yield from sorted([*inside, *inner], key=lambda folder: folder.name not in file.stem)


def _holds(file: Path, key: str) -> bool:
    with file.open("rb") as opened:
        if not os.fstat(opened.fileno()).st_size:
            return False
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return text.find(f'"{key}"'.encode()) >= 0


def _first_name(file: Path) -> str:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
        found = _FILE_NAME.search(text)
        return str(json.loads(found[1])) if found else ""
