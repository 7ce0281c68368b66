"""Source `npz`: arrays `images` and, where labelled, `labels` and `classes`."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from rsf_dist.config.images import NpzConfig
from rsf_dist.data.sources.attributes import read_numbers, with_attributes
from rsf_dist.data.sources.base import (
    InMemory,
    Listing,
    checked_labels,
    existing,
    list_images,
    list_unlabelled,
    numbered,
    numbers,
    unlabelled_unless_sound,
)
from rsf_dist.data.sources.streamed import LARGE_BYTES, StreamedImages
from rsf_dist.errors import InputError


@list_images.register
def _(config: NpzConfig) -> Listing:
    images = _images(config)
    arrays = _arrays(existing(config.root), "labels", "classes", *config.attributes)
    listing = with_attributes(images, _attributes(arrays, len(images.ids), config))
    if "labels" not in arrays:
        return listing
    classes = config.classes or _named(arrays)
    return replace(listing, labels=checked_labels(arrays["labels"], len(listing.ids), classes), classes=classes)


@list_unlabelled.register
def _(config: NpzConfig) -> Listing:
    return unlabelled_unless_sound(config, lambda: _images(config))


def _attributes(arrays: dict[str, np.ndarray], count: int, config: NpzConfig) -> dict[str, Tensor]:
    """Return the arrays that the configuration names as attributes. Raises InputError."""
    for name in config.attributes:
        if name not in arrays:
            raise InputError("attributes", name, f"{config.root} has no such array", "correct the name")
        if arrays[name].shape != (count,):
            shape, rule = list(arrays[name].shape), f"must have one number for each of the {count:,} images"
            raise InputError("attributes", f"{name} {shape}", rule, f"save it as [{count}]")
    return {
        name: read_numbers(arrays[name].tolist(), name, lambda row: f"{config.root} image {row} (the first is 0)")
        for name in config.attributes
    }


def _images(config: NpzConfig) -> Listing:
    """Return a listing of the images without labels. Large arrays are not read yet. Raises InputError."""
    path = existing(config.root)
    header = _large_header(path)
    if header is not None:
        _require_images(np.dtype(np.uint8), header.shape)
        count, *shape = header.shape if len(header.shape) == 4 else (header.shape[0], 1, *header.shape[1:])
        opened = partial(_opened_images, path)
        read = StreamedImages(opened, header.start, tuple(shape), config, partial(_no_plain_arrays, path))
        return Listing(numbers(count), read)
    images = _arrays(path, "images")["images"]
    _require_images(images.dtype, images.shape)
    tensor = torch.from_numpy(images if images.ndim == 4 else images[:, None])
    return Listing(numbers(len(images)), InMemory(tensor, config))


@dataclass(frozen=True)
class _Header:
    """The shape of an array of bytes in an npz file, and where its numbers begin within its part of the file."""

    shape: tuple[int, ...]
    start: int


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _large_header(path: Path) -> _Header | None:
    """Return the header of `images`, or None where the array is small, or no array that can be read in one pass."""
    try:
        with _opened_images(path) as file:
            shape, by_columns, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
            is_large = dtype == np.uint8 and not by_columns and math.prod(shape) >= LARGE_BYTES
            with zipfile.ZipFile(path) as archive:  # a header may claim any shape
                is_large &= archive.getinfo("images.npy").file_size == file.tell() + math.prod(shape)
            return _Header(shape, file.tell()) if is_large else None
    except Exception:  # whatever it is, reading it as a whole says it in words
        return None


@contextmanager
def _opened_images(path: Path) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open("images.npy") as file:
        yield file


def _no_plain_arrays(path: Path, err: object) -> InputError:
    rule = f"is not an npz file of plain arrays ({err})"
    return InputError("root", path, rule, "write it again, without objects")


def _arrays(path: Path, *wanted: str) -> dict[str, np.ndarray]:
    """Read those of the file's arrays that are wanted. Raises InputError unless `images` is among the file's."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in wanted if name in file.files}
            names = sorted(file.files)
    except Exception as err:  # of the archive, the arrays or memory: the file is at fault for each
        raise _no_plain_arrays(path, err) from err
    if "images" not in names:
        raise InputError("root", path, f"holds {names}, not `images`", "save the images under that name")
    return arrays


def _require_images(dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Raise InputError unless an array of this type and shape holds images."""
    if dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[1] in (1, 3))):
        rule = "`images` must be uint8 [n, h, w] or [n, c, h, w] with 1 or 3 channels"
        remedy = "save them as uint8 [n, h, w] or [n, c, h, w]"
        raise InputError("root", f"{dtype} {list(shape)}", rule, remedy)


def _named(arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Return the classes that an npz file names, or else the numbers of its labels."""
    if "classes" not in arrays:
        return numbered(arrays["labels"])
    names = [str(name) for name in arrays["classes"].reshape(-1)]
    if arrays["classes"].ndim != 1 or len(set(names)) < len(names):
        raise InputError("classes", names, "`classes` must be a list of different names", "rename them")
    return tuple(names)
