"""The kind of image set that a path leads to, told from names, headers and the first row. No image is decoded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsf_dist.data.sources.base import existing, shortened
from rsf_dist.data.sources.found_files import RUN_FILES, image_suffixes
from rsf_dist.data.sources.idx import split_of
from rsf_dist.data.sources.parquet import SUFFIXES as PARQUET
from rsf_dist.data.sources.recognised_files import coco_keys, table_keys, yolo_parts
from rsf_dist.data.sources.recognised_folders import FINDERS, only_folder
from rsf_dist.data.sources.text_tables import JSON_LINES, SEPARATED
from rsf_dist.errors import InputError

Keys = dict[str, Any]
"""The keys of an image set, as `source` or `target` in a configuration takes them."""

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".bz2", ".xz", ".rar")
_LOOKED_FOR = (
    "images, alone or in one sub-folder a class; COCO's JSON; JPEGImages and Annotations (VOC); data.yaml (YOLO); "
    "images and masks; a table of paths (CSV, JSON lines); Parquet, npz and IDX files"
)


def recognise(path: str) -> Keys:
    """Return the keys of the image set that a path leads to: `kind`, `root` and what else the kind needs.

    Args:
        path: of a folder or a file. A URI (s3://, …) leads to Parquet files.

    Raises:
        InputError: names the path, and what was looked for; or the image sets that are there, if there are several.
    """
    parts = recognise_parts(path)
    first = next(iter(parts.values()))
    if len({tuple(sorted((keys | {"split": None}).items())) for keys in parts.values()}) == 1:  # `split` chooses
        return first
    rule = f"holds {len(parts)} image sets: {shortened(list(parts))}"
    raise InputError("path", path, rule, f"name one of them, e.g. {first.get('annotations') or place(first)}")


def recognise_parts(path: str) -> dict[str, Keys]:
    """Return the image sets that a path leads to, by name: train, val, … The name is empty where there is one.

    Raises:
        InputError: names the path, and what was looked for.
    """
    if "://" in path:
        return {"": {"kind": "parquet", "root": path}}
    found = existing(path, "path")
    parts = _of_folder(found) if os.path.isdir(found) else _of_file(found)
    return dict(sorted(parts.items(), key=lambda part: _rank(part[0])))


def _rank(name: str) -> int:
    """Return where a part comes: training images first, test images last."""
    starts = ("train", "val", "dev")
    return next((rank for rank, start in enumerate(starts) if name.lower().startswith(start)), len(starts))


def place(keys: Mapping[str, Any]) -> str:
    """Return the path that the keys of an image set lead to."""
    return str(keys.get("root") or keys.get("file") or keys["kind"])


def _of_folder(folder: Path) -> Mapping[str, Keys]:
    if all((folder / name).is_file() for name in RUN_FILES):
        raise InputError("path", folder, "is the directory of a run", f"name {folder / 'config.yaml'}, or its images")
    for find in FINDERS:
        parts = find(folder)
        if parts:
            return parts
    inside = only_folder(folder)
    if inside is not None:
        return _of_folder(inside)
    raise InputError("path", folder, f"holds no image set; looked for {_LOOKED_FOR}", "name a folder that does")


def _of_file(file: Path) -> Mapping[str, Keys]:
    suffix = file.suffix.lower()
    if suffix in (".yaml", ".yml"):
        parts = yolo_parts(file)
        if parts:
            return parts
        raise InputError("path", file, "has no keys `names` and `train`, as YOLO's data.yaml has", "name another file")
    if suffix == ".json":
        return {"": coco_keys(file)}
    if suffix in SEPARATED + JSON_LINES:
        return {"": table_keys(file)}
    if suffix in PARQUET:
        return {"": {"kind": "parquet", "root": str(file)}}
    if suffix == ".npz":
        return {"": {"kind": "npz", "root": str(file)}}
    if file.name.endswith(("-ubyte", "-ubyte.gz")):
        beside, split = _of_folder(file.parent), split_of(file)
        return {split: beside[split]} if split is not None and split in beside else beside
    raise _no_set(file, suffix)


def _no_set(file: Path, suffix: str) -> InputError:
    if suffix in image_suffixes():
        return InputError("path", file, "is a single file with an image", "name the folder that it lies in")
    if suffix in _ARCHIVES:
        return InputError("path", file, "is an archive", "unpack it, and name the folder")
    files = ", ".join((".json", ".yaml", *SEPARATED, *JSON_LINES, *PARQUET, ".npz"))
    return InputError("path", file, f"is no file of an image set; known are {files}", "name one of these, or a folder")
