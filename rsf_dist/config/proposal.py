"""Where proposals come from (`rsf_dist.proposals`)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    Field,
    Tag,
    model_validator,
)

from rsf_dist.config.base import ImportPath, NonEmptyStr, PositiveFloat, PositiveInt, StrictModel
from rsf_dist.config.kinds import kind_discriminator

ParameterName = Literal["rotation", "scale", "brightness", "contrast", "translate_x", "translate_y", "noise"]


def _in_canonical_order(laws: dict[str, Any]) -> dict[str, Any]:
    return {name: laws[name] for name in get_args(ParameterName) if name in laws}


class DistributionConfig(StrictModel):
    """The distribution of one augmentation parameter: exactly one of `uniform: [low, high]`, `normal: [mean, sd]`."""

    uniform: tuple[float, float] | None = None
    normal: tuple[float, PositiveFloat] | None = None

    @model_validator(mode="after")
    def _one_law(self) -> DistributionConfig:
        if (self.uniform is None) == (self.normal is None):
            raise ValueError("name exactly one of uniform, normal")
        numbers = self.uniform or self.normal or ()
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("numbers must be finite")
        if self.uniform is not None and self.uniform[0] >= self.uniform[1]:
            raise ValueError("uniform needs low < high")
        return self


Distributions = Annotated[dict[ParameterName, DistributionConfig], AfterValidator(_in_canonical_order)]
"""A law a parameter; the order in which a file names them decides nothing."""


class TransformConfig(StrictModel):
    """One step of a torchvision.transforms.v2 pipeline: the class's `name` and its keyword `options`."""

    name: NonEmptyStr
    options: dict[str, Any] = {}


class AugmentConfig(StrictModel):
    """Proposals: the labelled source images under random augmentations.

    parameters: a law for each continuous parameter (rotation in radians, scale, translate_x, translate_y, brightness,
        contrast, noise); those not named stay neutral. Broad laws cover more of the target and lower the acceptance.
    class_prior: probability of each class; by default as among the source images.
    transforms: further torchvision.transforms.v2 steps, applied image by image.
    """

    kind: Literal["augment"] = "augment"
    parameters: Distributions = {}
    class_prior: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None
    transforms: tuple[TransformConfig, ...] = ()


class CustomProposalConfig(StrictModel):
    """Proposals of your own: `factory` is called with source (an ImageSet) and `options`, and gives a `Proposal`.

    Its rows need the columns `image`, like the target's, and `label`.
    """

    kind: Literal["custom"]
    factory: ImportPath
    options: dict[str, Any] = {}


class GeneratorProposalConfig(StrictModel):
    """Proposals: what a generator of your own makes of latents z ~ N(0, I) and of classes.

    factory: called with source (an ImageSet) and `options`; it gives a torch module with its weights, which takes z
        (float32 [n, latent_dim]) and y (int64 [n]), and gives images [n, c, h, w] like the target's, uint8, or floats
        that are taken as on the scale 0 to 1.
    latent_dim: numbers of z.
    class_prior: probability of each class; by default as among the source images.
    """

    kind: Literal["generator"]
    factory: ImportPath
    options: dict[str, Any] = {}
    latent_dim: PositiveInt
    class_prior: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None


ProposalConfig = Annotated[
    Annotated[AugmentConfig, Tag("kind=augment")]
    | Annotated[GeneratorProposalConfig, Tag("kind=generator")]
    | Annotated[CustomProposalConfig, Tag("kind=custom")],
    kind_discriminator("augment"),
]
