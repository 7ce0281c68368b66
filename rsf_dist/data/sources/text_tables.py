"""The rows of tables in text files: CSV and its relatives by Python's csv module, and JSON Lines.

Rows are named by the line of the file in which they begin; the first line is 1, as in an editor.
"""

from __future__ import annotations

import csv
import json
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from rsf_dist.errors import InputError

SEPARATED, JSON_LINES = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson")
"""Endings of the files' names."""

_Row = tuple[int, list[str], list[Any]]  # line, columns, cells


@dataclass
class TextTable:
    """The columns that a table has, and those cells that may be needed.

    Args:
        file: the table's path.
        columns: every column's name.
        lines: the line in which each row begins.
        cells: of each row, by column.
    """

    file: Path
    columns: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)

    def place(self, row: int) -> str:
        """Return the words by which errors name a row."""
        return f"{self.file} line {self.lines[row]}"

    def column(self, name: str) -> list[Any]:
        """Return a column's cells; None stands for those that a row leaves out."""
        return [cells.get(name) for cells in self.cells]


def read_text_table(file: Path, wanted: Callable[[str], bool]) -> TextTable:
    """Read a table.

    Args:
        file: a path whose ending is one of SEPARATED or JSON_LINES.
        wanted: tells of a column's name if its cells may be needed. Others are not kept.

    Raises:
        InputError: names the line that is wrong.
    """
    read_rows = _json_rows if file.suffix.lower() in JSON_LINES else _separated_rows
    table = TextTable(file)
    last: list[str] = []
    for line, columns, cells in read_rows(file):
        if columns != last:  # in a CSV file only before the first row
            table.columns += columns if not table.columns else [name for name in columns if name not in table.columns]
            last = columns
        table.lines.append(line)
        table.cells.append({name: cell for name, cell in zip(columns, cells, strict=True) if wanted(name)})
    if not table.lines:
        raise _no_rows(file)
    return table


def first_row(file: Path) -> dict[str, Any]:
    """Return the first row of a table, by column. Nothing after it is read. Raises InputError."""
    read_rows = _json_rows if file.suffix.lower() in JSON_LINES else _separated_rows
    for _, columns, cells in read_rows(file):
        return dict(zip(columns, cells, strict=True))
    raise _no_rows(file)


def _no_rows(file: Path) -> InputError:
    return InputError(str(file), "(no rows)", "holds no images", "name them in it, one a row", absolute=True)


def _text_lines(file: Path) -> Iterator[str]:
    """Yield a file's lines with their ends. Raises InputError, which names the line that is not UTF-8."""
    number = 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if number == 1 and line.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
                    raise InputError(str(file), "UTF-16", "must be UTF-8 text", "save it as UTF-8", absolute=True)
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as err:
        found = err.object[err.start : err.end]
        raise InputError(
            f"{file} line {number}", found, "must be UTF-8 text", "save it as UTF-8", absolute=True
        ) from err
    except OSError as err:
        raise InputError(str(file), "(a file)", f"cannot be read ({err})", "check it", absolute=True) from err


def _separated_rows(file: Path) -> Iterator[_Row]:
    records = _records(file)
    _, header = next(records, (1, []))
    columns = [name.strip() for name in header]
    for line, record in records:
        if len(record) != len(columns):
            rule = f"must have {len(columns)} cells like the first line"
            remedy = "quote cells that hold the separator or quotes"
            raise InputError(f"{file} line {line}", f"{len(record)} cells", rule, remedy, absolute=True)
        yield line, columns, record


def _records(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the records that are not blank, each with the line in which it begins."""
    lines = _text_lines(file)
    first = next(lines, "")
    reader = csv.reader(chain([first], lines), delimiter=_separator(file, first), strict=True)
    line = 1
    try:
        for record in reader:
            if record:
                yield line, record
            line = reader.line_num + 1
    except csv.Error as err:
        rule, remedy = f"cannot be read as CSV ({err})", "close quotes, double those within, end lines by line feeds"
        raise InputError(f"{file} line {line}", "(a row)", rule, remedy, absolute=True) from err


def _separator(file: Path, header: str) -> str:
    """Return the character between the columns' names. A single column has none, and any will do."""
    if file.suffix.lower() == ".tsv":
        return "\t"
    try:
        return csv.Sniffer().sniff(header, delimiters=",;\t|").delimiter
    except csv.Error:
        return ","


def _json_rows(file: Path) -> Iterator[_Row]:
    for line, text in enumerate(_text_lines(file), start=1):
        if text.strip():
            row = _json_object(text, f"{file} line {line}")
            yield line, list(row), list(row.values())


def _json_object(text: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as err:
        rule = f"is not JSON ({err})"
        raise InputError(place, text, rule, "write one JSON object a line", absolute=True) from err
    if not isinstance(row, dict):
        raise InputError(place, text, "must be a JSON object", 'write e.g. {"path": "a.png"}', absolute=True)
    return row
