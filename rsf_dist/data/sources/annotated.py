"""The shared part of the sources with boxes and masks: names of files, notes, reading images with annotations."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rsf_dist.config.images import BoxesKind, FilesKind, ImagesKind
from rsf_dist.data.annotations import TURNS, Box, Boxes, Frame, moved_boxes, moved_mask, turned_boxes
from rsf_dist.data.batch import Batch
from rsf_dist.data.decoding import Brightest, Header, decode_deep, require_full_range
from rsf_dist.data.sources.base import existing, printable
from rsf_dist.data.sources.columns import brought_to_size, file_headers, filled
from rsf_dist.data.sources.found_files import find_files
from rsf_dist.data.unreadable import out_of_memory, reason_and_remedy, reason_of_no_file
from rsf_dist.errors import InputError

_ORIENTATION = 0x0112  # the EXIF tag
_EXAMPLES = 3
_ROUNDING = 0.02  # pixels by which boxes written with two decimals may reach beyond the edge
_ROUNDING_OF_SHARES = 1e-3


class Notes:
    """Findings about files that are told and not refused: how often each was made, and where first."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, tuple[str, ...]]] = {}

    def add(self, what: str, where: str, times: int = 1) -> None:
        """Count findings, the first of which is at `where`."""
        count, examples = self._found.get(what, (0, ()))
        self._found[what] = count + times, (*examples, where)[:_EXAMPLES]

    def lines(self) -> tuple[str, ...]:
        """Return a line a kind of finding. What names and files say in them cannot control a terminal."""
        return tuple(self.examples())

    def examples(self) -> dict[str, tuple[str, ...]]:
        """Return the first places of each line's findings."""
        return {
            printable(f"{what}: {count:,} (first: {places[0]})"): places
            for what, (count, places) in self._found.items()
        }


def refuse(where: str, value: object, rule: str, remedy: str) -> InputError:
    """Return the error about a place in a file, which needs no key of the configuration to be found."""
    return InputError(where, value, rule, remedy, absolute=True)


def folder(path: str, key: str = "root") -> Path:
    """Return a folder that is there, which `key` gives. Raises InputError."""
    found = existing(path, key)
    if not os.path.isdir(found):
        raise InputError(key, path, "must be a folder", "name the folder")
    return found


def below(root: Path, name: str, where: str) -> str:
    """Return a file's path below a folder, without detours.

    Args:
        root: the folder.
        name: the path as a file gives it.
        where: the place in that file.

    Raises:
        InputError: the path leads out of the folder.
    """
    normal = posixpath.normpath(name)
    if not name or "\0" in name or posixpath.isabs(normal) or normal.split("/")[0] in (".", ".."):
        raise refuse(where, name, f"must be the path of a file below {root}", "write it relative to that folder")
    return normal


def image_files(root: Path, key: str = "root") -> list[Path]:
    """Return the image files below a folder, which `key` gives, in order. Raises InputError as `find_files` does."""
    try:
        return find_files(root).images
    except InputError as err:
        err.field = key
        raise


def by_stem(root: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """Return files by their path below a folder without suffix. Raises InputError where two have the same."""
    found: dict[str, Path] = {}
    for path in paths:
        stem = path.relative_to(root).with_suffix("").as_posix()
        if stem in found:
            rule = f"has the name of {found[stem].name}, and both would have the same annotations"
            raise refuse(str(path), path.suffix, rule, "rename or remove one of them")
        found[stem] = path
    return found


def read_text(path: Path) -> str:
    """Return a file's text. Raises InputError."""
    require_file(path)
    try:
        return path.read_text("utf-8-sig")
    except (OSError, ValueError) as err:
        raise refuse(str(path), "(a file)", f"cannot be read as text ({err})", "save it as UTF-8") from err


def require_file(path: Path) -> None:
    """Raise InputError unless a path leads to a file: a pipe would block, and a device may have no end."""
    if not os.path.isfile(path):
        reason, remedy = reason_of_no_file(path)
        raise refuse(str(path), "(no file)", f"cannot be read: {reason}", remedy)


def frame_of(path: Path) -> Frame:
    """Return the height and width of an upright image, from its header. Raises InputError."""
    (height, width), orientation = header(path)
    return (width, height) if orientation in TURNS else (height, width)


def header(path: Path) -> tuple[Frame, int]:
    """Return the height and width in which an image is stored, and its orientation. Raises InputError."""
    with opened(path) as image:
        return (image.height, image.width), _orientation(image)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file for a block. Raises InputError with the reason where the file, or the block, fails."""
    require_file(path)
    try:
        with Image.open(path) as image:
            yield image
    except Exception as err:  # each format has errors of its own, and the file is at fault for each
        reason, remedy = _reason_and_remedy(path, err)
        raise refuse(str(path), "(a file)", f"is not a readable image: {reason}", remedy) from err


def _reason_and_remedy(path: Path, err: Exception) -> tuple[str, str]:
    if isinstance(err, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it claims more than {Image.MAX_IMAGE_PIXELS:,} pixels", "remove it, or cut it into tiles"
    if out_of_memory(err):
        return "it does not fit into this machine's memory", "cut it into tiles"
    return reason_and_remedy(path, err)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF says nothing, and the pixels may be sound
        return 1


def _turn(path: Path, image: Frame, annotated: Frame, origin: str) -> Image.Transpose | None:
    """Return what brings annotations upright with their image; None means that they are.

    Args:
        path: of the image.
        image: its height and width, upright.
        annotated: height and width that the annotations are for.
        origin: the file that says so.

    Raises:
        InputError: the annotations are for an image of another size.
    """
    if image == annotated:
        return None
    stored, orientation = header(path)
    if stored == annotated and orientation in TURNS:
        return TURNS[orientation]
    rule = f"is an image of {_in_words(image)}, and {origin} describes one of {_in_words(annotated)}"
    raise refuse(str(path), _in_words(image), rule, "put the image that was annotated back, or annotate this one")


def _in_words(frame: Frame) -> str:
    return f"{frame[0]} x {frame[1]} (height x width)"


class Annotations(Protocol):
    """The annotations of images, read one image at a time."""

    def __call__(self, position: int, path: Path, frame: Frame) -> Batch:
        """Return the columns of an image, without a leading dimension, as they are after `size`.

        Args:
            position: of the image.
            path: of its file.
            frame: its height and width, upright, before it is brought to `size`.
        """


@dataclass(frozen=True)
class AnnotatedFiles:
    """Image files with annotations, which are read together."""

    paths: Sequence[Path]
    config: FilesKind
    annotations: Annotations

    def __call__(self, positions: Sequence[int]) -> Batch:
        """Return the images at the given positions and their annotations. Raises InputError, which names a file."""
        rows: list[Batch] = []
        seen: list[Brightest] = []
        read = enumerate(self._read(positions, rows, seen))
        images = filled(read, len(positions), lambda number: str(self.paths[positions[number]]), "root")
        require_full_range(seen, self.config.bits)
        return {"image": images} | {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def headers(self, positions: Sequence[int]) -> Iterator[Header | InputError]:
        """Yield what the files tell of these images before they are decoded."""
        return file_headers(self.paths[position] for position in positions)

    def objects(self, positions: Sequence[int]) -> list[int] | None:
        """Return the class's number of each box of these images; None where there are masks."""
        return self.annotations.boxes.numbers(positions) if isinstance(self.annotations, BoxReader) else None

    def _read(self, positions: Sequence[int], rows: list[Batch], seen: list[Brightest]) -> Iterator[Tensor]:
        """Give the images, and add the annotations of each to `rows` and its brightest pixel of 16 bits to `seen`."""
        for position in positions:
            path = self.paths[position]
            image, brightest = decode_deep(path, self.config.channels or 3, self.config.bits)
            rows.append(self.annotations(position, path, (image.shape[1], image.shape[2])))
            seen += [] if brightest is None else [brightest]
            yield brought_to_size(image, self.config)


@dataclass(frozen=True)
class BoxReader:
    """A reader of the boxes of images.

    Args:
        boxes: of all images.
        frames: height and width that the boxes of each image are for. None means that corners are shares of the
            image's width and height.
        origins: the file that each image's boxes come from.
        config: says `size` and how much of a box must be left.
    """

    boxes: Boxes
    frames: Sequence[Frame] | None
    origins: Sequence[str]
    config: BoxesKind

    def __call__(self, position: int, path: Path, frame: Frame) -> Batch:
        """Return the boxes of an image. Raises InputError if they are for an image of another size."""
        config, corners = self.config, self._upright(position, path, frame)
        keep = np.ones(len(corners), bool)
        if config.size is not None:
            corners, keep = moved_boxes(corners, frame, config.size, config.resize, config.min_visible)
        return self.boxes.columns(position, corners, keep)

    def _upright(self, position: int, path: Path, frame: Frame) -> np.ndarray:
        corners = self.boxes.corners[self.boxes.of(position)]
        if self.frames is None:
            return corners * [frame[1], frame[0], frame[1], frame[0]]
        turn = _turn(path, frame, self.frames[position], self.origins[position])
        return corners if turn is None else turned_boxes(corners, self.frames[position], turn)


class Masks(Protocol):
    """The masks of images, read one at a time."""

    def frame(self, position: int) -> Frame:
        """Return the height and width of the mask of the image at a position."""

    def read(self, position: int) -> np.ndarray:
        """Return that mask, uint8 [h, w]."""


@dataclass(frozen=True)
class MaskReader:
    """A reader of the masks of images.

    Args:
        masks: of all images.
        origins: the file that each image's mask comes from.
        config: says `size`.
    """

    masks: Masks
    origins: Sequence[str]
    config: ImagesKind

    def __call__(self, position: int, path: Path, frame: Frame) -> Batch:
        """Return the mask of an image. Raises InputError if it is for an image of another size."""
        turn = _turn(path, frame, self.masks.frame(position), self.origins[position])
        mask = self.masks.read(position)
        if turn is not None:
            mask = np.asarray(Image.fromarray(mask).transpose(turn))
        upright: Tensor = torch.from_numpy(np.array(mask))
        size = self.config.size
        return {"mask": upright if size is None else moved_mask(upright, size, self.config.resize)}


def sound_box(
    corners: tuple[float, float, float, float], frame: Frame, label: int, crowd: bool, where: str, notes: Notes
) -> Iterator[Box]:
    """Yield a box clipped to its image, or nothing where no area is left; tells of both.

    Args:
        corners: x0 y0 x1 y1, finite.
        frame: the image's height and width; (1, 1) for corners that are shares.
        label: its class.
        crowd: whether it is a region to ignore.
        where: the place in its file.
        notes: to tell of it.
    """
    (height, width), (x0, y0, x1, y1) = frame, corners
    inside = min(max(x0, 0), width), min(max(y0, 0), height), min(max(x1, 0), width), min(max(y1, 0), height)
    thickness = min(inside[2] - inside[0], inside[3] - inside[1])
    if thickness <= 0:
        notes.add("boxes without area within their image, left out", where)
        return
    in_pixels = frame != (1, 1)
    if max(abs(a - b) for a, b in zip(corners, inside, strict=True)) > (
        _ROUNDING if in_pixels else _ROUNDING_OF_SHARES
    ):
        notes.add("boxes that reach beyond their image, clipped", where)
    if in_pixels and thickness < 1:
        notes.add("boxes thinner than a pixel", where)
    yield Box(inside, label, crowd)


def require_boxes(images: Sequence[Sequence[Box]], classes: tuple[str, ...], key: str, where: object) -> None:
    """Raise InputError unless there is a box to train on, in what `key` names."""
    if not any(not box.crowd for image in images for box in image):
        rule = f"holds no box of the classes {list(classes)}"
        raise InputError(
            key, where, rule, "correct the path or `classes`, or use `kind: image_folder` for images alone"
        )
