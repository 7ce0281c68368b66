"""The images that a path leads to: how many, of which sizes and classes, told from headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from rsf_dist.config.images import IMAGE_KINDS, FilesKind, ImagesKind
from rsf_dist.data.decoding import Header
from rsf_dist.data.sources import Listing, list_images, list_unlabelled
from rsf_dist.data.sources.headers import evenly, read_headers
from rsf_dist.data.sources.recognise import recognise
from rsf_dist.errors import InputError

_MOST_FILES, _MOST_ROWS = 5_000, 64  # images of a set that are looked at; of a table, blocks are read for a row each


@dataclass(frozen=True)
class FoundImages:
    """The images that a path leads to.

    Args:
        keys: the keys of the image set in a configuration.
        listing: the images by name, with their classes.
        sizes: how many of the images that were looked at have each (height, width).
        grey: whether all images that were looked at are grey.
        are_files: whether each is a file, which is read with any number of channels.
        complete: whether all images were looked at.
    """

    keys: Mapping[str, Any]
    listing: Listing
    sizes: Counter[tuple[int, int]]
    grey: bool
    are_files: bool
    complete: bool

    def __len__(self) -> int:
        return len(self.listing.ids)

    def __str__(self) -> str:
        return f"{len(self):,} images of {_spread(self.sizes)} pixels"


def find_labelled(path: str) -> FoundImages:
    """Look at images that need labels. Raises InputError, also where they have none."""
    keys = recognise(path)
    config = _model(keys)
    if not config.classifies:
        rule = "gives boxes or masks, which no task uses yet"
        raise InputError("", f"{path} (kind {config.kind})", rule, "name images with one label each")
    found = _look_at(keys, config, list_images(config), path)
    if found.listing.labels is None:
        raise InputError("", path, "holds images without labels", "put those of each class into a folder of their own")
    return found


def find_unlabelled(path: str) -> FoundImages:
    """Look at images whose labels do not matter. Raises InputError."""
    keys = recognise(path)
    config = _model(keys)
    return _look_at(keys, config, list_unlabelled(config), path)


def _model(keys: Mapping[str, Any]) -> ImagesKind:
    model = IMAGE_KINDS.find(keys["kind"])
    assert model is not None  # recognise names registered kinds
    return model.model_validate(dict(keys))


def _look_at(keys: Mapping[str, Any], config: ImagesKind, listing: Listing, path: str) -> FoundImages:
    if not listing.ids:
        raise InputError("", path, "holds no images", "name a folder or file that does")
    most = _MOST_ROWS if listing.files([]) is None else _MOST_FILES
    chosen = evenly(range(len(listing.ids)), most)
    headers = list(_headers(listing, chosen))
    sizes = Counter((header.height, header.width) for header in headers)
    grey = all(Image.getmodebase(header.mode.partition(";")[0]) == "L" for header in headers)
    are_files = isinstance(config, FilesKind)
    return FoundImages(keys, listing, sizes, grey, are_files, complete=len(chosen) == len(listing.ids))


def _headers(listing: Listing, positions: Sequence[int]) -> Iterator[Header]:
    """Yield what images tell before they are decoded, as those of every kind do that `recognise` names.

    Raises:
        InputError: a file is no image.
    """
    for _, header in read_headers(listing, positions):
        if isinstance(header, InputError):
            raise header
        yield header


def _spread(sizes: Counter[tuple[int, int]]) -> str:
    low, high = (end(sizes, key=lambda size: size[0] * size[1]) for end in (min, max))
    ends = dict.fromkeys(f"{height} x {width}" for height, width in (low, high))
    return " to ".join(ends)
