"""Tensors and names in files that every process of a node maps: memory does not grow with the number of processes.

A mapped tensor is read like any other. Three things differ:

    pickled     it is a reference to its file, and so are its views; what is computed from it is an ordinary tensor
    memory      pages that one process alone has mapped count as its own: rows at given positions are therefore copied
                from the file without mapping them, and other pages are given back as the process reads on
    writing     is refused, because the file is everyone's
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import re
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, overload

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rsf_dist.data.filling import fill_once, local_folder, remove_unused, touch
from rsf_dist.errors import InputError

META, NAMES = "meta.json", "ids.arrow"

Fetch = Callable[[str, Path], None]
"""A function that copies the files of a folder, by its path where they were written, into a folder of this node."""

_HELD_BYTES = 64 * 2**20  # of pages, which a process holds before it gives them all back
_AROUND = 4 * 2**20  # bytes that Linux maps at most around a place that is read, at both ends

_IN_PLACE = re.compile(r"__i(add|and|div|floordiv|lshift|mod|mul|or|pow|rshift|sub|truediv|xor)__")
"""The names of the operators that change what is on their left."""
_ABOUT = {
    *("__get__", "__set__", "__len__", "__hash__", "__dir__", "size", "stride", "storage_offset", "dim", "ndimension"),
    *("numel", "nelement", "element_size", "data_ptr", "untyped_storage", "is_contiguous", "get_device", "type"),
    *("is_floating_point", "is_complex", "is_signed", "is_pinned", "is_shared", "is_same_size"),
}
"""The names of functions that look at a tensor, and not at what it holds."""

_offers: list[Callable[[], Fetch | None]] = []


def offer(fetch: Callable[[], Fetch | None]) -> None:
    """Let nodes that do not see the files of a reference fetch them.

    Args:
        fetch: gives the function to fetch them by when a reference is pickled, or None where there is none then.
    """
    _offers[:] = [fetch]


def _offered() -> Fetch | None:
    return _offers[0]() if _offers else None


@dataclass(frozen=True)
class Reference:
    """The place of a folder of mapped files. It is all that travels to another process.

    Args:
        folder: its absolute path.
        identity: the text in its meta.json that no other folder has.
        fetch: copies the folder to a node that does not see it. None means that all processes see it.
    """

    folder: str
    identity: str
    fetch: Fetch | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Reference, (self.folder, self.identity, self.fetch or _offered())

    def here(self) -> Path:
        """Return the folder as this node sees it, fetched first where it does not. Raises InputError."""
        folder = Path(self.folder)
        if self._is_at(folder):
            return folder
        if self.fetch is None:
            raise gone(folder)
        copy = local_folder() / "fetched" / self.identity
        try:
            fill_once(copy, functools.partial(self.fetch, self.folder), self._is_at)
        except OSError as err:
            rule, remedy = f"cannot take packed images ({err})", "free some space, or set TMPDIR to another disk"
            raise InputError("TMPDIR", copy.parent, rule, remedy, absolute=True) from err
        touch(copy)
        remove_unused(copy.parent)
        return copy

    def _is_at(self, folder: Path) -> bool:
        meta = read_meta(folder)
        return meta is not None and meta["identity"] == self.identity


def gone(folder: Path) -> InputError:
    """Return the error about a folder that no longer holds the images that are referred to."""
    rule = "is gone, or holds other images than when the run began"
    return InputError("packed images", folder, rule, "run it again, which packs them again", absolute=True)


def read_meta(folder: Path) -> Mapping[str, Any] | None:
    """Return what a folder's meta.json says, or None where files are missing or cut short."""
    try:
        meta = json.loads((folder / META).read_text("utf-8"))
        wanted = {f"{name}.bin": column["bytes"] for name, column in meta["columns"].items()} | {NAMES: meta["ids"]}
        whole = all(os.path.getsize(folder / name) == size for name, size in wanted.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # another program's file, or none
        return None
    return meta if whole else None


class _Files:
    """The maps of one folder's files in this process."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._columns = (read_meta(folder) or {})["columns"]
        self._opened: dict[str, IO[bytes]] = {}
        self._mapped: dict[str, Tensor] = {}

    def column(self, name: str) -> Tensor:
        """Return a column, which this process maps once."""
        if name not in self._mapped:
            self._mapped[name] = self._map(name)
        return self._mapped[name]

    def _map(self, name: str) -> Tensor:
        about = self._columns[name]
        dtype, shape = getattr(torch, about["dtype"]), tuple(about["shape"])
        if not about["bytes"]:
            return torch.empty(shape, dtype=dtype)
        mapped = mmap.mmap(self.file(name), 0, access=mmap.ACCESS_READ)
        if about["bytes"] > _HELD_BYTES:
            _Pages.large.add(mapped)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a buffer that cannot be written to, which MappedTensor refuses
            return torch.frombuffer(mapped, dtype=dtype).view(shape)

    def file(self, name: str) -> int:
        """Return the descriptor of a column's file, which stays open."""
        if name not in self._opened:
            self._opened[name] = (self._folder / f"{name}.bin").open("rb", buffering=0)
        return self._opened[name].fileno()

    @functools.cached_property
    def names(self) -> pa.ChunkedArray:
        return pa.ipc.open_file(pa.memory_map(str(self._folder / NAMES))).read_all().column(0)


@functools.lru_cache(maxsize=64)
def _files(folder: str, identity: str, fetch: Fetch | None) -> _Files:
    return _Files(Reference(folder, identity, fetch).here())


class _Pages:
    """The pages of large maps that this process holds, counted from above."""

    held = 0
    large: ClassVar[weakref.WeakSet[mmap.mmap]] = weakref.WeakSet()

    @classmethod
    def count(cls, num_bytes: int) -> None:
        """Count bytes that are read, and give all pages back where they may be many."""
        cls.held += num_bytes
        if cls.held > _HELD_BYTES:
            cls.held = 0
            for mapped in cls.large:
                mapped.madvise(mmap.MADV_DONTNEED)  # the system keeps their content, and maps them again when read


class MappedTensor(Tensor):
    """A column in a file, or a view of it."""

    _reference: Reference
    _column: str

    @staticmethod
    def of(reference: Reference, column: str) -> MappedTensor:
        """Return a column of a folder. Raises InputError where the folder is gone."""
        files = _files(reference.folder, reference.identity, reference.fetch)
        return _mapped(files.column(column), reference, column)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute with ordinary tensors. Views stay mapped."""
        with torch._C.DisableTorchFunctionSubclass():
            named = kwargs or {}
            mapped = [one for one in _flat((*args, *named.values())) if isinstance(one, MappedTensor)]
            _require_reading(function, args, named)
            rows = None if named else _rows_wanted(function, args)
            if rows is not None:
                return _copied(args[0], rows)
            if _name(function) == "__dlpack__":  # whoever takes it over may write
                args = (args[0].clone(), *args[1:])
            result = function(*args, **named)
            return _result(function, result, mapped) if mapped else result

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        with torch._C.DisableTorchFunctionSubclass():
            place = (tuple(self.shape), self.stride(), self.storage_offset())
            if self.dtype != MappedTensor.of(self._reference, self._column).dtype:  # seen as numbers of another type
                return self.clone().as_subclass(Tensor).__reduce_ex__(protocol)
        return _view, (self._reference, self._column, *place)

    def __deepcopy__(self, memo: object) -> MappedTensor:
        return self  # nobody can change it


def _mapped(plain: Tensor, reference: Reference, column: str) -> MappedTensor:
    tensor = plain.as_subclass(MappedTensor)
    tensor._reference, tensor._column = reference, column
    return tensor


def _view(reference: Reference, column: str, shape: Sequence[int], stride: Sequence[int], offset: int) -> MappedTensor:
    whole = MappedTensor.of(reference, column)
    with torch._C.DisableTorchFunctionSubclass():
        return _mapped(torch.as_strided(whole, shape, stride, offset), reference, column)


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _flat(value)
        else:
            yield value


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", "").partition(".")[0]  # torch.ops.aten.add_.Tensor is an add_


def _require_reading(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise InputError where a function would write into a mapped tensor: the process would be killed for it."""
    written = list(_written(function, args, kwargs))
    if any(isinstance(one, MappedTensor) for one in _flat(written)):
        rule = "changes images in place, which all processes read from one file"
        raise InputError("images", _name(function), rule, "change a copy: images.clone()", absolute=True)


def _written(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the arguments that a function writes into, as torch names its functions and their arguments."""
    yield kwargs.get("out")
    name = _name(function)
    in_place = name == "__setitem__" or _IN_PLACE.fullmatch(name) or (name.endswith("_") and not name.endswith("__"))
    if in_place or _given(function, args, kwargs).get("inplace"):
        yield from (*args[:1], kwargs.get("input"), kwargs.get("self"))


def _given(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a function that is written in Python by their names; of others those given by name."""
    code = getattr(function, "__code__", None)
    names = () if code is None else code.co_varnames[: code.co_argcount]
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def _rows_wanted(function: Callable[..., Any], args: Sequence[Any]) -> Tensor | None:
    """Return the positions of the rows that a function takes of a mapped tensor, or None where it does something else.

    Small files, positions from the end, and errors are left to torch.
    """
    before = {"index_select": (0,), "__getitem__": ()}.get(_name(function))
    if before is None or len(args) != len(before) + 2 or tuple(args[1:-1]) != before:
        return None
    images, rows = args[0], args[-1]
    if not (isinstance(images, MappedTensor) and type(rows) is Tensor and rows.ndim == 1 and images.ndim):
        return None
    if rows.dtype == torch.bool and len(rows) == len(images):
        rows = rows.nonzero().flatten()
    is_sound = rows.dtype == torch.int64 and len(rows) > 0 and rows.min() >= 0 and rows.max() < len(images)
    is_large = images.untyped_storage().nbytes() > _HELD_BYTES
    return rows if is_sound and is_large and images.is_contiguous() else None


def _copied(images: MappedTensor, rows: Tensor) -> Tensor:
    """Return rows of a contiguous mapped tensor, read from its file."""
    reference = images._reference
    file = _files(reference.folder, reference.identity, reference.fetch).file(images._column)
    copy = torch.empty((len(rows), *images.shape[1:]), dtype=images.dtype)
    data: Any = copy.view(-1).view(torch.uint8).numpy()
    size, start = copy[0].nbytes, images.storage_offset() * images.itemsize
    for number, row in enumerate(rows.tolist()):
        if os.preadv(file, [data[number * size : (number + 1) * size]], start + row * size) != size:
            raise gone(Path(reference.folder))
    return copy


def _result(function: Callable[..., Any], result: Any, given: Sequence[MappedTensor]) -> Any:
    """Return what a function of mapped tensors gave: views as mapped tensors. What it read is counted."""
    several = type(result) in (tuple, list) and all(isinstance(one, Tensor) for one in result)
    found = [_as_mapped(one, given) for one in (result if several else [result])]
    if _name(function) not in _ABOUT and not all(isinstance(one, MappedTensor) for one in found):
        _Pages.count(sum(one.nbytes + _AROUND for one in given))
    return type(result)(found) if several else found[0]


def _as_mapped(result: Any, given: Sequence[MappedTensor]) -> Any:
    """Return a view of a mapped tensor as one, or as an array that nobody can write to; anything else as it is."""
    if isinstance(result, np.ndarray) and not result.flags.owndata:
        result.flags.writeable = False
    if not isinstance(result, Tensor):
        return result
    place = result.untyped_storage().data_ptr()
    of = next((one for one in given if one.untyped_storage().data_ptr() == place), None)
    return result if of is None or result is of else _mapped(result, of._reference, of._column)


class MappedNames(Sequence[str]):
    """The names of images, in a file."""

    def __init__(self, reference: Reference):
        self._reference = reference
        self._names = _files(reference.folder, reference.identity, reference.fetch).names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        return self._names[index].as_py()

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedNames, (self._reference,)
