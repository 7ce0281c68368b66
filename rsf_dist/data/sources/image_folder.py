"""Source `image_folder`: a folder of images, or of one sub-folder a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rsf_dist.config.images import ImageFolderConfig
from rsf_dist.data.batch import Batch
from rsf_dist.data.decoding import Brightest, Header, require_full_range
from rsf_dist.data.sources.base import Listing, existing, list_images, list_unlabelled, normal
from rsf_dist.data.sources.class_folders import classes_of
from rsf_dist.data.sources.columns import decoded, file_headers, filled
from rsf_dist.data.sources.found_files import FoundFiles, find_files, name_below, passed_over_notes
from rsf_dist.errors import InputError


@dataclass(frozen=True)
class _Files:
    """Image files that are decoded when they are read."""

    paths: Sequence[Path]
    config: ImageFolderConfig

    def __call__(self, positions: Sequence[int]) -> Batch:
        paths = [self.paths[position] for position in positions]
        seen: list[Brightest] = []
        images = filled(enumerate(self._read(paths, seen)), len(paths), lambda number: paths[number].name, "root")
        require_full_range(seen, self.config.bits)
        return {"image": images}

    def headers(self, positions: Sequence[int]) -> Iterator[Header | InputError]:
        """Yield what the files tell of these images before they are decoded."""
        return file_headers(self.paths[position] for position in positions)

    def _read(self, paths: Sequence[Path], seen: list[Brightest]) -> Iterator[Tensor]:
        """Give the images of these files, and add to `seen` the brightest pixel of each that has 16 bits."""
        for path in paths:
            yield decoded(path, self.config, seen=seen)


@list_images.register
def _(config: ImageFolderConfig) -> Listing:
    found = _found(config)
    classes, notes = classes_of(found, config.classes)
    listing = _listing(found, config, notes)
    if not classes:
        return listing
    number = {normal(name): label for label, name in enumerate(classes)}
    labels = [number[normal(folder)] for folder in _folders(found)]
    return Listing(
        listing.ids, listing.read, torch.tensor(labels), classes, passed_over=found.passed_over, notes=listing.notes
    )


@list_unlabelled.register
def _(config: ImageFolderConfig) -> Listing:
    found = _found(config)
    listing = _listing(found, config)
    groups = torch.tensor(_groups(_folders(found), config.classes), dtype=torch.int64)
    return Listing(listing.ids, listing.read, groups=groups, passed_over=found.passed_over, notes=listing.notes)


def _found(config: ImageFolderConfig) -> FoundFiles:
    root = existing(config.root)
    if not root.is_dir():
        raise InputError("root", root, "must be a folder", "name the folder that holds the images")
    return find_files(root)


def _listing(found: FoundFiles, config: ImageFolderConfig, notes: tuple[str, ...] = ()) -> Listing:
    """Return a listing of the files without labels."""
    ids = [name_below(found.root, path) for path in found.images]
    notes = (*notes, *passed_over_notes(found.passed_over))
    return Listing(ids, _Files(found.images, config), passed_over=found.passed_over, notes=notes)


def _folders(found: FoundFiles) -> list[str]:
    """Return the name of the root's folder that each image lies in; the empty name for the root itself."""
    parts = (path.relative_to(found.root).parts for path in found.images)
    return [above[0] if len(above) > 1 else "" for above in parts]


def _groups(folders: Sequence[str], classes: tuple[str, ...]) -> list[int]:
    """Return the number of each folder's group: that of its class, and after these the others in alphabetical order.

    Images with and without labels are thus taken in one order, and parts of one folder share none.
    """
    listed = {normal(name): group for group, name in enumerate(classes)}
    others = sorted({folder for folder in folders if normal(folder) not in listed})
    rest = {folder: group for group, folder in enumerate(others, len(classes))}
    return [rest[folder] if folder in rest else listed[normal(folder)] for folder in folders]
