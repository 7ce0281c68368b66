"""Findings about image sets, as lines for the user; some of them forbid a run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rsf_dist.builders.inputs import Inputs
from rsf_dist.config.proposal import AugmentConfig
from rsf_dist.config.run import RunConfig
from rsf_dist.config.shifted_images import ShiftedTargetConfig
from rsf_dist.data.batch import take_rows
from rsf_dist.data.images import ImageSet
from rsf_dist.data.sources.base import shortened
from rsf_dist.data.sources.headers import evenly
from rsf_dist.errors import InputError
from rsf_dist.inspection.overlap import shared_pixels

_FEW = 0.1
"""A class is nearly empty below this share of the median class."""
_DARK = 16
"""Images are dark where no pixel of any of them is brighter, of 255."""
LOOKED_AT = 64
"""Number of images of a set that are looked at for their pixels."""
POOL = "proposal.images"
APART = (
    ("source", "target", "these images are no sample of another domain"),
    ("source", "evaluation.test", "the test images are trained on"),
    ("source", "evaluation.source_test", "the test images are trained on"),
    (POOL, "target", "these images are no sample of another domain"),
    (POOL, "evaluation.test", "the test images are trained on"),
    ("target", "evaluation.test", "the ratio is fitted to test images"),
    ("evaluation.oracle", "evaluation.test", "the arm oracle is trained on test images"),
)
"""Pairs of image sets that should share no image, and what it means if they do."""


@dataclass(frozen=True)
class Finding:
    """A line about an image set, or about a key of the configuration.

    Args:
        where: the image set, or the key. Empty if the text names it.
        text: what was found.
        refused: True if no run can, or should, begin with it.
        examples: the first examples.
    """

    where: str
    text: str
    refused: bool = False
    examples: tuple[str, ...] = ()

    def line(self) -> str:
        """Return the finding on one line."""
        return f"{self.where}: {self.text}" if self.where else self.text


def run_findings(config: RunConfig, inputs: Inputs) -> list[Finding]:
    """Return what a run tells of its configuration and its images.

    Raises:
        InputError: the first finding that no run should begin with.
    """
    found = [*angle_findings(config), *image_findings(inputs)]
    for finding in found:
        if finding.refused:
            raise InputError(finding.where, "(its images)", finding.text, "name other images", absolute=True)
    return found


def image_findings(inputs: Inputs) -> list[Finding]:
    """Return the findings about the images of a run."""
    sets = {named.name: getattr(inputs, named.name) for named in fields(inputs)}
    present = {_section(name): images for name, images in sets.items() if isinstance(images, ImageSet)}
    found = [Finding(name, note) for name, images in present.items() for note in images.notes]
    trained = "source" if inputs.pool is None else POOL
    found += class_findings(trained, inputs.source.classes, _counts(inputs.proposed_from))
    for name, images in present.items():
        chosen = torch.tensor(evenly(range(len(images)), LOOKED_AT))
        found += sample_findings(name, take_rows(images.images, chosen))
    return [*found, *overlap_findings(present)]


def _section(name: str) -> str:
    if name == "pool":
        return POOL
    return name if name in ("source", "target") else f"evaluation.{name}"


def _counts(images: ImageSet) -> list[int]:
    return torch.bincount(images.require_labels(), minlength=len(images.classes)).tolist()


def class_findings(where: str, classes: Sequence[str], counts: Sequence[int]) -> Iterator[Finding]:
    """Yield a finding if classes have no image, and one if some have few beside the others."""
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        share = f"{len(empty):,} of {len(classes):,} classes are not trained"
        yield Finding(where, f"no image of {shortened(empty)}: {share}", examples=tuple(empty[:3]))
    filled = [count for count in counts if count]
    usual = statistics.median(filled) if filled else 0
    few = [f"{name} ({count:,})" for name, count in zip(classes, counts, strict=True) if 0 < count < _FEW * usual]
    if few:
        text = f"few images of {shortened(few)}; the median class has {usual:,.0f}"
        yield Finding(where, text, examples=tuple(few[:3]))


def sample_findings(where: str, sample: Tensor) -> Iterator[Finding]:
    """Yield a finding if images that were looked at are all alike, or all dark.

    Args:
        where: the image set.
        sample: uint8 [n, c, h, w], some of its images.
    """
    if len(sample) < 2:
        return
    if bool((sample == sample[:1]).all()):
        needed = where in ("source", "target")
        yield Finding(where, f"all of {len(sample):,} images that were looked at are alike", refused=needed)
    elif int(sample.max()) < _DARK:
        text = f"no pixel of {len(sample):,} images that were looked at is brighter than {int(sample.max())} of 255"
        yield Finding(where, text)


def angle_findings(config: RunConfig) -> Iterator[Finding]:
    """Yield a finding for every distribution of rotations that is wider than a full turn: degrees, perhaps."""
    for key, numbers, width in _rotations(config):
        if width > 2 * math.pi * 1.01:
            radians = ", ".join(f"{math.radians(number):.4f}" for number in numbers)
            text = f"spans {width:.4g}, more than a full turn of 6.2832 radians; if degrees are meant, write {radians}"
            yield Finding(key, text)


def _rotations(config: RunConfig) -> Iterator[tuple[str, tuple[float, ...], float]]:
    """Yield the key, the numbers and the width of each distribution of rotations; of a normal one, four deviations."""
    proposal, target = config.proposal, config.target
    if isinstance(proposal, AugmentConfig) and (law := (proposal.parameters or {}).get("rotation")):
        if law.uniform:
            yield "proposal.parameters.rotation.uniform", law.uniform, law.uniform[1] - law.uniform[0]
        if law.normal:
            yield "proposal.parameters.rotation.normal", law.normal, 4 * law.normal[1]
    if isinstance(target, ShiftedTargetConfig) and target.shift.rotation is not None:
        yield "target.shift.rotation.sd", (target.shift.rotation.sd,), 4 * target.shift.rotation.sd


def overlap_findings(sets: Mapping[str, ImageSet]) -> Iterator[Finding]:
    """Yield a finding for each two image sets that share images and should not."""
    for one, other, meaning in APART:
        if one in sets and other in sets:
            pairs = shared_pixels(sets[one].images, sets[other].images)
            names = [(_id(sets[one], first), _id(sets[other], second)) for first, second in pairs]
            yield from shared_finding(one, other, names, len(sets[other]), meaning)


def _id(images: ImageSet, position: int) -> str:
    return images.ids[position] if images.ids else f"image {position}"


def shared_finding(
    one: str, other: str, pairs: Sequence[tuple[str, str]], num_images: int, meaning: str = ""
) -> Iterator[Finding]:
    """Yield a finding if two image sets share images.

    Args:
        one: an image set.
        other: another one.
        pairs: the ids of each shared image in both sets.
        num_images: number of images of the other set.
        meaning: what the shared images lead to.
    """
    if pairs:
        first, second = pairs[0]
        text = f"{len(pairs):,} of {num_images:,} images are in {one}, too (first: {second} is {first})"
        examples = tuple(f"{second} is {first}" for first, second in pairs[:3])
        yield Finding(other, f"{text}; {meaning}" if meaning else text, examples=examples)
