"""A run's configuration: what the YAML may say, checked before anything starts.

Every model refuses unknown keys. `load_config` reads a file and `key=value` overrides, and turns each of pydantic's
complaints into one InputError that names the field, the value, the rule and a remedy. No torch and no Ray in here.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rsf_dist.config.base import NonEmptyStr, PositiveInt, StrictModel
from rsf_dist.config.envelope import ENVELOPE_KINDS, BudgetEnvelopeConfig, EnvelopeConfig
from rsf_dist.config.evaluation import Arm, EvaluationConfig
from rsf_dist.config.images import DataConfig, ImagesConfig, ShiftedImagesConfig, TargetConfig, _with_data
from rsf_dist.config.model import ModelConfig, OptimizerConfig
from rsf_dist.config.proposal import PROPOSAL_KINDS, AugmentConfig, ProposalConfig
from rsf_dist.config.ratio import RATIO_KINDS, ClassifierRatioConfig, RatioConfig
from rsf_dist.config.rounds import RoundsConfig
from rsf_dist.config.sampling import SamplingConfig
from rsf_dist.config.training import ClassificationTaskConfig, TaskConfig, TrainingConfig
from rsf_dist.errors import InputError


@PROPOSAL_KINDS.holder
@RATIO_KINDS.holder
@ENVELOPE_KINDS.holder
class RunConfig(StrictModel):
    """One run: sample, fine-tune, compare.

    output: the run's directory, a local path or a URI that pyarrow.fs takes; on several nodes all must see it.
    seed: every random draw follows from it. num_seeds: repeat with seed, seed + 1, … and report all.
    code_folder: a folder of modules that import paths (`package.module:name`) may name beside what is installed; all
        nodes must see it. Networks by import path work with it only where the run itself joins the cluster.
    data: what all image sets have in common; each may say otherwise.
    source: labelled images, clean. target: images of the place where the model must work; labels are not looked at.
        Kind `shifted` makes such a place from photographs.
    proposal: q. ratio: log p/q. envelope: how M is chosen; by default the exact bound of kinds label_shift and
        verifier, and the best sample at an acceptance of 1 % else. sampling: how many rows, by which actors.
    rounds: that move the proposal first; a number n stands for `num_rounds: n`. envelope and sampling are the last's.
    task: what is learned. model: what is fine-tuned. training: how. evaluation: what it is compared with.
    pretrain: train `model` on the clean source images first, for want of pretrained weights.
    """

    output: NonEmptyStr
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    num_seeds: PositiveInt = 1
    code_folder: NonEmptyStr | None = None
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
        model = RATIO_KINDS.find(ratio.get("kind")) if isinstance(ratio, dict) else None
        if model is not None and model.bound_is_exact and "envelope" not in raw:
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
        if self.sampling.mode == "stream" and self.envelope.moves:
            raise ValueError("sampling.mode stream needs an M that stays: rows handed over cannot be taken back")
        return self

    @model_validator(mode="after")
    def _judge_is_another(self) -> RunConfig:
        features = self.evaluation.feature_network
        if features is not None and any(_same_but_for_precision(features, other) for other in self.ratio.networks):
            raise ValueError("evaluation.feature_network must be another network than ratio.network")
        return self


def _same_but_for_precision(one: ModelConfig, other: ModelConfig) -> bool:
    return one.model_dump(exclude={"precision"}) == other.model_dump(exclude={"precision"})


def comparable_arms(config: RunConfig) -> list[Arm]:
    """Every arm that the configuration allows; without test images there is nothing to compare. Raises InputError."""
    if config.evaluation.test is None:
        rule = "a comparison needs labelled test images"
        raise InputError("evaluation.test", None, rule, "name them: only the report looks at them")
    left_out = {"adaptive"} - {config.own_arm}
    left_out |= set() if config.evaluation.oracle else {"oracle"}
    return [arm for arm in get_args(Arm) if arm not in left_out]
