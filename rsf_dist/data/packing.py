"""The decision which image sets are packed, and the way there: found again by their key, or decoded block by block.

A set is packed if its images take 64 MiB or more once they are decoded, or come from 256 MiB of files or more. Other
sets are read into memory, by every command.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from rsf_dist.config.images import ImagesKind
from rsf_dist.data.batch import Batch
from rsf_dist.data.decoding import DeepImages, deep_images_collected
from rsf_dist.data.filling import fill_once
from rsf_dist.data.mapped import read_meta
from rsf_dist.data.packed import Beside, Packed, open_packed, write_packed
from rsf_dist.data.source_files import SourceKey, source_key
from rsf_dist.data.sources.base import InOnePass, Listing
from rsf_dist.errors import InputError
from rsf_dist.runtime.progress import Progress

LEAST_DECODED, LEAST_ENCODED = 64 * 2**20, 256 * 2**20
"""Bytes from which on image sets are packed: of their decoded images, or of the files that these come from."""

BLOCK_BYTES = 16 * 2**20
"""Bytes of images that are decoded together."""

_COPIES = 4  # of a block, that a process holds while it decodes

Block = tuple[Batch, DeepImages]
"""Decoded rows, and what is to be said of images of 16 bits only once all are read."""

ReadBlocks = Callable[[Listing, Sequence[Sequence[int]], SourceKey], Iterable[Block]]
"""A function that decodes runs of positions of a listing, and gives a block for each, in their order."""


def read_block(read: Callable[[Sequence[int]], Batch], positions: Sequence[int]) -> Block:
    """Decode the images at some of a listing's positions. Raises InputError."""
    with deep_images_collected() as deep:
        columns = dict(read(positions))
    return columns, sum(deep, DeepImages())


def read_here(listing: Listing, runs: Sequence[Sequence[int]], key: SourceKey) -> Iterator[Block]:
    """Decode in this process."""
    read = listing.read
    if isinstance(read, InOnePass):
        blocks = read.blocks(runs)
        yield from (read_block(lambda _: next(blocks), positions) for positions in runs)
        return
    for positions in runs:
        yield read_block(read, positions)


@dataclass(frozen=True)
class Wanted:
    """An image set that is looked for, and packed where it is not found.

    Args:
        config: its configuration.
        labelled: whether labels are read.
        classes: the classes that labels are numbered by, if not the set's own.
        key: the name under which it is found. None means that it is not packed.
    """

    config: ImagesKind
    labelled: bool
    classes: tuple[str, ...] | None
    key: SourceKey | None


@dataclass
class Packing:
    """The folders of packed image sets, and the way in which new ones are made.

    Args:
        folders: where packed sets are looked for. New ones are written into the first.
        setting: the configuration's key that chooses the first folder, for errors.
        read_blocks: decodes.
        progress: receiver of messages.
        runs: directories of runs, whose files are not those of a source.
        used: the sets that were found or made.
    """

    folders: Sequence[Path]
    setting: str = "output"
    read_blocks: ReadBlocks = read_here
    progress: Progress = field(default_factory=Progress)
    runs: Sequence[Path] = ()
    used: set[Path] = field(default_factory=set)

    def wanted(self, config: ImagesKind, labelled: bool, classes: tuple[str, ...] | None) -> Wanted:
        """Look at an image set's files, before it is listed. Raises InputError."""
        try:
            key = source_key(config, labelled, classes, self.folders, self.runs)
        except OSError as err:
            rule = f"its files cannot be looked at ({err})"
            raise InputError("", f"images of kind {config.kind}", rule, "check that they are there") from err
        return Wanted(config, labelled, classes, key)

    def find(self, wanted: Wanted) -> Packed | None:
        """Return an image set that is packed already, or None. Raises InputError."""
        for folder in self.folders if wanted.key is not None else ():
            assert wanted.key is not None
            packed = self._opened(folder / wanted.key.name)
            if packed is not None:
                return packed
        return None

    def pack(self, wanted: Wanted, listing: Listing, taken: Sequence[int], row_bytes: int) -> Packed | None:
        """Return an image set, packed first, or None where it is read into memory.

        Args:
            wanted: the image set, as its files were before they were listed.
            listing: its images.
            taken: the positions of those that are taken.
            row_bytes: bytes of a decoded image with its annotations.

        Raises:
            InputError: an image cannot be read; the set does not fit onto the disk, or changes while it is read.
        """
        key = wanted.key
        if key is None:
            return None
        if not row_bytes or not _is_large(len(taken) * row_bytes, key.num_bytes * len(taken) // len(listing.ids)):
            return None
        folder = self.folders[0] / key.name
        size = max(1, BLOCK_BYTES // row_bytes)
        runs = [taken[start : start + size] for start in range(0, len(taken), size)]
        labels = None if listing.labels is None else listing.labels[list(taken)]
        beside = Beside([listing.ids[position] for position in taken], labels, listing.classes, listing.notes)
        blocks = self._blocks(wanted, listing, runs, key)

        def write(draft: Path) -> None:
            self._begin(folder, len(taken), row_bytes)
            write_packed(draft, blocks, beside)
            if self.wanted(wanted.config, wanted.labelled, wanted.classes) != wanted:
                rule = "changed while they were read"
                raise InputError("", f"{len(taken):,} images", rule, "run it again once nobody changes them")

        waiting = partial(self.progress.say, f"waiting for another run, which packs them into {folder}")
        with self._using(folder):
            fill_once(folder, write, lambda folder: read_meta(folder) is not None, waiting)
        return self._opened(folder)

    def _blocks(
        self, wanted: Wanted, listing: Listing, runs: Sequence[Sequence[int]], key: SourceKey
    ) -> Iterator[Batch]:
        """Give the columns that are kept of each block, and say how far it is."""
        deep, done, total = DeepImages(), 0, sum(map(len, runs))
        in_one_pass = isinstance(listing.read, InOnePass) and not listing.read.can_part(runs)
        read = read_here if in_one_pass else self.read_blocks
        for columns, of_block in _reading(lambda: read(listing, runs, key), total):
            deep, done = deep + of_block, done + len(columns["image"])
            self.progress.count("images decoded", done, total)
            yield columns if wanted.labelled else {"image": columns["image"]}
        deep.require_full_range(getattr(wanted.config, "bits", None))

    def _opened(self, folder: Path) -> Packed | None:
        with self._using(folder):
            packed = open_packed(folder)
        if packed is not None:
            self.used.add(folder)
        return packed

    @contextmanager
    def _using(self, folder: Path) -> Iterator[None]:
        """Turn failures of the disk within the block into InputErrors. Those of reading images are turned before."""
        try:
            yield
        except OSError as err:
            rule, remedy = f"cannot be written or read ({err})", "free some space, or check its permissions"
            raise InputError(self.setting, folder, rule, remedy, absolute=True) from err

    def _begin(self, folder: Path, num_images: int, row_bytes: int) -> None:
        """Say what is packed. Raises InputError where the disk has no room, or memory none for decoding a block."""
        num_bytes = num_images * row_bytes
        free = shutil.disk_usage(folder.parent).free
        if free < num_bytes:
            rule = f"its disk has {_mib(free)} left, and {_mib(num_bytes)} of decoded images are packed there"
            remedy = "free some space, name another disk, or set a smaller `size` or a `limit`"
            raise InputError(self.setting, folder.parent.absolute(), rule, remedy, absolute=True)
        block, available = _COPIES * max(BLOCK_BYTES, row_bytes), psutil.virtual_memory().available
        if available < block:
            rule = f"{_mib(block)} are needed to decode them, and this machine has {_mib(available)} left"
            raise InputError("size", f"images of {_mib(row_bytes)}", rule, "set a smaller `size`, or free memory")
        self.progress.say(f"packing {num_images:,} images, {_mib(num_bytes)}, into {folder}")

    def prune(self) -> None:
        """Remove sets that this command has not used from the first folder, which nobody else uses."""
        with self._using(self.folders[0]):
            for path in self.folders[0].iterdir() if self.folders[0].is_dir() else ():
                if path not in self.used:
                    with suppress(OSError):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _reading(read: Callable[[], Iterable[Block]], num_images: int) -> Iterator[Block]:
    """Give blocks. Raises InputError where a disk fails in reading them, which is not the one they are packed on."""
    try:
        yield from read()
    except OSError as err:
        rule = f"cannot be read ({err})"
        raise InputError("", f"{num_images:,} images", rule, "check that their files are there") from err


def _is_large(decoded: int, encoded: int) -> bool:
    return decoded >= LEAST_DECODED or encoded >= LEAST_ENCODED


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
