"""The image sets of a run, read or made, and checked against each other."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rsf_dist.builders.shifted_target import make_shifted_images
from rsf_dist.config.images import (
    ImagesConfig,
    ShiftedTargetConfig,
    TargetConfig,
    TargetImagesConfig,
)
from rsf_dist.config.run import RunConfig
from rsf_dist.data.images import ImageSet, load_images
from rsf_dist.errors import InputError
from rsf_dist.ratios.classifier import MIN_TARGET_IMAGES
from rsf_dist.runtime.rng import Stage, Streams


@dataclass(frozen=True)
class Inputs:
    """The images of a run, checked against each other.

    Args:
        source: labelled; what proposals are made from.
        target: of the place where the model must work; its labels are dropped.
        test, source_test, oracle: labelled, for the evaluation; None where the configuration has none.
    """

    source: ImageSet
    target: ImageSet
    test: ImageSet | None
    source_test: ImageSet | None
    oracle: ImageSet | None

    def digests(self) -> dict[str, str]:
        """SHA-256 of each set that is there, for a run to tell whether it goes on with the images it began with."""
        sets = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: images.digest() for name, images in sets.items() if images is not None}


def load_inputs(config: RunConfig) -> Inputs:
    """Read, or make, every image set of the run. Raises InputError."""
    source = load_images(config.source, "source")
    source.require_labels("source")
    target = _read_or_made(config.target, "target", config, source)
    target.require_like(source, "target")

    def labelled(images: TargetImagesConfig | None, field: str) -> ImageSet | None:
        if images is None:
            return None
        found = _read_or_made(images, field, config, source)
        found.require_labels(field)
        found.require_like(source, field)
        return found

    evaluation = config.evaluation
    if len(target) < MIN_TARGET_IMAGES:
        raise InputError("target", f"{len(target)} images", f"a ratio needs {MIN_TARGET_IMAGES} or more", "give more")
    inputs = Inputs(
        source=source,
        target=ImageSet(target.images),
        test=labelled(evaluation.test, "evaluation.test"),
        source_test=labelled(evaluation.source_test, "evaluation.source_test"),
        oracle=labelled(evaluation.oracle, "evaluation.oracle"),
    )
    if inputs.oracle is not None and len(inputs.oracle) < config.sampling.num_accepted:
        rule = f"arms need equal rows, sampling.num_accepted={config.sampling.num_accepted}"
        raise InputError("evaluation.oracle", f"{len(inputs.oracle)} images", rule, "give more, or lower that")
    return inputs


_PLACE_CHUNKS = {"target": 0, "evaluation.oracle": 1, "evaluation.test": 2}
"""Which stream each made set draws from; renumbering them would change the images."""


def _read_or_made(
    images: TargetConfig | TargetImagesConfig, field: str, config: RunConfig, source: ImageSet
) -> ImageSet:
    """The images; those of kind `shifted` are made as the target is. Errors name `field`, or target.shift."""
    if isinstance(images, ImagesConfig):
        return load_images(images, field)
    assert isinstance(config.target, ShiftedTargetConfig)  # else the configuration would have been refused
    count = images.num_images
    base = load_images(images.base, f"{field}.base")
    base.require_labels(f"{field}.base")
    base.require_like(source, f"{field}.base")
    try:
        return make_shifted_images(
            base, config.target.shift, count, Streams(config.seed, Stage.TARGET, 0, _PLACE_CHUNKS[field])
        )
    except InputError as err:
        raise InputError("target.shift.prior", err.value, f"{err.rule} ({field}.base)", err.remedy) from err
