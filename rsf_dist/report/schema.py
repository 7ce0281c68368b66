"""report.json: the models that are its schema. Reading is validation, and `report_schema` prints the schema.

JSON has no number that is not finite. Such a number is null in the file, and None in a model of it; `finite` converts
the values of other rooms when they become entries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rsf_dist.config.evaluation import Arm
from rsf_dist.sampling.report import SamplingReport

Light = Literal["green", "amber", "red", "grey"]
_CONFIG = ConfigDict(use_attribute_docstrings=True, extra="forbid")


class _Entry(BaseModel):
    model_config = _CONFIG


@dataclass(frozen=True)
class Check:
    """One line of the trust card."""

    __pydantic_config__ = _CONFIG

    name: str
    """The name of the check."""

    value: str
    """The figure in words, with its interval."""

    light: Light
    """The light. `grey` stands for a check that does not apply to the run, or only informs."""

    meaning: str
    """The meaning of the figure for this run; of a grey light, the reason."""

    rule: str
    """The thresholds by which the light is decided."""


class ParameterQuantiles(_Entry):
    """The 5, 25, 50, 75 and 95 % quantiles of one column of real numbers."""

    proposed: list[float | None]
    """The quantiles over proposals of the round."""

    accepted: list[float | None]
    """The quantiles over accepted rows of the round."""


class ClassPriorEstimate(_Entry):
    """An estimated class prior of the target, p(y), with one number a class in each list."""

    prior: list[float]
    """The estimated share of each class."""

    low: list[float]
    """The lower end of each share's nominal 95 % interval."""

    high: list[float]
    """The upper end of each share's nominal 95 % interval."""

    method: str
    """The name of the estimator."""

    effective_classes: float
    """The number of classes of equal share that have the same entropy."""


class ClassPriorEntry(_Entry):
    """The treatment of the class prior in the last of several rounds."""

    estimate: ClassPriorEstimate | None
    """The estimate of the target's class prior; null where none was made, or the estimator refused."""

    reason_kept: str | None
    """The reason why the proposal keeps its class prior as configured; null where it follows the estimate."""

    wanted: bool
    """True if the configuration asks for an estimate that this run's ratio and proposal allow."""


class RatioQualityEntry(_Entry):
    """The quality of a learned ratio, on rows that neither fitting nor calibration saw."""

    num_target: int
    """Target rows among them."""

    num_proposals: int
    """Proposals among them."""

    log_loss: float | None
    """The balanced log loss, in nats; chance is log 2 = 0.693. Null where it is not finite."""

    brier: float | None
    """The balanced mean squared error of the probability; chance is 0.25. Null where it is not finite."""

    calibration_error: float | None
    """The expected calibration error over ten bins of equal mass; null where it is not finite."""

    auc: float
    """The area under the ROC curve; 0.5 where target rows and proposals cannot be told apart."""

    calibration: str
    """The calibration that was fitted, in words."""

    mean_ratio_proposals: float | None
    """The mean of r over proposals, 1 for the true ratio; null where it is not finite."""

    mean_inverse_ratio_target: float | None
    """The mean of 1/r over target rows, at most 1 for the true ratio; null where it is not finite."""

    reliability: list[tuple[float, float]]
    """For each bin of calibration_error, the mean predicted probability and the balanced share of target rows."""


class RatioEntry(_Entry):
    """The ratio p/q of a round."""

    kind: str
    """The name of its class."""

    log_bound: float | None
    """An upper bound of its logarithm; null where none is known."""

    bounded_by_construction: bool = False
    """True if the bound is a property of the ratio itself; false if a learned ratio was cut off there."""

    target_at_most: bool = False
    """True if the log ratios of target images are upper bounds, because the images' classes are not known."""

    quality: RatioQualityEntry | None = None
    """Its quality on held-out rows; null for a ratio that is not learned."""

    estimate: ClassPriorEstimate | None = None
    """The class prior of the target that was estimated for it; null for a ratio that needs none."""


class TwoSampleEntry(_Entry):
    """Two tests of target rows against other rows."""

    num_first: int
    """Target rows that were given."""

    num_second: int
    """Other rows that were given."""

    auc: float
    """The held-out AUC of a classifier that tells the two apart; 0.5 where it cannot."""

    auc_interval: tuple[float, float]
    """The 95 % interval of this AUC over fresh rows."""

    auc_rows: tuple[int, int]
    """The rows of either side that the AUC was taken over."""

    auc_null_sd: float
    """The standard deviation of the AUC where both sides follow one distribution."""

    mmd2: float
    """The unbiased squared maximum mean discrepancy between standardised features; below 0 by chance."""

    mmd_pvalue: float
    """The p-value of a permutation test of mmd2."""

    mmd_rows: tuple[int, int]
    """The rows of either side that the discrepancy was taken over."""

    features: str
    """The features by which rows are described, in words."""


class TwoSampleTests(_Entry):
    """The distance from target rows to proposals and to accepted rows."""

    before: TwoSampleEntry
    """The tests of proposals as configured."""

    moved: TwoSampleEntry | None = None
    """The tests of the last round's proposals; null without rounds."""

    after: TwoSampleEntry
    """The tests of accepted rows."""


class RoundEntry(_Entry):
    """One round: its ratio, its accepted rows and how far they can be trusted."""

    round: int
    """The number of the round, from 0."""

    last: bool
    """True if its rows are those to train on."""

    parameters: dict[str, ParameterQuantiles] = Field(default_factory=dict)
    """The quantiles of every column of real numbers, by its name."""

    class_prior: ClassPriorEntry | None = None
    """The treatment of the class prior; null without rounds, and in all rounds but the last."""

    sampling: SamplingReport
    """The figures on the accepted rows."""

    fingerprint: str
    """The fingerprint of the accepted rows: SHA-256, in hexadecimal."""

    ratio: RatioEntry
    """The ratio by which rows were accepted."""

    two_sample: TwoSampleTests | None = None
    """The two-sample tests; null in all rounds but the last, and with too few held-out target rows."""

    trust: list[Check]
    """The trust card."""

    @property
    def estimate(self) -> ClassPriorEstimate | None:
        """The estimated class prior, whether the round or its ratio asked for it; None without an estimate."""
        return self.class_prior.estimate if self.class_prior and self.class_prior.estimate else self.ratio.estimate


class LossPoint(_Entry):
    """One point of a training curve."""

    step: int
    """The optimizer steps done."""

    train_loss: float | None
    """The mean loss since the point before."""

    learning_rate: float
    """The learning rate of this step."""


class StreamEntry(_Entry):
    """The rows that training took from a stream."""

    rows: int
    """Rows that were used, each once."""

    num_proposed: int
    """Proposals that they were accepted from."""

    num_capped: int
    """Rows among them with p/q > M."""

    digest: str
    """A digest of the rows in their batches: equal for equal rows."""

    trainer_waited_seconds: float
    """Seconds that training waited for rows."""

    sampler_waited_seconds: float
    """Seconds that rows which lay ready waited for training."""


class TrainingEntry(_Entry):
    """The fine-tuning of one arm."""

    rows: int
    """Training rows."""

    metrics: dict[str, float | None]
    """The metrics of the chosen checkpoint on held-out rows of the arm's own kind, and its `step`."""

    curve: list[LossPoint]
    """The training loss over the steps."""

    evaluations: list[dict[str, float | None]]
    """The metrics on held-out rows of the arm's own kind, over the steps; each entry has its `step`."""

    stream: StreamEntry | None = None
    """The use of a stream of fresh rows; null where the rows were stored."""


class TrainedArm(_Entry):
    """The file beside an arm's model, by which a run that goes on knows what the model was trained on."""

    fingerprint: str
    """The fingerprint of the accepted rows of the run."""

    one_shot: str | None = None
    """The fingerprint of the rows of one-shot rejection beside rounds; null for every other arm."""

    training: TrainingEntry
    """The fine-tuning."""


class Evaluation(_Entry):
    """The comparison of the arms on labelled test images. A list of an arm has one value a seed, in their order."""

    metric: str
    """The name of the metric; larger is better."""

    num_test: int
    """Test images of the target domain."""

    arms: dict[Arm, list[float]]
    """The metric on test images of the target domain, by arm."""

    gap_closed: dict[Arm, float]
    """(arm - random) / (oracle - random) of the means over seeds, by arm; empty without these two arms or a gap."""

    source: dict[Arm, list[float]]
    """The metric on held-out images of the source domain, by arm; empty without such images."""

    classes: list[str]
    """The names of the classes."""

    by_class: dict[Arm, list[float | None]]
    """The metric of each class for the first seed, by arm; null for a class without test images."""

    own_arm: Arm
    """The arm that the configuration itself describes."""

    fingerprint: str
    """The fingerprint of the accepted rows that the run's own arm was fine-tuned on, for the first seed."""


class Report(_Entry):
    """The contents of report.json. A run with several seeds has one in each seed's folder and a merged one above."""

    versions: dict[str, str]
    """The versions of Python and of the libraries, by name."""

    seeds: list[int]
    """The seeds."""

    red: list[list[str]] = Field(default_factory=list)
    """For each seed, the checks of its trust card that are red; empty while the run goes on."""

    folders: list[str] = Field(default_factory=list)
    """The folder of each seed, relative to this file's; empty while the run goes on."""

    taken_over: str | None = None
    """The earlier runs that stages were taken over from, and which stages; null means none."""

    rounds: list[RoundEntry] = Field(default_factory=list)
    """The rounds of the first seed, in their order."""

    training: dict[Arm, TrainingEntry] = Field(default_factory=dict)
    """The fine-tuning of the first seed, by arm."""

    evaluation: Evaluation | None = None
    """The comparison of the arms over all seeds; null before it, and without test images."""

    seconds: dict[str, float] = Field(default_factory=dict)
    """The seconds that each stage of the first seed took, over all attempts."""


def report_schema() -> dict[str, JsonValue]:
    """Return the JSON schema of report.json."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return dialect | Report.model_json_schema(mode="serialization")


def finite(value: Any) -> Any:
    """Return the value, of nested dicts and sequences, with None for each number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
