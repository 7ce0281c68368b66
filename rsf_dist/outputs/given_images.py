"""The images that a user names on the command line, as a model wants them, with labels where there are some.

What is not given is the model's: the size of its images, how others are brought to it, their channels and bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from rsf_dist.config.images import IMAGE_KINDS, ImageFolderConfig, ImagesKind
from rsf_dist.config.kinds import kind_of
from rsf_dist.config.load import image_set_keys
from rsf_dist.config.messages import first_error
from rsf_dist.data.batch import Batch
from rsf_dist.data.decoding import DeepImages
from rsf_dist.data.packing import read_block
from rsf_dist.data.sources import Listing, list_images, list_unlabelled
from rsf_dist.data.sources.base import InOnePass, existing, normal, shortened
from rsf_dist.data.sources.columns import decoded, stacked
from rsf_dist.data.sources.found_files import find_files, image_suffixes, sentence_of
from rsf_dist.data.sources.parquet import SUFFIXES as PARQUET
from rsf_dist.data.sources.recognise import recognise, recognise_parts
from rsf_dist.data.sources.text_tables import JSON_LINES, SEPARATED
from rsf_dist.errors import InputError
from rsf_dist.models.networks import Network

_BLOCK_BYTES, _BLOCK_IMAGES = 2**27, 4096
_GIVE_SIZE = "add the size to the command, e.g. size=224"
_WHOLE = {"image_folder": "image_folder", "table": "image_folder", "coco": "image_folder", "parquet": "parquet"}
"""Kinds of which a folder may hold several sets -> the kind that takes the images of all of them."""


@dataclass(frozen=True)
class GivenImages:
    """Images that are listed, and decoded block by block.

    Args:
        listing: the images. Its labels are the model's class numbers, -1 for classes that the model does not know; or
            there are none.
        taken: the positions of the images to take.
        names: the names of the labels as they are given, by position in the listing; empty without labels.
        notes: lines for the user.
        bits: bits that are used of files with 16 bits a channel. None means as many as a file's type says.
    """

    listing: Listing
    taken: Sequence[int]
    names: Sequence[str]
    notes: tuple[str, ...]
    bits: int | None = None

    def blocks(self, skip_unreadable: bool) -> Iterator[Block]:
        """Yield the images block by block, a first one of one image, which tells how large they are.

        Args:
            skip_unreadable: False means that an image file that cannot be read is an error.

        Raises:
            InputError: names the file; or the images differ in size, and the model does not say which it wants; or,
                after the last block, all images of 16 bits are so dark that they hold fewer.
        """
        shape, deep = None, DeepImages()
        for block in self._unchecked_blocks(skip_unreadable):
            if len(block.images):
                shape = shape or block.images.shape[1:]
                self._require_shape(block, shape)
            deep += block.deep
            yield block
        deep.require_full_range(self.bits)

    def _unchecked_blocks(self, skip_unreadable: bool) -> Iterator[Block]:
        size, start = 1, 0
        while start < len(self.taken):
            positions = list(self.taken[start : start + size])
            start += len(positions)
            block = self._read(positions, skip_unreadable)
            yield block
            if len(block.images):
                size = max(1, min(_BLOCK_IMAGES, _BLOCK_BYTES // max(1, block.images[0].numel())))
                read = self.listing.read
                if isinstance(read, InOnePass) and (self._is_one_array or not skip_unreadable):
                    yield from self._in_one_pass(read, start, size)
                    return

    def _in_one_pass(self, read: InOnePass, start: int, size: int) -> Iterator[Block]:
        """Give the images after the first: a compressed array cannot be entered in the middle."""
        runs = [list(self.taken[at : at + size]) for at in range(start, len(self.taken), size)]
        blocks = read.blocks(runs)
        for positions in runs:
            columns, deep = read_block(lambda _: next(blocks), positions)
            yield Block(positions, columns["image"], deep=deep)

    @property
    def _is_one_array(self) -> bool:
        read = self.listing.read
        return isinstance(read, InOnePass) and not read.has_single_images

    def _require_shape(self, block: Block, shape: torch.Size) -> None:
        """Raise InputError where a block's images are not like those of the blocks before."""
        found = block.images.shape[1:]
        if found != shape:
            rule = f"{self.listing.ids[block.positions[0]]} differs in size from the first image {list(shape[1:])}"
            raise InputError("size", list(found[1:]), rule, _GIVE_SIZE, absolute=True)

    def _read(self, positions: list[int], skip_unreadable: bool) -> Block:
        try:
            columns, deep = read_block(self.listing.read, positions)
            return Block(positions, columns["image"], deep=deep)
        except InputError as err:
            of_one_image = err.absolute and not self._is_one_array
            if not (skip_unreadable and of_one_image):  # such an error names a file; others are about all images
                raise _in_words_of_the_command(err) from err
            if len(positions) == 1:
                return Block([], torch.empty(0), (str(err),))
        alone = [self._read([position], skip_unreadable) for position in positions]
        read = [block for block in alone if len(block.images)]
        kept = [position for block in read for position in block.positions]
        unreadable = tuple(line for block in alone for line in block.unreadable)
        if not read:
            return Block([], torch.empty(0), unreadable)
        try:
            images = stacked([block.images[0] for block in read], [self.listing.ids[one] for one in kept])
        except InputError as err:
            raise _in_words_of_the_command(err) from err
        return Block(kept, images, unreadable, sum((block.deep for block in read), DeepImages()))


@dataclass(frozen=True)
class Block:
    """Some images in memory.

    Args:
        positions: of the images that could be read.
        images: uint8 [len(positions), c, h, w].
        unreadable: a line for each file that was passed over.
        deep: what is to be said of images of 16 bits once all are read.
    """

    positions: list[int]
    images: Tensor
    unreadable: tuple[str, ...] = ()
    deep: DeepImages = field(default_factory=DeepImages)


def find_images(path: str, overrides: Sequence[str], model: Network) -> GivenImages:
    """List the images that a path leads to.

    Args:
        path: a folder, an image, or any file that `rsf_dist.data.sources` recognises; or a URI of Parquet files.
        overrides: keys of an image set, each `key=value`, in place of what the path and the model say.
        model: says size, resize, bits, channels and classes.

    Raises:
        InputError: there are no images, or the keys do not fit.
    """
    config = _config_of(path, overrides, model)
    listing, notes = _listed(path, config)
    if not listing.ids:
        rule = f"holds no images{f', but {sentence_of(listing.passed_over)}' if listing.passed_over else ''}"
        raise InputError("PATH", path, rule, "name a folder or file that does")
    taken = listing.take(config.start, config.limit)
    if not taken:
        raise InputError("start", config.start, f"leaves none of {len(listing.ids):,} images", "lower it")
    given = GivenImages(listing, taken, (), (*notes, *_choices(path, config)), getattr(config, "bits", None))
    if listing.labels is None or not model.classes:
        return replace(given, listing=replace(listing, labels=None))
    return _with_known_labels(given, model.classes)


def _config_of(path: str, overrides: Sequence[str], model: Network) -> ImagesKind:
    given = image_set_keys(overrides)
    found = _keys_of(path) if "kind" not in given else {}
    kind = IMAGE_KINDS.find(given.get("kind", found.get("kind")))
    if kind is None:
        known = ", ".join(map(kind_of, IMAGE_KINDS.models))
        raise InputError("kind", given["kind"], "is no kind of image set", f"use one of {known}")
    place = "file" if "file" in kind.model_fields else "root"
    defaults = found or {"kind": kind_of(kind), place: path}
    expects = model.expects
    if expects is not None:
        defaults |= {"size": expects.size, "resize": expects.resize, "bits": expects.bits}
    elif model.input_size is not None:
        defaults |= {"size": model.input_size}
    if model.channels in (1, 3):
        defaults["channels"] = model.channels
    try:
        return kind.model_validate({key: value for key, value in defaults.items() if key in kind.model_fields} | given)
    except ValidationError as err:
        raise first_error(err, kind) from None


def _keys_of(path: str) -> dict[str, Any]:
    """Return the keys of the image set that a path leads to: what `recognise` finds, or whatever images there are.

    Raises:
        InputError: nothing is there; or there are several image sets that cannot be taken as one.
    """
    if "://" not in path:
        existing(path, "PATH")
    try:
        parts = recognise_parts(path)
    except InputError:  # it is no image set by itself, and may still hold images
        return _keys_of_no_set(path)
    first = next(iter(parts.values()))
    if len(parts) == 1:
        return first
    if first["kind"] in _WHOLE and len({keys["kind"] for keys in parts.values()}) == 1:
        return {"kind": _WHOLE[first["kind"]], "root": path}
    try:
        return recognise(path)
    except InputError as err:
        raise InputError("PATH", err.value, err.rule, err.remedy) from err


def _keys_of_no_set(path: str) -> dict[str, Any]:
    found = existing(path, "PATH")
    if found.is_dir():
        files = find_files(found)
        only_tables = not files.images and any(suffix in PARQUET for suffix in files.passed_over)
        return {"kind": "parquet" if only_tables else "image_folder", "root": path}
    if found.suffix.lower() in SEPARATED + JSON_LINES:
        return {"kind": "table", "file": path}
    return {"kind": "image_folder", "root": path}


def _listed(path: str, config: ImagesKind) -> tuple[Listing, tuple[str, ...]]:
    """Return the images, with labels if they have sound ones, and lines for the user."""
    if isinstance(config, ImageFolderConfig) and Path(config.root).expanduser().is_file():
        file = Path(config.root).expanduser()
        if file.suffix.lower() not in image_suffixes() and file.suffix:
            known = ", ".join((*PARQUET, ".npz", *SEPARATED, *JSON_LINES))
            raise InputError("PATH", path, f"is neither an image nor a table ({known})", "name another file or folder")
        return Listing([file.name], _OneFile(file, config)), ()
    try:
        listing = list_images(config)
        return listing, listing.notes
    except InputError as err:
        listing = list_unlabelled(config)  # raises the error again where labels are not to blame
        return listing, (*listing.notes, f"no labels are read: {err}")


@dataclass(frozen=True)
class _OneFile:
    """A single image file, decoded when it is read."""

    file: Path
    config: ImagesKind

    def __call__(self, positions: Sequence[int]) -> Batch:
        return {"image": decoded(self.file, self.config)[None]}


def _with_known_labels(given: GivenImages, classes: Sequence[str]) -> GivenImages:
    """Return the images with labels that are the model's, matched by the names of classes."""
    listing = given.listing
    assert listing.labels is not None
    names = [listing.classes[label] for label in listing.labels.tolist()]
    number = {normal(name): label for label, name in enumerate(classes)}
    table = torch.tensor([number.get(normal(name), -1) for name in listing.classes], dtype=torch.int64)
    unknown = [name for name in dict.fromkeys(names) if normal(name) not in number]
    known = replace(listing, labels=table[listing.labels], classes=tuple(classes))
    if not unknown:
        return replace(given, listing=known, names=names)
    if len(unknown) == len(set(names)):
        note = f"labels {shortened(unknown)} are none of the model's classes, {shortened(classes)}: no accuracy"
        return replace(given, listing=replace(listing, labels=None), notes=(*given.notes, note))
    note = f"images of {shortened(unknown)}, which the model does not know, do not count in the accuracy"
    return replace(given, listing=known, names=names, notes=(*given.notes, note))


def _choices(path: str, config: ImagesKind) -> Iterator[str]:
    """Yield lines about what the command did not say."""
    listed_in = getattr(config, "file", None) or getattr(config, "annotations", None)
    if listed_in is not None and Path(path).expanduser().is_dir():
        yield f"the images that {listed_in} lists are taken; kind=image_folder takes all in the folder"
    split = getattr(config, "split", None)
    if split is not None:
        yield f"the images of split {split} are taken; name another one by split=…"
    if config.size is None:
        yield "the model does not say which size its images had: they stay as they are"
    else:
        yield f"images of another size are brought to {config.size[0]} x {config.size[1]} pixels ({config.resize})"


def _in_words_of_the_command(err: InputError) -> InputError:
    """Return an error about all images with the option that this command has for it."""
    if err.field == "size" and not err.absolute:
        return InputError("size", err.value, err.rule, _GIVE_SIZE, absolute=True)
    return err
