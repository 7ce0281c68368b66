"""A target domain that is made from photographs, for an experiment (`rsf_dist.builders.shifted_target`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from rsf_dist.config.angles import require_radians
from rsf_dist.config.base import Finite, NonNegative, PositiveFloat, PositiveInt, Prior, StrictModel, finite_float
from rsf_dist.config.images import IMAGE_KINDS, ImagesConfig
from rsf_dist.config.kinds import Kinds

Modes = Annotated[
    Annotated[Finite, Tag("kind=number")] | Annotated[tuple[Finite, ...], Field(min_length=1), Tag("kind=list")],
    Discriminator(lambda raw: "kind=list" if isinstance(raw, (list, tuple)) else "kind=number"),
]
"""A number or a list of numbers. The value's form chooses, so that error messages are about this form alone."""


class ParameterShiftConfig(StrictModel):
    """The distribution of one parameter of the target's images: normal, or a mixture of normal distributions."""

    mean: Modes
    """Mean of the normal distribution, in the parameter's unit. A list means several distributions, equally likely."""
    sd: NonNegative = 0.0
    """Standard deviation of each normal distribution, in the parameter's unit. 0 means constant."""

    @classmethod
    def spelt_out(cls, value: Any) -> str | None:
        """Return numbers as means."""
        numbers = list(value) if isinstance(value, (list, tuple)) else [value]
        return f"{{mean: {value}}}" if numbers and None not in map(finite_float, numbers) else None


class ShiftConfig(StrictModel):
    """The difference between a made target domain and the photographs that it is made from.

    No proposal has blur or gamma. With either of them the proposals cannot reach the target domain.
    """

    rotation: ParameterShiftConfig | None = None
    """Angle in radians, clockwise. null means 0."""
    scale: ParameterShiftConfig | None = None
    """Factor on the size of the image's content. null means 1."""
    brightness: ParameterShiftConfig | None = None
    """Factor on the intensities. null means 1."""
    contrast: ParameterShiftConfig | None = None
    """Factor on the distance from the image's mean intensity. null means 1."""
    translate_x: ParameterShiftConfig | None = None
    """Shift to the right, as a fraction of half the width. null means 0."""
    translate_y: ParameterShiftConfig | None = None
    """Shift downwards, as a fraction of half the height. null means 0."""
    noise: ParameterShiftConfig | None = None
    """Standard deviation of Gaussian pixel noise, as a fraction of the full range. null means 0."""
    blur: NonNegative = 0.0
    """Standard deviation in pixels of a Gaussian blur, before the noise. 0 means none."""
    gamma: PositiveFloat = 1.0
    """Exponent of the intensities on the scale 0 to 1, after the blur and before the noise. Below 1 is brighter."""
    prior: Prior | None = None
    """Weight of each class, one number a class; they are normalised. null means as frequent as in the photographs."""

    @field_validator("rotation")
    @classmethod
    def _in_radians(cls, rotation: ParameterShiftConfig | None) -> ParameterShiftConfig | None:
        if rotation is not None:
            require_radians("mean", rotation.mean)
            require_radians("sd", rotation.sd)
        return rotation


TARGET_KINDS = Kinds[StrictModel]("target", among=IMAGE_KINDS)
"""The kinds that `target:` can have: every image set, and a made one."""

TargetConfig = Annotated[StrictModel, TARGET_KINDS]
"""The type of a field that holds the images of the target domain, read or made."""

TEST_KINDS = Kinds[StrictModel]("evaluation.test", among=IMAGE_KINDS)
"""The kinds that labelled images of the target domain can have: every image set, and a made one."""

TargetImagesConfig = Annotated[StrictModel, TEST_KINDS]
"""The type of a field that holds labelled images of the target domain, read or made."""


@IMAGE_KINDS.holder
@TARGET_KINDS.register
class ShiftedTargetConfig(StrictModel):
    """A target domain made for an experiment from photographs, which neither the source nor the test should share.

    The images follow from the run's `seed` and are the same for all of num_seeds.
    """

    kind: Literal["shifted"]
    """Makes the target's images."""
    base: ImagesConfig
    """The photographs, labelled."""
    num_images: PositiveInt = 2_000
    """Images to make. Their labels are dropped, as any target's."""
    shift: ShiftConfig = ShiftConfig()
    """The differences between the images and the photographs."""


@IMAGE_KINDS.holder
@TEST_KINDS.register
class ShiftedImagesConfig(StrictModel):
    """Labelled images of a made target domain: made by `target.shift`, from other photographs."""

    kind: Literal["shifted"]
    """Makes the images. It needs a target of kind `shifted`."""
    base: ImagesConfig
    """The photographs, labelled."""
    num_images: PositiveInt = 5_000
    """Images to make."""
