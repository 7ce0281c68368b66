"""A run's directory: shards of accepted rows, folders of other results, and the manifest that lists both.

The directory is a local path or any URI that pyarrow.fs takes (s3://, gs://, …). A file appears under its name only
when it is complete. The manifest is replaced atomically, and files that it does not list do not exist. The manifest
before the last one is kept beside it, and takes its place where the last one is damaged. Then only the results of the
last commit are made again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory, gettempdir
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from rsf_dist.errors import InputError
from rsf_dist.runtime.uris import refuse_password
from rsf_dist.storage.manifest import MANIFEST, PREVIOUS, Manifest, RoundProgress, Shard, read_manifest

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DRAFT = re.compile(r"\.[0-9a-f]{32}\.tmp$")
_T = TypeVar("_T")


class _Damaged(Exception):
    """The damage to a folder in the manifest, in words."""


class RunStore:
    """One run's directory, to read and write.

    Args:
        uri: a local path or a URI. It may hold no password, which would end up in config.yaml and in every message.

    Raises:
        InputError: pyarrow has no such file system. Every method raises it, too: where a file is missing, cannot be
            read or written, or lies outside of the directory.
    """

    guard: Callable[[], None] | None = None
    """A function called before every write. It raises where this process may no longer write the run."""

    def __init__(self, uri: str | os.PathLike[str]):
        refuse_password(str(uri), "output")
        try:
            self.uri = str(uri) if "://" in str(uri) else str(Path(uri).expanduser().absolute())
        except RuntimeError as err:  # ~user, of a user without a home
            raise InputError("output", uri, f"is no path or URI ({err})", "correct it") from err
        self._open()
        if self.is_local:
            self.uri = self.root  # also for file:///…

    def _open(self) -> None:
        try:
            self.filesystem, self.root = fs.FileSystem.from_uri(self.uri)
        except (pa.ArrowInvalid, OSError) as err:
            raise InputError("output", self.uri, f"is no path or URI ({err})", "correct it") from err
        if not self.root or "\0" in self.root:
            raise InputError("output", self.uri, "names no folder or bucket", "correct it")

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.uri = state["uri"]
        self._open()

    @property
    def is_local(self) -> bool:
        """True if the directory lies in a file system of this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def at(self, folder: str) -> RunStore:
        """Return the store of a folder within this one, with the same guard. `""` names this store itself."""
        if not folder:
            return self
        within = RunStore(self.path_for_ray(folder))
        within.guard = self.guard
        return within

    def path_for_ray(self, name: str) -> str:
        """Return a folder of the run as Ray Train names storage: a local path or a URI."""
        base, mark, options = self.uri.partition("?")  # as in s3://bucket/run?endpoint_override=…
        return f"{base.rstrip('/')}/{name}{mark}{options}"

    def path(self, name: str) -> str:
        """Return the full path of a file of the run, in the file system's terms.

        Raises:
            InputError: the path leaves the run's directory.
        """
        full = f"{self.root}/{name}" if name else self.root
        outside = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
        if outside or (self.is_local and not _lies_within(full, self.root)):  # by a symbolic link
            raise InputError("path", name, f"leaves the run's directory {self.uri}", "restore its manifest")
        return full

    def exists(self, name: str) -> bool:
        """Return True if there is such a file or folder."""
        try:
            return self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound
        except OSError as err:
            raise self._refused(name, "read", err) from err

    def read(self, name: str) -> bytes:
        """Return the bytes of a file. Raises InputError where it is missing."""
        if not self.exists(name):
            raise InputError(name, self.uri, "is not in this run's directory", "name the directory of an rsf run")
        try:
            with self.filesystem.open_input_stream(self.path(name)) as stream:
                return stream.read()
        except OSError as err:
            raise self._refused(name, "read", err) from err

    def write(self, name: str, data: bytes | str) -> None:
        """Write a file under another name, flush it, and move it into place.

        Args:
            name: the path within the run's directory.
            data: the content; a text is encoded as UTF-8.

        Raises:
            InputError: the file cannot be written, or the guard refuses.
        """
        if self.guard is not None:
            self.guard()
        target, content = self.path(name), data.encode() if isinstance(data, str) else data
        try:
            self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            if self.is_local:
                _write_durably(Path(target), content)
            else:  # object stores show an object only once it is complete
                with self.filesystem.open_output_stream(target) as stream:
                    stream.write(content)
        except OSError as err:
            raise self._refused(name, "written", err) from err

    def delete(self, name: str) -> None:
        """Remove a file, if there is one. Raises InputError."""
        if not self.exists(name):
            return
        try:
            self.filesystem.delete_file(self.path(name))
        except FileNotFoundError:  # somebody else was quicker
            return
        except OSError as err:
            raise self._refused(name, "deleted", err) from err

    def _refused(self, name: str, done: str, err: OSError) -> InputError:
        return InputError("output", self.path_for_ray(name), f"cannot be {done} ({err})", remedy_of(err))

    def write_shard(self, round: int, chunk: int, rows: pa.Table) -> Shard:
        """Write a chunk's accepted rows, and return their shard. Raises InputError."""
        name = f"rounds/{round:03d}/accepted/chunk-{chunk:06d}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink)
        data = sink.getvalue().to_pybytes()
        self.write(name, data)
        return Shard(chunk, name, rows.num_rows, _sha256(data))

    def find_shard(self, shard: Shard) -> pa.Table | None:
        """Return a shard's rows, or None where the file is missing or differs from its SHA-256.

        Raises:
            InputError: the file has the right SHA-256 and is not Parquet.
        """
        data = self.read(shard.path) if self.exists(shard.path) else b""
        if _sha256(data) != shard.sha256:
            return None
        try:
            return pq.read_table(pa.BufferReader(data))
        except (pa.ArrowException, OSError) as err:
            remedy = "restore the file, or sample anew into another directory"
            raise InputError(shard.path, self.uri, f"cannot be read as Parquet ({err})", remedy) from err

    def read_shard(self, shard: Shard) -> pa.Table:
        """Return a shard's rows. Raises InputError where the file is missing or damaged."""
        rows = self.find_shard(shard)
        if rows is None:
            remedy = "run it again with the same configuration, which draws that chunk again"
            raise InputError(shard.path, self.uri, "is missing, or differs from its SHA-256 in the manifest", remedy)
        return rows

    def manifest(self) -> Manifest:
        """Return the manifest, the one before it where the last one is damaged, or an empty one before any commit.

        Raises:
            InputError: both are damaged, or another version of rsf_dist wrote them.
        """
        present = [name for name in (MANIFEST, PREVIOUS) if self.exists(name)]
        if not present:
            return Manifest()
        for name in present:
            manifest = read_manifest(self.read(name), self.uri)
            if manifest is not None:
                return manifest
        raise InputError(MANIFEST, self.uri, "is damaged, and so is the one before it", "name another directory")

    def commit(self, change: Callable[[Manifest], object]) -> None:
        """Let `change` edit the manifest, then replace the file. Raises InputError."""
        manifest = self.manifest()
        change(manifest)
        last = self.read(MANIFEST) if self.exists(MANIFEST) else b""
        if read_manifest(last, self.uri) is not None:
            self.write(PREVIOUS, last)
        self.write(MANIFEST, manifest.model_dump_json(indent=1) + "\n")

    def round(self, round: int) -> RoundProgress | None:
        """Return the manifest's entry of a round, or None where it has none. Raises InputError."""
        return self.manifest().rounds.get(round)

    def commit_round(self, round: int, progress: RoundProgress) -> None:
        """Replace the manifest's entry of a round, shards included. Raises InputError."""
        self.commit(lambda manifest: manifest.rounds.update({round: progress}))

    def write_folder(self, folder: str, write: Callable[[Path], object]) -> dict[str, str]:
        """Let `write` fill a temporary folder, copy its files into a folder of the run, and return their SHA-256.

        Args:
            folder: the folder within the run's directory.
            write: is called with the temporary folder.
        """
        written = {}
        with _scratch() as scratch:
            write(scratch)
            for file in sorted(path for path in scratch.rglob("*") if path.is_file()):
                name, data = file.relative_to(scratch).as_posix(), file.read_bytes()
                self.write(_within(folder, name), data)
                written[name] = _sha256(data)
        return written

    def commit_folder(self, folder: str, write: Callable[[Path], object]) -> None:
        """Write a folder like `write_folder`, and list it in the manifest, no longer as one that was taken over."""
        written = self.write_folder(folder, write)

        def listed(manifest: Manifest) -> None:
            manifest.folders[folder] = written
            manifest.taken_over.pop(folder, None)

        self.commit(listed)

    def damage_of(self, folder: str) -> str | None:
        """Return the damage to a folder in words, or None where it is listed and undamaged."""
        try:
            for _ in self._files(folder):
                pass
        except _Damaged as damage:
            return str(damage)
        return None

    def is_listed(self, folder: str) -> bool:
        """Return True if the manifest lists the folder, damaged or not."""
        return folder in self.manifest().folders

    def is_intact(self, folder: str) -> bool:
        """Return True if the manifest lists the folder and its files are undamaged."""
        return self.damage_of(folder) is None

    def find_folder(self, folder: str, read: Callable[[Path], _T]) -> _T | None:
        """Return the result of `read` on a local copy of a folder, or None where it is not listed or damaged."""
        with _scratch() as scratch:
            try:
                self._copy(folder, scratch)
            except _Damaged:
                return None
            return read(scratch)

    def find_file(self, folder: str, name: str) -> bytes | None:
        """Return a file of a folder, or None where it is not listed, missing or damaged, whatever the others are."""
        sha256, path = self.manifest().folders.get(folder, {}).get(name), _within(folder, name)
        data = self.read(path) if sha256 is not None and self.exists(path) else b""
        return data if _sha256(data) == sha256 else None

    def load_folder(self, folder: str, read: Callable[[Path], _T]) -> _T:
        """Return the result of `read` on a local copy of a folder.

        Raises:
            InputError: the folder is not listed or damaged.
        """
        with _scratch() as scratch:
            try:
                self._copy(folder, scratch)
            except _Damaged as damage:
                remedy = "run it again with the same configuration: it is made again"
                raise InputError(folder or "run", self.uri, str(damage), remedy) from damage
            return read(scratch)

    def copy_from(self, folder: str, other: RunStore) -> bool:
        """Commit a copy of another store's folder. Return False where that store does not list it undamaged."""

        def commit(copy: Path) -> bool:
            self.commit_folder(folder, lambda to: shutil.copytree(copy, to, dirs_exist_ok=True))
            return True

        return other.find_folder(folder, commit) is not None

    def copy_shard(self, shard: Shard, other: RunStore) -> bool:
        """Copy another store's shard, unlisted. Return False where its file is missing or differs from its SHA-256."""
        data = other.read(shard.path) if other.exists(shard.path) else b""
        if _sha256(data) != shard.sha256:
            return False
        self.write(shard.path, data)
        return True

    def _copy(self, folder: str, to: Path) -> None:
        for name, data in self._files(folder):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes(data)

    def _files(self, folder: str) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the bytes of each file of a folder. Raises _Damaged."""
        listed = self.manifest().folders.get(folder)
        if listed is None:
            raise _Damaged(f"{folder or 'the model'} is not in the manifest")
        for name, sha256 in listed.items():
            self.path(name)  # refuses one that leaves the folder
            path = _within(folder, name)
            if not self.exists(path):
                raise _Damaged(f"{path} is missing")
            data = self.read(path)
            if _sha256(data) != sha256:
                raise _Damaged(f"{path} differs from its SHA-256 in the manifest")
            yield name, data

    def remove_drafts(self) -> None:
        """Remove files that killed writers left unfinished."""
        if self.is_local:
            for draft in Path(self.root).rglob("*.tmp"):
                if _DRAFT.search(draft.name) and not draft.name.startswith(
                    "lock."
                ):  # a process may be claiming the run right now
                    draft.unlink(missing_ok=True)


def remedy_of(err: OSError) -> str:
    """Return the remedy for a file system's refusal."""
    if err.errno in _FULL:
        return "free some space, then run it again: it goes on"
    return "check the path and its permissions"


@contextmanager
def _scratch() -> Iterator[Path]:
    """Give a temporary folder. Raises InputError where its disk is full."""
    with room_required(gettempdir()), TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def room_required(place: str) -> Iterator[None]:
    """Raise InputError about the output `place` where the block meets a full disk."""
    try:
        yield
    except OSError as err:
        if err.errno not in _FULL:
            raise
        raise InputError("output", place, f"cannot be written ({err})", remedy_of(err)) from err


def _within(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _lies_within(path: str, root: str) -> bool:
    inside, folder = os.path.realpath(path), os.path.realpath(root)
    return inside == folder or inside.startswith(folder.rstrip("/") + "/")


def _write_durably(target: Path, data: bytes) -> None:
    draft = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # so that the new name, too, outlives a power cut
    finally:
        os.close(folder)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
