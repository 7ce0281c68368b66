"""Source `idx`: the files of MNIST and Fashion-MNIST, as torchvision and Debian's dataset-fashion-mnist keep them."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import torch

from rsf_dist.config.images import IdxConfig
from rsf_dist.data.sources.base import InMemory, Listing, checked_labels, existing, list_images, numbered, numbers
from rsf_dist.errors import InputError

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@list_images.register
def _(config: IdxConfig) -> Listing:
    root = existing(config.root)
    images, labels = (
        _read_idx(_find_idx(root, name), num_dims)
        for name, num_dims in zip(_IDX_FILES[config.split], (3, 1), strict=True)
    )
    classes = config.classes or numbered(labels)
    ids = numbers(len(images))
    read = InMemory(torch.from_numpy(images).unsqueeze(1), config)
    return Listing(ids, read, checked_labels(labels, len(images), classes), classes)


def splits_in(root: Path) -> list[str]:
    """Return the splits whose images lie in a folder, or where torchvision keeps them below it."""
    return [split for split, (images, _) in _IDX_FILES.items() if _places(root, images)]


def _find_idx(root: Path, name: str) -> Path:
    found = _places(root, name)
    if found:
        return found[0]
    raise InputError("root", root, f"holds no {name}[.gz]", "point it to a folder with the IDX files")


def _places(root: Path, name: str) -> list[Path]:
    folders = [root, root / "FashionMNIST" / "raw", root / "MNIST" / "raw"]
    return [path for folder in folders for path in (folder / name, folder / f"{name}.gz") if path.is_file()]


def _read_idx(path: Path, num_dims: int) -> np.ndarray:
    """Read an IDX file of bytes: 0, 0, 8, the number of dimensions, each dimension as a big-endian int32, the bytes."""
    size = 4 + 4 * num_dims
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(size)
            shape = np.frombuffer(header, ">i4", offset=4).tolist() if len(header) == size else []
            data = file.read(1 + math.prod(shape)) if shape and min(shape) >= 0 else b""
    except Exception as err:  # of the disk, the archive or memory: the file is at fault for each
        raise InputError(str(path), "(a file)", f"cannot be read ({err})", "download it again", absolute=True) from err
    if not shape or header[:4] != bytes([0, 0, 8, num_dims]):
        rule = f"is not an IDX file of unsigned bytes with {num_dims} dimension(s)"
        raise InputError(str(path), header[:4].hex(), rule, "download it again", absolute=True)
    if len(data) != math.prod(shape):
        rule = f"is cut short or goes on: {shape} expected"
        raise InputError(str(path), f"{len(data)} bytes", rule, "download it again", absolute=True)
    return np.frombuffer(data, np.uint8).reshape(shape).copy()
