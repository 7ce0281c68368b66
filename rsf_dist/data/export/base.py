"""The protocol of a writer of image sets, and what writers share: PNG files, their names, the table of provenance."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import csv
from torch import Tensor

from rsf_dist.data.images import ImageSet
from rsf_dist.data.sources.annotated import below
from rsf_dist.errors import InputError

PROVENANCE = "provenance.csv"
"""The file that says where each image comes from."""


class Writer(ABC):
    """A writer of an image set of any length, block by block.

    Args:
        folder: an empty folder to write into.
        classes: the classes' names, in the order of their numbers.
        description: words about the image set, for formats that have a place for them.
    """

    holds: ClassVar[frozenset[str]] = frozenset()
    """What the format can hold beside the images: `boxes`, `mask`, or `label` (which images may lack)."""

    def __init__(self, folder: Path, classes: tuple[str, ...], description: str = ""):
        self.folder, self.classes, self.description = folder, classes, description
        self.count = 0
        folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def fits(cls, annotations: Mapping[str, object]) -> bool:
        """Return True if the format can hold the images of an image set with these annotations."""
        there = {"boxes", "mask"} & annotations.keys() or {"label"}
        return bool(there & cls.holds)

    def add(self, images: ImageSet, about: pa.Table | None = None) -> None:
        """Write the images of a block.

        Args:
            images: the block; its ids, if it has any, name its files.
            about: columns of plain values beside the images, [n], that say where each comes from. None means none.

        Raises:
            InputError: the format cannot hold them.
        """
        self.write(images, about)
        self.count += len(images)

    @abstractmethod
    def write(self, images: ImageSet, about: pa.Table | None) -> None:
        """Write the images of a block, of which `count` came before."""

    def close(self) -> None:  # noqa: B027 (most formats need none)
        """Write what follows the last block."""


class FileWriter(Writer):
    """A writer of an image file each, with the table PROVENANCE."""

    def write(self, images: ImageSet, about: pa.Table | None) -> None:
        """Write files and annotations, and add to the table of provenance."""
        names = self.write_files(images)
        if about is None:
            return
        columns = {"file": pa.array(names)}
        if images.labels is not None:
            columns["label"] = pa.array([images.classes[label] for label in images.labels.tolist()])
        table = pa.table({**columns, **{name: about[name] for name in about.column_names}})
        with (self.folder / PROVENANCE).open("ab") as file:
            csv.write_csv(table, file, csv.WriteOptions(include_header=not self.count))

    @abstractmethod
    def write_files(self, images: ImageSet) -> list[str]:
        """Write the images and annotations of a block. Returns the paths of the images below the folder."""


def file_names(images: ImageSet, folder: Path) -> list[str]:
    """Return the names of the images' files below a folder: their ids, or numbers, as PNG files."""
    digits = len(str(len(images)))
    ids = images.ids or [f"{number:0{digits}}" for number in range(len(images))]
    paths = [Path(below(folder, name, "ids")) for name in ids]
    names = [path.with_suffix(".png").as_posix() for path in paths]
    if len(set(names)) < len(names):
        return [f"{path.as_posix()}.png" for path in paths]  # a.jpg beside a.bmp
    return names


def write_images(images: ImageSet, folder: Path) -> list[str]:
    """Write the images below a folder, and return their names there."""
    names = file_names(images, folder)
    for name, image in zip(names, images.images, strict=True):
        write_png(image, folder / name)
    return names


def write_png(image: Tensor, path: Path) -> None:
    """Write an image, uint8 [channels, height, width], as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(image).save(path)


def png_bytes(image: Tensor) -> bytes:
    """Return the bytes of an image's PNG file."""
    sink = io.BytesIO()
    picture(image).save(sink, "PNG")
    return sink.getvalue()


def picture(image: Tensor) -> Image.Image:
    """Return an image, uint8 [channels, height, width] with 1 or 3 channels, as Pillow's."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))


def column(images: ImageSet, name: str) -> Tensor:
    """Return an annotation's column. Raises InputError where the images have none."""
    if name not in images.annotations:
        columns = list(images.annotations)
        raise InputError("images", columns, f"need a column `{name}`", "choose the format that their annotations fit")
    return images.annotations[name]
