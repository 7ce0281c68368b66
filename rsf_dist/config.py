"""A run's configuration: what the YAML may say, checked before anything starts.

Every model refuses unknown keys. `load_config` reads a file and `key=value` overrides, and turns each of pydantic's
complaints into one InputError that names the field, the value, the rule and a remedy. No torch and no Ray in here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rsf_dist import plain_yaml
from rsf_dist.complaints import TAG, first_complaint, one_line
from rsf_dist.errors import InputError

_LARGEST_COUNT = 10**12  # more is a slip of the pen, and would not fit the integers of files and tensors
Fraction = Annotated[float, Field(gt=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(gt=0, le=_LARGEST_COUNT)]
Count = Annotated[int, Field(ge=0, le=_LARGEST_COUNT)]
Words = Annotated[str, Field(min_length=1)]


def _import_path(path: str) -> str:
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), name]):
        raise ValueError("must be an import path, package.module:name")
    return path


ImportPath = Annotated[str, AfterValidator(_import_path)]
"""`package.module:name` of a class or function of the user's own, see `rsf_dist.user_code`."""


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _flags_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes `true` for 1; and YAML takes an unquoted yes, no, on or off for a flag
        annotation = cls.model_fields[str(info.field_name)].annotation
        given = value if isinstance(value, list) else [value]
        if annotation is not bool and any(isinstance(one, bool) for one in given):
            raise ValueError("must not be true or false (yes, no, on and off need quotes to be words)")
        return value


def _kind_or(default: str | None = None) -> Discriminator:
    """Chooses a member of a union by its `kind`, which may be left out where there is a default."""

    def tag(raw: Any) -> str | None:
        kind = raw.get("kind", default) if isinstance(raw, dict) else getattr(raw, "kind", None)
        return None if kind is None else f"{TAG}{kind}"

    return Discriminator(tag)


def _all_different(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise ValueError(f"classes must differ, and {twice[0]} is there twice")
    return names


ImagesKind = Literal["digits", "idx", "image_folder", "npz"]
ClassNames = Annotated[tuple[str, ...], AfterValidator(_all_different)]
Channels = Literal[1, 3]
Size = tuple[PositiveInt, PositiveInt]

ParameterName = Literal["rotation", "scale", "brightness", "contrast", "translate_x", "translate_y", "noise"]


def _in_one_order(laws: dict[str, Any]) -> dict[str, Any]:
    return {name: laws[name] for name in get_args(ParameterName) if name in laws}


Laws = Annotated[dict[ParameterName, "LawConfig"], AfterValidator(_in_one_order)]
"""A law a parameter; the order in which a file names them decides nothing."""


class ImagesConfig(_Config):
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
    root: Words | None = None
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


class DataConfig(_Config):
    """What image sets take where they do not say it themselves; of a shifted one, its `base`. Keys as in ImagesConfig.

    None: nothing. In a resolved configuration (a run's config.yaml) every set says all itself, and `data` changes none.
    """

    kind: ImagesKind | None = None
    root: Words | None = None
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


class ParameterShiftConfig(_Config):
    """The law of one parameter of the target's images.

    mean: of a normal law; a list: of several, equally likely. sd: the standard deviation of each; 0: constant.
    """

    mean: Modes
    sd: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class ShiftConfig(_Config):
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


class ShiftedTargetConfig(_Config):
    """A target made for an experiment, from photographs that neither the source nor the test should share.

    base: the photographs, labelled. num_unlabelled: images made of them; their labels are dropped like any target's.
    shift: how. The images follow from the run's `seed`, and are the same for all of num_seeds.
    """

    kind: Literal["shifted"]
    base: ImagesConfig
    num_unlabelled: PositiveInt = 2_000
    shift: ShiftConfig = ShiftConfig()


class ShiftedImagesConfig(_Config):
    """Labelled images made like the target's, by its `shift`: num_images of the photographs `base`."""

    kind: Literal["shifted"]
    base: ImagesConfig
    num_images: PositiveInt = 5_000


TargetConfig = Annotated[_AnyImages | Annotated[ShiftedTargetConfig, Tag("kind=shifted")], _kind_or()]
TargetImagesConfig = Annotated[_AnyImages | Annotated[ShiftedImagesConfig, Tag("kind=shifted")], _kind_or()]


class LawConfig(_Config):
    """The distribution of one augmentation parameter: exactly one of `uniform: [low, high]`, `normal: [mean, sd]`."""

    uniform: tuple[float, float] | None = None
    normal: tuple[float, PositiveFloat] | None = None

    @model_validator(mode="after")
    def _one_law(self) -> LawConfig:
        if (self.uniform is None) == (self.normal is None):
            raise ValueError("name exactly one of uniform, normal")
        numbers = self.uniform or self.normal or ()
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("numbers must be finite")
        if self.uniform is not None and self.uniform[0] >= self.uniform[1]:
            raise ValueError("uniform needs low < high")
        return self


class TransformConfig(_Config):
    """One step of a torchvision.transforms.v2 pipeline: the class's `name` and its keyword `options`."""

    name: Words
    options: dict[str, Any] = {}


class AugmentConfig(_Config):
    """Proposals: the labelled source images under random augmentations.

    parameters: a law for each continuous parameter (rotation in radians, scale, translate_x, translate_y, brightness,
        contrast, noise); those not named stay neutral. Broad laws cover more of the target and lower the acceptance.
    class_prior: probability of each class; by default as among the source images.
    transforms: further torchvision.transforms.v2 steps, applied image by image.
    """

    kind: Literal["augment"] = "augment"
    parameters: Laws = {}
    class_prior: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None
    transforms: tuple[TransformConfig, ...] = ()


class CustomProposalConfig(_Config):
    """Proposals of your own: `factory` is called with source (an ImageSet) and `options`, and gives a `Proposal`.

    Its rows need the columns `image`, like the target's, and `label`.
    """

    kind: Literal["custom"]
    factory: ImportPath
    options: dict[str, Any] = {}


class GeneratorProposalConfig(_Config):
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
    _kind_or("augment"),
]


class ModelConfig(_Config):
    """A network.

    name: `small_cnn` (three convolutions, for tiny images), the name of a torchvision classification model, `mlp` (for
        float rows in place of images), or the import path `package.module:function` of one of your own: the function
        gets num_outputs, channels and `options`, and returns a torch module for float images [n, channels, h, w] on the
        scale 0 to 1; see `NetworkSpec`.
    options: keyword arguments for a function of your own.
    width: channels of small_cnn's first layer, units of mlp's hidden layers, best a multiple of 16; cost grows with
        its square.
    depth: hidden layers of mlp.
    dropout: of small_cnn's head, after each of mlp's hidden layers.
    weights: a local .safetensors or .pt file, or the name of torchvision weights (downloaded by torchvision); a head of
        another shape is replaced. None: random weights, or those that a function of your own loads.
    input_size: [height, width] that images are resized to in the network; None: as they are.
    precision: of the layers' arithmetic, in training, scoring and use alike: `float32`; or `bfloat16`, by torch's
        autocast, faster where a GPU has it. Weights stay float32 and so does the last linear layer's arithmetic, for a
        logit of 8 bits makes a coarse log ratio.
    """

    name: Words = "small_cnn"
    options: dict[str, Any] = {}
    width: PositiveInt = 16
    depth: PositiveInt = 3
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    weights: Words | None = None
    input_size: tuple[PositiveInt, PositiveInt] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _options_have_a_taker(self) -> ModelConfig:
        if self.options and ":" not in self.name:
            raise ValueError(f"options are for a function of your own; {self.name} takes none")
        return self


class OptimizerConfig(_Config):
    """How to descend, counted in optimizer steps.

    algorithm: `adamw`, or `sgd` without momentum.
    schedule: `cosine`, linear warm-up and decay to zero; or `constant`.
    steps: optimizer steps. batch_size: rows a step, over all workers together.
    learning_rate: at its highest. weight_decay: decoupled with adamw.
    warmup_fraction: of the steps, in which the learning rate rises to its highest.
    """

    algorithm: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "constant"] = "cosine"
    steps: PositiveInt = 400
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1


class RatioNetworkConfig(ModelConfig):
    """As ModelConfig, but for its default of dropout: a ratio's network sees few target images."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5


class RatioOptimizerConfig(OptimizerConfig):
    """As OptimizerConfig, with defaults for a ratio; half of each batch are target images."""

    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05


class ClassifierRatioConfig(_Config):
    """The density ratio from a classifier that tells target images from proposals.

    network, optimizer: its network, and how that is fitted.
    freeze_backbone: train only the head (a linear ratio on frozen pretrained features).
    ensemble: networks fitted from different seeds, whose logits are averaged; cost grows with it, chance errors fall.
    num_proposals: proposals drawn for it; the splits are taken from these and from the target images alike.
    calibration: of the logit on its own split: `none`, `temperature` (a factor), `platt` (a factor and a shift) or
        `isotonic` (any rising function, clipped where the split has no more rows to tell; needs some hundred). Its end,
        log(n + 1) of n calibration rows, then counts as the ratio's bound: with many rows and a ratio that falls
        short of it, set max_log_ratio, or use the budget envelope.
    max_log_ratio: cut log ratios off there, which certifies it as the bound that envelopes and products can use.
    calibration_fraction, test_fraction: held out from fitting, for calibration and for the reported figures.
    num_workers: 0 fits in one Ray task; more, data parallel through Ray Train.
    cpus, gpus: resources of that task, or of each worker.
    wait_seconds: for a cluster that scales by itself to bring up what this stage needs; 0 refuses at once.
    """

    kind: Literal["classifier"] = "classifier"
    network: RatioNetworkConfig = RatioNetworkConfig()
    freeze_backbone: bool = False
    ensemble: PositiveInt = 1
    optimizer: RatioOptimizerConfig = RatioOptimizerConfig()
    num_proposals: Annotated[int, Field(ge=50, le=_LARGEST_COUNT)] = 8000
    calibration: Literal["none", "temperature", "platt", "isotonic"] = "platt"
    max_log_ratio: Annotated[float, Field(allow_inf_nan=False)] | None = None
    calibration_fraction: Fraction = 0.2
    test_fraction: Fraction = 0.2
    num_workers: Count = 0
    cpus: PositiveFloat = 1
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    wait_seconds: Seconds = 0.0

    @model_validator(mode="after")
    def _splits_and_shares(self) -> ClassifierRatioConfig:
        if self.calibration_fraction + self.test_fraction >= 0.9:
            raise ValueError("calibration_fraction + test_fraction must stay below 0.9")
        if self.num_workers and self.optimizer.batch_size % self.num_workers:
            raise ValueError(f"optimizer.batch_size must be a multiple of num_workers={self.num_workers}")
        return self


class LabelShiftRatioConfig(_Config):
    """Only the mix of classes differs: r = p(y)/q(y), q(y) the proposal's `class_prior`.

    target_prior: p(y), one number a class; None: estimated from the unlabelled target images, by `method`.
    method: `em`, maximum likelihood after bias-corrected temperature scaling, or `bbse`, black box shift estimation.
    network, optimizer: the classifier that tells classes apart, fitted on labelled proposals.
    num_proposals: drawn for it; calibration_fraction: of them, held out for its calibration and confusions.
    cpus, gpus, wait_seconds: as for the classifier ratio.
    """

    kind: Literal["label_shift"]
    target_prior: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None
    method: Literal["em", "bbse"] = "em"
    network: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    num_proposals: Annotated[int, Field(ge=50, le=_LARGEST_COUNT)] = 8000
    calibration_fraction: Fraction = 0.3
    cpus: PositiveFloat = 1
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    wait_seconds: Seconds = 0.0


class ClassPriorConfig(_Config):
    """Estimating the target's mix of classes from its unlabelled images, with a classifier fitted to proposals.

    method: `em`, maximum likelihood after bias-corrected temperature scaling, or `bbse`, black box shift estimation.
    network, optimizer: the classifier that tells classes apart, fitted on labelled proposals. network None: the run's
        `model`, which goes on from where fine-tuning starts.
    num_proposals: drawn for it; calibration_fraction: of them, held out for its calibration and confusions.
    smoothing: the share of the proposal's own mix of classes that is mixed into the estimate, which has rare classes at
        0 too easily.
    min_effective_classes: an estimate with fewer, exp of its entropy, counts as collapsed, and the mix stays.
    cpus, gpus, wait_seconds: as for the classifier ratio.
    """

    method: Literal["em", "bbse"] = "em"
    network: ModelConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig(steps=600, batch_size=128)
    num_proposals: Annotated[int, Field(ge=50, le=_LARGEST_COUNT)] = 8000
    calibration_fraction: Fraction = 0.3
    smoothing: Fraction = 0.05
    min_effective_classes: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.2
    cpus: PositiveFloat = 1
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    wait_seconds: Seconds = 0.0


class DensityRatioConfig(_Config):
    """The target as laws of the augmentation parameters: r is the product of p_j/q_j over those named.

    Each needs a law in proposal.parameters too; those not named are as the proposal draws them.
    """

    kind: Literal["density"]
    parameters: Annotated[Laws, Field(min_length=1)]


class RewardRatioConfig(_Config):
    """The proposal tilted by exp(score/beta).

    score: import path of a function; it gets a batch (column -> tensor) and `options`, and gives one number a row.
    columns: the columns that it looks at; None: any. Without `image` among them, only accepted images are rendered.
    beta: positive, in units of the score. max_score: an upper bound that you can certify; None: M is estimated.
    """

    kind: Literal["reward"]
    score: ImportPath
    options: dict[str, Any] = {}
    columns: list[str] | None = None
    beta: PositiveFloat = 1.0
    max_score: Annotated[float, Field(allow_inf_nan=False)] | None = None


class VerifierRatioConfig(_Config):
    """The proposal given that a check passes.

    passes: import path of a function; it gets a batch (column -> tensor) and `options`, and gives a boolean a row.
    columns: the columns that it looks at; None: any. Without `image` among them, only images that pass are rendered.
    """

    kind: Literal["verifier"]
    passes: ImportPath
    options: dict[str, Any] = {}
    columns: list[str] | None = None


class CustomRatioConfig(_Config):
    """A ratio of your own: `factory` is called with target (uint8 [n, c, h, w]), proposal, seed and `options`.

    A class is also made, and tried on a few proposals, before the cluster is joined; what takes its time, as learning
    does, belongs into a function, which is called only then.
    """

    kind: Literal["custom"]
    factory: ImportPath
    options: dict[str, Any] = {}


class ProductRatioConfig(_Config):
    """The product of ratios; list cheap ones first. A row that they cannot save is not shown to the later ones."""

    kind: Literal["product"]
    factors: Annotated[tuple[RatioConfig, ...], Field(min_length=2)]


RatioConfig = Annotated[
    Annotated[ClassifierRatioConfig, Tag("kind=classifier")]
    | Annotated[LabelShiftRatioConfig, Tag("kind=label_shift")]
    | Annotated[DensityRatioConfig, Tag("kind=density")]
    | Annotated[RewardRatioConfig, Tag("kind=reward")]
    | Annotated[VerifierRatioConfig, Tag("kind=verifier")]
    | Annotated[CustomRatioConfig, Tag("kind=custom")]
    | Annotated[ProductRatioConfig, Tag("kind=product")],
    _kind_or("classifier"),
]
ProductRatioConfig.model_rebuild()


class FixedEnvelopeConfig(_Config):
    """M as given: rows whose log ratio exceeds log_m are capped, counted and reported."""

    kind: Literal["fixed"]
    log_m: Annotated[float, Field(allow_inf_nan=False)]


class CertifiedEnvelopeConfig(_Config):
    """M is the ratio's own bound; a ratio without one is refused. num_pilot proposals only forecast the acceptance."""

    kind: Literal["certified"]
    num_pilot: PositiveInt = 2_000


class PilotEnvelopeConfig(_Config):
    """The ratio's own bound where it has one; else log M = the largest log ratio of num_pilot proposals + margin."""

    kind: Literal["pilot"]
    num_pilot: PositiveInt = 10_000
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class AdaptiveEnvelopeConfig(_Config):
    """log M = the largest log ratio of everything drawn + margin; earlier rows are thinned by their keys."""

    kind: Literal["adaptive"]
    num_pilot: PositiveInt = 10_000
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class CustomEnvelopeConfig(_Config):
    """An envelope of your own: `factory` is called with `options`, and gives an `Envelope`."""

    kind: Literal["custom"]
    factory: ImportPath
    options: dict[str, Any] = {}


class BudgetEnvelopeConfig(_Config):
    """log M such that a fraction `acceptance` of the proposals is kept, judged on num_pilot of them."""

    kind: Literal["budget"]
    acceptance: Fraction
    num_pilot: PositiveInt = 20_000

    @model_validator(mode="after")
    def _enough_pilot_rows(self) -> BudgetEnvelopeConfig:
        if self.acceptance * self.num_pilot < 20:
            raise ValueError(f"num_pilot must be at least {math.ceil(20 / self.acceptance)}: 20 accepted pilot rows")
        return self


EnvelopeConfig = Annotated[
    Annotated[FixedEnvelopeConfig, Tag("kind=fixed")]
    | Annotated[CertifiedEnvelopeConfig, Tag("kind=certified")]
    | Annotated[PilotEnvelopeConfig, Tag("kind=pilot")]
    | Annotated[AdaptiveEnvelopeConfig, Tag("kind=adaptive")]
    | Annotated[BudgetEnvelopeConfig, Tag("kind=budget")]
    | Annotated[CustomEnvelopeConfig, Tag("kind=custom")],
    _kind_or(),
]


class PoolConfig(_Config):
    """The pool of Ray actors that draw and score proposals.

    min_actors, max_actors: the pool's size; it grows while there is work. None: as many as the nodes that are up have
        CPUs for; name it on a cluster that scales by itself.
    cpus_per_actor, gpus_per_actor: reserved for each; fractions are allowed.
    max_tasks_in_flight: tasks sent to an actor at once, running or waiting there; more hide the way to it, fewer leave
        less behind when sampling ends. None: Ray Data's own.
    chunk_seconds: how long one chunk may take; what hangs in a proposal or ratio of your own is refused after that.
    wait_seconds: for a cluster that scales by itself to bring up what this stage needs; 0 refuses at once.
    """

    min_actors: PositiveInt = 1
    max_actors: PositiveInt | None = None
    cpus_per_actor: PositiveFloat = 1
    gpus_per_actor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    max_tasks_in_flight: PositiveInt | None = None
    chunk_seconds: PositiveFloat = 600.0
    wait_seconds: Seconds = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> PoolConfig:
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ValueError(f"max_actors={self.max_actors} must not be below min_actors={self.min_actors}")
        return self


class Budget(_Config):
    """When to stop without the rows that were asked for.

    max_proposals: None: 1,000 a wanted row, at least 100,000.
    max_seconds: of sampling, over all attempts at it; looked at whenever a chunk arrives. None: no limit. A stream
        knows max_proposals alone, and ends in an error.
    on_shortfall: `error` refuses (exit code 3), `partial` goes on with the rows there are; none at all is refused.
    """

    max_proposals: PositiveInt | None = None
    max_seconds: PositiveFloat | None = None
    on_shortfall: Literal["error", "partial"] = "error"

    def proposals_for(self, num_accepted: int) -> int:
        """The limit in force when num_accepted rows are wanted."""
        return self.max_proposals or max(100_000, 1_000 * num_accepted)


class SamplingConfig(_Config):
    """How many rows, and how.

    num_accepted: rows to keep.
    mode: `store` trains on these rows, epoch after epoch. `stream` samples while it trains: these rows are stored for
        validation and for the report, and training takes training.steps * training.batch_size further ones, each fresh
        and used once. It needs an envelope whose M stays, and room for workers and actors at once.
    chunk_size: proposals drawn and scored at once, the unit of work and of randomness.
    pool: the actors. budget: when to stop short.
    """

    num_accepted: PositiveInt
    mode: Literal["store", "stream"] = "store"
    chunk_size: PositiveInt = 4096
    pool: PoolConfig = PoolConfig()
    budget: Budget = Budget()


class TrainingConfig(OptimizerConfig):
    """Fine-tuning, data parallel.

    num_workers: DDP workers; batch_size is shared among them.
    cpus_per_worker: fractions are allowed; Ray Data needs what the workers leave, at least one CPU.
    use_gpu: one GPU a worker, with NCCL; otherwise gloo.
    use_row_weights: multiply each row's loss by its `weight`, max(1, p/(Mq)), which takes the bias of capping out.
    validation_fraction: of the rows, held out to score checkpoints.
    evaluate_every: steps between evaluations (and checkpoints).
    keep: `last` (the schedule has decayed; the default) or `best` by the validation metric becomes the model.
    max_failures: times that workers which died are started again from their last checkpoint.
    wait_seconds: for a cluster that scales by itself to bring up what this stage needs; 0 refuses at once.
    """

    num_workers: PositiveInt = 1
    cpus_per_worker: PositiveFloat = 1
    use_gpu: bool = False
    use_row_weights: bool = False
    validation_fraction: Fraction = 0.1
    evaluate_every: PositiveInt = 200
    keep: Literal["last", "best"] = "last"
    max_failures: Count = 2
    wait_seconds: Seconds = 0.0

    @model_validator(mode="after")
    def _even_shares(self) -> TrainingConfig:
        if self.batch_size % self.num_workers:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of num_workers={self.num_workers}")
        return self


class RoundsConfig(_Config):
    """Rounds that move the proposal to where its rows are accepted, before the rows to train on are sampled.

    num_rounds: at most so many. The last samples sampling.num_accepted rows; 1 is one-shot rejection.
    num_accepted: rows that each round before the last accepts, for the proposal to be refitted to.
    acceptance: the share of proposals that these rounds accept, judged on num_pilot of them (envelope kind budget).
    min_gain: the last round comes early once a refit lowers the ratio's held-out AUC, by which it tells proposals from
        the target, by less than this, and it is below 0.95. Only a learned ratio has one. null: all rounds.
    warm_steps: optimizer steps by which a classifier ratio goes on, from the second round on, from that of the round
        before; null: it is learned from scratch, in its own number of steps.
    max_components: Gaussians that the refitted law may have; BIC chooses.
    broad_share: of the proposals, drawn from the proposal as configured, so that nothing is lost for ever.
    class_prior: how the proposal's mix of classes is moved, once, before the last round of a classifier ratio, where
        the proposal has a class_prior; null: it stays as configured.
    """

    num_rounds: Annotated[int, Field(ge=1, le=1_000)] = 1
    num_accepted: PositiveInt = 1_000
    acceptance: Fraction = 0.02
    num_pilot: PositiveInt = 4_000
    min_gain: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    warm_steps: PositiveInt | None = 200
    max_components: Annotated[int, Field(ge=1, le=1_000)] = 3
    broad_share: Fraction = 0.1
    class_prior: ClassPriorConfig | None = ClassPriorConfig()

    @model_validator(mode="after")
    def _enough_pilot_rows(self) -> RoundsConfig:
        if self.acceptance * self.num_pilot < 20:
            raise ValueError(f"num_pilot must be at least {math.ceil(20 / self.acceptance)}: 20 accepted pilot rows")
        return self


class ClassificationTaskConfig(_Config):
    """Image classification: cross entropy, top-1 accuracy."""

    kind: Literal["classification"] = "classification"


class CustomTaskConfig(_Config):
    """A task of your own: `factory` is called with classes, model (a ModelConfig), channels and `options`.

    It gives a `Task`, see `rsf_dist.tasks.base`; its model takes images to one logit a class.
    """

    kind: Literal["custom"]
    factory: ImportPath
    options: dict[str, Any] = {}


TaskConfig = Annotated[
    Annotated[ClassificationTaskConfig, Tag("kind=classification")] | Annotated[CustomTaskConfig, Tag("kind=custom")],
    _kind_or("classification"),
]


Arm = Literal["pretrained", "batch_norm", "pseudo_labels", "random", "weighted", "one_shot", "adaptive", "oracle"]


class EvaluationConfig(_Config):
    """What the fine-tuned model is compared with, and on what.

    test: labelled images of the target place, used for nothing but the report; kind `shifted`: made as the target is.
    source_test: labelled images of the source, held out: what fine-tuning costs there.
    oracle: labelled images of the target place, other ones; kind `shifted` as with test.
    arms: what the run itself is compared with, at equal rows and optimizer steps. `pretrained`: the model before
        fine-tuning. `batch_norm`: that model, its batch norm statistics taken anew from the target images.
        `pseudo_labels`: fine-tuned on target images with the labels that it gives them with pseudo_label_confidence.
        `random`: on proposals accepted at random. `weighted`: on those, each row's loss weighted by the ratio of the
        first round. `one_shot`: on rows of one-shot rejection. `oracle`: on the labelled images of `oracle`. The run's
        own arm, `adaptive` with rounds and `one_shot` without, needs no mention.
    pseudo_label_confidence: the least probability of a pseudo-label, but a tenth of the images have one whatever it is.
    judge: a network whose features (the input of its last layer) tell accepted rows from target images in the report's
        two-sample tests; None: simple image statistics. Give it weights, and not those of the ratio.
    """

    test: TargetImagesConfig | None = None
    source_test: ImagesConfig | None = None
    oracle: TargetImagesConfig | None = None
    arms: tuple[Arm, ...] = ("pretrained", "random")
    pseudo_label_confidence: Fraction = 0.9
    judge: ModelConfig | None = None

    @model_validator(mode="after")
    def _arms_have_data(self) -> EvaluationConfig:
        if ("oracle" in self.arms) != (self.oracle is not None):
            raise ValueError("arm `oracle` and the images of `oracle` go together")
        return self


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


class RunConfig(_Config):
    """One run: sample, fine-tune, compare.

    output: the run's directory, a local path or a URI that pyarrow.fs takes; on several nodes all must see it.
    seed: every random draw follows from it. num_seeds: repeat with seed, seed + 1, … and report all.
    code: a folder of modules that import paths (`package.module:name`) may name beside what is installed; all nodes
        must see it. Networks by import path work with it only where the run itself joins the cluster.
    data: what all image sets have in common; each may say otherwise.
    source: labelled images, clean. target: images of the place where the model must work; labels are not looked at.
        Kind `shifted` makes such a place from photographs.
    proposal: q. ratio: log p/q. envelope: how M is chosen; by default the exact bound of kinds label_shift and
        verifier, and the best sample at an acceptance of 1 % else. sampling: how many rows, by which actors.
    rounds: that move the proposal first; a number n stands for `num_rounds: n`. envelope and sampling are the last's.
    task: what is learned. model: what is fine-tuned. training: how. evaluation: what it is compared with.
    pretrain: train `model` on the clean source images first, for want of pretrained weights.
    """

    output: Words
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    num_seeds: PositiveInt = 1
    code: Words | None = None
    data: DataConfig = DataConfig()
    source: ImagesConfig
    target: TargetConfig
    proposal: ProposalConfig = AugmentConfig()
    ratio: RatioConfig = ClassifierRatioConfig()
    envelope: EnvelopeConfig = BudgetEnvelopeConfig(kind="budget", acceptance=0.01)
    rounds: RoundsConfig = RoundsConfig()
    sampling: SamplingConfig
    task: TaskConfig = ClassificationTaskConfig()
    model: ModelConfig = ModelConfig()
    pretrain: OptimizerConfig | None = None
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="before")
    @classmethod
    def _sets_take_the_data(cls, raw: Any) -> Any:
        data = raw.get("data") if isinstance(raw, dict) else None
        if not isinstance(data, dict):
            return raw
        defaults = {key: data[key] for key in DataConfig.model_fields if data.get(key) is not None}
        filled = _with_data(raw, ("source", "target"), defaults)
        if "evaluation" in raw:
            filled["evaluation"] = _with_data(raw["evaluation"], ("test", "source_test", "oracle"), defaults)
        return filled

    @model_validator(mode="before")
    @classmethod
    def _exact_where_it_can_be(cls, raw: Any) -> Any:
        ratio = raw.get("ratio") if isinstance(raw, dict) else None
        if isinstance(ratio, dict) and ratio.get("kind") in ("label_shift", "verifier") and "envelope" not in raw:
            return raw | {"envelope": {"kind": "certified"}}
        return raw

    @field_validator("evaluation", mode="after")
    @classmethod
    def _like_a_shifted_target(cls, evaluation: EvaluationConfig, info: ValidationInfo) -> EvaluationConfig:
        target = info.data.get("target")  # None: it is wrong itself
        for name in ("test", "oracle"):
            if isinstance(getattr(evaluation, name), ShiftedImagesConfig) and isinstance(target, ImagesConfig):
                raise ValueError(f"{name} of kind shifted is made by target.shift, and target is of kind {target.kind}")
        return evaluation

    @field_validator("rounds", mode="before")
    @classmethod
    def _as_number(cls, raw: Any) -> Any:
        return {"num_rounds": raw} if isinstance(raw, int) else raw

    @property
    def own_arm(self) -> Arm:
        """The arm that the run itself is."""
        return "one_shot" if self.rounds.num_rounds == 1 else "adaptive"

    @model_validator(mode="after")
    def _adaptive_has_rounds(self) -> RunConfig:
        if "adaptive" in self.evaluation.arms and self.own_arm != "adaptive":
            raise ValueError("evaluation.arms names `adaptive`, which needs rounds: set e.g. rounds=5")
        return self

    @model_validator(mode="after")
    def _a_stream_has_one_m(self) -> RunConfig:
        if self.sampling.mode == "stream" and self.envelope.kind == "adaptive":
            raise ValueError("sampling.mode stream needs an M that stays: rows handed over cannot be taken back")
        return self

    @model_validator(mode="after")
    def _judge_is_another(self) -> RunConfig:
        judge = self.evaluation.judge and self.evaluation.judge.model_dump(exclude={"precision"})
        ratio = self.ratio
        if isinstance(ratio, ClassifierRatioConfig) and judge == ratio.network.model_dump(exclude={"precision"}):
            raise ValueError("evaluation.judge must be another network than ratio.network")
        return self


def comparable_arms(config: RunConfig) -> list[Arm]:
    """Every arm that the configuration allows; without test images there is nothing to compare. Raises InputError."""
    if config.evaluation.test is None:
        rule = "a comparison needs labelled test images"
        raise InputError("evaluation.test", None, rule, "name them: only the report looks at them")
    left_out = {"adaptive"} - {config.own_arm}
    left_out |= set() if config.evaluation.oracle else {"oracle"}
    return [arm for arm in get_args(Arm) if arm not in left_out]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The YAML at `path`, with `key.sub=value` overrides (values are read as YAML), checked.

    Relative paths in the file are relative to where the command runs. Raises InputError.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(plain_yaml.MAX_CHARACTERS + 1)  # a device has no end
    except FileNotFoundError as err:
        raise InputError("config", path, "no such file", "correct the path") from err
    except (OSError, ValueError) as err:  # ValueError: bytes that are no text, a path that can be none
        raise InputError("config", path, f"cannot be read ({err})", "name a YAML file") from err
    return parse_text(text, overrides, str(path))


def parse_text(text: str, overrides: Sequence[str] = (), path: str = "config.yaml") -> RunConfig:
    """As `load_config`, of a file's text; `path` names it in errors."""
    try:
        raw = plain_yaml.read(text)
    except ValueError as err:
        raise InputError("config", path, f"is not YAML ({one_line(err)})", "correct the syntax there") from err
    if not isinstance(raw, dict):
        raise InputError("config", path, "must hold keys and values", "see the examples")
    for override in overrides:
        _apply(raw, override)
    return parse_config(raw)


def parse_config(raw: dict[str, Any]) -> RunConfig:
    """Check a configuration given as nested dicts. Raises InputError for the first thing that is wrong."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as err:
        raise first_complaint(err, RunConfig) from None


def dump_config(config: RunConfig) -> str:
    """The resolved configuration, every default spelt out, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


RESOURCES = (
    "output",
    "sampling.pool",
    "sampling.budget",
    "training.num_workers",
    "training.cpus_per_worker",
    "training.use_gpu",
    "training.max_failures",
    "wait_seconds",
)
"""Keys, with all beneath them, that may change when a run goes on; `wait_seconds` wherever it stands."""


def differences(before: RunConfig, now: RunConfig) -> list[str]:
    """What else than RESOURCES differs between two configurations, as `key=value (was value)`.

    What `data` says is looked at where it was taken: in the image sets.
    """
    old, new = (dict(_leaves(config.model_dump(mode="json", exclude={"data"}))) for config in (before, now))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key) and not _is_resource(key)]
    return [f"{key}={new.get(key, '(absent)')} (was {old.get(key, '(absent)')})" for key in keys]


def _is_resource(key: str) -> bool:
    return any(f".{key}.".startswith(f".{name}.") or key.endswith(".wait_seconds") for name in RESOURCES)


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield path, node
        return
    for key, value in node.items():
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError("override", override, "must be key=value", "write e.g. training.steps=100")
    *parents, leaf = key.split(".")
    node = raw
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise InputError("override", override, f"{parent} is a value, not a section", "correct the key")
    try:
        value = plain_yaml.read(text)
        short = key == "rounds" and type(value) is int and isinstance(node.get(leaf), dict)
        node[leaf] = {**node[leaf], "num_rounds": value} if short else value
    except ValueError as err:
        raise InputError("override", override, f"its value is not YAML ({one_line(err)})", "quote it") from err
