"""Source `image_folder`: a folder of images, or of one sub-folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsf_dist.config.images import ImageFolderConfig
from rsf_dist.data.batch import Batch
from rsf_dist.data.decoding import decode
from rsf_dist.data.resizing import resized
from rsf_dist.data.sources.base import Listing, checked_labels, existing, list_images
from rsf_dist.errors import InputError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class _Files:
    """Image files that are decoded when they are read."""

    paths: Sequence[Path]
    config: ImageFolderConfig

    def __call__(self, positions: Sequence[int]) -> Batch:
        paths = [self.paths[position] for position in positions]
        images = [self._read(path) for path in paths]
        return {"image": torch.stack(_same_size(images, paths))}

    def _read(self, path: Path) -> Tensor:
        image = decode(path, self.config.channels or 3)
        return image if self.config.size is None else resized(image, self.config.size, self.config.resize)


@list_images.register
def _(config: ImageFolderConfig) -> Listing:
    root = existing(config.root)
    if not root.is_dir():
        raise InputError("root", root, "must be a folder", "name the folder that holds the images")
    paths = sorted(_image_files(root))
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = config.classes or tuple(folders)
    unknown = [name for name in folders if name not in classes]
    if unknown:
        raise InputError("root", unknown[0], f"is not one of the classes {list(classes)}", "rename that folder")
    stray = [path for path in paths if path.parent == root]
    if stray and folders:
        raise InputError("root", stray[0].name, "lies beside class folders", "move it into its class's folder")
    ids, files = [path.relative_to(root).as_posix() for path in paths], _Files(paths, config)
    if not folders:
        return Listing(ids, files)
    labels = np.array([classes.index(path.relative_to(root).parts[0]) for path in paths], np.int64)
    return Listing(ids, files, checked_labels(labels, len(paths), classes), classes)


def _image_files(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the files with an image's suffix, at any depth and through links. Hidden files are left out."""
    real = os.path.realpath(folder)
    if real in above:
        raise InputError("root", folder, "is a link to a folder that it lies in", "remove the link")
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as err:
        raise InputError("root", folder, f"cannot be listed ({err})", "check its permissions") from err
    for entry in entries:
        if entry.is_dir():
            yield from _image_files(entry, (*above, real))
        elif entry.suffix.lower() in _SUFFIXES:
            yield entry


def _same_size(images: list[Tensor], paths: list[Path]) -> list[Tensor]:
    for image, path in zip(images, paths, strict=True):
        if image.shape != images[0].shape:
            rule = f"{path.name} differs in size from {paths[0].name} {list(images[0].shape[1:])}"
            raise InputError("size", list(image.shape[1:]), rule, "set `size: [height, width]`")
    return images
