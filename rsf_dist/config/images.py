"""Image sets: where images are read from, and how a shifted target domain is made from photographs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from rsf_dist.config.angles import require_radians
from rsf_dist.config.base import (
    Count,
    Finite,
    NonEmptyStr,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Prior,
    Size,
    StrictModel,
    finite_float,
)
from rsf_dist.config.kinds import TAG


def _all_different(names: tuple[str, ...]) -> tuple[str, ...]:
    repeated = [name for number, name in enumerate(names) if name in names[:number]]
    if repeated:
        raise ValueError(f"classes must differ, and {repeated[0]} is there twice")
    return names


ImagesKind = Literal["digits", "idx", "image_folder", "npz"]
ClassNames = Annotated[tuple[str, ...], AfterValidator(_all_different)]
Channels = Literal[1, 3]


class ImagesConfig(StrictModel):
    """A set of images, with or without labels. Keys that it leaves out are taken from `data`."""

    kind: ImagesKind
    """Layout of the files. `digits`: scikit-learn's 1,797 scans, in its wheel. `idx`: MNIST's and Fashion-MNIST's
    files. `image_folder`: a folder of images, or of one sub-folder a class. `npz`: arrays `images` and, if labelled,
    `labels`. Required here or in `data`."""
    root: NonEmptyStr | None = None
    """Path of the folder (`idx`, `image_folder`) or file (`npz`). Required, except for `digits`."""
    split: Literal["train", "test"] = "train"
    """The IDX files to read. Other kinds ignore this key."""
    start: Count = 0
    """Number of images to skip, in the order in which they are found."""
    limit: PositiveInt | None = None
    """Largest number of images to take, after `start`. null means all."""
    classes: ClassNames = ()
    """The classes' names, in the order of their labels. Empty means the names that the files or folders give."""
    size: Size | None = None
    """[height, width] in pixels that images of an `image_folder` are scaled to cover and cropped to. One number means a
    square. null means that they stay as they are, which requires images of one size."""
    channels: Channels = 3
    """Channels of an `image_folder`'s images: 1 (grey) or 3 (RGB)."""

    @model_validator(mode="after")
    def _has_root(self) -> ImagesConfig:
        if self.root is None and self.kind != "digits":
            raise ValueError(f"kind {self.kind} needs `root`, the folder or file")
        return self


class DataConfig(StrictModel):
    """Defaults for every image set; for kind `shifted`, for its `base`. A key given in an image set itself wins.

    The resolved config.yaml spells every image set out, so that `data` has no effect there.
    """

    kind: ImagesKind | None = None
    """Default of the image sets' `kind`. null means none."""
    root: NonEmptyStr | None = None
    """Default of the image sets' `root`. null means none."""
    classes: ClassNames | None = None
    """Default of the image sets' `classes`. null means none."""
    size: Size | None = None
    """Default of the image sets' `size`. null means none."""
    channels: Channels | None = None
    """Default of the image sets' `channels`. null means none."""


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


class ShiftedImagesConfig(StrictModel):
    """Labelled images of a made target domain: made by `target.shift`, from other photographs."""

    kind: Literal["shifted"]
    """Makes the images. It needs a target of kind `shifted`."""
    base: ImagesConfig
    """The photographs, labelled."""
    num_images: PositiveInt = 5_000
    """Images to make."""


_READ = f"{TAG}{','.join(get_args(ImagesKind))}"


def _images_tag(raw: Any) -> str | None:
    """Return the tag of an image set's kind. The kinds that are read from files share one model, and one tag."""
    kind = raw.get("kind") if isinstance(raw, dict) else getattr(raw, "kind", None)
    if kind is None:
        return None
    return _READ if kind in list(get_args(ImagesKind)) else f"{TAG}{kind}"


TargetConfig = Annotated[
    Annotated[ImagesConfig, Tag(_READ)] | Annotated[ShiftedTargetConfig, Tag("kind=shifted")],
    Discriminator(_images_tag),
]

TargetImagesConfig = Annotated[
    Annotated[ImagesConfig, Tag(_READ)] | Annotated[ShiftedImagesConfig, Tag("kind=shifted")],
    Discriminator(_images_tag),
]
