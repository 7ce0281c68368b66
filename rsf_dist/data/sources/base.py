"""The socket of image sources: a source lists its images first, and reads those that are taken.

A source is a model in `rsf_dist.config.images` and one file here with a function registered by `@list_images.register`.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatch
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsf_dist.config.images import ImagesKind
from rsf_dist.data.batch import Batch
from rsf_dist.data.decoding import Header
from rsf_dist.data.resizing import resized, with_channels
from rsf_dist.errors import InputError

_MAX_CLASSES = 100_000  # larger labels are no class numbers, and naming all classes below them would not end


@dataclass(frozen=True)
class PassedOver:
    """The files of one suffix that a source did not take for images.

    Args:
        count: how many there are.
        examples: the first of them, as paths below the root.
    """

    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """The images of a source, listed before any of them is decoded.

    Args:
        ids: the name of each image within its source: the path of its file below the root, or its number.
        read: decodes the images at the given positions. It returns a Batch: `image` uint8 [m, channels, height, width],
            and where the source has them `boxes` float32 [m, K, 4] with `box_label` int64 [m, K], K the largest number
            of boxes of an image of the source, or `mask` uint8 [m, height, width] (`rsf_dist.data.annotations`), and
            attributes [m]. It can be pickled. It raises InputError, which names the file. It, or its `read`, may offer
            more, for `rsf inspect`: `paths`, the image file of each position; `headers`, which yields a Header for each
            of ascending positions, or the InputError of one that cannot be read; `objects`, the class's number of each
            box at the positions. It is an `InOnePass` where one pass over a file costs less than a look for each block.
        labels: int64 [n] in [0, len(classes)). None means unlabelled.
        classes: the classes' names, in the order of their numbers; empty without labels, boxes and masks.
        notes: what was found in the files and not refused, a line each, with its count and the first example.
        examples: the first examples of a note.
        groups: int64 [n], the groups of images of which `take` takes in turns. None means the classes.
        passed_over: the files that are no images, by their suffix in small letters.
    """

    ids: Sequence[str]
    read: Callable[[Sequence[int]], Batch]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    groups: Tensor | None = None
    passed_over: Mapping[str, PassedOver] = field(default_factory=dict)
    examples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def files(self, positions: Sequence[int]) -> list[Path] | None:
        """Return the image files at the given positions; None where images lie in tables or arrays."""
        paths = self.offered("paths")
        return None if paths is None else [Path(paths[position]) for position in positions]

    def offered(self, name: str) -> Any:
        """Return something that the reader, or the one that it wraps, offers beside reading; None if it does not."""
        return getattr(self.read, name, None) or getattr(getattr(self.read, "read", None), name, None)

    def take(self, start: int = 0, limit: int | None = None) -> list[int]:
        """Return the positions of `limit` images after the first `start`, in ascending order.

        A source whose order is class after class is taken from in turns, one image of each class, so that a limit
        leaves no class out.
        """
        groups = self.labels if self.groups is None else self.groups
        order = np.arange(len(self.ids)) if groups is None else _in_turns(groups)
        return sorted(order[start : None if limit is None else start + limit].tolist())

    def by_name(self, classes: tuple[str, ...]) -> Listing:
        """Return the listing with labels among `classes`, matched by the classes' names. Some may have no image.

        Names are compared as they are read, whatever Unicode form (NFC or NFD) a file system gave them.

        Raises:
            InputError: a class of this listing is not among `classes`.
        """
        if self.labels is None or self.classes == classes:
            return self
        numbers_of = {normal(name): number for number, name in enumerate(classes)}
        lacking = [name for name in self.classes if normal(name) not in numbers_of]
        if lacking:
            rule = f"not among the source's classes, {shortened(classes)}"
            remedy = "list all `classes` in `data`, in the order of their labels, or name alike what is the same"
            raise InputError("", shortened(lacking), rule, remedy)
        table = torch.tensor([numbers_of[normal(name)] for name in self.classes], dtype=torch.int64)
        return replace(self, labels=table[self.labels], classes=classes)


@singledispatch
def list_unlabelled(config: ImagesKind) -> Listing:
    """List images whose labels are not wanted. They are still taken in turns of their classes, where these are known.

    A source whose labels may be absent or of another domain registers a function of its own.

    Raises:
        InputError: names a key of the configuration, or a file.
    """
    return _without_labels(list_images(config))


def unlabelled_unless_sound(config: ImagesKind, bare: Callable[[], Listing]) -> Listing:
    """List images whose labels are not wanted, in turns of their classes where the labels are sound.

    Args:
        config: the image set's configuration.
        bare: lists the images without a look at labels.

    Raises:
        InputError: the images cannot be listed, whatever their labels.
    """
    try:
        return _without_labels(list_images(config))
    except InputError:  # of a label, which does not matter here; anything else is raised again
        return bare()


def _without_labels(listing: Listing) -> Listing:
    groups = listing.labels if listing.groups is None else listing.groups
    return replace(listing, labels=None, classes=(), groups=groups)


@singledispatch
def list_images(config: ImagesKind) -> Listing:
    """List the images that an image set's configuration describes.

    Raises:
        InputError: names a key of the configuration, or a file.
    """
    raise InputError("kind", config.kind, "has no source", "register one by @list_images.register")


def normal(name: str) -> str:
    """Return a name in the one Unicode form that names are compared in."""
    return unicodedata.normalize("NFC", name)


def printable(name: str) -> str:
    """Return a name on one line, without characters that would control a terminal: a file may have any name."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)


def shortened(names: Sequence[str], most: int = 8) -> str:
    """Return the first few names, and how many more there are, fit for a terminal."""
    return ", ".join(printable(name) for name in names[:most]) + (
        f" and {len(names) - most:,} more" if len(names) > most else ""
    )


def _in_turns(labels: Tensor) -> np.ndarray:
    """Return the order of images in turns of the classes, or as it is where classes are mixed already."""
    classes = labels.numpy()
    num_changes = int((np.diff(classes) != 0).sum())
    if num_changes >= len(np.unique(classes)):
        return np.arange(len(classes))
    by_class = np.argsort(classes, kind="stable")
    first = np.searchsorted(classes[by_class], classes[by_class])
    turn = np.empty(len(classes), np.int64)
    turn[by_class] = np.arange(len(classes)) - first
    return np.lexsort((classes, turn))


def numbers(count: int) -> list[str]:
    """Return the ids of images that have no names: their numbers."""
    return [str(number) for number in range(count)]


@dataclass(frozen=True)
class InMemory:
    """Images in memory, uint8 [n, c, h, w], which are read as `config` wants them."""

    images: Tensor
    config: ImagesKind

    def __call__(self, positions: Sequence[int]) -> Batch:
        """Read the images at the given positions."""
        return read_rows(self.images, self.config, positions)

    def headers(self, positions: Sequence[int]) -> Iterator[Header | InputError]:
        """Yield the size of each image, which is the same for all."""
        yield from same_headers(self.images.shape[1:], len(positions))


class InOnePass(ABC):
    """A reader of a file whose images are best read in one pass, as `Listing.read` may be."""

    @property
    def has_single_images(self) -> bool:
        """True if an image that cannot be read leaves the others readable; an array is read or not as a whole."""
        return False

    @abstractmethod
    def __call__(self, positions: Sequence[int]) -> Batch:
        """Return the images at the given positions. Raises InputError."""

    @abstractmethod
    def blocks(self, runs: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Give the images of each run of positions, in one pass where these ascend. Raises InputError."""

    def can_part(self, runs: Sequence[Sequence[int]]) -> bool:
        """Return True if other processes can read runs by themselves, at not much more than the cost of one pass."""
        return False


def same_headers(shape: Sequence[int], count: int) -> Iterator[Header]:
    """Yield the header of images [channels, height, width] of an array, one an image."""
    channels, height, width = shape
    yield from repeat(Header(height, width, "L" if channels == 1 else "RGB"), count)


def read_rows(images: Tensor, config: ImagesKind, positions: Sequence[int]) -> Batch:
    """Read the images at the given positions of a source that is in memory, as `config` wants them.

    Args:
        images: uint8 [n, c, h, w].
        config: says channels and size.
        positions: of the images to return.
    """
    chosen = with_channels(images[torch.as_tensor(positions, dtype=torch.int64)], config.channels)
    return {"image": chosen if config.size is None else resized(chosen, config.size, config.resize)}


def numbered(labels: np.ndarray) -> tuple[str, ...]:
    """Return the classes 0, 1, … up to the largest label. Raises InputError where a label is no class number."""
    largest = int(labels.max(initial=0)) if labels.dtype.kind in "iu" else 0  # words have no largest
    if largest >= _MAX_CLASSES:
        rule = f"labels must be class numbers below {_MAX_CLASSES:,}"
        raise InputError("labels", largest, rule, "number the classes 0, 1, …")
    return tuple(str(label) for label in range(largest + 1))


def checked_labels(labels: np.ndarray, num_images: int, classes: tuple[str, ...]) -> Tensor:
    """Return the labels as int64 [n]. Raises InputError unless each image has one, of the classes."""
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        rule = f"`labels` must be integers of shape [{num_images}]"
        raise InputError("labels", f"{labels.dtype} {list(labels.shape)}", rule, "give each image one label")
    outside = labels[(labels < 0) | (labels >= len(classes))]
    if len(outside):
        rule = f"labels must lie in [0, {len(classes)}), the classes {list(classes)}"
        raise InputError("labels", int(outside[0]), rule, "correct the label or list all `classes`")
    return torch.from_numpy(labels.astype(np.int64))


def existing(root: str, key: str = "root") -> Path:
    """Return the path of a source that is there, which `key` gives. Raises InputError."""
    try:
        path = Path(root).expanduser()
        if path.exists():
            return path
        rule = "does not exist"
    except (OSError, RuntimeError) as err:  # RuntimeError: `~` of a user without a home folder
        rule = f"cannot be looked up ({err})"
    raise InputError(key, root, rule, "correct the path")
