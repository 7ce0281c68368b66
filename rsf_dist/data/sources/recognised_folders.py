"""The image sets that folders hold, each looked for by a function of its own: by names, before files are opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsf_dist.data.sources.class_folders import PARTS
from rsf_dist.data.sources.found_files import FoundFiles, files_in, find_files, folders_of, image_suffixes
from rsf_dist.data.sources.idx import splits_in
from rsf_dist.data.sources.parquet import SUFFIXES as PARQUET
from rsf_dist.data.sources.recognised_files import coco_keys, is_coco, is_labelled_table, table_keys, yolo_parts
from rsf_dist.data.sources.text_tables import JSON_LINES, SEPARATED
from rsf_dist.errors import InputError

Parts = Mapping[str, dict[str, Any]]
"""Image sets by name. The name is empty where there is one."""

_IMAGES = ("images", "image", "imgs", "img", "jpegimages", "photos")
_MASKS = ("masks", "mask", "labels", "annotations", "segmentation", "segmentations", "segmentationclass", "gt")
_VOC_LISTS = ("train", "val", "test")
_SPLIT_NAME = re.compile(r"(train|training|val|valid|validation|dev|test|testing)(?![a-z])", re.IGNORECASE)


def only_folder(folder: Path) -> Path | None:
    """Return the one folder that a folder holds, as an unpacked archive does; None if there are others or none."""
    inside = folders_of(folder)
    return inside[0] if len(inside) == 1 else None


def _yolo(folder: Path) -> Parts:
    files = sorted(files_in(folder, (".yaml", ".yml")), key=lambda file: file.stem != "data")
    found = next(filter(None, map(yolo_parts, files)), {})
    if found or not _has_yolo_labels(folder):
        return found
    rule = "has images and labels as YOLO keeps them, and no data.yaml that says what the classes are"
    remedy = "write data.yaml with `names: [first, second, …]` and `train: images`"
    raise InputError("path", folder, rule, remedy)


def _has_yolo_labels(folder: Path) -> bool:
    labels, images = folder / "labels", folder / "images"
    parts = ["", *(part.name for part in folders_of(labels))] if labels.is_dir() else []
    return any(_stems(labels / part, (".txt",)) & _stems(images / part) for part in parts)


def _voc(folder: Path) -> Parts:
    if not ((folder / "JPEGImages").is_dir() and (folder / "Annotations").is_dir()) and not _has_xml_beside(folder):
        return {}
    keys = {"kind": "voc", "root": str(folder)}
    lists = [name for name in _VOC_LISTS if (folder / "ImageSets" / "Main" / f"{name}.txt").is_file()]
    return {name: keys | {"split": name} for name in lists} or {"": keys}


def _has_xml_beside(folder: Path) -> bool:
    return bool(_stems(folder, (".xml",)) & _stems(folder))


def _idx(folder: Path) -> Parts:
    return {split: {"kind": "idx", "root": str(folder), "split": split} for split in splits_in(folder)}


def _masks(folder: Path) -> Parts:
    inside = {child.name.lower(): child for child in folders_of(folder)}
    for images in (inside[name] for name in _IMAGES if name in inside):
        for masks in (inside[name] for name in _MASKS if name in inside):
            pairs = {"": (images, masks)}
            if not files_in(images, _ends()):
                pairs = {part.name: (part, masks / part.name) for part in folders_of(images)}
            if pairs and all(_stems(inner) & _stems(beside, (".png",)) for inner, beside in pairs.values()):
                return {name: _mask_keys(*pair) for name, pair in pairs.items()}
    return {}


def _mask_keys(images: Path, masks: Path) -> dict[str, Any]:
    return {"kind": "mask_folder", "root": str(images), "masks": str(masks)}


def _coco(folder: Path) -> Parts:
    inside = [(file.stem, file) for place in (folder, folder / "annotations") for file in files_in(place, (".json",))]
    inside += [(part.name, file) for part in folders_of(folder) for file in files_in(part, (".coco.json",))]
    found = {name: file for name, file in inside if is_coco(file)}
    objects = {name: file for name, file in found.items() if "keypoints" not in name} or found
    named = {name.removeprefix("instances_"): coco_keys(file) for name, file in objects.items()}
    return {"": next(iter(named.values()))} if len(named) == 1 else named


def _table(folder: Path) -> Parts:
    tables = [file for file in files_in(folder, (*SEPARATED[:2], *JSON_LINES)) if is_labelled_table(file)]
    if not tables or _has_classes(folder):
        return {}
    named = {file.stem: table_keys(file) for file in tables}
    return {"": next(iter(named.values()))} if len(named) == 1 else named


def _has_classes(folder: Path) -> bool:
    """Return True if images lie in several sub-folders that are named like classes."""
    inside = [child for child in folders_of(folder) if files_in(child, _ends())]
    return len(inside) > 1 and not any(child.name.lower() in (*PARTS, *_IMAGES) for child in inside)


def _images(folder: Path) -> Parts:
    found = find_files(folder)
    if not found.images:
        return {}
    tops = _tops(found)
    parts = [name for name in tops if name.lower() in PARTS]
    if len(parts) == len(tops) and "" not in tops:
        return {name: {"kind": "image_folder", "root": str(folder / name)} for name in parts}
    inside = only_folder(folder)
    if len(tops) == 1 and "" not in tops and inside is not None and not files_in(inside, _ends()):
        return {}  # one level too high: the folder inside is looked at
    return {"": {"kind": "image_folder", "root": str(folder)}}


def _tops(found: FoundFiles) -> list[str]:
    """Return the root's folders that hold images, in order; the empty name stands for the root itself."""
    parts = (path.relative_to(found.root).parts for path in found.images)
    return list(dict.fromkeys(above[0] if len(above) > 1 else "" for above in parts))


def _parquet(folder: Path) -> Parts:
    files = sorted(file for end in PARQUET for file in folder.rglob(f"*{end}"))
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(_split_of(file, folder), []).append(file)
    if len(splits) < 2:
        return {"": {"kind": "parquet", "root": str(folder)}} if files else {}
    return {split: {"kind": "parquet", "root": str(_root_of(split, inside))} for split, inside in splits.items()}


def _split_of(file: Path, folder: Path) -> str:
    """Return the split that a file's name, or its folder's, begins with: train of train-00000-of-00002.parquet."""
    for name in reversed(file.relative_to(folder).parts):
        found = _SPLIT_NAME.match(name)
        if found:
            return found[1].lower()
    return "others"


def _root_of(split: str, files: Sequence[Path]) -> Path:
    if len(files) == 1:
        return files[0]
    root = files[0].parent
    if any(file.parent != root for file in files) or len(list(root.glob("*.p*q*"))) > len(files):
        rule = f"holds the {len(files)} files of {split} beside those of other splits"
        raise InputError("path", root, rule, "move each split into a folder of its own")
    return root


def _npz(folder: Path) -> Parts:
    files = files_in(folder, (".npz",))
    named = {file.stem: {"kind": "npz", "root": str(file)} for file in files}
    return {"": next(iter(named.values()))} if len(named) == 1 else named


def _stems(folder: Path, ends: tuple[str, ...] | None = None) -> set[str]:
    """Return the names, without suffix, of the files in a folder that end so; None means images."""
    return {file.stem for file in files_in(folder, ends or _ends())}


def _ends() -> tuple[str, ...]:
    return tuple(sorted(image_suffixes()))


FINDERS: tuple[Callable[[Path], Parts], ...] = (_yolo, _voc, _idx, _masks, _coco, _table, _images, _parquet, _npz)
"""What is looked for in a folder, in this order: what describes images comes before images alone."""
