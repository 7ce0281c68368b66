"""Source `npz`: arrays `images` and, where labelled, `labels` and `classes`."""

from __future__ import annotations

from dataclasses import replace

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
from rsf_dist.errors import InputError


@list_images.register
def _(config: NpzConfig) -> Listing:
    arrays = _arrays(config.root, "images", "labels", "classes", *config.attributes)
    listing = with_attributes(_listing(arrays["images"], config), _attributes(arrays, config))
    if "labels" not in arrays:
        return listing
    classes = config.classes or _named(arrays)
    return replace(listing, labels=checked_labels(arrays["labels"], len(listing.ids), classes), classes=classes)


@list_unlabelled.register
def _(config: NpzConfig) -> Listing:
    return unlabelled_unless_sound(config, lambda: _listing(_arrays(config.root, "images")["images"], config))


def _attributes(arrays: dict[str, np.ndarray], config: NpzConfig) -> dict[str, Tensor]:
    """Return the arrays that the configuration names as attributes. Raises InputError."""
    count = len(arrays["images"])
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


def _listing(images: np.ndarray, config: NpzConfig) -> Listing:
    """Return a listing of the images without labels."""
    tensor = torch.from_numpy(images if images.ndim == 4 else images[:, None])
    return Listing(numbers(len(images)), InMemory(tensor, config))


def _arrays(root: str, *wanted: str) -> dict[str, np.ndarray]:
    """Read those of the file's arrays that are wanted. Raises InputError unless `images` is there and holds images."""
    path = existing(root)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in wanted if name in file.files}
            names = sorted(file.files)
    except Exception as err:  # of the archive, the arrays or memory: the file is at fault for each
        rule = f"is not an npz file of plain arrays ({err})"
        raise InputError("root", path, rule, "write it again, without objects") from err
    if "images" not in arrays:
        raise InputError("root", path, f"holds {names}, not `images`", "save the images under that name")
    images = arrays["images"]
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[1] in (1, 3))):
        rule = "`images` must be uint8 [n, h, w] or [n, c, h, w] with 1 or 3 channels"
        remedy = "save them as uint8 [n, h, w] or [n, c, h, w]"
        raise InputError("root", f"{images.dtype} {list(images.shape)}", rule, remedy)
    return arrays


def _named(arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Return the classes that an npz file names, or else the numbers of its labels."""
    if "classes" not in arrays:
        return numbered(arrays["labels"])
    names = [str(name) for name in arrays["classes"].reshape(-1)]
    if arrays["classes"].ndim != 1 or len(set(names)) < len(names):
        raise InputError("classes", names, "`classes` must be a list of different names", "rename them")
    return tuple(names)
