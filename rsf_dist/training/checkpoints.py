"""Checkpoints whose integrity can be checked: checkpoint.json holds the SHA-256 of every other file.

Ray Train keeps and deletes checkpoints. This module chooses the checkpoint to resume from, or the best one, by the
files in the run's folder. Training resumes from the newest intact checkpoint, or begins anew. It survives a damaged
file, a missing folder, and a list of Ray's own that a crash cut off.
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
    """An intact checkpoint.

    Args:
        step: training steps before it.
        described: the description that it was sealed with.
        checkpoint: its files.
    """

    step: int
    described: dict[str, Any]
    checkpoint: Checkpoint


@dataclass(frozen=True)
class RunFolder:
    """The folder where Ray Train keeps a run's checkpoints. It can be pickled."""

    filesystem: fs.FileSystem
    path: str

    @staticmethod
    def of(storage_path: str, name: str) -> RunFolder:
        """Return the folder of the run `name` beneath a local path or a URI."""
        filesystem, root = fs.FileSystem.from_uri(storage_path)
        return RunFolder(filesystem, f"{root.rstrip('/')}/{name}")

    def newest_first(self) -> Iterator[Saved]:
        """Yield the intact checkpoints. A checkpoint's files are read only once it is asked for."""
        sealed = [(seal["step"], path, seal) for path in self._folders() if (seal := self._seal(path)) is not None]
        for step, path, seal in sorted(sealed, key=lambda entry: entry[:2], reverse=True):
            if all(self._digest(f"{path}/{name}") == digest for name, digest in seal["files"].items()):
                yield Saved(step, seal["described"], Checkpoint(path, self.filesystem))

    def newest(self) -> Saved | None:
        """Return the newest intact checkpoint. None means that there is none."""
        return next(self.newest_first(), None)

    def _folders(self) -> list[str]:
        inside = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        folders = [info for info in inside if info.type == fs.FileType.Directory]
        return [info.path for info in folders if info.base_name.startswith("checkpoint")]

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
    """Write checkpoint.json into a local folder that holds all other files."""
    files = {path.name: _file_digest(path) for path in sorted(folder.iterdir())}
    (folder / SEAL).write_text(json.dumps({"step": step, "described": described, "files": files}, indent=1) + "\n")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return _sha256(iter(lambda: file.read(_PIECE), b""))


def _sha256(pieces: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
