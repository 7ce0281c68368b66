"""The classes of a folder of class folders, and the refusal of folders that are none."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from rsf_dist.data.sources.base import normal, shortened
from rsf_dist.data.sources.found_files import FoundFiles, find_files, folders_of, has_pictures, sentence_of
from rsf_dist.errors import InputError

PARTS = {
    "train", "training", "trainset", "val", "valid", "validation", "dev", "test", "testing", "testset", "eval",
    "unlabeled", "unlabelled",
}  # fmt: skip
"""Names of a data set's parts, which lie one level above its classes."""
_LIST = "list `classes`"


def classes_of(found: FoundFiles, listed: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes of the folders below a root, ordered as words, and lines for the user.

    Args:
        found: the files below the root.
        listed: the classes that the user lists, which then are the classes. Folders without images are left out of
            account. Empty means that every folder with images is a class.

    Returns:
        The classes, empty if images lie in the root itself; the lines.

    Raises:
        InputError: names the folder, or the image beside class folders, and what to do.
    """
    below = _children(found)
    folders = sorted(name for name in below if name)
    if not folders:
        return (), ()
    if "" in below:
        remedy = "move it into its class's folder, or out of the root"
        raise InputError("root", min(below[""]), "lies beside class folders", remedy)
    if listed:
        _require_listed(folders, listed)
        return listed, ()
    _require_utf8(folders)
    _require_apart(folders)
    _require_class_level(found.root, below)
    _require_no_empty_class(found.root, folders)
    return tuple(folders), _doubts(folders, below)


def _children(found: FoundFiles) -> dict[str, set[str]]:
    """Return what holds images, by folder of the root: names of folders, ending in /, and of images.

    The empty name stands for the root itself.
    """
    below: dict[str, set[str]] = {}
    for path in found.images:
        *folders, name = path.relative_to(found.root).parts
        child = name if len(folders) < 2 else f"{folders[1]}/"
        below.setdefault(folders[0] if folders else "", set()).add(child)
    return below


def _require_listed(folders: list[str], listed: tuple[str, ...]) -> None:
    known = {normal(name) for name in listed}
    unknown = [name for name in folders if normal(name) not in known]
    if unknown:
        rule = f"is not one of the classes {shortened(listed)}"
        raise InputError("root", unknown[0], rule, "list it in `classes`, or move that folder out of the root")


def _require_utf8(folders: list[str]) -> None:
    for name in folders:
        try:
            name.encode()
        except UnicodeEncodeError as err:
            raise InputError("root", os.fsencode(name), "names a class, and is no UTF-8", "rename that folder") from err


def _require_apart(folders: list[str]) -> None:
    """Raise InputError if two folders' names look alike, but for their Unicode form."""
    seen: set[str] = set()
    for name in folders:
        if normal(name) in seen:
            rule = "is there twice, in two Unicode forms that look alike"
            raise InputError("root", name, rule, f"move its images into one folder, or {_LIST}")
        seen.add(normal(name))


def _require_class_level(root: Path, below: dict[str, set[str]]) -> None:
    """Raise InputError if the folders lie one level above classes: a data set's parts, or one folder of folders."""
    parts = [name for name in below if name.lower() in PARTS]
    nested = [name for name in parts if _only_folders(below[name])]
    if len(parts) > 1 or nested or len(parts) == len(below):
        rule = "is a data set's part rather than a class"
        raise _one_level_too_high(root, min(parts, key=lambda name: (name not in nested, name)), rule)
    only = next(iter(below))
    if len(below) == 1 and _only_folders(below[only]):
        children = [child.rstrip("/") for child in sorted(below[only])]
        raise _one_level_too_high(root, only, f"is the only folder, and its images lie in {shortened(children)}")


def _only_folders(children: Iterable[str]) -> bool:
    return all(child.endswith("/") for child in children)


def _one_level_too_high(root: Path, folder: str, rule: str) -> InputError:
    return InputError("root", folder, rule, f"set `root: {root / folder}`; if it is a class, {_LIST}")


def _require_no_empty_class(root: Path, folders: list[str]) -> None:
    """Raise InputError for a folder with no file at all, or with pictures that cannot be read.

    A folder of other files alone, such as tables or annotations, is no class.
    """
    for folder in folders_of(root):
        if folder.name in folders:
            continue
        passed_over = find_files(folder).passed_over
        if passed_over and not has_pictures(passed_over):
            continue
        remedy = f"add images, remove it, or {_LIST}"
        rule = "is a class without any image"
        if passed_over:
            rule = f"is a class without images that can be read, but with {sentence_of(passed_over)}"
            remedy = "convert them to PNG or JPEG"
        raise InputError("root", folder.name, rule, remedy)


def _doubts(folders: list[str], below: dict[str, set[str]]) -> tuple[str, ...]:
    """Return a line if every folder holds the same folders, which might be the classes."""
    first = below[folders[0]]
    if len(folders) < 2 or len(first) < 2 or not all(_only_folders(first | below[name]) for name in folders):
        return ()
    if any(below[name] != first for name in folders):
        return ()
    children = shortened([child.rstrip("/") for child in sorted(first)])
    return (f"each of the classes {shortened(folders)} holds {children}: if these are the classes, name one as root",)
