"""The kinds of ratio (`rsf_dist.ratios`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    model_validator,
)

from rsf_dist.config.base import (
    _LARGEST_COUNT,
    Count,
    Fraction,
    ImportPath,
    PositiveFloat,
    PositiveInt,
    Seconds,
    StrictModel,
)
from rsf_dist.config.kinds import Kinds
from rsf_dist.config.model import ModelConfig, OptimizerConfig
from rsf_dist.config.proposal import Distributions


class RatioKind(StrictModel):
    """The base of every kind of ratio.

    A kind of your own derives from it, names itself in `kind`, and is registered by `@RATIO_KINDS.register`.
    """

    kind: str


RATIO_KINDS = Kinds[RatioKind]("ratio", default="classifier")
"""The kinds that `ratio:`, and each factor of a product, can have."""


RatioConfig = Annotated[RatioKind, RATIO_KINDS]
"""A field that holds a ratio of any registered kind."""


class RatioNetworkConfig(ModelConfig):
    """As ModelConfig, but for its default of dropout: a ratio's network sees few target images."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5


class RatioOptimizerConfig(OptimizerConfig):
    """As OptimizerConfig, with defaults for a ratio; half of each batch are target images."""

    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05


@RATIO_KINDS.register
class ClassifierRatioConfig(RatioKind):
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


@RATIO_KINDS.register
class LabelShiftRatioConfig(RatioKind):
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


class ClassPriorConfig(StrictModel):
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


@RATIO_KINDS.register
class DensityRatioConfig(RatioKind):
    """The target as laws of the augmentation parameters: r is the product of p_j/q_j over those named.

    Each needs a law in proposal.parameters too; those not named are as the proposal draws them.
    """

    kind: Literal["density"]
    parameters: Annotated[Distributions, Field(min_length=1)]


@RATIO_KINDS.register
class RewardRatioConfig(RatioKind):
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


@RATIO_KINDS.register
class VerifierRatioConfig(RatioKind):
    """The proposal given that a check passes.

    passes: import path of a function; it gets a batch (column -> tensor) and `options`, and gives a boolean a row.
    columns: the columns that it looks at; None: any. Without `image` among them, only images that pass are rendered.
    """

    kind: Literal["verifier"]
    passes: ImportPath
    options: dict[str, Any] = {}
    columns: list[str] | None = None


@RATIO_KINDS.register
class CustomRatioConfig(RatioKind):
    """A ratio of your own: `factory` is called with target (uint8 [n, c, h, w]), proposal, seed and `options`.

    A class is also made, and tried on a few proposals, before the cluster is joined; what takes its time, as learning
    does, belongs into a function, which is called only then.
    """

    kind: Literal["custom"]
    factory: ImportPath
    options: dict[str, Any] = {}


@RATIO_KINDS.register
@RATIO_KINDS.holder
class ProductRatioConfig(RatioKind):
    """The product of ratios; list cheap ones first. A row that they cannot save is not shown to the later ones."""

    kind: Literal["product"]
    factors: Annotated[tuple[RatioConfig, ...], Field(min_length=2)]


def is_learned(config: RatioConfig) -> bool:
    """Whether the ratio is made against the proposal in use, and another proposal needs another one."""
    if isinstance(config, ProductRatioConfig):
        return any(is_learned(factor) for factor in config.factors)
    return isinstance(config, ClassifierRatioConfig | CustomRatioConfig)


def refit_share(ratio: RatioConfig, warm_start_steps: int | None) -> float:
    """What a later round's ratio takes of the first one's seconds; of a product, what its slowest factor does."""
    if isinstance(ratio, ProductRatioConfig):
        return max(refit_share(factor, warm_start_steps) for factor in ratio.factors)
    if isinstance(ratio, ClassifierRatioConfig) and warm_start_steps is not None:
        return warm_start_steps / ratio.optimizer.steps
    return float(is_learned(ratio))


def has_bound(config: RatioConfig) -> bool:
    """Whether a ratio so configured may have a bound; of laws and of one's own that shows when it is made."""
    if isinstance(config, ProductRatioConfig):
        return all(has_bound(factor) for factor in config.factors)
    if isinstance(config, ClassifierRatioConfig):
        return config.calibration == "isotonic" or config.max_log_ratio is not None
    return not isinstance(config, RewardRatioConfig) or config.max_score is not None


def has_density_factors(ratio: RatioConfig) -> bool:
    """Whether a factor is the ratio of two known densities."""
    if isinstance(ratio, ProductRatioConfig):
        return any(map(has_density_factors, ratio.factors))
    return isinstance(ratio, DensityRatioConfig)
