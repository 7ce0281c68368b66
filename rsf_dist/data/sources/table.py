"""Source `table`: a CSV, TSV or JSON Lines file with a column of paths and, where labelled, a column of labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from rsf_dist.config.images import TableConfig
from rsf_dist.data.batch import Batch
from rsf_dist.data.decoding import Brightest, Header, require_full_range
from rsf_dist.data.sources.attributes import read_numbers, with_attributes
from rsf_dist.data.sources.base import Listing, existing, list_images, list_unlabelled, unlabelled_unless_sound
from rsf_dist.data.sources.columns import decoded, file_headers, filled, find_column, read_labels, require_column
from rsf_dist.data.sources.text_tables import JSON_LINES, SEPARATED, TextTable, read_text_table
from rsf_dist.errors import InputError

PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path")
LABELS = ("label", "class", "target")
"""The usual names of the columns of paths and labels, in lower case."""


@dataclass(frozen=True)
class _Files:
    """Image files that a table names. They are decoded when they are read.

    Args:
        paths: of the files.
        file: the table's path.
        lines: the table's line of each path.
        config: says channels, size and bits.
    """

    paths: Sequence[str]
    file: Path
    lines: Sequence[int]
    config: TableConfig

    def __call__(self, positions: Sequence[int]) -> Batch:
        seen: list[Brightest] = []
        read = enumerate(self._read(position, seen) for position in positions)
        images = filled(read, len(positions), lambda number: self._place(positions[number]), "file")
        require_full_range(seen, self.config.bits)
        return {"image": images}

    def headers(self, positions: Sequence[int]) -> Iterator[Header | InputError]:
        """Yield what the files tell of these images before they are decoded."""
        return file_headers(Path(self.paths[position]) for position in positions)

    def _place(self, position: int) -> str:
        return f"{self.paths[position]} ({self.file} line {self.lines[position]})"

    def _read(self, position: int, seen: list[Brightest]) -> Tensor:
        return decoded(Path(self.paths[position]), self.config, self._place(position), seen=seen)


def image_paths(config: TableConfig) -> list[str]:
    """Return the absolute paths of the images that a table names. Raises InputError."""
    file = _existing_file(config.file)
    wanted = {config.path_column, *PATHS}
    table = read_text_table(file, lambda column: column in wanted or column.strip().lower() in wanted)
    column = require_column(config.path_column, PATHS, table.columns, "path_column", str(file))
    return _paths(table, column, existing(config.root) if config.root else file.parent)[0]


@list_images.register
def _(config: TableConfig) -> Listing:
    file = _existing_file(config.file)
    names = {config.path_column, config.label_column, *config.attributes, *PATHS, *LABELS}
    table = read_text_table(file, lambda column: column in names or column.strip().lower() in names)
    path_column = require_column(config.path_column, PATHS, table.columns, "path_column", str(file))
    paths, ids = _paths(table, path_column, existing(config.root) if config.root else file.parent)
    files = _Files(paths, file, table.lines, config)
    listing = with_attributes(Listing(ids, files), _attributes(table, config))
    if config.label_column == "":
        return listing
    label_column = find_column(config.label_column, LABELS, table.columns, "label_column", str(file))
    if label_column is None:
        return listing
    labels, classes = read_labels(table.column(label_column), config.classes, table.place)
    return replace(listing, labels=labels, classes=classes)


def _attributes(table: TextTable, config: TableConfig) -> dict[str, Tensor]:
    """Return the columns that the configuration names as attributes. Raises InputError."""
    for name in config.attributes:
        find_column(name, (), table.columns, "attributes", str(table.file))
    return {name: read_numbers(table.column(name), name, table.place) for name in config.attributes}


@list_unlabelled.register
def _(config: TableConfig) -> Listing:
    return unlabelled_unless_sound(
        config, lambda: list_images(config.model_copy(update={"label_column": "", "attributes": ()}))
    )


def _existing_file(path: str) -> Path:
    try:
        file = existing(path)
    except InputError as err:
        raise InputError("file", err.value, err.rule, err.remedy) from err
    if file.suffix.lower() not in SEPARATED + JSON_LINES:
        remedy = "kind: parquet reads Parquet" if file.suffix.lower() == ".parquet" else "save it as one of these"
        raise InputError("file", path, f"must end in {', '.join(SEPARATED + JSON_LINES)}", remedy)
    if not file.is_file():
        raise InputError("file", path, "must be a file", "name the table itself")
    return file


def _paths(table: TextTable, column: str, root: Path) -> tuple[list[str], list[str]]:
    """Return the absolute path of each row's file, and its name: its path below the root, or its absolute path.

    Raises:
        InputError: names the first row whose path is empty, leads out of the root, is there twice, or is no file's.
    """
    base = os.path.join(os.path.abspath(root), "")
    rows: dict[str, int] = {}
    for row, text in enumerate(table.column(column)):
        path = _absolute(text, base, table.place(row))
        if path in rows:
            rule = f"is named in line {table.lines[rows[path]]} already"
            raise InputError(table.place(row), text, rule, "remove one of the two rows", absolute=True)
        rows[path] = row
    _require_files(list(rows), table, column)
    return list(rows), [path.removeprefix(base) for path in rows]


def _absolute(text: object, base: str, place: str) -> str:
    """Return the path that a cell stands for. Raises InputError."""
    if not isinstance(text, str) or not text.strip():
        value = "(empty)" if text is None or text == "" else text
        raise InputError(place, value, "has no path of an image", "name the image's file", absolute=True)
    path = os.path.abspath(os.path.join(base, text))
    if not os.path.isabs(text) and not path.startswith(base):
        rule = f"leads out of the folder {base}"
        raise InputError(place, text, rule, "write the absolute path, or set `root` to a folder above", absolute=True)
    return path


def _require_files(paths: Sequence[str], table: TextTable, column: str) -> None:
    """Raise InputError, which names the first row whose file is missing, unless all are there."""
    missing = [row for row, path in enumerate(paths) if not os.path.isfile(path)]
    if not missing:
        return
    row = missing[0]
    others = f", as {len(missing) - 1:,} more are" if len(missing) > 1 else ""
    remedy = "correct the path, or set `root` to the folder that paths start from"
    if "://" in table.cells[row][column]:
        remedy = "download it, and name the file"
    rule = f"is missing: there is no file {paths[row]}{others}"
    raise InputError(table.place(row), table.cells[row][column], rule, remedy, absolute=True)
