"""Source `idx`: the files of MNIST and Fashion-MNIST, as torchvision and Debian's dataset-fashion-mnist keep them."""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch

from rsf_dist.config.images import IdxConfig
from rsf_dist.data.batch import Batch
from rsf_dist.data.sources.base import InMemory, Listing, checked_labels, existing, list_images, numbered, numbers
from rsf_dist.data.sources.streamed import LARGE_BYTES, StreamedImages
from rsf_dist.errors import InputError

_HEADER_BYTES = 16  # of a file of images
_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@list_images.register
def _(config: IdxConfig) -> Listing:
    root = existing(config.root)
    image_file, label_file = (_find_idx(root, name) for name in _IDX_FILES[config.split])
    count, read = _images(image_file, config)
    labels = _read_idx(label_file, 1)
    classes = config.classes or numbered(labels)
    return Listing(numbers(count), read, checked_labels(labels, count, classes), classes)


def _images(path: Path, config: IdxConfig) -> tuple[int, Callable[[Sequence[int]], Batch]]:
    """Return how many images a file holds, and what reads them; a large file is not read yet. Raises InputError."""
    shape = _shape(path, 3)
    if math.prod(shape) < LARGE_BYTES:
        images = torch.from_numpy(_read_idx(path, 3)).unsqueeze(1)
        return len(images), InMemory(images, config)
    _require_length(path, _HEADER_BYTES + math.prod(shape), shape)
    opened = partial(_opened, path)
    return shape[0], StreamedImages(opened, _HEADER_BYTES, (1, *shape[1:]), config, partial(_unreadable, path))


def splits_in(root: Path) -> list[str]:
    """Return the splits whose images lie in a folder, or where torchvision keeps them below it."""
    return [split for split, (images, _) in _IDX_FILES.items() if _places(root, images)]


def split_of(file: Path) -> str | None:
    """Return the split that a file belongs to, or None where its name says none."""
    return next((split for split, names in _IDX_FILES.items() if file.name.removesuffix(".gz") in names), None)


def files_read(config: IdxConfig) -> list[Path]:
    """Return the files that hold a split. Raises InputError."""
    root = existing(config.root)
    return [path for name in _IDX_FILES[config.split] for path in _places(root, name)]


def _find_idx(root: Path, name: str) -> Path:
    found = _places(root, name)
    if found:
        return found[0]
    raise InputError("root", root, f"holds no {name}[.gz]", "point it to a folder with the IDX files")


def _places(root: Path, name: str) -> list[Path]:
    folders = [root, root / "FashionMNIST" / "raw", root / "MNIST" / "raw"]
    return [path for folder in folders for path in (folder / name, folder / f"{name}.gz") if path.is_file()]


def _read_idx(path: Path, num_dims: int) -> np.ndarray:
    """Read an IDX file of bytes: a header as `_shape` reads it, then the bytes. Raises InputError."""
    shape = _shape(path, num_dims)
    with _reading(path), _opened(path) as file:
        file.seek(4 + 4 * num_dims)
        data = file.read(1 + math.prod(shape))
    if len(data) != math.prod(shape):
        raise _other_length(path, len(data), shape)
    return np.frombuffer(data, np.uint8).reshape(shape).copy()


def _shape(path: Path, num_dims: int) -> list[int]:
    """Read an IDX file's header: 0, 0, 8, the number of dimensions, each dimension as a big-endian int32."""
    size = 4 + 4 * num_dims
    with _reading(path), _opened(path) as file:
        header = file.read(size)
    shape = np.frombuffer(header, ">i4", offset=4).tolist() if len(header) == size else []
    if not shape or header[:4] != bytes([0, 0, 8, num_dims]):
        rule = f"is not an IDX file of unsigned bytes with {num_dims} dimension(s)"
        raise InputError(str(path), header[:4].hex(), rule, "download it again", absolute=True)
    if min(shape) < 0:
        raise _other_length(path, 0, shape)
    return shape


def _require_length(path: Path, length: int, shape: list[int]) -> None:
    """Raise InputError unless a file's content has this length; a compressed file is read through for it."""
    with _reading(path), _opened(path) as file:
        found = (
            file.seek(0, os.SEEK_END) if path.suffix != ".gz" else sum(map(len, iter(partial(file.read, 2**20), b"")))
        )
    if found != length:
        raise _other_length(path, found - _HEADER_BYTES, shape)


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as err:  # of the disk, the archive or memory: the file is at fault for each
        raise _unreadable(path, err) from err


def _unreadable(path: Path, err: object) -> InputError:
    return InputError(str(path), "(a file)", f"cannot be read ({err})", "download it again", absolute=True)


def _other_length(path: Path, found: int, shape: list[int]) -> InputError:
    rule = f"is cut short or goes on: {shape} expected"
    return InputError(str(path), f"{found} bytes", rule, "download it again", absolute=True)
