"""The survey of one image set: what its files tell, and a few of its images decoded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from rsf_dist.config.images import ImagesKind
from rsf_dist.data.batch import Batch, concat
from rsf_dist.data.images import ImageSet, list_taken
from rsf_dist.data.sources import Listing, PassedOver, list_images, list_unlabelled
from rsf_dist.data.sources.found_files import passed_over_notes
from rsf_dist.data.sources.headers import Headers, alpha_note, evenly, read_headers
from rsf_dist.data.sources.recognise import place
from rsf_dist.errors import InputError, located
from rsf_dist.inspection.findings import LOOKED_AT, Finding, class_findings, sample_findings
from rsf_dist.runtime.progress import Progress

_THUMBNAIL, _LARGE = (192, 192), 512
_MOST_CLASSES = 256
_COUNTED_EVERY = 500
_DEEP = ("I", "F", "RGB;16", "RGBA;16", "L;16", "LA;16")
"""Modes of images with more than 8 bits a channel."""


@dataclass(frozen=True)
class Survey:
    """What is known of an image set.

    Args:
        name: source, target, evaluation.test, …; or train, val, … of a path.
        config: the set's configuration.
        num_listed: number of images that the source has.
        counts: number of images of each class. None means that the set is unlabelled.
        boxes: number of boxes of each class. None means that there are none.
        headers: sizes and modes of the images that are taken.
        findings: what may be wrong with them.
        sample: some of them, decoded. None means that they cannot be.
        listing: the images. None means that they cannot be listed.
        taken: the positions of those that are taken.
        is_scaled: True if the sample is brought to a size that the configuration does not ask for.
    """

    name: str
    config: ImagesKind
    num_listed: int = 0
    counts: tuple[int, ...] | None = None
    boxes: tuple[int, ...] | None = None
    headers: Headers = field(default_factory=Headers)
    findings: tuple[Finding, ...] = ()
    sample: ImageSet | None = None
    listing: Listing | None = None
    taken: tuple[int, ...] = ()
    is_scaled: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes' names."""
        return self.listing.classes if self.listing else ()

    @property
    def passed_over(self) -> dict[str, PassedOver]:
        """Return the files that are no images, by suffix."""
        return dict(self.listing.passed_over) if self.listing else {}

    @property
    def place(self) -> str:
        """Return the set's kind, and where it is."""
        where = place(self.config.model_dump())
        return where if where == self.config.kind else f"{self.config.kind} {where}"

    @property
    def size_read(self) -> tuple[int, int] | None:
        """Return the height and width of the images that a run reads. None means that they differ."""
        if self.sample is not None and not self.is_scaled:
            height, width = self.sample.images.shape[2:]
            return height, width
        return next(iter(self.headers.sizes)) if len(self.headers.sizes) == 1 else None

    def in_masks(self) -> tuple[int, ...] | None:
        """Return the number of the sample's masks in which each class is; None where there are no masks."""
        masks = None if self.sample is None else self.sample.annotations.get("mask")
        if masks is None:
            return None
        present = [set(mask.unique().tolist()) for mask in masks]
        return tuple(sum(number in found for found in present) for number in range(len(self.classes)))


def survey(
    name: str,
    config: ImagesKind,
    progress: Progress,
    labelled: bool = True,
    classes: tuple[str, ...] | None = None,
    in_run: bool = True,
    trained: bool = False,
) -> Survey:
    """Look at an image set. What is wrong with it is among its findings, and not raised.

    Args:
        name: of the set.
        config: its configuration.
        progress: receiver of the count of headers.
        labelled: False means that labels are not looked at.
        classes: the classes that labels are matched to. None means the set's own.
        in_run: True for a set of a run, which refuses what it cannot train on or evaluate with.
        trained: True for the set that is trained on, which should have images of every class.
    """
    try:
        with located(name if in_run else ""):
            listing, taken = list_taken(config, labelled, classes if labelled else None)
    except InputError as err:
        return Survey(name, config, findings=(refusal(err),))
    headers, deep = _headers(name, listing, taken, progress)
    scaled = config.size is None and (len(headers.sizes) > 1 or max(map(max, headers.sizes), default=0) > _LARGE)
    reader = _thumbnails(config, labelled) if scaled else listing
    sample, problems = _sample(reader, listing, _spread(listing, taken), deep, name if in_run else "")
    counts = None if listing.labels is None else _counted(listing.labels[taken].tolist(), listing.classes)
    found = [*_notes(name, listing), *_header_findings(name, config, headers, in_run), *problems]
    if counts is not None and (trained or not in_run):
        found += class_findings(name, listing.classes, counts)
    found += [] if sample is None else sample_findings(name, sample.images)
    boxes = _boxes(listing, taken)
    return Survey(
        name, config, len(listing.ids), counts, boxes, headers, tuple(found), sample, listing, tuple(taken), scaled
    )


def refusal(err: InputError) -> Finding:
    """Return the finding that an error is."""
    return Finding("", str(err), refused=True)


def _thumbnails(config: ImagesKind, labelled: bool) -> Listing:
    small = config.model_copy(update={"size": _THUMBNAIL, "resize": "fit"})
    return list_images(small) if labelled else list_unlabelled(small)


def _headers(name: str, listing: Listing, taken: Sequence[int], progress: Progress) -> tuple[Headers, list[int]]:
    """Return what headers tell, and the positions of images with 16 bits a channel."""
    headers, deep = Headers(), []
    for done, (position, header) in enumerate(read_headers(listing, taken), start=1):
        headers.add(listing.ids[position], header)
        if not isinstance(header, InputError) and header.mode.startswith(_DEEP):
            deep.append(position)
        if done % _COUNTED_EVERY == 0 or done == len(taken):
            progress.count(f"reading headers of {name or 'images'}", done, len(taken))
    return headers, deep


def _notes(name: str, listing: Listing) -> Iterator[Finding]:
    """Yield the lines about what may surprise, with their first examples. `passed_over` has a list of its own."""
    for note in listing.notes:
        if note not in passed_over_notes(listing.passed_over):
            yield Finding(name, note, examples=listing.examples.get(note, ()))


def _header_findings(name: str, config: ImagesKind, headers: Headers, in_run: bool) -> Iterator[Finding]:
    num_images = headers.sizes.total() + headers.num_unreadable
    if headers.num_unreadable:
        text = f"{headers.num_unreadable:,} of {num_images:,} files cannot be read (first: {headers.unreadable[0]})"
        yield Finding(name, text, refused=True, examples=tuple(map(str, headers.unreadable)))
    if len(headers.sizes) > 1 and config.size is None:
        smallest, largest = (" x ".join(map(str, pick(headers.sizes, key=math.prod))) for pick in (min, max))
        text = f"images of {len(headers.sizes):,} sizes, from {smallest} to {largest}: set `size: [height, width]`"
        yield Finding(name, text, refused=in_run)
    if headers.num_alpha:
        yield Finding(name, alpha_note(headers, num_images), examples=tuple(headers.alpha))


def _spread(listing: Listing, taken: Sequence[int]) -> list[int]:
    """Return some of the positions: those of one image a class, and others spread over all classes."""
    if listing.labels is None:
        return evenly(taken, LOOKED_AT)
    labels = listing.labels[list(taken)].numpy()
    by_class = np.asarray(taken)[np.argsort(labels, kind="stable")].tolist()
    first = np.unique(labels, return_index=True)[1][:_MOST_CLASSES]
    return sorted({*evenly(by_class, LOOKED_AT), *(taken[number] for number in first)})


def _sample(
    reader: Listing, listing: Listing, chosen: Sequence[int], deep: Sequence[int], section: str
) -> tuple[ImageSet | None, list[Finding]]:
    """Decode some images, and return them with what was wrong with some.

    Args:
        reader: the listing whose images are decoded.
        listing: the listing with labels.
        chosen: the positions of these images.
        deep: positions of images with 16 bits a channel, some of which are decoded to see how many bits they use.
        section: the place of the set in the configuration.
    """
    problems = _bits(reader, deep, section)
    columns, err = _read(reader, chosen, section)
    if err is not None:  # others may be sound, one by one
        problems = problems or [refusal(err)]
        one_by_one = [(position, _read(reader, [position], section)[0]) for position in chosen]
        chosen, columns = _joined([(position, row) for position, row in one_by_one if row])
    if not columns:
        return None, problems
    labels = None if listing.labels is None else listing.labels[list(chosen)]
    ids = tuple(listing.ids[position] for position in chosen)
    return ImageSet(columns.pop("image"), labels, listing.classes, columns, ids), problems


def _bits(reader: Listing, deep: Sequence[int], section: str) -> list[Finding]:
    """Return the finding that images of 16 bits are all dark, of those that are decoded, or cannot be read."""
    chosen = evenly(deep, LOOKED_AT)
    err = _read(reader, chosen, section)[1] if chosen else None
    if err is None:
        return []
    is_of_some = err.field.endswith("bits") and len(chosen) < len(deep)  # others may be bright
    return [Finding("", str(err), refused=not is_of_some)]


def _read(reader: Listing, positions: Sequence[int], section: str) -> tuple[Batch, InputError | None]:
    """Return these images; or nothing, and the reason for which they cannot be read together."""
    try:
        with located(section):
            return dict(reader.read(positions)), None
    except InputError as err:
        return {}, err


def _joined(rows: Sequence[tuple[int, Batch]]) -> tuple[list[int], Batch]:
    """Return the positions and the columns of those rows whose images have the first one's shape."""
    alike = [(position, row) for position, row in rows if row["image"].shape == rows[0][1]["image"].shape]
    return [position for position, _ in alike], concat([row for _, row in alike]) if alike else {}


def _counted(numbers: Sequence[int], classes: Sequence[str]) -> tuple[int, ...]:
    return tuple(np.bincount(np.asarray(numbers, np.int64), minlength=len(classes)).tolist())


def _boxes(listing: Listing, taken: Sequence[int]) -> tuple[int, ...] | None:
    objects = listing.offered("objects")
    numbers = None if objects is None else objects(taken)
    return None if numbers is None else _counted(numbers, listing.classes)
