"""The files that an image set is read from, with their sizes and times, by which a packed set is found again."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import singledispatch
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from pyarrow import fs

from rsf_dist.config.images import (
    CocoConfig,
    IdxConfig,
    ImageFolderConfig,
    ImagesKind,
    MaskFolderConfig,
    NpzConfig,
    ParquetConfig,
    TableConfig,
    TorchvisionDatasetConfig,
    VocConfig,
    YoloConfig,
)
from rsf_dist.data.packed import FORMAT
from rsf_dist.data.sources.found_files import is_left_behind
from rsf_dist.data.sources.parquet import files_in, opened
from rsf_dist.data.sources.table import image_paths
from rsf_dist.errors import InputError

_DECODERS = ("rsf-dist", "pillow", "torchvision")  # of which another version may give other pixels
_EXAMPLES = 3
_OF_CACHES = re.compile(
    r"\.[0-9a-f]{40}\.lock|[0-9a-f]{40}(\.[0-9a-f]+\.filling)?/(replaced/)?([^/]+\.bin|meta\.json|ids\.arrow)"
)
"""The paths of what packing writes, below a folder of packed sets."""
_OF_RUNS = re.compile(r"config\.yaml|manifest(\.previous)?\.json|lock\.json")
"""The paths of what a run keeps writing beside images, where these lie in the run's directory."""


_NAMED = (TableConfig,)
"""Kinds whose files are all named by a file, so that nothing of rsf_dist's own is among them."""


@dataclass(frozen=True)
class FileStamp:
    """A file as it was when it was looked at: its path or URI, its bytes, and when it was written, in nanoseconds."""

    path: str
    size: int
    changed: int

    def is_here(self) -> bool:
        """Return True if this machine sees the file, unchanged. A file of an object store is seen by all."""
        if "://" in self.path:
            return True
        try:
            about = os.stat(self.path)
        except OSError:
            return False
        return (about.st_size, about.st_mtime_ns) == (self.size, self.changed)


@dataclass(frozen=True)
class SourceKey:
    """The name under which a packed image set is found again.

    Args:
        name: a digest of the source's files, of settings, and of the versions of what decodes.
        num_bytes: the files' size.
        examples: a few of the files.
    """

    name: str
    num_bytes: int
    examples: tuple[FileStamp, ...]


def source_key(
    config: ImagesKind,
    labelled: bool,
    classes: tuple[str, ...] | None,
    caches: Sequence[Path] = (),
    runs: Sequence[Path] = (),
) -> SourceKey | None:
    """Return the key of an image set, or None for a kind that does not say which files it reads.

    Args:
        config: the image set's configuration.
        labelled: whether labels are read.
        classes: the classes that labels are numbered by, if not the set's own.
        caches: folders of packed sets. What packing writes there does not count.
        runs: directories of runs. One below the source's folder does not count; of another, a run's own files.

    Raises:
        InputError: a folder cannot be listed.
    """
    files = source_files(config)
    if files is None:
        return None
    settings = {
        "format": FORMAT,
        "versions": [version(name) for name in _DECODERS],
        "config": config.model_dump(mode="json"),
        "labelled": labelled,
        "classes": classes,
    }
    digest, num_bytes = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()), 0
    examples: list[FileStamp] = []
    is_ours = _own_files(config, caches, runs)
    for file in files:
        if is_ours(file.path):
            continue
        digest.update(repr(astuple(file)).encode(errors="surrogateescape"))
        num_bytes += file.size
        examples += [file] if len(examples) < _EXAMPLES else []
    return SourceKey(digest.hexdigest()[:40], num_bytes, tuple(examples))


def _own_files(config: ImagesKind, caches: Sequence[Path], runs: Sequence[Path]) -> Callable[[str], bool]:
    """Return what tells of a path whether rsf_dist itself writes there. Images may lie beside what it writes."""
    if isinstance(config, _NAMED):
        return lambda path: False
    given = (getattr(config, name, None) for name in ("root", "masks"))
    roots = [f"{Path(os.path.expanduser(root)).absolute()}/" for root in given if root]
    apart = [f"{run}/" for run in runs]
    whole = tuple(run for run in apart if run.startswith(tuple(roots)) and not any(r.startswith(run) for r in roots))
    owned = [(f"{folder}/", _OF_CACHES) for folder in caches] + [(run, _OF_RUNS) for run in apart]

    def is_ours(path: str) -> bool:
        return path.startswith(whole) or any(
            path.startswith(folder) and names.fullmatch(path, len(folder)) is not None for folder, names in owned
        )

    return is_ours


@singledispatch
def source_files(config: ImagesKind) -> Iterable[FileStamp] | None:
    """Give the files that an image set is read from. None means that the kind does not say, and is not packed.

    A kind of your own registers a function that gives them, so that its images are packed and found again.
    """
    return None


@source_files.register
def _(config: ImageFolderConfig) -> Iterable[FileStamp]:
    return _stamps(config.root, hidden=False)


@source_files.register(VocConfig)
@source_files.register(IdxConfig)
@source_files.register(NpzConfig)
def _(config: VocConfig | IdxConfig | NpzConfig) -> Iterable[FileStamp]:
    return _stamps(config.root)


@source_files.register
def _(config: CocoConfig) -> Iterable[FileStamp]:
    return chain(_stamps(config.root), _stamps(config.annotations))


@source_files.register
def _(config: MaskFolderConfig) -> Iterable[FileStamp]:
    return chain(_stamps(config.root, hidden=False), _stamps(config.masks, hidden=False))


@source_files.register
def _(config: YoloConfig) -> Iterable[FileStamp]:
    root = Path(config.root).expanduser()
    return _stamps(str(root if root.is_dir() else root.parent))  # images lie below the folder of data.yaml


@source_files.register
def _(config: TorchvisionDatasetConfig) -> Iterable[FileStamp]:
    return () if config.root is None else _stamps(config.root)


@source_files.register
def _(config: TableConfig) -> Iterable[FileStamp]:
    return chain.from_iterable(map(_stamps, (config.file, *image_paths(config))))


@source_files.register
def _(config: ParquetConfig) -> Iterable[FileStamp]:
    filesystem, root = opened(config.root)
    if isinstance(filesystem, fs.LocalFileSystem):
        return _stamps(root)
    scheme = config.root.partition("://")[0]
    infos = sorted(files_in(filesystem, root, config), key=lambda info: info.path)
    return (FileStamp(f"{scheme}://{info.path}", info.size, info.mtime_ns or 0) for info in infos)


def _stamps(root: str, hidden: bool = True) -> Iterator[FileStamp]:
    """Yield a file, or those below a folder; none where it is not there, which its source tells better.

    Args:
        root: the path.
        hidden: whether hidden files count, and those that systems leave behind.
    """
    try:
        path = Path(root).expanduser().absolute()
        about = path.stat()
    except (OSError, RuntimeError, ValueError):
        return
    if path.is_dir():
        yield from _below(str(path), hidden, ())
    else:
        yield FileStamp(str(path), about.st_size, about.st_mtime_ns)


def _below(folder: str, hidden: bool, above: tuple[tuple[int, int], ...]) -> Iterator[FileStamp]:
    try:
        about = os.stat(folder)
        place = (about.st_dev, about.st_ino)
        if place in above:  # a link to a folder that it lies in
            return
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as err:
        raise InputError("root", folder, f"cannot be listed ({err})", "check its permissions") from err
    for entry in entries:
        if not hidden and is_left_behind(entry.name):
            continue
        try:
            about = entry.stat()
            is_folder = entry.is_dir()
        except OSError:  # a link to nothing
            continue
        if is_folder:
            yield from _below(entry.path, hidden, (*above, place))
        else:
            yield FileStamp(entry.path, about.st_size, about.st_mtime_ns)
