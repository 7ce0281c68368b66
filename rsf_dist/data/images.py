"""Image sets in memory: labelled sources, unlabelled target images, labelled test images."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from torch import Tensor

from rsf_dist.config.images import ImagesKind
from rsf_dist.data.batch import take_rows
from rsf_dist.data.sources import list_images
from rsf_dist.errors import InputError


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, with or without labels.

    Args:
        images: uint8 [n, channels, height, width].
        labels: int64 [n] in [0, len(classes)). None means unlabelled.
        classes: the classes' names, in the order of their labels; empty without labels.
    """

    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, index: Tensor | slice) -> ImageSet:
        """Return the images (and labels) at `index`."""
        return ImageSet(
            take_rows(self.images, index), None if self.labels is None else self.labels[index], self.classes
        )

    def digest(self) -> str:
        """Return the SHA-256, in hexadecimal, of shape, images, labels and classes."""
        head = json.dumps({"shape": list(self.images.shape), "classes": self.classes})
        digest = hashlib.sha256(head.encode())
        for column in (self.images, self.labels):
            if column is not None:
                digest.update(column.contiguous().numpy().data)
        return digest.hexdigest()

    def require_labels(self) -> Tensor:
        """Return the labels. Raises InputError if there are none."""
        if self.labels is None:
            raise InputError("", "unlabelled images", "needs labels", "use one sub-folder a class, or add `labels`")
        return self.labels

    def require_like(self, other: ImageSet) -> None:
        """Raise InputError unless shapes, and classes if labelled, are those of `other`."""
        ours, theirs = tuple(self.images.shape[1:]), tuple(other.images.shape[1:])
        if ours != theirs:
            raise InputError(
                "", ours, f"images must be [channels, height, width] = {theirs} like the source's", "set its `size`"
            )
        if self.labels is not None and self.classes != other.classes:
            rule = f"classes must be the source's {list(other.classes)}"
            raise InputError("", list(self.classes), rule, "name them alike, by `classes`")


def load_images(config: ImagesKind) -> ImageSet:
    """Read the images that an image set's configuration describes. Those that it does not take are not decoded.

    Raises:
        InputError: names a key of the configuration, or a file.
    """
    listing, root = list_images(config), getattr(config, "root", config.kind)
    if not listing.ids:
        raise InputError("root", root, "holds no images", "point it to a folder that does")
    taken = listing.take(config.start, config.limit)
    if not taken:
        raise InputError("start", config.start, "leaves no images", "lower it")
    images = listing.read(taken)
    if images.numel() == 0:
        raise InputError("root", root, "holds images without pixels", "save them again")
    return ImageSet(images, None if listing.labels is None else listing.labels[taken], listing.classes)
