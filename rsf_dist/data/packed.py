"""Packed image sets: a folder with a flat file for each column, which every process maps.

    image.bin, label.bin, boxes.bin, …    rows one after another, little-endian, without a header
    ids.arrow                             the images' names
    meta.json                             shapes and dtypes, classes, notes, the digest; written last

A folder whose meta.json is missing, or whose files have other sizes than meta.json says, is half-written.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from rsf_dist.data.batch import Batch
from rsf_dist.data.mapped import META, NAMES, MappedNames, MappedTensor, Reference, read_meta
from rsf_dist.data.sources.columns import unlike

FORMAT = 2
"""Raised whenever packed image sets are written or keyed in another way."""

_CHUNK_BYTES = 8 * 2**20
_NAMES_AT_ONCE = 4_096


@dataclass(frozen=True)
class Packed:
    """A packed image set.

    Args:
        columns: `image`, and where there are such `label` and annotations.
        classes: the classes' names.
        ids: the images' names.
        notes: lines for the user about what was read.
        digest: the SHA-256 that `ImageSet.digest` has for these images.
        folder: where the files are.
    """

    columns: Mapping[str, Tensor]
    classes: tuple[str, ...]
    ids: Sequence[str]
    notes: tuple[str, ...]
    digest: str
    folder: Path


def open_packed(folder: Path) -> Packed | None:
    """Return the packed image set in a folder, or None where there is none that is whole."""
    meta = read_meta(folder)
    if meta is None:
        return None
    reference = Reference(str(folder.absolute()), meta["identity"])
    columns = {name: MappedTensor.of(reference, name) for name in meta["columns"]}
    notes = tuple(meta["notes"])
    return Packed(columns, tuple(meta["classes"]), MappedNames(reference), notes, meta["digest"], folder)


def begin_digest(shape: Sequence[int], classes: Sequence[str]) -> Any:
    """Return the SHA-256 of an image set's shape and classes, to which images, labels and annotations are added."""
    return hashlib.sha256(json.dumps({"shape": list(shape), "classes": list(classes)}).encode())


@dataclass(frozen=True)
class Beside:
    """The part of an image set that its listing gives, before an image is decoded.

    Args:
        ids: the images' names.
        labels: int64 [n]. None means unlabelled.
        classes: the classes' names.
        notes: lines for the user.
    """

    ids: Sequence[str]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def write_packed(folder: Path, blocks: Iterable[Batch], beside: Beside) -> None:
    """Write a packed image set into an empty folder, holding no more than one block at a time.

    Args:
        folder: the folder.
        blocks: the columns that are read, `image` and annotations, block after block in order.
        beside: the rest.

    Raises:
        InputError: images differ in shape.
    """
    columns = _Columns(folder, beside)
    for block in blocks:
        columns.add(block)
    labels = [] if beside.labels is None else ["label"]
    others = sorted(name for name in columns.about if name != "image")
    if beside.labels is not None:
        columns.write("label", beside.labels)
    columns.close()
    for name in [*labels, *others]:
        for chunk in _chunks(folder / f"{name}.bin"):
            columns.digest.update(chunk)
    _write_names(folder / NAMES, beside.ids)
    meta = {
        "format": FORMAT,
        "identity": secrets.token_hex(16),
        "digest": columns.digest.hexdigest(),
        "columns": columns.about,
        "ids": os.path.getsize(folder / NAMES),
        "classes": list(beside.classes),
        "notes": list(beside.notes),
    }
    with (folder / META).open("w", encoding="utf-8") as file:
        json.dump(meta, file, indent=1)
        _flush(file)


class _Columns:
    """The files of columns, while they are written."""

    def __init__(self, folder: Path, beside: Beside):
        self._folder, self._beside = folder, beside
        self._files: dict[str, IO[bytes]] = {}
        self.about: dict[str, dict[str, Any]] = {}
        self.digest: Any = None

    def add(self, block: Batch) -> None:
        """Write the next rows. Raises InputError where an image's shape is not the first one's."""
        images = block["image"]
        if not self.about:
            self.digest = begin_digest([len(self._beside.ids), *images.shape[1:]], self._beside.classes)
        elif list(images.shape[1:]) != self.about["image"]["shape"][1:]:
            ids, row = self._beside.ids, self.about["image"]["shape"][0]
            raise unlike(images.shape[1:], ids[row], self.about["image"]["shape"][1:], ids[0])
        for name, column in block.items():
            data = self.write(name, column)
            if name == "image":
                self.digest.update(data)

    def write(self, name: str, column: Tensor) -> memoryview:
        """Write the next rows of a column, and return their bytes."""
        array = np.ascontiguousarray(column.numpy())
        if name not in self._files:
            self._files[name] = (self._folder / f"{name}.bin").open("wb")
            self.about[name] = {"dtype": str(array.dtype), "shape": [0, *array.shape[1:]], "bytes": 0}
        about = self.about[name]
        about["shape"][0] += len(array)
        about["bytes"] += array.nbytes
        self._files[name].write(array.data)
        return array.data

    def close(self) -> None:
        """Close all files, once they are on the disk."""
        for file in self._files.values():
            _flush(file)
            file.close()


def _flush(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _write_names(path: Path, ids: Sequence[str]) -> None:
    schema = pa.schema([("id", pa.large_string())])
    with path.open("wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            for start in range(0, len(ids), _NAMES_AT_ONCE):
                names = map(_storable, ids[start : start + _NAMES_AT_ONCE])
                writer.write(pa.record_batch([pa.array(names, pa.large_string())], schema=schema))
        _flush(file)


def _storable(name: str) -> str:
    """Return a name as UTF-8 can hold it."""
    return name.encode(errors="backslashreplace").decode()
