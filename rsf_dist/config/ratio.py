"""The kinds of ratio (`rsf_dist.ratios`).

What the rest of the package asks of a kind is a property of its model here. The object itself is made by
`rsf_dist.builders.ratio.make_ratio`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    model_validator,
)

from rsf_dist.config import size_rules
from rsf_dist.config.base import (
    Fraction,
    ImportPath,
    PositiveFloat,
    PositiveInt,
    ProcessCountOrZero,
    StrictModel,
)
from rsf_dist.config.class_prior import NumProposals, PriorEstimatorConfig
from rsf_dist.config.kinds import Kinds
from rsf_dist.config.model import ModelConfig, OptimizerConfig
from rsf_dist.config.proposal import Distributions
from rsf_dist.config.resources import FOR_RAY_DATA, Reservation, Share, TaskResources
from rsf_dist.config.size_rules import Shape


class RatioKind(StrictModel):
    """The base of every kind of ratio.

    A kind of your own derives from this class, names itself in `kind`, and is registered by `@RATIO_KINDS.register`.
    It overrides the properties below that do not hold for it.
    """

    kind: str
    """The kind's name."""

    bound_is_exact: ClassVar[bool] = False
    """True if ratios of this kind always know their supremum. The envelope of kind `certified` is then the default."""

    @property
    def is_learned(self) -> bool:
        """True if the ratio is made against the proposal in use, so that another proposal needs another ratio."""
        return False

    @property
    def needs_cluster(self) -> bool:
        """True if making the ratio takes the cluster. Others are made, and tried, before the cluster is joined."""
        return self.is_learned

    @property
    def may_have_bound(self) -> bool:
        """True if the ratio can have a bound. Many ratios only show their bound once they are made."""
        return True

    @property
    def has_density_factors(self) -> bool:
        """True if a factor is the ratio of two known densities."""
        return False

    @property
    def leaves_class_prior_open(self) -> bool:
        """True if the ratio looks at images alone, so that the target's class prior is estimated apart."""
        return False

    @property
    def can_warm_start(self) -> bool:
        """True if a later round's ratio can start from the ratio of the round before."""
        return False

    @property
    def networks(self) -> tuple[ModelConfig, ...]:
        """The networks whose view of an image decides whether the image is accepted."""
        return ()

    def image_defaults(self, shape: Shape) -> dict[str, Any]:
        """Return a value for each key that is left open and follows from the images' shape; `a.b` is a key of `a`."""
        return {}

    def refit_share(self, warm_start_steps: int | None) -> float:
        """Return the seconds of a later round's ratio, as a share of the seconds of the first round's ratio."""
        return float(self.is_learned)

    def proposals_to_fit(self) -> dict[str, int]:
        """Return the proposals that the ratio is fitted and evaluated on, by the key that says how many."""
        return {}

    def reservations(self) -> Sequence[Reservation]:
        """List what making the ratio takes of the cluster, one stage after the other."""
        return ()


RATIO_KINDS = Kinds[RatioKind]("ratio", default="classifier")
"""The kinds that `ratio:`, and each factor of a product, can have."""

RatioConfig = Annotated[RatioKind, RATIO_KINDS]
"""The type of a field that holds a ratio of any registered kind."""


class RatioNetworkConfig(ModelConfig):
    """A network with more dropout than ModelConfig, because a ratio's network sees few target images."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the units that are dropped in small_cnn's head, and after each of mlp's hidden layers."""


class RatioOptimizerConfig(OptimizerConfig):
    """An optimizer with defaults for a ratio."""

    batch_size: PositiveInt = 128
    """Rows a step, over all workers together. Half of them are target images."""
    learning_rate: PositiveFloat = 2e-3
    """The highest learning rate."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """Weight decay, decoupled with adamw."""


@RATIO_KINDS.register
class ClassifierRatioConfig(TaskResources, RatioKind):
    """The density ratio from a classifier that tells target images from proposals."""

    kind: Literal["classifier"] = "classifier"
    """Chooses this ratio, the default."""
    network: RatioNetworkConfig | None = None
    """The classifier's network. null means small_cnn; for images of more pixels than 32 x 32, with a `stride` at which
    it looks at no more than 32 x 32 places."""
    freeze_backbone: bool = False
    """Train only the head: a linear ratio on frozen pretrained features."""
    ensemble: PositiveInt = 1
    """Number of networks, fitted from different seeds, whose logits are averaged. More cost more, and err less by
    chance."""
    optimizer: RatioOptimizerConfig = RatioOptimizerConfig()
    """The optimizer of each network."""
    num_proposals: NumProposals = 8000
    """Proposals drawn for the fit. The splits are taken from these and from the target images alike."""
    calibration: Literal["none", "temperature", "platt", "isotonic"] = "platt"
    """Calibration of the logit, on a split of its own.

    `temperature` fits a factor, `platt` a factor and a shift. `isotonic` fits any rising function, which needs some
    hundred rows. Its highest value, log(n + 1) of n calibration rows, counts as the ratio's bound. With many rows, and
    a ratio that falls short of this value, set max_log_ratio or use the budget envelope.
    """
    max_log_ratio: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Cut log ratios off here, which certifies the value as a bound for envelopes and products. null means no cut."""
    calibration_fraction: Fraction = 0.2
    """Share of the rows that is held out for calibration."""
    test_fraction: Fraction = 0.2
    """Share of the rows that is held out for the reported figures."""
    num_workers: ProcessCountOrZero = 0
    """Workers that fit data parallel through Ray Train. 0 fits in one Ray task."""

    @model_validator(mode="after")
    def _splits_and_shares(self) -> ClassifierRatioConfig:
        if self.calibration_fraction + self.test_fraction >= 0.9:
            raise ValueError("calibration_fraction + test_fraction must stay below 0.9")
        if self.num_workers and self.optimizer.batch_size % self.num_workers:
            raise ValueError(f"optimizer.batch_size must be a multiple of num_workers={self.num_workers}")
        return self

    @property
    def is_learned(self) -> bool:
        """True: the classifier learns from the proposals in use."""
        return True

    @property
    def may_have_bound(self) -> bool:
        """True if the log ratio is cut off or calibrated to a bounded function."""
        return self.calibration == "isotonic" or self.max_log_ratio is not None

    @property
    def leaves_class_prior_open(self) -> bool:
        """True: the classifier looks at images alone."""
        return True

    @property
    def can_warm_start(self) -> bool:
        """True: the networks can go on from fitted networks."""
        return True

    @property
    def networks(self) -> tuple[ModelConfig, ...]:
        """The classifier's network, if it is named."""
        return () if self.network is None else (self.network,)

    def image_defaults(self, shape: Shape) -> dict[str, Any]:
        """Return the network, if it is left open."""
        return {} if self.network is not None else {"network": size_rules.network(shape)}

    def for_rows(self, shape: Sequence[int]) -> ClassifierRatioConfig:
        """Return the section with its network, for rows of this shape: images, or vectors of numbers."""
        if self.network is not None:
            return self
        keys = size_rules.network((shape[0], shape[1], shape[2])) if len(shape) == 3 else {}
        return self.model_copy(update={"network": RatioNetworkConfig(**keys)})

    def refit_share(self, warm_start_steps: int | None) -> float:
        """Return the share of the optimizer's steps that a warm start takes."""
        return 1.0 if warm_start_steps is None else warm_start_steps / self.optimizer.steps

    def proposals_to_fit(self) -> dict[str, int]:
        """Return the proposals of all splits."""
        return {"num_proposals": self.num_proposals}

    def reservations(self) -> tuple[Reservation, ...]:
        """List the workers of Ray Train, where there are any, and the task."""
        task = super().reservations()
        if not self.num_workers:
            return task
        shares = (self.share,) * self.num_workers + (Share(1.0),)
        return (Reservation("num_workers", self.num_workers, shares, self.wait_seconds, FOR_RAY_DATA), *task)


@RATIO_KINDS.register
class LabelShiftRatioConfig(PriorEstimatorConfig, RatioKind):
    """The ratio p(y)/q(y) of class priors, for a target that differs from the proposals in its class prior alone."""

    kind: Literal["label_shift"]
    """Chooses this ratio."""

    bound_is_exact: ClassVar[bool] = True

    target_prior: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None
    """The target's class prior p(y), one number a class. null means that it is estimated by `method`."""
    network: ModelConfig | None = None
    """The network of the classifier that the estimate rests on. null means small_cnn, with a stride for large images as
    in ratio.network."""

    @property
    def needs_cluster(self) -> bool:
        """True if the class prior is still to be estimated."""
        return self.target_prior is None

    def image_defaults(self, shape: Shape) -> dict[str, Any]:
        """Return the network, if it is left open and the class prior is to be estimated."""
        is_open = self.network is None and self.needs_cluster
        return {"network": size_rules.network(shape)} if is_open else {}

    def proposals_to_fit(self) -> dict[str, int]:
        """Return the proposals of the classifier; none where the prior is given."""
        return {"num_proposals": self.num_proposals} if self.needs_cluster else {}

    def reservations(self) -> tuple[Reservation, ...]:
        """List the task that estimates the class prior; nothing where the prior is given."""
        return super().reservations() if self.needs_cluster else ()


@RATIO_KINDS.register
class DensityRatioConfig(RatioKind):
    """The product of p_j/q_j over augmentation parameters j, of which the target's distributions are known."""

    kind: Literal["density"]
    """Chooses this ratio."""
    parameters: Annotated[Distributions, Field(min_length=1)]
    """The target's distribution p_j of each parameter j. proposal.parameters must name the same parameters. Parameters
    that are not named here stay as the proposal draws them."""

    @property
    def has_density_factors(self) -> bool:
        """True: every factor is the ratio of two known densities."""
        return True


@RATIO_KINDS.register
class RewardRatioConfig(RatioKind):
    """The ratio exp(score/beta), which tilts the proposal to high scores."""

    kind: Literal["reward"]
    """Chooses this ratio."""
    score: ImportPath
    """Import path of a function that takes a batch (column -> tensor) and `options`, and returns one number a row."""
    options: dict[str, Any] = {}
    """Keyword arguments of the function."""
    columns: list[str] | None = None
    """The columns that the function looks at. null means any. Without `image` here, only accepted images are
    rendered."""
    beta: PositiveFloat = 1.0
    """The temperature, in units of the score."""
    max_score: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """An upper bound of the score that you can certify. null means that M is estimated."""

    @property
    def may_have_bound(self) -> bool:
        """True if the score has a certified bound."""
        return self.max_score is not None


@RATIO_KINDS.register
class VerifierRatioConfig(RatioKind):
    """The ratio 0 or 1 of a check, for a target that is the proposal given that the check passes."""

    kind: Literal["verifier"]
    """Chooses this ratio."""

    bound_is_exact: ClassVar[bool] = True

    passes: ImportPath
    """Import path of a function that takes a batch (column -> tensor) and `options`, and returns a boolean a row."""
    options: dict[str, Any] = {}
    """Keyword arguments of the function."""
    columns: list[str] | None = None
    """The columns that the function looks at. null means any. Without `image` here, only images that pass are
    rendered."""


@RATIO_KINDS.register
class CustomRatioConfig(RatioKind):
    """A ratio from a factory of your own."""

    kind: Literal["custom"]
    """Chooses this ratio."""
    factory: ImportPath
    """Import path of a class or function that takes target (uint8 [n, c, h, w]), proposal, seed and `options`.

    A class is also made, and tried on a few proposals, before the cluster is joined. What takes long, like learning,
    belongs into a function, which is only called when the ratio is needed.
    """
    options: dict[str, Any] = {}
    """Keyword arguments of the factory."""

    @property
    def is_learned(self) -> bool:
        """True: the factory is given the proposal in use."""
        return True


@RATIO_KINDS.register
@RATIO_KINDS.holder
class ProductRatioConfig(RatioKind):
    """The product of ratios."""

    kind: Literal["product"]
    """Chooses this ratio."""
    factors: Annotated[tuple[RatioConfig, ...], Field(min_length=2)]
    """The ratios, cheap ones first. A row that the first factors reject is not shown to the later ones."""

    @property
    def is_learned(self) -> bool:
        """True if a factor is learned."""
        return any(factor.is_learned for factor in self.factors)

    @property
    def needs_cluster(self) -> bool:
        """True if a factor needs the cluster."""
        return any(factor.needs_cluster for factor in self.factors)

    @property
    def may_have_bound(self) -> bool:
        """True if every factor can have a bound."""
        return all(factor.may_have_bound for factor in self.factors)

    @property
    def has_density_factors(self) -> bool:
        """True if a factor is the ratio of two known densities."""
        return any(factor.has_density_factors for factor in self.factors)

    @property
    def can_warm_start(self) -> bool:
        """True if a factor can start from the round before."""
        return any(factor.can_warm_start for factor in self.factors)

    @property
    def networks(self) -> tuple[ModelConfig, ...]:
        """The networks of all factors."""
        return tuple(network for factor in self.factors for network in factor.networks)

    def image_defaults(self, shape: Shape) -> dict[str, Any]:
        """Return the values for the open keys of all factors."""
        return {
            f"factors.{number}.{key}": value
            for number, factor in enumerate(self.factors)
            for key, value in factor.image_defaults(shape).items()
        }

    def refit_share(self, warm_start_steps: int | None) -> float:
        """Return the share of the factor that saves least."""
        return max(factor.refit_share(warm_start_steps) for factor in self.factors)

    def proposals_to_fit(self) -> dict[str, int]:
        """Return the proposals of each factor."""
        return {
            f"factors.{number}.{key}": count
            for number, factor in enumerate(self.factors)
            for key, count in factor.proposals_to_fit().items()
        }

    def reservations(self) -> tuple[Reservation, ...]:
        """List the reservations of all factors."""
        return tuple(
            reservation.within(f"factors.{number}")
            for number, factor in enumerate(self.factors)
            for reservation in factor.reservations()
        )
