"""The root of the configuration, and what its sections must agree on."""

from __future__ import annotations

import math
from typing import Annotated, Any, get_args

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rsf_dist.config import size_rules
from rsf_dist.config.base import NonEmptyStr, PositiveInt, StrictModel, refusal
from rsf_dist.config.envelope import ENVELOPE_KINDS, BudgetEnvelopeConfig, EnvelopeConfig
from rsf_dist.config.evaluation import Arm, EvaluationConfig
from rsf_dist.config.images import IMAGE_KINDS, DataConfig, ImagesConfig, ImagesKind
from rsf_dist.config.model import ModelConfig, OptimizerConfig
from rsf_dist.config.proposal import PROPOSAL_KINDS, AugmentConfig, ProposalConfig
from rsf_dist.config.ratio import RATIO_KINDS, ClassifierRatioConfig, RatioConfig
from rsf_dist.config.rounds import RoundsConfig
from rsf_dist.config.sampling import SamplingConfig
from rsf_dist.config.shifted_images import TARGET_KINDS, ShiftedImagesConfig, TargetConfig
from rsf_dist.config.size_rules import Shape
from rsf_dist.config.task import TASK_KINDS, ClassificationTaskConfig, TaskConfig
from rsf_dist.config.training import TrainingConfig
from rsf_dist.errors import InputError


@IMAGE_KINDS.holder
@TARGET_KINDS.holder
@PROPOSAL_KINDS.holder
@RATIO_KINDS.holder
@ENVELOPE_KINDS.holder
@TASK_KINDS.holder
class RunConfig(StrictModel):
    """A run: sample, fine-tune, compare and report."""

    output: NonEmptyStr
    """The run's directory: a local path, or a URI that pyarrow's file systems take. Every node must see it."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of every random draw."""
    num_seeds: PositiveInt = 1
    """Number of repetitions, with seed, seed + 1, …; the report shows them all. The cost grows in proportion."""
    code_folder: NonEmptyStr | None = None
    """A folder of modules that import paths (`package.module:name`) may name besides installed packages. Every node
    must see it. A network by import path works with it only if the run itself joins the cluster. null means that only
    installed packages count."""
    data: DataConfig = DataConfig()
    """Keys that the image sets have in common."""
    source: ImagesConfig
    """Labelled images of the source domain, which proposals are made from."""
    target: TargetConfig
    """Images of the target domain, where the model must work; their labels are ignored. Kind `shifted` makes a target
    domain from photographs."""
    proposal: ProposalConfig = AugmentConfig()
    """Proposal distribution q."""
    ratio: RatioConfig = ClassifierRatioConfig()
    """Density ratio p/q of target and proposal."""
    envelope: EnvelopeConfig = BudgetEnvelopeConfig(kind="budget", acceptance=0.01)
    """The envelope, which chooses M. If it is left out, ratios of kind label_shift and verifier take `certified`, their
    exact bound."""
    rounds: RoundsConfig = RoundsConfig()
    """Rounds that move the proposal before the rows to train on are sampled. A number stands for num_rounds."""
    sampling: SamplingConfig
    """The number of rows to accept, and the actors."""
    task: TaskConfig = ClassificationTaskConfig()
    """The task that the model learns."""
    model: ModelConfig = ModelConfig()
    """The network that is fine-tuned."""
    pretrain: OptimizerConfig | None = None
    """Trains `model` on the source images first, if there are no pretrained weights. null means no pretraining."""
    training: TrainingConfig = TrainingConfig()
    """The fine-tuning."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The test images and the arms to compare."""

    @model_validator(mode="before")
    @classmethod
    def _default_to_certified(cls, raw: Any) -> Any:
        ratio = raw.get("ratio") if isinstance(raw, dict) else None
        model = RATIO_KINDS.find(ratio.get("kind")) if isinstance(ratio, dict) else None
        if model is not None and model.bound_is_exact and "envelope" not in raw:
            return raw | {"envelope": {"kind": "certified"}}
        return raw

    @field_validator("evaluation", mode="after")
    @classmethod
    def _like_a_shifted_target(cls, evaluation: EvaluationConfig, info: ValidationInfo) -> EvaluationConfig:
        target = info.data.get("target")  # None means that the target is wrong itself
        for name in ("test", "oracle"):
            if isinstance(getattr(evaluation, name), ShiftedImagesConfig) and isinstance(target, ImagesKind):
                raise ValueError(f"{name} of kind shifted is made by target.shift, and target is of kind {target.kind}")
        return evaluation

    @property
    def own_arm(self) -> Arm:
        """Return the arm that the run itself is."""
        if self.sampling.top_k is not None:
            return "top_k"
        return "one_shot" if self.rounds.num_rounds == 1 else "adaptive"

    def image_defaults(self, shape: Shape) -> dict[str, Any]:
        """Return a value for each key that is left open and follows from the images' shape, by `section.key`."""
        sections: dict[str, dict[str, Any]] = {
            "proposal": self.proposal.image_defaults(shape, learned=self.ratio.is_learned),
            "ratio": self.ratio.image_defaults(shape),
            "sampling": {} if self.sampling.chunk_size else {"chunk_size": size_rules.chunk_rows(math.prod(shape))},
        }
        return {f"{name}.{key}": value for name, values in sections.items() for key, value in values.items()}

    @model_validator(mode="after")
    def _a_pool_ends(self) -> RunConfig:
        kind, k, num_rounds = self.proposal.kind, self.sampling.top_k, self.rounds.num_rounds
        if k is not None and not self.proposal.is_pool:
            rule, remedy = f"needs a pool, and proposals of kind {kind} have no end", "set proposal.kind=dataset"
            raise refusal(rule, f"{remedy}, or give num_accepted in place of top_k", "sampling.top_k", k)
        if self.proposal.is_pool and num_rounds > 1:
            rule = f"would move the proposal, and a pool (proposal.kind={kind}) stays as it is"
            raise refusal(rule, "set rounds=1", "rounds.num_rounds", num_rounds)
        if self.proposal.is_pool and self.sampling.mode == "stream":
            rule = f"draws without end, and a pool (proposal.kind={kind}) ends"
            raise refusal(rule, "set sampling.mode=store", "sampling.mode", "stream")
        return self

    @model_validator(mode="after")
    def _top_k_is_an_own_arm(self) -> RunConfig:
        arms, key = self.evaluation.arms, "evaluation.arms"
        if "top_k" in arms and self.own_arm != "top_k":
            raise refusal("needs sampling.top_k", "set it, or leave the arm out", key, "top_k")
        if "one_shot" in arms and self.own_arm == "top_k":
            rule = "rejection that leaves as many rows of a pool is the arm top_k itself"
            remedy = "leave it out; a run without sampling.top_k shows rejection at another M"
            raise refusal(rule, remedy, key, "one_shot")
        return self

    @model_validator(mode="after")
    def _adaptive_has_rounds(self) -> RunConfig:
        if "adaptive" in self.evaluation.arms and self.own_arm != "adaptive":
            raise ValueError("evaluation.arms names `adaptive`, which needs rounds: set e.g. rounds=5")
        return self

    @model_validator(mode="after")
    def _a_stream_has_one_m(self) -> RunConfig:
        if self.sampling.mode == "stream" and self.envelope.moves:
            raise ValueError("sampling.mode stream needs an M that stays: rows handed over cannot be taken back")
        return self

    @model_validator(mode="after")
    def _features_differ(self) -> RunConfig:
        features = self.evaluation.feature_network
        if features is not None and any(_same_but_for_precision(features, other) for other in self.ratio.networks):
            raise ValueError("evaluation.feature_network must be another network than ratio.network")
        return self


def _same_but_for_precision(one: ModelConfig, other: ModelConfig) -> bool:
    return one.model_dump(exclude={"precision"}) == other.model_dump(exclude={"precision"})


def comparable_arms(config: RunConfig) -> list[Arm]:
    """Return every arm that the configuration allows.

    Raises:
        InputError: the configuration names no test images.
    """
    if config.evaluation.test is None:
        rule = "a comparison needs labelled test images"
        raise InputError("evaluation.test", None, rule, "name them: only the report looks at them")
    left_out = {"adaptive", "top_k"} - {config.own_arm}
    left_out |= {"one_shot"} if config.own_arm == "top_k" else set()
    left_out |= set() if config.evaluation.oracle else {"oracle"}
    return [arm for arm in get_args(Arm) if arm not in left_out]
