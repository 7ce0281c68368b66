"""The images that a path leads to: how many, of which sizes and classes, told from headers and a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from rsf_dist.config.images import IMAGE_KINDS, FilesKind, ImageFolderConfig, ImagesKind
from rsf_dist.data.sources import Listing, list_images, list_unlabelled
from rsf_dist.data.sources.found_files import find_files
from rsf_dist.data.sources.recognise import recognise
from rsf_dist.errors import InputError

_MOST_HEADERS, _MOST_DECODED = 5_000, 64  # images of a set that are looked at
_GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes of one channel
_ON_THEIR_SIDE = (5, 6, 7, 8)  # EXIF's orientations


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
    most = _MOST_HEADERS if isinstance(config, ImageFolderConfig) else _MOST_DECODED
    chosen = list(range(0, len(listing.ids), -(-len(listing.ids) // most)))
    seen = list(
        _from_headers(config, listing, chosen) if isinstance(config, ImageFolderConfig) else _decoded(listing, chosen)
    )
    sizes = Counter((height, width) for _, height, width in seen)
    are_files = isinstance(config, FilesKind)
    grey = all(channels == 1 for channels, _, _ in seen)
    return FoundImages(keys, listing, sizes, grey, are_files, complete=len(chosen) == len(listing.ids))


def _from_headers(config: ImageFolderConfig, listing: Listing, chosen: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield channels, height and width of image files, upright, without decoding them."""
    paths = find_files(Path(config.root)).images  # in the listing's order
    for position in chosen:
        yield _from_header(paths[position]) or next(_decoded(listing, [position]))


def _from_header(path: Path) -> tuple[int, int, int] | None:
    """Return channels, height and width; None for a file that only its decoder can say more about."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(ExifTags.Base.Orientation) in _ON_THEIR_SIDE:
                width, height = height, width
            return (1 if image.mode in _GREY else 3), height, width
    except Exception:  # each format has errors of its own, which the decoder explains
        return None


def _decoded(listing: Listing, chosen: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield channels, height and width of images, one decoded after the other. Raises InputError, which names one."""
    for position in chosen:
        channels, height, width = listing.read([position])["image"].shape[1:]
        yield channels, height, width


def _spread(sizes: Counter[tuple[int, int]]) -> str:
    low, high = (end(sizes, key=lambda size: size[0] * size[1]) for end in (min, max))
    ends = dict.fromkeys(f"{height} x {width}" for height, width in (low, high))
    return " to ".join(ends)
