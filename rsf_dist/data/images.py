"""Image sets in memory: labelled sources, unlabelled target images, labelled test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import psutil
import torch
from torch import Tensor

from rsf_dist.config.images import Bits, ImagesKind, Resize, TorchvisionDatasetConfig
from rsf_dist.data.batch import take_rows
from rsf_dist.data.packed import Packed, begin_digest
from rsf_dist.data.packing import Packing, read_block
from rsf_dist.data.sources import Listing, list_images, list_unlabelled
from rsf_dist.data.sources.base import shortened
from rsf_dist.data.sources.found_files import sentence_of
from rsf_dist.data.sources.headers import alpha_notes
from rsf_dist.errors import InputError


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, with or without labels.

    Args:
        images: uint8 [n, channels, height, width].
        labels: int64 [n] in [0, len(classes)). None means unlabelled.
        classes: the classes' names, in the order of their numbers; empty without labels, boxes and masks.
        annotations: columns beside the images: `boxes` float32 [n, K, 4] (x0 y0 x1 y1 in pixels) with `box_label` int64
            [n, K], -1 where there is no box; or `mask` uint8 [n, height, width], a class's number, 255 where none is.
            `rsf_dist.data.annotations` describes them, and `box_crowd`. Also the source's attributes, int64 or float64
            [n].
        ids: the names of the images within their source, by which an accepted row can be traced back.
        notes: lines for the user about what was read.
        known_digest: what `digest` returns, where it is known without reading all images. None means that it is not.
        resize: the way in which the images were brought to their size, if they had another.
        bits: bits that were used of files with 16 bits a channel. None means as many as a file's type says.
    """

    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    annotations: Mapping[str, Tensor] = field(default_factory=dict)
    ids: Sequence[str] = ()
    notes: tuple[str, ...] = ()
    known_digest: str | None = None
    resize: Resize = "cover"
    bits: Bits | None = None

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, index: Tensor | slice) -> ImageSet:
        """Return the images (and labels) at `index`."""
        annotations = {name: take_rows(column, index) for name, column in self.annotations.items()}
        labels = None if self.labels is None else self.labels[index]
        positions = torch.arange(len(self))[index].tolist() if self.ids else []
        ids = tuple(self.ids[position] for position in positions)
        images = take_rows(self.images, index)
        return replace(
            self, images=images, labels=labels, annotations=annotations, ids=ids, notes=(), known_digest=None
        )

    def summary(self) -> str:
        """Return a line about the images: how many of which size, and of how many classes."""
        channels, height, width = self.images.shape[1:]
        kind = "grey" if channels == 1 else f"{channels}-channel"
        images = f"{len(self):,} {kind} images of {height} x {width} pixels"
        if self.labels is None:
            return images
        counts = torch.bincount(self.labels, minlength=len(self.classes))
        low, high = int(counts.min()), int(counts.max())
        each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        return f"{images}, {len(self.classes):,} classes of {each} images"

    def digest(self) -> str:
        """Return the SHA-256, in hexadecimal, of shape, images, labels, annotations and classes."""
        if self.known_digest is not None:
            return self.known_digest
        digest = begin_digest(self.images.shape, self.classes)
        for column in (self.images, self.labels, *(self.annotations[name] for name in sorted(self.annotations))):
            if column is not None:
                digest.update(column.contiguous().numpy().data)
        return digest.hexdigest()

    def require_labels(self) -> Tensor:
        """Return the labels. Raises InputError if there are none."""
        if self.labels is None and self.annotations.keys() & {"boxes", "mask"}:
            rule = "classifying needs one label an image, and no task uses boxes or masks yet"
            raise InputError("", f"images with {', '.join(self.annotations)}", rule, "name a labelled image set")
        if self.labels is None:
            raise InputError("", "unlabelled images", "needs labels", "use one sub-folder a class, or add `labels`")
        return self.labels

    def require_like(self, other: ImageSet) -> None:
        """Raise InputError unless shapes, and classes if labelled or annotated, are those of `other`."""
        ours, theirs = tuple(self.images.shape[1:]), tuple(other.images.shape[1:])
        if ours != theirs:
            raise InputError(
                "", ours, f"images must be [channels, height, width] = {theirs} like the source's", "set its `size`"
            )
        if (self.labels is not None or self.annotations) and self.classes != other.classes:
            rule = f"classes must be the source's, {shortened(other.classes)}"
            raise InputError("", shortened(self.classes), rule, "list all `classes` in `data`")


def load_images(
    config: ImagesKind,
    labelled: bool = True,
    classes: tuple[str, ...] | None = None,
    packing: Packing | None = None,
) -> ImageSet:
    """Read the images that an image set's configuration describes. Those that it does not take are not decoded.

    Args:
        config: the image set's configuration.
        labelled: False means that labels are not looked at, nor what stands for them, such as the names of folders.
        classes: the classes that labels are numbered by; the set's own are matched to them by name. None means its own.
        packing: finds and makes packed sets, which are mapped. None means that all images are read into memory.

    Raises:
        InputError: names a key of the configuration, or a file.
    """
    wanted = None if packing is None else packing.wanted(config, labelled, classes)
    packed = None if packing is None or wanted is None else packing.find(wanted)
    if packed is not None:
        return _mapped(packed, config)
    listing, taken = list_taken(config, labelled, classes)
    listing = replace(listing, notes=(*listing.notes, *alpha_notes(listing, taken)))
    if packing is not None and isinstance(config, TorchvisionDatasetConfig):  # it downloads and unpacks as it is listed
        wanted = packing.wanted(config, labelled, classes)
    if packing is not None and wanted is not None:
        row_bytes = _row_bytes(listing, taken, labelled)
        packed = packing.pack(wanted, listing, taken, row_bytes)
        if packed is not None:
            return _mapped(packed, config)
        _require_memory(config, len(taken), row_bytes)
    columns = dict(listing.read(taken))
    images = columns.pop("image")
    if images.numel() == 0:
        raise InputError("root", _root(config), "holds images without pixels", "save them again")
    labels = None if listing.labels is None else listing.labels[taken]
    ids = tuple(listing.ids[position] for position in taken)
    read = ImageSet(images, labels, listing.classes, columns if labelled else {}, ids, listing.notes)
    return replace(read, resize=config.resize, bits=_bits(config))


def _bits(config: ImagesKind) -> Bits | None:
    return getattr(config, "bits", None)


def list_taken(
    config: ImagesKind, labelled: bool = True, classes: tuple[str, ...] | None = None
) -> tuple[Listing, list[int]]:
    """List the images of a configuration, and return the positions of those that it takes. Raises as `load_images`."""
    listing = list_images(config) if labelled else list_unlabelled(config)
    _require_images(config, listing)
    if classes is not None:
        listing = listing.by_name(classes)
    taken = listing.take(config.start, config.limit)
    if not taken:
        raise InputError("start", config.start, "leaves no images", "lower it")
    return listing, taken


def _mapped(packed: Packed, config: ImagesKind) -> ImageSet:
    annotations = {name: column for name, column in packed.columns.items() if name not in ("image", "label")}
    images, labels = packed.columns["image"], packed.columns.get("label")
    read = ImageSet(images, labels, packed.classes, annotations, packed.ids, packed.notes, packed.digest)
    return replace(read, resize=config.resize, bits=_bits(config))


def _row_bytes(listing: Listing, taken: Sequence[int], labelled: bool) -> int:
    """Return the bytes of a decoded image with its annotations, as the first has them."""
    first, _ = read_block(listing.read, taken[:1])
    return sum(column.nbytes for name, column in first.items() if labelled or name == "image")


def _require_memory(config: ImagesKind, num_images: int, row_bytes: int) -> None:
    """Raise InputError where images do not fit into the memory that is free: the system would end the process."""
    needed, available = num_images * row_bytes, psutil.virtual_memory().available
    if needed > available:
        rule = f"take {needed / 2**20:,.0f} MiB once decoded, and this machine has {available / 2**20:,.0f} MiB left"
        raise InputError("root", f"{num_images:,} images", rule, "set a smaller `size`, or a `limit`")


def _root(config: ImagesKind) -> str:
    return getattr(config, "root", config.kind)


def _require_images(config: ImagesKind, listing: Listing) -> None:
    """Raise InputError, which says what was found instead, if there are no images."""
    if listing.ids:
        return
    if not listing.passed_over:
        raise InputError("root", _root(config), "holds no images", "point it to a folder that does")
    rule = f"holds no images that can be read, but {sentence_of(listing.passed_over)}"
    raise InputError("root", _root(config), rule, "convert them to PNG or JPEG, or point it to a folder with images")
