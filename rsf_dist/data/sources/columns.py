"""Tables of images: their columns, found by name; labels as words or whole numbers; images brought to one size."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsf_dist.config.images import ImagesKind
from rsf_dist.data.decoding import Brightest, Header, decode_deep, header_of
from rsf_dist.data.resizing import resized
from rsf_dist.data.sources.base import checked_labels, numbered
from rsf_dist.data.unreadable import out_of_memory
from rsf_dist.errors import InputError

_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})(\.0+)?")  # 1.0 is what pandas makes of 1 beside an empty cell
_CODE = re.compile(r"0[0-9]+")  # 007 is a word

Place = Callable[[int], str]
"""A function from a row's position to the name of its place: file and row."""


def find_column(given: str | None, usual: Sequence[str], columns: Sequence[str], key: str, where: str) -> str | None:
    """Return the column to read, or None where no name was given and no usual name is among the columns.

    Args:
        given: the column's name in the configuration. None means that the first of `usual` is taken that is there.
        usual: names in lower case.
        columns: the table's columns.
        key: the configuration's key, for errors.
        where: the table, for errors.

    Raises:
        InputError: the given column is missing, or the column's name is there twice.
    """
    if given is None:
        by_name = {column.strip().lower(): column for column in reversed(columns)}
        given = next((by_name[name] for name in usual if name in by_name), None)
    elif given not in columns:
        rule = f"{where} has no such column, but {_listed(columns)}"
        raise InputError(key, given, rule, "name one of these")
    if given is not None and columns.count(given) > 1:
        raise InputError(key, given, f"{where} has this column {columns.count(given)} times", "rename the others")
    return given


def require_column(given: str | None, usual: Sequence[str], columns: Sequence[str], key: str, where: str) -> str:
    """Return the column to read, as `find_column` does. Raises InputError, which lists the columns there are."""
    found = find_column(given, usual, columns, key, where)
    if found is None:
        rule = f"{where} has no column {', '.join(usual[:-1])} or {usual[-1]}, but {_listed(columns)}"
        raise InputError(key, "(absent)", rule, f"name one of these as `{key}`")
    return found


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns[:20]) + (", …" if len(columns) > 20 else "")


def read_labels(values: Sequence[object], classes: tuple[str, ...], place: Place) -> tuple[Tensor, tuple[str, ...]]:
    """Return a column of labels as int64 [n], and the classes' names.

    Words are classes in alphabetical order, or in the order of `classes`. Whole numbers are class numbers.

    Args:
        values: words or numbers; None, NaN, the word nan, and blank words are empty.
        classes: the names that the configuration gives; empty means those of the column.
        place: names a row, for errors.

    Raises:
        InputError: names the first row whose label is empty, neither word nor number, or of no class.
    """
    require_filled(values, place)
    words = [_word(value, place, row) for row, value in enumerate(values)]
    whole, named = all(map(_WHOLE.fullmatch, words)), bool(classes) and set(words) <= set(classes)
    if whole and not named:
        return number_labels(_integers(words), classes, place)
    if not classes:
        _require_words(words, place)
    names = classes or tuple(sorted(set(words)))
    positions = _positions(words, names, place)
    if whole:
        _require_one_meaning(words, positions, names, place)
    return torch.from_numpy(positions), names


def number_labels(labels: np.ndarray, classes: tuple[str, ...], place: Place) -> tuple[Tensor, tuple[str, ...]]:
    """Return class numbers as int64 [n], and the classes' names. Raises InputError, which names the first wrong row."""
    try:
        names = classes or numbered(labels)
        return checked_labels(labels, len(labels), names), names
    except InputError as err:
        row = int(np.argmax(labels == err.value))
        raise InputError(place(row), err.value, err.rule, err.remedy, absolute=True) from err


def require_filled(values: Sequence[object], place: Place) -> None:
    """Raise InputError, which names the first row without a label, unless each has one."""
    for row, value in enumerate(values):
        if value is None or (isinstance(value, (str, float)) and str(value).strip().lower() in ("", "nan")):
            remedy = 'fill it in, remove the row, or set `label_column: ""` to read no labels'
            raise InputError(place(row), "(empty)", "has no label", remedy, absolute=True)


def _word(value: object, place: Place, row: int) -> str:
    """Return a label as a word. Raises InputError if it is neither word nor number."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, (str, int, float)):
        rule = "a label must be a word or a whole number"
        raise InputError(place(row), value, rule, "correct it, or choose another `label_column`", absolute=True)
    return str(value).strip()


def _integers(words: Sequence[str]) -> np.ndarray:
    return np.array([int(word.partition(".")[0]) for word in words], np.int64)


def _require_words(words: Sequence[str], place: Place) -> None:
    """Raise InputError if the labels are numbers, some of them no whole ones."""
    if all(map(_is_number, words)):
        row = next(row for row, word in enumerate(words) if not _WHOLE.fullmatch(word))
        rule = "labels must be words or whole numbers"
        raise InputError(place(row), words[row], rule, "number the classes 0, 1, …, or list `classes`", absolute=True)


def _require_one_meaning(words: Sequence[str], positions: np.ndarray, names: Sequence[str], place: Place) -> None:
    """Raise InputError if labels are the names of some classes and could be the numbers of others."""
    as_numbers = _integers(words)
    differ = as_numbers != positions
    if differ.any() and as_numbers.min() >= 0 and as_numbers.max() < len(names):
        row = int(np.argmax(differ))
        rule = f"is the name of class {positions[row]}, and the number of the class named {names[as_numbers[row]]}"
        raise InputError(place(row), words[row], rule, "use words that are no numbers as `classes`", absolute=True)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return word.isascii() and "_" not in word and not _CODE.fullmatch(word)  # Python reads 1_0 as 10, people do not


def _positions(words: Sequence[str], classes: tuple[str, ...], place: Place) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(classes)}
    for row, word in enumerate(words):
        if word not in numbers:
            rule = f"is not one of the classes {list(classes)}"
            raise InputError(place(row), word, rule, "correct the label, or add it to `classes`", absolute=True)
    return np.array([numbers[word] for word in words], np.int64)


def decoded(
    path: Path,
    config: ImagesKind,
    where: str = "",
    data: bytes | None = None,
    seen: list[Brightest] | None = None,
) -> Tensor:
    """Return an image file, or its bytes, with the channels and the size that `config` asks for.

    Args:
        path: the file.
        config: says channels, size and, where it can, bits.
        where: the place that errors name. Empty means the path.
        data: the file's bytes. None means that the file is read.
        seen: the brightest pixel is added to it if the file has 16 bits a channel.

    Raises:
        InputError: it is no image.
    """
    try:
        image, brightest = decode_deep(path, config.channels or 3, getattr(config, "bits", None), data)
    except InputError as err:
        raise InputError(where or err.field, err.value, err.rule, err.remedy, absolute=True) from err
    if seen is not None and brightest is not None:
        seen.append(brightest)
    return brought_to_size(image, config)


def file_headers(paths: Iterable[Path]) -> Iterator[Header | InputError]:
    """Yield what each file tells of its image before it is decoded, or the error of one that is no image."""
    for path in paths:
        try:
            yield header_of(path)
        except InputError as err:
            yield err


def brought_to_size(image: Tensor, config: ImagesKind) -> Tensor:
    """Return an image of the size that `config` asks for."""
    return image if config.size is None else resized(image, config.size, config.resize)


def filled(images: Iterable[tuple[int, Tensor]], count: int, name: Place, key: str) -> Tensor:
    """Return images as one tensor [count, c, h, w], filled as they come: a list of them would take the memory twice.

    Args:
        images: each image's number in the tensor, and the image, uint8 [c, h, w].
        count: how many there are.
        name: gives the name of the image with a number, for errors.
        key: the configuration's key of the images, for errors.

    Raises:
        InputError: the images differ in shape, or do not fit into memory.
    """
    try:
        others = iter(images)
        first_number, first = next(others)
        tensor = torch.empty((count, *first.shape), dtype=torch.uint8)
        tensor[first_number] = first
        for number, image in others:
            if image.shape != first.shape:
                raise unlike(image.shape, name(number), first.shape, name(first_number))
            tensor[number] = image
        return tensor
    except (MemoryError, RuntimeError) as err:  # RuntimeError: torch's allocator
        if not out_of_memory(err):
            raise
        rule, remedy = "do not fit into this machine's memory", "set a smaller `size`, or a `limit`"
        raise InputError(key, f"{count:,} images", rule, remedy) from err


def stacked(images: Sequence[Tensor], names: Sequence[str]) -> Tensor:
    """Return images as one tensor [n, c, h, w]. Raises InputError unless they have one shape.

    Args:
        images: uint8 [c, h, w].
        names: the images' names, for errors.
    """
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            raise unlike(image.shape, name, images[0].shape, names[0])
    return torch.stack(list(images))


def unlike(shape: Sequence[int], name: str, first: Sequence[int], first_name: str) -> InputError:
    """Return the error of an image [c, h, w] whose shape is not the first one's."""
    if shape[0] != first[0]:
        rule = f"{name} has {shape[0]} channel(s), and {first_name} {first[0]}"
        return InputError("channels", shape[0], rule, "set `channels: 1` or `channels: 3`")
    rule = f"{name} differs in size from {first_name} {list(first[1:])}"
    return InputError("size", list(shape[1:]), rule, "set `size: [height, width]`")
