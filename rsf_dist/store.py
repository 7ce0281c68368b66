"""A run's directory: shards of accepted rows, and the manifest that says which of them exist.

Local paths and any URI that pyarrow.fs takes (s3://, gs://, …). A file appears under its name only when it is whole;
the manifest is replaced atomically, and what it does not list does not exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from rsf_dist.errors import InputError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """One Parquet file of accepted rows: its path within the run, rows and SHA-256."""

    path: str
    rows: int
    sha256: str


class RunStore:
    """Reads and writes one run's directory.

    Args:
        uri: a local path or a URI.

    Raises:
        InputError: pyarrow knows no such file system.
    """

    def __init__(self, uri: str | os.PathLike[str]):
        self.uri = str(uri) if "://" in str(uri) else str(Path(uri).expanduser().absolute())
        self._open()

    def _open(self) -> None:
        try:
            self.filesystem, self.root = fs.FileSystem.from_uri(self.uri)
        except (pa.ArrowInvalid, OSError) as err:
            raise InputError("output", self.uri, f"is no path or URI ({err})", "correct it") from err

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.uri = state["uri"]
        self._open()

    def at(self, folder: str) -> RunStore:
        """The store of a folder within this one; `""` is this one."""
        return RunStore(self.path_for_ray(folder)) if folder else self

    def path_for_ray(self, name: str) -> str:
        """A folder of the run as Ray Train names storage: a local path or a URI."""
        base, mark, options = self.uri.partition("?")  # as in s3://bucket/run?endpoint_override=…
        return f"{base.rstrip('/')}/{name}{mark}{options}"

    def path(self, name: str) -> str:
        """The full path of a file of the run, in the file system's terms."""
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        return self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises InputError where there is none."""
        if not self.exists(name):
            raise InputError(name, self.uri, "is not in this run's directory", "name the directory of an rsf run")
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            return stream.read()

    def write(self, name: str, data: bytes | str) -> None:
        """Write a file whole: under another name first, then moved into place."""
        target = self.path(name)
        self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        if not isinstance(self.filesystem, fs.LocalFileSystem):  # object stores show an object once it is whole
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(data.encode() if isinstance(data, str) else data)
            return
        draft = f"{target}.{uuid.uuid4().hex}.tmp"
        with open(draft, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)

    def upload(self, folder: Path, name: str) -> None:
        """Copy a local folder's files into the run as `name`."""
        self.filesystem.create_dir(self.path(name), recursive=True)
        fs.copy_files(str(folder), self.path(name), destination_filesystem=self.filesystem)

    def download(self, name: str, folder: Path) -> None:
        """Copy the run's folder `name` to a local one."""
        fs.copy_files(self.path(name), str(folder), source_filesystem=self.filesystem)

    def write_shard(self, round: int, chunk: int, rows: pa.Table) -> Shard:
        """Write a chunk's accepted rows."""
        name = f"rounds/{round:03d}/accepted/chunk-{chunk:06d}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink)
        data = sink.getvalue().to_pybytes()
        self.write(name, data)
        return Shard(name, rows.num_rows, hashlib.sha256(data).hexdigest())

    def read_shard(self, shard: Shard) -> pa.Table:
        """A shard's rows. Raises InputError where its bytes are not those of the manifest."""
        data = self.read(shard.path)
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise InputError(shard.path, self.uri, "differs from its SHA-256 in the manifest", "sample the run again")
        return pq.read_table(pa.BufferReader(data))

    def manifest(self) -> dict[str, Any]:
        """The manifest; empty before anything was committed."""
        return json.loads(self.read(MANIFEST)) if self.exists(MANIFEST) else {"version": 1, "rounds": {}}

    def commit_round(self, round: int, shards: Sequence[Shard], described: dict[str, Any]) -> None:
        """List a round's shards in the manifest, and whatever else describes the round."""
        manifest = self.manifest()
        listed = [{"path": shard.path, "rows": shard.rows, "sha256": shard.sha256} for shard in shards]
        manifest["rounds"][str(round)] = {**described, "shards": listed}
        self.write(MANIFEST, json.dumps(manifest, indent=1) + "\n")

    def upload_with(self, name: str, write: Callable[[Path], None]) -> None:
        """Let `write(folder)` fill a temporary folder, then upload it as `name`."""
        with TemporaryDirectory() as folder:
            write(Path(folder))
            self.upload(Path(folder), name)
