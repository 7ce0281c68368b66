"""Source `parquet`: Parquet files with a column of images, and where labelled a column of labels.

A file's rows are counted from 0. What is listed are the files' footers and their labels; the images are read one row
group at a time.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs
from torch import Tensor

from rsf_dist.config.images import ParquetConfig
from rsf_dist.data.batch import Batch
from rsf_dist.data.decoding import Brightest, Header, require_full_range
from rsf_dist.data.sources.arrow_images import header_in, image_in, require_images
from rsf_dist.data.sources.attributes import read_numbers, with_attributes
from rsf_dist.data.sources.base import (
    InOnePass,
    Listing,
    existing,
    list_images,
    list_unlabelled,
    unlabelled_unless_sound,
)
from rsf_dist.data.sources.columns import (
    filled,
    find_column,
    number_labels,
    read_labels,
    require_column,
    require_filled,
)
from rsf_dist.data.unreadable import out_of_memory
from rsf_dist.errors import InputError
from rsf_dist.runtime.uris import refuse_password

_IMAGES = ("image", "img", "picture", "photo", "pixels")
_LABELS = ("label", "labels", "class", "target")
SUFFIXES = (".parquet", ".pq")
"""Endings of the files' names."""
_ROWS_AT_ONCE = 64  # of a row group, when images are read: it need not fit into memory as a whole
_MOST_AGAIN = 8  # times that a row is read: decoding takes far longer, and other processes take part in that
_PAGE_BY_PAGE = {"pre_buffer": False, "use_buffered_stream": True, "buffer_size": 2**20}


@dataclass(frozen=True)
class _RowGroup:
    """Neighbouring rows of a file, which are read together.

    Args:
        path: the file.
        number: of the group within the file.
        first_row: of the group, within the file.
        start: the position of its first row among all rows of the source.
    """

    path: str
    number: int
    first_row: int
    start: int


_Cell = tuple[_RowGroup, int, pa.Scalar]
"""A row's group, position among all rows of the source, and image."""


@dataclass(frozen=True)
class _Rows(InOnePass):
    """The rows of all files, whose images are decoded when they are read.

    Args:
        filesystem: holds the files.
        groups: all row groups that have rows, in order.
        column: of the images.
        config: says channels, size and bits.
    """

    filesystem: fs.FileSystem
    groups: Sequence[_RowGroup]
    column: str
    config: ParquetConfig

    @property
    def has_single_images(self) -> bool:
        """True: a row whose image cannot be read leaves the others readable."""
        return True

    def __call__(self, positions: Sequence[int]) -> Batch:
        return self._decoded(positions, self._cells_at(sorted(set(positions))))

    def blocks(self, runs: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Give the images of each run of positions, in one pass where these ascend. Raises InputError."""
        if any(one >= other for one, other in pairwise(chain.from_iterable(runs))):
            yield from map(self, runs)
            return
        cells = self._cells_at(chain.from_iterable(runs))
        for positions in runs:
            yield self._decoded(positions, islice(cells, len(positions)))

    def can_part(self, runs: Sequence[Sequence[int]]) -> bool:
        """Return True where row groups are small: to read a row, those in front of it in its group are read, too."""
        wanted = sum(map(len, runs))
        read = sum(run[0] - self.groups[self._group_of(run[0])].start + len(run) for run in runs)
        return read <= _MOST_AGAIN * wanted

    def _decoded(self, positions: Sequence[int], cells: Iterable[_Cell]) -> Batch:
        """Return the images at these positions, of cells that come in ascending order. Raises InputError."""
        seen: list[Brightest] = []
        read = self._images(positions, cells, seen)
        images = filled(read, len(positions), lambda number: self.place(positions[number]), "root")
        require_full_range(seen, self.config.bits)
        return {"image": images}

    def _images(
        self, positions: Sequence[int], cells: Iterable[_Cell], seen: list[Brightest]
    ) -> Iterator[tuple[int, Tensor]]:
        """Give each cell's image with its number, or numbers, among `positions`; add to `seen`."""
        numbers: dict[int, list[int]] = {}
        for number, position in enumerate(positions):
            numbers.setdefault(position, []).append(number)
        for group, position, cell in cells:
            with _reading(group.path):
                image = image_in(cell, self.config, self.place(position), seen)
            for number in numbers[position]:
                yield number, image

    def headers(self, positions: Sequence[int]) -> Iterator[Header | InputError]:
        """Yield what the cells of these ascending positions tell of their images before they are decoded."""
        for group, position, cell in self._cells_at(positions):
            try:
                with _reading(group.path):
                    header = header_in(cell, self.place(position))
            except InputError as err:
                yield err
            else:
                yield header

    def place(self, position: int) -> str:
        """Return the words by which errors name a row."""
        group = self.groups[self._group_of(position)]
        return f"{group.path} row {group.first_row + position - group.start} (the first is 0)"

    def _group_of(self, position: int) -> int:
        return bisect_right(self.groups, position, key=lambda group: group.start) - 1

    def _cells_at(self, positions: Iterable[int]) -> Iterator[_Cell]:
        """Give the cells at these ascending positions, one row group after another."""
        for number, inside in groupby(positions, self._group_of):
            group = self.groups[number]
            for position, cell in self._cells(group, list(inside)):
                yield group, position, cell

    def _cells(self, group: _RowGroup, positions: Sequence[int]) -> Iterator[tuple[int, pa.Scalar]]:
        """Give the cells with the images at these positions, which ascend and lie in the group."""
        start = group.start
        with _reading(group.path):
            fragment = ds.ParquetFileFormat().make_fragment(group.path, self.filesystem, row_groups=[group.number])
            options = ds.ParquetFragmentScanOptions(**_PAGE_BY_PAGE)
            for batch in fragment.to_batches(
                columns=[self.column], batch_size=_ROWS_AT_ONCE, batch_readahead=1, fragment_scan_options=options
            ):
                for position in positions[bisect_right(positions, start - 1) :]:
                    if position >= start + batch.num_rows:
                        break
                    yield position, batch.column(0)[position - start]
                start += batch.num_rows
                if start > positions[-1]:
                    break


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Name the file in the errors of pyarrow."""
    try:
        yield
    except (pa.ArrowException, OSError) as err:
        if out_of_memory(err):
            rule, remedy = "does not fit into this machine's memory", "set a `limit`, or write smaller row groups"
            raise InputError(path, "(a file)", rule, remedy, absolute=True) from err
        rule = f"cannot be read as Parquet ({_first_line(err)})"
        raise InputError(path, "(a file)", rule, "write it again, or remove it", absolute=True) from err


def _first_line(err: Exception) -> str:
    return str(err).partition("\n")[0]


@list_images.register
def _(config: ParquetConfig) -> Listing:
    filesystem, root = opened(config.root)
    paths = _files(filesystem, root, config)
    fragments = [ds.ParquetFileFormat().make_fragment(path, filesystem) for path in paths]
    groups = _row_groups(fragments)
    if not groups:
        raise InputError("root", config.root, "holds no rows", "point it to Parquet files that do")
    columns = _schema(fragments[0]).names
    image_column = require_column(config.image_column, _IMAGES, columns, "image_column", paths[0])
    _require_equal_columns(fragments, image_column)
    require_images(_schema(fragments[0]).field(image_column), paths[0])
    rows = _Rows(filesystem, groups, image_column, config)
    folder = root.rpartition("/")[0] if paths == [root] else root
    ids = [path.removeprefix(folder).lstrip("/") + f":{row}" for path, row in _rows_of(fragments)]
    label_column = None
    if config.label_column != "":
        label_column = find_column(config.label_column, _LABELS, columns, "label_column", paths[0])
    listing = with_attributes(Listing(ids, rows), _attributes(fragments, config, rows))
    if label_column is None:
        return listing
    _require_equal_columns(fragments, label_column)
    labels, classes = _labels(fragments, label_column, config.classes, rows)
    return replace(listing, labels=labels, classes=classes)


def _attributes(fragments: Sequence[ds.ParquetFileFragment], config: ParquetConfig, rows: _Rows) -> dict[str, Tensor]:
    """Return the columns that the configuration names as attributes. Raises InputError."""
    for name in config.attributes:
        find_column(name, (), _schema(fragments[0]).names, "attributes", fragments[0].path)
        _require_equal_columns(fragments, name)
    return {name: read_numbers(_values(fragments, name), name, rows.place) for name in config.attributes}


def _values(fragments: Sequence[ds.ParquetFileFragment], column: str) -> list[Any]:
    values: list[Any] = []
    for fragment in fragments:
        with _reading(fragment.path):
            values += fragment.to_table(columns=[column]).column(0).to_pylist()
    return values


@list_unlabelled.register
def _(config: ParquetConfig) -> Listing:
    return unlabelled_unless_sound(
        config, lambda: list_images(config.model_copy(update={"label_column": "", "attributes": ()}))
    )


def opened(root: str) -> tuple[fs.FileSystem, str]:
    """Return the file system that a path or URI leads to, and the path within it. Raises InputError."""
    if "://" not in root:
        return fs.LocalFileSystem(), str(existing(root).absolute())
    refuse_password(root, "root")
    try:
        filesystem, path = fs.FileSystem.from_uri(root)
        return filesystem, path.rstrip("/")
    except (pa.ArrowException, OSError) as err:
        raise InputError("root", root, f"is no path or URI ({_first_line(err)})", "correct it") from err


def _files(filesystem: fs.FileSystem, root: str, config: ParquetConfig) -> list[str]:
    """Return the files' paths, in alphabetical order. Raises InputError if there are none."""
    paths = sorted(info.path for info in files_in(filesystem, root, config))
    if not paths:
        raise InputError("root", config.root, "holds no *.parquet file", "point it to a folder that does")
    return paths


def files_in(filesystem: fs.FileSystem, root: str, config: ParquetConfig) -> list[fs.FileInfo]:
    """Return the file that a path names, or the Parquet files below it. Raises InputError."""
    try:
        info = filesystem.get_file_info(root)
        if info.type == fs.FileType.File:
            return [info]
        inside = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    except (pa.ArrowException, OSError) as err:
        raise InputError("root", config.root, f"cannot be listed ({_first_line(err)})", "correct the path") from err
    return [info for info in inside if info.type == fs.FileType.File and _is_shown(info.path, root)]


def _is_shown(path: str, root: str) -> bool:
    parts = path.removeprefix(root).strip("/").split("/")
    return path.lower().endswith(SUFFIXES) and not any(part.startswith((".", "_")) for part in parts)


def _row_groups(fragments: Sequence[ds.ParquetFileFragment]) -> list[_RowGroup]:
    groups, start = [], 0
    for fragment in fragments:
        with _reading(fragment.path):
            counts = [group.num_rows for group in fragment.row_groups]
        first_row = 0
        for number, count in enumerate(counts):
            if count:
                groups.append(_RowGroup(fragment.path, number, first_row, start))
            first_row, start = first_row + count, start + count
    return groups


def _rows_of(fragments: Sequence[ds.ParquetFileFragment]) -> Iterator[tuple[str, int]]:
    for fragment in fragments:
        for row in range(fragment.metadata.num_rows):
            yield fragment.path, row


def _schema(fragment: ds.ParquetFileFragment) -> pa.Schema:
    with _reading(fragment.path):
        return fragment.physical_schema


def _require_equal_columns(fragments: Sequence[ds.ParquetFileFragment], column: str) -> None:
    """Raise InputError unless the column is there in every file, and of the first file's type."""
    expected = _schema(fragments[0]).field(column).type
    for fragment in fragments:
        schema = _schema(fragment)
        if column not in schema.names:
            rule = f"has no column {column}, as {fragments[0].path} has"
            raise InputError(fragment.path, ", ".join(schema.names), rule, "write or remove it", absolute=True)
        if schema.field(column).type != expected:
            rule = f"column {column} must be {expected} as in {fragments[0].path}"
            raise InputError(fragment.path, schema.field(column).type, rule, "write the file again", absolute=True)


def _labels(
    fragments: Sequence[ds.ParquetFileFragment], column: str, classes: tuple[str, ...], rows: _Rows
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the labels and the classes' names, which Hugging Face's metadata may give. Raises InputError."""
    values = _values(fragments, column)
    all_names = [_class_names(_schema(fragment), column) for fragment in fragments]
    for fragment, found in zip(fragments, all_names, strict=True):
        if found != all_names[0]:
            rule = f"column {column} must have the classes {list(all_names[0])} as in {fragments[0].path}"
            raise InputError(fragment.path, list(found), rule, "write the file again", absolute=True)
    names = all_names[0]
    if not names:
        return read_labels(values, classes, rows.place)
    require_filled(values, rows.place)
    labels = np.array(values, _schema(fragments[0]).field(column).type.to_pandas_dtype())
    if set(names) & set(classes):  # `classes` orders these names anew
        numbers, _ = number_labels(labels, names, rows.place)
        return read_labels([names[number] for number in numbers.tolist()], classes, rows.place)
    return number_labels(labels, classes or names, rows.place)


def _class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """Return the names of Hugging Face's ClassLabel, or none where the column is of another kind."""
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = about["info"]["features"][column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else []
    except (ValueError, KeyError, TypeError, RecursionError):  # other programs write there what they like
        return ()
    if not isinstance(names, list) or not pa.types.is_integer(schema.field(column).type):
        return ()
    words = tuple(map(str, names))
    return words if len(set(words)) == len(words) else ()
