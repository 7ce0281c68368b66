"""The record of what a run's results rest on beside its configuration, its images and its seed.

Libraries, the kind of processor, and the contents of files and code that the configuration only names. Another run may
take results over where all of these are equal and known.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import torch

from rsf_dist.config.resume import is_own_option, leaves
from rsf_dist.config.run import RunConfig
from rsf_dist.runtime import user_code
from rsf_dist.storage.manifest import MANIFEST

MadeWith = Mapping[str, str | None]
"""Values by name; None stands for something that is not known, or changed while the run was made."""

ACCELERATORS = "accelerators"

_LIBRARIES = ("rsf-dist", "ray", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pyarrow")
_IMPORT_PATH_KEYS = ("factory", "score", "passes", "name")
_OF_RAY = "accelerator_type:"
_MOST_FILES, _MOST_BYTES = 10_000, 2**30  # of a user's code: reading more would take longer than a small run


def made_with(config: RunConfig) -> dict[str, str | None]:
    """Return the record for results that are made now, by this process and its cluster.

    The configuration's import paths must have been loaded. Three things are not read and count as unknown: a folder
    that an option of the user's code names; a module that lies neither in the `code_folder` nor in a package, since
    nothing tells which files belong to it; and code of more than 10,000 files or 1 GiB.
    """
    folders, digest_of_code = _folders(config.code_folder), cache(_Code(config.code_folder, config.output).digest_of)
    named = dict.fromkeys(_texts_naming_contents(leaves(config), folders))
    return {**_machine(), **{contents_of(text): _digest_of(text, folders, digest_of_code) for text in named}}


def contents_of(text: str) -> str:
    """Return the name under which the record has the contents that a text of the configuration names."""
    return f"contents of {text}"


def libraries() -> dict[str, str | None]:
    """Return the part of a record that every result rests on: known before the configuration's code is loaded."""
    return {name: value for name, value in _machine().items() if name != ACCELERATORS}


def libraries_in(record: MadeWith) -> dict[str, str | None]:
    """Return this part of a record."""
    return {name: record.get(name) for name in libraries()}


def together(before: MadeWith, now: MadeWith) -> dict[str, str | None]:
    """Return the record of results of which some were made before and some are made now."""
    return {**now, **{name: value if now.get(name, value) == value else None for name, value in before.items()}}


def _machine() -> dict[str, str | None]:
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    versions: dict[str, str | None] = {name: version(name) for name in _LIBRARIES}
    return {
        "python": platform.python_version(),
        **versions,
        "processor": processor,
        ACCELERATORS: ", ".join(_accelerators()) or "none",
    }


def _accelerators() -> list[str]:
    """Return the models of the cluster's GPUs, as Ray names them."""
    resources = ray.cluster_resources() if ray.is_initialized() else {}
    return sorted(name.removeprefix(_OF_RAY) for name in resources if name.startswith(_OF_RAY))


def _texts_naming_contents(values: Mapping[str, Any], folders: Iterable[Path]) -> Iterator[str]:
    """Yield each text of the configuration that names contents: weights, import paths, and files given as options.

    Args:
        values: by their dotted keys.
        folders: where the files of options are looked up.
    """
    for key, value in values.items():
        for place, text in items_in(value, key):
            if not isinstance(text, str):
                continue
            last = place.rpartition(".")[2]
            is_code = last in _IMPORT_PATH_KEYS and user_code.SEPARATOR in text
            if is_code or ((last == "weights" or is_own_option(place)) and _named_in(text, folders)):
                yield text


def items_in(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each text, number or null in a value of the configuration."""
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from items_in(item, f"{key}.{number}")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from items_in(item, f"{key}.{name}")
    else:
        yield key, value


def _folders(code_folder: str | None) -> list[Path]:
    """Return the folders in which the user's code may look for a file: this process's own, and the code's."""
    of_code = [Path(file).parent for file in user_code.LOADED.values() if Path(file).is_file()]
    return list(dict.fromkeys([Path(), *([] if code_folder is None else [_absolute(code_folder)]), *of_code]))


def _named_in(text: str, folders: Iterable[Path]) -> list[Path]:
    """Return what a text names in the folders, if it is a path; one that is absolute is the same in all of them."""
    try:
        found = [folder / Path(text).expanduser() for folder in folders if text]
        return list(dict.fromkeys(path for path in found if path.exists()))
    except (OSError, RuntimeError, ValueError):  # a text that can be no path
        return []


def _digest_of(text: str, folders: Iterable[Path], digest_of_code: Callable[[Path], str | None]) -> str | None:
    """Return the SHA-256 of the contents that a text names; None where they are not known."""
    if text in user_code.LOADED:
        return digest_of_code(Path(user_code.LOADED[text]))
    named = _named_in(text, folders)
    return _file_digest(named, Path()) if named and all(path.is_file() for path in named) else None


@dataclass(frozen=True)
class _Code:
    """The user's code: how it is found, and which files it consists of.

    Args:
        folder: the configuration's `code_folder`.
        output: the run's directory, which is no code.
    """

    folder: str | None
    output: str

    def digest_of(self, file: Path) -> str | None:
        """Return the SHA-256 of all files that come with a module; None where these are not known, or too many."""
        root = self._root_of(file)
        try:
            files = None if root is None else self._files_below(root)
        except OSError:  # a folder that may not be read
            return None
        return None if root is None or files is None else _file_digest(files, root)

    def _root_of(self, file: Path) -> Path | None:
        """Return the `code_folder` or the outermost package that a module lies in; None where it lies in none."""
        if not file.is_file():
            return None
        root = None if self.folder is None else _absolute(self.folder)
        if root is not None and root in file.absolute().parents:
            return root
        packages = [folder for folder in file.absolute().parents if (folder / "__init__.py").is_file()]
        return packages[-1] if packages else None

    def _files_below(self, root: Path) -> list[Path] | None:
        """Return all files below a folder but caches, hidden ones and those of runs; None where these are too many."""
        files: list[Path] = []
        size = 0
        for places, (place, folders, names) in enumerate(os.walk(root, onerror=_raise, followlinks=True)):
            folders[:] = sorted(name for name in folders if self._may_hold_code(Path(place, name)))
            shown = (Path(place, name) for name in sorted(names) if not name.startswith("."))
            found = [file for file in shown if file.is_file()]  # opening a pipe would wait
            files += found
            size += sum(file.stat().st_size for file in found)
            if places + len(files) > _MOST_FILES or size > _MOST_BYTES:  # links may lead in circles
                return None
        return files

    def _may_hold_code(self, folder: Path) -> bool:
        is_run = (folder / MANIFEST).is_file() or os.path.realpath(folder) == os.path.realpath(self.output)
        return not (is_run or folder.name == "__pycache__" or folder.name.startswith("."))


def _raise(err: OSError) -> None:
    raise err


def _absolute(folder: str) -> Path:
    return Path(folder).expanduser().absolute()


def _file_digest(files: Iterable[Path], root: Path) -> str | None:
    """Return the SHA-256 of files and of their names below a folder; None where one cannot be read."""
    digest = hashlib.sha256()
    try:
        for file in files:
            name = file.relative_to(root).as_posix() if root in file.parents else file.name
            digest.update(f"{name}\0{file.stat().st_size}\0".encode(errors="surrogateescape"))
            with file.open("rb") as opened:
                while block := opened.read(2**20):
                    digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()
