"""The files that an image set is read from, with their sizes and times, by which a packed set is found again."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
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
from rsf_dist.data.sources import idx, voc, yolo
from rsf_dist.data.sources.found_files import image_suffixes, is_left_behind
from rsf_dist.data.sources.parquet import files_in, opened
from rsf_dist.data.sources.table import image_paths
from rsf_dist.errors import InputError

_DECODERS = ("rsf-dist", "pillow", "torchvision")  # of which another version may give other pixels
_EXAMPLES = 3
_OF_CACHES = re.compile(
    r"\.[0-9a-f]{40}\.lock|[0-9a-f]{40}(\.[0-9a-f]+\.filling)?/(replaced/)?([^/]+\.bin|meta\.json|ids\.arrow)"
)
"""The paths of what packing writes, below a folder of packed sets."""
_FIGURES = re.compile(r"(.*/)?figures/[^/]+\.png")
"""The paths of the images that a run writes, below its directory."""
_OF_RUNS = re.compile(r"config\.yaml|manifest(\.previous)?\.json|lock\.json")
"""The paths of what a run keeps writing beside images, where these lie in the run's directory."""


_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_NAMED = (TableConfig, CocoConfig, YoloConfig, IdxConfig, NpzConfig)
"""Kinds whose files all have names that are given, so that nothing of rsf_dist's own is among them."""
_IMAGES_BELOW = (ImageFolderConfig, VocConfig, MaskFolderConfig)
"""Kinds that read nothing but images and their boxes, so that of a run's files only its figures could be among them."""


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
        runs: directories of runs, whose own files do not count, even where images lie beside these.

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
    if isinstance(config, _IMAGES_BELOW):
        owned, whole = [*owned, *((run, _FIGURES) for run in whole)], ()

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
    return _stamps(config.root, image_suffixes())


@source_files.register
def _(config: NpzConfig) -> Iterable[FileStamp]:
    return _stamps_of([Path(os.path.expanduser(config.root))])


@source_files.register
def _(config: IdxConfig) -> Iterable[FileStamp]:
    return _stamps_of(idx.files_read(config))


@source_files.register
def _(config: VocConfig) -> Iterable[FileStamp]:
    root = Path(os.path.expanduser(config.root))
    images, boxes = voc.places(root)
    lists = [] if config.split is None else [voc.list_of(root, config.split)]
    return chain(_stamps(images, image_suffixes()), _stamps(boxes, frozenset({voc.SUFFIX})), _stamps_of(lists))


@source_files.register
def _(config: CocoConfig) -> Iterable[FileStamp]:
    root, annotations = (Path(os.path.expanduser(path)) for path in (config.root, config.annotations))
    return _stamps_of(chain([annotations], (root / name for name in _names_in(annotations))))


@source_files.register
def _(config: MaskFolderConfig) -> Iterable[FileStamp]:
    return chain(_stamps(config.root, image_suffixes()), _stamps(config.masks, image_suffixes()))


@source_files.register
def _(config: YoloConfig) -> Iterable[FileStamp]:
    return _stamps_of(yolo.files_read(config))


@source_files.register
def _(config: TorchvisionDatasetConfig) -> Iterable[FileStamp]:
    return () if config.root is None else _stamps(config.root)


@source_files.register
def _(config: TableConfig) -> Iterable[FileStamp]:
    return _stamps_of(map(Path, (os.path.expanduser(config.file), *image_paths(config))))


@source_files.register
def _(config: ParquetConfig) -> Iterable[FileStamp]:
    filesystem, root = opened(config.root)
    before = "" if isinstance(filesystem, fs.LocalFileSystem) else config.root.partition("://")[0] + "://"
    infos = sorted(files_in(filesystem, root, config), key=lambda info: info.path)
    return (FileStamp(f"{before}{info.path}", info.size, info.mtime_ns or 0) for info in infos)


def _names_in(annotations: Path) -> Iterator[str]:
    """Yield the names of images in a JSON file, found without reading it into memory; its source tells its faults."""
    if not annotations.is_file():
        return
    with suppress(ValueError), annotations.open("rb") as file:  # it is empty, or no JSON
        for name in _FILE_NAME.finditer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)):
            yield json.loads(name[1])


def _stamps_of(files: Iterable[Path]) -> Iterator[FileStamp]:
    """Yield those of the files that are there. What is missing its source tells better."""
    for file in files:
        try:
            about = file.stat()
        except (OSError, ValueError):
            continue
        yield FileStamp(str(file.absolute()), about.st_size, about.st_mtime_ns)


def _stamps(root: str | Path, suffixes: frozenset[str] | None = None) -> Iterator[FileStamp]:
    """Yield the files below a folder; none where there is no such folder, which its source tells better.

    Args:
        root: the path.
        suffixes: of the files that count, in small letters, without those that are hidden or that systems leave behind.
            None means all files.
    """
    path = Path(os.path.expanduser(root)).absolute()
    if os.path.isdir(path):
        yield from _below(str(path), suffixes, ())


def _below(folder: str, suffixes: frozenset[str] | None, above: tuple[tuple[int, int], ...]) -> Iterator[FileStamp]:
    try:
        about = os.stat(folder)
        place = (about.st_dev, about.st_ino)
        if place in above:  # a link to a folder that it lies in
            return
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as err:
        raise InputError("root", folder, f"cannot be listed ({err})", "check its permissions") from err
    for entry in entries:
        if suffixes is not None and is_left_behind(entry.name):
            continue
        try:
            if entry.is_dir():
                yield from _below(entry.path, suffixes, (*above, place))
            elif suffixes is None or os.path.splitext(entry.name)[1].lower() in suffixes:
                about = entry.stat()
                yield FileStamp(entry.path, about.st_size, about.st_mtime_ns)
        except OSError:  # a link to nothing, or to itself
            continue
