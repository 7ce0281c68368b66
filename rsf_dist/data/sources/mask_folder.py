"""Source `mask_folder`: a folder of images, and one of masks as PNG files of the same names."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rsf_dist.config.images import MaskFolderConfig
from rsf_dist.data.annotations import IGNORED, Frame
from rsf_dist.data.sources.annotated import (
    AnnotatedFiles,
    MaskReader,
    Notes,
    by_stem,
    folder,
    header,
    image_files,
    opened,
    refuse,
)
from rsf_dist.data.sources.base import Listing, list_images
from rsf_dist.data.sources.found_files import name_below
from rsf_dist.errors import InputError

_LOOKED_AT = 100  # masks that are read to tell what they hold, where `classes` are given
_MODES = ("P", "L", "1", "I;16", "I")


@dataclass(frozen=True)
class _MaskFiles:
    """Masks that are read from their files.

    Args:
        paths: of the files.
        num_classes: the number that a mask's numbers must be below.
    """

    paths: Sequence[Path]
    num_classes: int

    def frame(self, position: int) -> Frame:
        return header(self.paths[position])[0]

    def read(self, position: int) -> np.ndarray:
        mask = _numbers(self.paths[position])
        beyond = mask[(mask >= self.num_classes) & (mask != IGNORED)]
        if beyond.size:
            rule = f"numbers must be below {self.num_classes}, the number of classes, or {IGNORED} (ignored)"
            raise refuse(str(self.paths[position]), int(beyond[0]), rule, "list all `classes`, or correct the mask")
        return mask.astype(np.uint8)


@list_images.register
def _(config: MaskFolderConfig) -> Listing:
    root, mask_root, notes = folder(config.root), folder(config.masks, "masks"), Notes()
    if mask_root.resolve() == root.resolve():
        raise InputError(
            "masks", config.masks, "is the folder of the images", "put the masks into a folder of their own"
        )
    paths = _outside(mask_root, root, image_files(root))
    masks = _matched(by_stem(root, paths), by_stem(mask_root, image_files(mask_root, "masks")), mask_root, notes)
    looked_at = masks[: _LOOKED_AT if config.classes else None]
    found = sorted({number for mask in looked_at for number in np.unique(_numbers(mask)).tolist()})
    classes = config.classes or _numbered(found)
    if len(classes) > IGNORED:
        raise InputError("classes", f"{len(classes)} classes", f"masks hold at most {IGNORED}", "list fewer")
    if len(classes) <= 2 and found in ([IGNORED], [0, IGNORED]):
        what = f"masks with no numbers but {' and '.join(map(str, found))}, where {IGNORED} is ignored"
        for mask in looked_at:
            notes.add(what, str(mask))
    reader = MaskReader(_MaskFiles(masks, len(classes)), [str(mask) for mask in masks], config)
    ids = [name_below(root, path) for path in paths]
    return Listing(ids, AnnotatedFiles(paths, config, reader), None, classes, notes.lines(), examples=notes.examples())


def _outside(mask_root: Path, root: Path, paths: list[Path]) -> list[Path]:
    """Return the images that do not lie in the folder of masks, however either folder is written or linked to."""
    real = mask_root.resolve()
    if real in root.resolve().parents:  # the images lie in the folder of masks themselves
        return paths
    folders = {path.parent for path in paths}
    of_masks = {folder for folder in folders if folder.resolve().is_relative_to(real)}
    return [path for path in paths if path.parent not in of_masks]


def _matched(images: dict[str, Path], masks: dict[str, Path], mask_root: Path, notes: Notes) -> list[Path]:
    """Return the mask of each image. Raises InputError unless it is there and a PNG file."""
    for stem, path in images.items():
        mask = masks.get(stem)
        if mask is None:
            absent = sum(stem not in masks for stem in images)
            rule = f"has no mask {mask_root / stem}.png ({absent:,} of {len(images):,} images have none)"
            raise refuse(str(path), "(no mask)", rule, "add the mask, or remove the image")
        if mask.suffix.lower() != ".png":
            raise refuse(str(mask), mask.suffix, "is no PNG file, and others change numbers", "save masks as PNG")
    for stem in masks:
        if stem not in images:
            notes.add("masks of no image, left out", str(masks[stem]))
    return [masks[stem] for stem in images]


def _numbered(found: list[int]) -> tuple[str, ...]:
    """Return the classes 0, 1, … up to the largest number that occurs."""
    return tuple(str(number) for number in range(1 + max({*found} - {IGNORED}, default=0)))


def _numbers(path: Path) -> np.ndarray:
    """Return a mask's numbers, [h, w]: of a palette the numbers, not the colours. Raises InputError."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with opened(path) as image:
            kind, mode, numbers = image.format, image.mode, np.asarray(image)
    if kind != "PNG" or mode not in _MODES:
        rule = "must be a PNG file with one number a pixel, grey or with a palette"
        raise refuse(str(path), f"{kind} {mode}", rule, "save each pixel's class as a number")
    return numbers.astype(np.uint8) if mode == "1" else numbers
