"""Where images are read from, and how a shifted target domain is made from photographs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from rsf_dist.config.base import Count, NonEmptyStr, PositiveFloat, PositiveInt, StrictModel
from rsf_dist.config.kinds import TAG, kind_discriminator


def _all_different(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise ValueError(f"classes must differ, and {twice[0]} is there twice")
    return names


ImagesKind = Literal["digits", "idx", "image_folder", "npz"]


ClassNames = Annotated[tuple[str, ...], AfterValidator(_all_different)]


Channels = Literal[1, 3]


Size = tuple[PositiveInt, PositiveInt]


class ImagesConfig(StrictModel):
    """Where images are read from.

    kind: `digits` (scikit-learn's), `idx` (MNIST's files), `image_folder` (images, or a sub-folder a class) or `npz`.
    root: the folder or file; not for `digits`.
    split: which of the IDX files; not looked at for other kinds.
    start, limit: take images start to start + limit of what is found.
    classes: the classes' names, in order of their labels; by default those found.
    size: for image_folder, [height, width] that images are scaled to cover and cropped to; needed where they differ.
    channels: for image_folder, 1 (grey) or 3 (RGB).
    """

    kind: ImagesKind
    root: NonEmptyStr | None = None
    split: Literal["train", "test"] = "train"
    start: Count = 0
    limit: PositiveInt | None = None
    classes: ClassNames = ()
    size: Size | None = None
    channels: Channels = 3

    @model_validator(mode="after")
    def _has_root(self) -> ImagesConfig:
        if self.root is None and self.kind != "digits":
            raise ValueError(f"kind {self.kind} needs `root`, the folder or file")
        return self


_AnyImages = (
    Annotated[ImagesConfig, Tag("kind=digits")]
    | Annotated[ImagesConfig, Tag("kind=idx")]
    | Annotated[ImagesConfig, Tag("kind=image_folder")]
    | Annotated[ImagesConfig, Tag("kind=npz")]
)


class DataConfig(StrictModel):
    """What image sets take where they do not say it themselves; of a shifted one, its `base`. Keys as in ImagesConfig.

    None: nothing. In a resolved configuration (a run's config.yaml) every set says all itself, and `data` changes none.
    """

    kind: ImagesKind | None = None
    root: NonEmptyStr | None = None
    classes: ClassNames | None = None
    size: Size | None = None
    channels: Channels | None = None


def _number_or_list() -> Discriminator:
    """Chooses by what is given, so that complaints are about that alone."""
    return Discriminator(lambda raw: f"{TAG}list" if isinstance(raw, (list, tuple)) else f"{TAG}number")


_Finite = Annotated[float, Field(allow_inf_nan=False)]


Modes = Annotated[
    Annotated[_Finite, Tag("kind=number")] | Annotated[tuple[_Finite, ...], Field(min_length=1), Tag("kind=list")],
    _number_or_list(),
]


class ParameterShiftConfig(StrictModel):
    """The law of one parameter of the target's images.

    mean: of a normal law; a list: of several, equally likely. sd: the standard deviation of each; 0: constant.
    """

    mean: Modes
    sd: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class ShiftConfig(StrictModel):
    """How a place differs from the photographs that it is made from.

    rotation, scale, brightness, contrast, translate_x, translate_y, noise: as of proposals; None: neutral.
    blur: before the noise, the standard deviation of a Gaussian blur, in pixels; 0: none.
    gamma: then, the exponent of the intensities on the scale 0 to 1; 1: none, below 1: brighter.
    prior: how likely each class is, one number a class; None: as in the photographs.

    Blur and gamma are what no proposal knows of: with them the proposals cannot reach the place.
    """

    rotation: ParameterShiftConfig | None = None
    scale: ParameterShiftConfig | None = None
    brightness: ParameterShiftConfig | None = None
    contrast: ParameterShiftConfig | None = None
    translate_x: ParameterShiftConfig | None = None
    translate_y: ParameterShiftConfig | None = None
    noise: ParameterShiftConfig | None = None
    blur: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    gamma: PositiveFloat = 1.0
    prior: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None


class ShiftedTargetConfig(StrictModel):
    """A target made for an experiment, from photographs that neither the source nor the test should share.

    base: the photographs, labelled. num_images: images made of them; their labels are dropped like any target's.
    shift: how. The images follow from the run's `seed`, and are the same for all of num_seeds.
    """

    kind: Literal["shifted"]
    base: ImagesConfig
    num_images: PositiveInt = 2_000
    shift: ShiftConfig = ShiftConfig()


class ShiftedImagesConfig(StrictModel):
    """Labelled images made like the target's, by its `shift`: num_images of the photographs `base`."""

    kind: Literal["shifted"]
    base: ImagesConfig
    num_images: PositiveInt = 5_000


TargetConfig = Annotated[_AnyImages | Annotated[ShiftedTargetConfig, Tag("kind=shifted")], kind_discriminator()]


TargetImagesConfig = Annotated[_AnyImages | Annotated[ShiftedImagesConfig, Tag("kind=shifted")], kind_discriminator()]


def _with_data(section: Any, names: Sequence[str], defaults: dict[str, Any]) -> Any:
    """A copy of the section with the defaults in the image sets of these names; what is no section stays as it is."""
    if not isinstance(section, dict):
        return section
    return section | {name: _filled(section[name], defaults) for name in names if name in section}


def _filled(images: Any, defaults: dict[str, Any]) -> Any:
    if not isinstance(images, dict):
        return images
    if images.get("kind") != "shifted":
        return defaults | images
    base = images.get("base")
    return images | {"base": defaults | base} if isinstance(base, dict) else images
