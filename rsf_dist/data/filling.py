"""Folders that are filled once, by one process at a time, and appear under their name only when they are complete."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rsf_dist.errors import InputError

_DRAFT = "filling"  # the suffix of a folder that is not complete
_WEEK = 7 * 24 * 3600.0


def fill_once(
    folder: Path,
    write: Callable[[Path], object],
    is_whole: Callable[[Path], bool],
    waiting: Callable[[], object] = lambda: None,
) -> None:
    """Fill a folder unless it is whole already. What is there and is not whole is replaced.

    Processes that want the same folder at once wait for the first one. Where the file system has no locks each fills a
    folder of its own; the first that is complete stays, and the others take it.

    Args:
        folder: the folder's final path.
        write: fills the folder that it is given.
        is_whole: tells whether a folder is complete.
        waiting: is called once where another process is at work on the folder.

    Raises:
        OSError: the folder cannot be filled, or what was written is not whole. What `write` raises is passed on.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f".{folder.name}.lock", waiting) as alone:
        if is_whole(folder):
            return
        if alone:  # nobody is at work on these any more
            for abandoned in folder.parent.glob(f"{folder.name}.*.{_DRAFT}"):
                shutil.rmtree(abandoned, ignore_errors=True)
        draft = folder.with_name(f"{folder.name}.{secrets.token_hex(8)}.{_DRAFT}")
        try:
            draft.mkdir()
            write(draft)
            if not is_whole(draft):
                raise OSError(errno.EIO, "what was written there is cut short", str(folder))
            _move(draft, folder, is_whole)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _move(draft: Path, folder: Path, is_whole: Callable[[Path], bool]) -> None:
    if folder.exists() and not is_whole(folder):
        os.rename(folder, draft / "replaced")  # which goes with the draft, or stays below the new folder
    try:
        os.rename(draft, folder)
    except OSError as err:
        if err.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_whole(folder):
            raise
    shutil.rmtree(folder / "replaced", ignore_errors=True)


@contextmanager
def _locked(path: Path, waiting: Callable[[], object]) -> Iterator[bool]:
    """Hold a lock for the block, after waiting for it. Gives False where the file system has no locks."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            has_locks = True
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
            has_locks = True
        except OSError:
            has_locks = False
        yield has_locks


def remove_unused(folder: Path) -> None:
    """Remove what nobody has used for a week from a folder; `touch` says that something is used."""
    with suppress(OSError):  # there is no such folder, or it cannot be listed
        for path in folder.iterdir():
            with suppress(OSError):  # it is gone, or in use
                if time.time() - path.stat().st_mtime > _WEEK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def touch(folder: Path) -> None:
    """Let a folder count as used now."""
    with suppress(OSError):
        os.utime(folder)


def local_folder() -> Path:
    """Return this user's folder of this machine for what can be made again.

    Raises:
        InputError: there can be no such folder, or somebody else has made it.
    """
    try:
        path = Path(tempfile.gettempdir()).absolute() / f"rsf_dist-{os.getuid()}"
        with suppress(FileExistsError):  # it may be a file, which is refused below
            path.mkdir(mode=0o700, exist_ok=True)
        about = path.lstat()
    except OSError as err:
        value, rule = os.environ.get("TMPDIR", "(not set)"), f"gives no folder for temporary files ({err})"
        raise InputError("TMPDIR", value, rule, "set it to a folder that you can write to", absolute=True) from err
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
        raise InputError("TMPDIR", path, "is not this user's own folder", "set TMPDIR to another one", absolute=True)
    return path
