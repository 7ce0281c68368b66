"""A folder that appears under its name only when it is complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rsf_dist.errors import InputError
from rsf_dist.storage.run_store import remedy_of, room_required


def checked_output(output: str, option: str = "--output") -> Path:
    """Return the path of a folder to make. Raises InputError unless it is a local path where nothing is yet."""
    if "://" in output:
        raise InputError(option, output, "must be a local folder", "write it there, and copy it to its place")
    try:
        path = Path(output).expanduser().absolute()
        exists = os.path.lexists(path)
    except (OSError, RuntimeError, ValueError) as err:  # a user without a home, a null byte
        raise InputError(option, output, f"is no path ({err})", "correct it") from err
    if not output or exists:
        rule = "exists already, and nothing is written over" if output else "names no folder"
        raise InputError(option, output, rule, "name another folder, or remove that one" if output else "name one")
    return path


@contextmanager
def new_folder(path: Path, option: str = "--output") -> Iterator[Path]:
    """Yield a folder to fill, which takes the name `path` when the block ends. An error leaves nothing behind.

    Raises:
        InputError: the folder cannot be made, its disk is full, or another process has made one of this name.
    """
    made: list[Path] = []
    try:
        _make_parents(path.parent, made)
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".partial", dir=path.parent))
    except OSError as err:
        _remove_empty(made)
        raise InputError(option, path, f"cannot be made ({err})", remedy_of(err)) from err
    try:
        with room_required(str(path)):
            yield draft
            draft.chmod(0o777 & ~_umask())  # mkdtemp's are for one user alone
            _take_name(draft, path, option)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        _remove_empty(made)
        raise


def _take_name(draft: Path, path: Path, option: str) -> None:
    if os.path.lexists(path):
        raise InputError(option, path, "was made by another process meanwhile", "name another folder")
    try:
        draft.rename(path)
    except OSError as err:  # a name that is too long, a file system that went read-only
        raise InputError(option, path, f"cannot take this name ({err})", "name another folder") from err


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Make a folder and those above it, and note each that was not there in `made`, the innermost first."""
    missing = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    for one in reversed(missing):
        with suppress(FileExistsError):  # another process was quicker, and keeps it
            one.mkdir()
            made.insert(0, one)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # something else lies in it
            folder.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
