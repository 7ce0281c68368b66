"""Checkpoints that say of themselves whether they are whole: checkpoint.json holds the SHA-256 of every other file.

Ray Train keeps and deletes them; which one to go on from, or to call the best, is decided here, from what lies in the
run's folder. So neither a damaged file, nor a folder that is gone, nor Ray's own list of them cut off by a crash ends a
run: the newest whole one counts, or the beginning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs
from ray.train import Checkpoint

SEAL = "checkpoint.json"


_PIECE = 2**20


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint.

    Args:
        step: steps of training in it.
        described: what was said of it when it was sealed.
        checkpoint: its files.
    """

    step: int
    described: dict[str, Any]
    checkpoint: Checkpoint


@dataclass(frozen=True)
class RunFolder:
    """Where Ray Train keeps a run's checkpoints; it can be pickled."""

    filesystem: fs.FileSystem
    path: str

    @staticmethod
    def of(storage_path: str, name: str) -> RunFolder:
        """Of the run `name` beneath a local path or a URI."""
        filesystem, root = fs.FileSystem.from_uri(storage_path)
        return RunFolder(filesystem, f"{root.rstrip('/')}/{name}")

    def newest_first(self) -> Iterator[Saved]:
        """The whole checkpoints; a file is read only once its checkpoint is asked for."""
        found = [(seal["step"], path, seal) for path in self._folders() if (seal := self._seal(path)) is not None]
        for step, path, seal in sorted(found, key=lambda one: one[:2], reverse=True):
            if all(self._digest(f"{path}/{name}") == digest for name, digest in seal["files"].items()):
                yield Saved(step, seal["described"], Checkpoint(path, self.filesystem))

    def newest(self) -> Saved | None:
        """The newest whole one, if there is any."""
        return next(self.newest_first(), None)

    def _folders(self) -> list[str]:
        inside = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return [one.path for one in inside if one.type == fs.FileType.Directory and one.base_name[:10] == "checkpoint"]

    def _seal(self, path: str) -> dict[str, Any] | None:
        try:
            seal = json.loads(self._read(f"{path}/{SEAL}"))
            return {name: seal[name] for name in ("step", "described", "files")}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _read(self, path: str) -> bytes:
        with self.filesystem.open_input_stream(path) as stream:
            return stream.read()

    def _digest(self, path: str) -> str | None:
        try:
            with self.filesystem.open_input_stream(path) as stream:
                return _sha256(iter(lambda: stream.read(_PIECE), b""))
        except OSError:
            return None


def seal(folder: Path, step: int, described: dict[str, Any]) -> None:
    """Write checkpoint.json into a local folder that has everything else."""
    files = {path.name: _file_digest(path) for path in sorted(folder.iterdir())}
    (folder / SEAL).write_text(json.dumps({"step": step, "described": described, "files": files}, indent=1) + "\n")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return _sha256(iter(lambda: file.read(_PIECE), b""))


def _sha256(pieces: Iterator[bytes]) -> str:
    mark = hashlib.sha256()
    for piece in pieces:
        mark.update(piece)
    return mark.hexdigest()
