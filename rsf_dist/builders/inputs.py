"""The image sets of a run: read or made, and checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from rsf_dist.builders.shifted_target import make_shifted_images
from rsf_dist.config.images import ImagesKind
from rsf_dist.config.run import RunConfig
from rsf_dist.config.shifted_images import ShiftedImagesConfig, ShiftedTargetConfig, TargetConfig, TargetImagesConfig
from rsf_dist.config.size_rules import Shape
from rsf_dist.data.images import ImageSet, load_images
from rsf_dist.data.packing import Packing
from rsf_dist.errors import InputError, located
from rsf_dist.ratios.classifier import MIN_TARGET_IMAGES
from rsf_dist.runtime.rng import Stage, Streams


@dataclass(frozen=True)
class Inputs:
    """The images of a run, checked against each other.

    Args:
        source: labelled images that proposals are made from.
        target: images of the target domain, without labels.
        test: labelled images of the target domain, for the evaluation. None means that no model is evaluated.
        source_test: labelled images of the source domain, for the evaluation. None means that there are none.
        oracle: labelled images of the target domain, for arm `oracle`. None means that there are none.
        pool: labelled images that proposals are made from in place of the source. None means that there are none.
        image_defaults: the values that the images give to keys that the configuration leaves open.
    """

    source: ImageSet
    target: ImageSet
    test: ImageSet | None
    source_test: ImageSet | None
    oracle: ImageSet | None
    pool: ImageSet | None = None
    image_defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def proposed_from(self) -> ImageSet:
        """The images that proposals are made from."""
        return self.source if self.pool is None else self.pool

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each set, by which a resumed run knows that its images are the same."""
        return {name: images.digest() for name, images in self._sets().items()}

    def summaries(self) -> list[str]:
        """Return a line a set: how many images of which size, and of how many classes."""
        return [f"{name}: {images.summary()}" for name, images in self._sets().items()]

    def _sets(self) -> dict[str, ImageSet]:
        sets = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: images for name, images in sets.items() if isinstance(images, ImageSet)}


def load_inputs(config: RunConfig, packing: Packing | None = None) -> Inputs:
    """Read or make every image set of the run. Raises InputError.

    Args:
        config: the run's configuration.
        packing: finds and makes packed image sets. None means that all are read into memory.
    """
    with located("source"):
        require_classifying(config.source)
        source = load_images(config.source, packing=packing)
        source.require_labels()
        require_classes(source)
    with located("target"):
        target = _read_or_make(config.target, "target", config, source, packing)
        target.require_like(source)

    def labelled(images: TargetImagesConfig | None, section: str) -> ImageSet | None:
        if images is None:
            return None
        with located(section):
            require_classifying(images)
            image_set = _read_or_make(images, section, config, source, packing)
            image_set.require_labels()
            image_set.require_like(source)
        return image_set

    evaluation = config.evaluation
    require_enough(len(target))
    return Inputs(
        source=source,
        target=_unlabelled(target),
        test=labelled(evaluation.test, "evaluation.test"),
        source_test=labelled(evaluation.source_test, "evaluation.source_test"),
        oracle=labelled(evaluation.oracle, "evaluation.oracle"),
        image_defaults=config.image_defaults(cast(Shape, tuple(source.images.shape[1:]))),
        pool=labelled(config.proposal.own_images, "proposal.images"),
    )


def _unlabelled(images: ImageSet) -> ImageSet:
    """Return the images alone."""
    known = images.known_digest if images.labels is None and not images.annotations and not images.classes else None
    return ImageSet(images.images, ids=images.ids, notes=images.notes, known_digest=known)


def require_classifying(images: object) -> None:
    """Raise InputError, before an image is read, for a set with boxes or masks where labels are needed."""
    if isinstance(images, ImagesKind) and not images.classifies:
        rule = "gives boxes or masks, which no task uses yet"
        raise InputError("kind", images.kind, rule, "name images with one label each, e.g. kind: image_folder")


def require_enough(num_images: int) -> None:
    """Raise InputError unless there are target images enough for a ratio."""
    if num_images < MIN_TARGET_IMAGES:
        raise InputError("target", f"{num_images} images", f"a ratio needs {MIN_TARGET_IMAGES} or more", "give more")


def require_classes(source: ImageSet) -> None:
    """Raise InputError unless the source has two classes or more."""
    if len(source.classes) < 2:
        rule = "is the only class, and a classifier needs two"
        raise InputError(
            "", ", ".join(source.classes), rule, "add images of another class, or name all in data.classes"
        )


_SHIFTED_CHUNKS = {"target": 0, "evaluation.oracle": 1, "evaluation.test": 2}
"""The chunk number of each made set's random stream. Other numbers would change the images."""


def _read_or_make(
    images: TargetConfig | TargetImagesConfig,
    section: str,
    config: RunConfig,
    source: ImageSet,
    packing: Packing | None,
) -> ImageSet:
    """Read the images of a section of the configuration, or make those of kind `shifted`. Raises InputError."""
    if isinstance(images, ImagesKind):
        return load_images(images, section != "target", source.classes, packing)
    assert isinstance(images, (ShiftedTargetConfig, ShiftedImagesConfig))
    assert isinstance(config.target, ShiftedTargetConfig)  # RunConfig refuses other targets
    with located("base"):
        base = load_images(images.base, classes=source.classes, packing=packing)
        base.require_labels()
        base.require_like(source)
    streams = Streams(config.seed, Stage.TARGET, 0, _SHIFTED_CHUNKS[section])
    try:
        return make_shifted_images(base, config.target.shift, images.num_images, streams)
    except InputError as err:
        rule = f"{err.rule} ({section}.base)"
        raise InputError("target.shift.prior", err.value, rule, err.remedy, absolute=True) from err
