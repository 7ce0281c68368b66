"""The inspection of a configuration, or of a path without one: surveys, what spans several sets, and proposals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from typing import cast

import torch

from rsf_dist.builders.components import build_proposal
from rsf_dist.builders.inputs import require_classes, require_classifying, require_enough
from rsf_dist.builders.preflight import STEP_SECONDS
from rsf_dist.builders.shifted_target import make_shifted_images
from rsf_dist.config.images import ImagesKind
from rsf_dist.config.load import filled
from rsf_dist.config.run import RunConfig
from rsf_dist.config.shifted_images import ShiftedImagesConfig, ShiftedTargetConfig
from rsf_dist.config.size_rules import Shape
from rsf_dist.data.batch import to_cpu
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError, located
from rsf_dist.inspection.findings import APART, LOOKED_AT, POOL, Finding, angle_findings, shared_finding
from rsf_dist.inspection.overlap import shared_files, shared_images
from rsf_dist.inspection.survey import Survey, refusal, survey
from rsf_dist.runtime import user_code
from rsf_dist.runtime.progress import Progress
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.runtime.timeouts import time_limit
from rsf_dist.sampling.chunk import propose


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Args:
        surveys: one an image set.
        findings: what concerns several sets, or the configuration.
        proposals: some proposals, drawn from the sample of the source. None means that there are none.
    """

    surveys: tuple[Survey, ...]
    findings: tuple[Finding, ...] = ()
    proposals: ImageSet | None = None

    def all_findings(self) -> list[Finding]:
        """Return the findings about each set, and then the others."""
        return [*(finding for each in self.surveys for finding in each.findings), *self.findings]

    @property
    def refused(self) -> bool:
        """Return True if no run can begin with these images."""
        return any(finding.refused for finding in self.all_findings())


def inspect_sets(sets: Mapping[str, ImagesKind], progress: Progress) -> Inspection:
    """Look at image sets by name, which are parts of one data set and should share no image."""
    surveys = [survey(name, config, progress, in_run=False) for name, config in sets.items()]
    found = [finding for pair in combinations(surveys, 2) for finding in _overlap(*pair, "", progress)]
    return Inspection(tuple(surveys), tuple(found))


def inspect_run(config: RunConfig, progress: Progress) -> Inspection:
    """Look at the image sets of a configuration, and draw a few proposals, in this process."""
    if config.code_folder is not None:
        user_code.allow_folder(config.code_folder)
    surveys = _surveys(config, progress)
    found = [*angle_findings(config), *_checks(config, surveys)]
    for one, other, meaning in APART:
        if one in surveys and other in surveys:
            found += _overlap(surveys[one], surveys[other], meaning, progress)
    sample, proposals = surveys.get(POOL, surveys["source"]).sample, None
    if sample is not None and sample.labels is not None:
        with _told(found):
            proposals = _proposals(config, sample)
    return Inspection(tuple(surveys.values()), tuple(found), proposals)


def _surveys(config: RunConfig, progress: Progress) -> dict[str, Survey]:
    """Return the survey of each image set. Of a made target domain, the photographs are looked at."""
    pool = config.proposal.own_images
    source = survey("source", config.source, progress, trained=pool is None)
    surveys, classes = {"source": source}, source.classes or None
    if pool is not None:
        surveys[POOL] = survey(POOL, pool, progress, classes=classes, trained=True)
    sections = {f"evaluation.{name}": getattr(config.evaluation, name) for name in ("test", "source_test", "oracle")}
    for section, images in ({"target": config.target} | sections).items():
        if isinstance(images, ImagesKind):
            surveys[section] = survey(section, images, progress, labelled=section != "target", classes=classes)
        elif images is not None:
            base = survey(f"{section}.base", images.base, progress, classes=classes)
            surveys[f"{section}.base"] = _shifted(config, images, base)
    return surveys


def _shifted(config: RunConfig, images: ShiftedTargetConfig | ShiftedImagesConfig, base: Survey) -> Survey:
    """Return the survey of photographs with a sample of what is made of them."""
    if base.sample is None or not isinstance(config.target, ShiftedTargetConfig):
        return base
    found: list[Finding] = []
    sample: ImageSet | None = None
    with _told(found), located(base.name):
        streams = Streams(config.seed, Stage.TARGET)
        base.sample.require_labels()
        sample = make_shifted_images(base.sample, config.target.shift, min(LOOKED_AT, images.num_images), streams)
    return replace(base, sample=sample, findings=(*base.findings, *found))


def _checks(config: RunConfig, surveys: Mapping[str, Survey]) -> list[Finding]:
    """Return what a run refuses of its image sets, beside what the surveys found."""
    found: list[Finding] = []
    source = surveys["source"]
    for name, each in surveys.items():
        with _told(found), located(name):
            if name != "target":
                require_classifying(each.config)
            if each.sample is None:
                continue
            if name != "target":
                each.sample.require_labels()
            if name == "source":
                require_classes(each.sample)
            elif source.sample is not None:
                ours, theirs = each.size_read, source.size_read
                like = _of_size(source.sample, theirs or ours)
                _of_size(each.sample, ours or theirs).require_like(like)
    if "target" in surveys and surveys["target"].listing is not None:
        with _told(found):
            require_enough(len(surveys["target"].taken))
    return found


def _of_size(sample: ImageSet, size: tuple[int, int] | None) -> ImageSet:
    """Return a set like a sample, but without images, and of the size that a run reads.

    Args:
        sample: some images, which may be scaled.
        size: height and width. None means that both sets have images of several sizes, which their surveys tell.
    """
    return replace(sample, images=torch.empty(0, sample.images.shape[1], *(size or (0, 0)), dtype=torch.uint8))


def _overlap(one: Survey, other: Survey, meaning: str, progress: Progress) -> Iterator[Finding]:
    """Yield a finding if two sets share images: the same files, or the same pixels where one has no files."""
    ours, theirs = one.listing, other.listing
    if ours is None or theirs is None:
        return
    our_files, their_files = ours.files(one.taken), theirs.files(other.taken)
    try:
        if our_files is not None and their_files is not None:
            pairs = shared_files(our_files, their_files, progress)
        elif one.is_scaled or other.is_scaled:
            return
        else:
            pairs = shared_images(ours, one.taken, theirs, other.taken, progress)
    except (InputError, OSError):  # of an image that cannot be read, which the surveys told already
        return
    names = [(ours.ids[one.taken[first]], theirs.ids[other.taken[second]]) for first, second in pairs]
    yield from shared_finding(one.name, other.name, names, len(other.taken), meaning)


def _proposals(config: RunConfig, sample: ImageSet) -> ImageSet | None:
    """Draw proposals as the run does, but from a sample of the images; none of a pool, whose images they are.

    Raises InputError.
    """
    config = filled(config, config.image_defaults(cast(Shape, tuple(sample.images.shape[1:]))))
    with located("proposal"), time_limit(STEP_SECONDS, "", config.proposal.kind):
        proposal = build_proposal(config.proposal, sample)
    if config.proposal.is_pool:
        return None
    rows = to_cpu(propose(proposal, Streams(config.seed, Stage.PILOT), LOOKED_AT))
    if "image" not in rows:
        return None
    annotations = {str(name): rows[name] for name in ("boxes", "box_label", "mask") if name in rows}
    return ImageSet(rows["image"], rows.get("label"), sample.classes, annotations)


@contextmanager
def _told(found: list[Finding]) -> Iterator[None]:
    """Add an InputError of the block to the findings."""
    try:
        yield
    except InputError as err:
        found.append(refusal(err))
