"""The kinds of proposal (`rsf_dist.proposals`).

The object itself is made by `rsf_dist.builders.components.build_proposal`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, model_validator

from rsf_dist.config import size_rules
from rsf_dist.config.angles import require_radians
from rsf_dist.config.base import (
    ImportPath,
    NonEmptyStr,
    PositiveFloat,
    PositiveInt,
    Prior,
    StrictModel,
    finite_float,
)
from rsf_dist.config.images import IMAGE_KINDS, ImagesConfig, ImagesKind
from rsf_dist.config.kinds import Kinds
from rsf_dist.config.size_rules import Shape

ParameterName = Literal["rotation", "scale", "brightness", "contrast", "translate_x", "translate_y", "noise"]


def _checked(distributions: dict[str, Any]) -> dict[str, Any]:
    """Return the distributions in the canonical order, once their angles are known to be in radians."""
    if (rotation := distributions.get("rotation")) is not None:
        for key in ("uniform", "normal"):
            require_radians(f"rotation.{key}", getattr(rotation, key))
    return {name: distributions[name] for name in get_args(ParameterName) if name in distributions}


class DistributionConfig(StrictModel):
    """The distribution of one augmentation parameter. Exactly one of its keys must be given."""

    uniform: tuple[float, float] | None = None
    """The ends [low, high] of a uniform distribution."""
    normal: tuple[float, PositiveFloat] | None = None
    """The mean and the standard deviation [mean, sd] of a normal distribution."""

    @model_validator(mode="after")
    def _exactly_one_distribution(self) -> DistributionConfig:
        if (self.uniform is None) == (self.normal is None):
            raise ValueError("name exactly one of uniform, normal")
        numbers = self.uniform or self.normal or ()
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("numbers must be finite")
        if self.uniform is not None and self.uniform[0] >= self.uniform[1]:
            raise ValueError("uniform needs low < high")
        return self

    def __str__(self) -> str:
        if self.uniform is not None:
            return f"{self.uniform[0]:g} to {self.uniform[1]:g}"
        mean, deviation = self.normal or (0.0, 0.0)
        return f"{mean:g} ± {deviation:g}"

    @classmethod
    def spelt_out(cls, value: Any) -> str | None:
        """Return two numbers as the ends of a uniform distribution, and one as the mean of a normal one."""
        if isinstance(value, (list, tuple)) and len(value) == 2 and None not in map(finite_float, value):
            return f"{{uniform: [{value[0]}, {value[1]}]}}"
        return None if finite_float(value) is None else f"{{normal: [{value}, sd]}}"


Distributions = Annotated[dict[ParameterName, DistributionConfig], AfterValidator(_checked)]
"""A distribution for each parameter. The order in which a file names them has no effect."""


class TransformConfig(StrictModel):
    """One step of a torchvision.transforms.v2 pipeline."""

    name: NonEmptyStr
    """Name of a class of torchvision.transforms.v2, e.g. RandomPosterize."""
    options: dict[str, Any] = {}
    """Keyword arguments of the class."""


class ProposalKind(StrictModel):
    """The base of every kind of proposal.

    A kind of your own derives from this class, names itself in `kind`, and is registered by `@PROPOSAL_KINDS.register`.
    It overrides the facts below that do not hold for it.
    """

    kind: str
    """The kind's name."""

    @property
    def summary(self) -> str:
        """What is proposed, in a line for the user."""
        return f"of kind {self.kind}"

    def image_defaults(self, shape: Shape, learned: bool) -> dict[str, Any]:
        """Return a value for each key that is left open and follows from the images.

        Args:
            shape: the images' shape.
            learned: the ratio learns how target images differ from proposals, so that broad proposals do no harm.
        """
        return {}

    is_pool: ClassVar[bool] = False
    """True if the proposals are a finite pool, of which each row is read once. Its proposal is a `Pool`
    (`rsf_dist.proposals.base`)."""

    @property
    def own_images(self) -> ImagesKind | None:
        """The images that proposals are made from. None means the source images."""
        return None


PROPOSAL_KINDS = Kinds[ProposalKind]("proposal", default="augment")
"""The kinds that `proposal:` can have."""

ProposalConfig = Annotated[ProposalKind, PROPOSAL_KINDS]
"""The type of a field that holds a proposal of any registered kind."""


@PROPOSAL_KINDS.register
class AugmentConfig(ProposalKind):
    """The labelled source images under random augmentations."""

    kind: Literal["augment"] = "augment"
    """Chooses this proposal, which is the default."""
    parameters: Distributions | None = None
    """Distribution of each augmentation parameter: rotation (radians), scale (factor), translate_x and translate_y
    (fractions of half the width and height), brightness and contrast (factors), noise (standard deviation, as a
    fraction of the full range). A parameter that is not named changes nothing. Broader distributions cover more of the
    target and lower the acceptance. null means broad distributions of all of them where images have more pixels than
    32 x 32, `transforms` is empty and the ratio is learned; otherwise, as with {}, source images stay as they are."""
    class_prior: Prior | None = None
    """Probability of each class, in the order of the classes. null means the frequencies among the source images."""
    transforms: tuple[TransformConfig, ...] = ()
    """Further steps of torchvision.transforms.v2, applied image by image after the parameters. They are slow: every
    proposal is rendered, also a rejected one."""

    @property
    def summary(self) -> str:
        """The source images, and how they are varied."""
        varied = [f"{name} {distribution}" for name, distribution in (self.parameters or {}).items()]
        varied += [step.name for step in self.transforms]
        if varied:
            return f"the source images under {', '.join(varied)}"
        return "the source images unchanged (proposal.parameters varies them)"

    def image_defaults(self, shape: Shape, learned: bool) -> dict[str, Any]:
        """Return the parameters, if they are left open: broad ones for photographs, none for small images.

        What thumbnails such as digits show may change when they are turned, and the other ratios define the target
        relative to the proposal.
        """
        if self.parameters is not None:
            return {}
        broad = learned and not self.transforms and size_rules.is_photograph(shape)
        return {"parameters": size_rules.PHOTOGRAPH_PARAMETERS if broad else {}}


@PROPOSAL_KINDS.register
class GeneratorProposalConfig(ProposalKind):
    """A generator of your own, applied to latents z ~ N(0, I) and to classes."""

    kind: Literal["generator"]
    """Chooses this proposal."""
    factory: ImportPath
    """Import path of a class or function that takes `source` (an ImageSet) and `options`, and returns a torch module
    with its weights. The module takes z (float32 [n, latent_dim]) and y (int64 [n]), and returns images [n, c, h, w]
    like the target's: uint8, or floats in [0, 1]."""
    options: dict[str, Any] = {}
    """Keyword arguments of `factory`."""
    latent_dim: PositiveInt
    """Dimensions of z."""
    class_prior: Prior | None = None
    """Probability of each class, in the order of the classes. null means the frequencies among the source images."""


@IMAGE_KINDS.holder
@PROPOSAL_KINDS.register
class DatasetProposalConfig(ProposalKind):
    """A pool of labelled images as they are, each of which is proposed once.

    The order in which they are read follows from the run's seed. Sampling ends with the pool. `sampling.top_k` keeps
    the best rows of all. Rounds and `sampling.mode: stream` do not go with a pool.
    """

    is_pool: ClassVar[bool] = True

    kind: Literal["dataset"]
    """Chooses this proposal."""
    images: ImagesConfig | None = None
    """The pool: labelled images, of the source's classes and like them in size and channels. null means the source
    images themselves."""

    @property
    def summary(self) -> str:
        """Where the images come from."""
        return f"the images of {'source' if self.images is None else 'proposal.images'}, each once and as it is"

    @property
    def own_images(self) -> ImagesKind | None:
        """The pool's images, where they are not the source's."""
        return self.images


@PROPOSAL_KINDS.register
class CustomProposalConfig(ProposalKind):
    """A proposal of your own. Its rows need the columns `image`, like the target's, and `label`."""

    kind: Literal["custom"]
    """Chooses this proposal."""
    factory: ImportPath
    """Import path of a class or function that takes `source` (an ImageSet) and `options`, and returns a `Proposal`
    (`rsf_dist.proposals.base`)."""
    options: dict[str, Any] = {}
    """Keyword arguments of `factory`."""
