"""The evaluation: test images, and the arms that the fine-tuned model is compared with."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from rsf_dist.config.base import Fraction, StrictModel, refusal
from rsf_dist.config.images import IMAGE_KINDS, ImagesConfig
from rsf_dist.config.model import ModelConfig
from rsf_dist.config.shifted_images import TEST_KINDS, TargetImagesConfig

Arm = Literal[
    "pretrained", "batch_norm", "pseudo_labels", "random", "weighted", "one_shot", "top_k", "adaptive", "oracle"
]


@IMAGE_KINDS.holder
@TEST_KINDS.holder
class EvaluationConfig(StrictModel):
    """The images that models are evaluated on, and the arms that are compared.

    Arms are fine-tuned on equally many rows, with equally many optimizer steps. Only the report uses test images.
    """

    test: TargetImagesConfig | None = None
    """Labelled images of the target domain. Kind `shifted` makes them as the target is made. null means that no model
    is evaluated."""
    source_test: ImagesConfig | None = None
    """Labelled images of the source domain that are held out. They show what fine-tuning costs there. null means that
    this is not measured."""
    oracle: TargetImagesConfig | None = None
    """Labelled images of the target domain for arm `oracle`, other ones than in `test`. If there are fewer images than
    accepted rows, they are drawn with replacement. Kind `shifted` makes them as the target is made. Needed if `arms`
    names `oracle`, and refused otherwise."""
    arms: tuple[Arm, ...] = ("pretrained", "random")
    """Models that the run's own is compared with. `pretrained`: the model before fine-tuning. `batch_norm`: the same,
    with batch-norm statistics from the target images. `pseudo_labels`: fine-tuned on target images, labelled by the
    pretrained model. `random`: fine-tuned on proposals accepted at random. `weighted`: the same, each row's loss
    weighted by the first round's ratio. `one_shot`: fine-tuned on rows of one-shot rejection. `top_k`: fine-tuned on
    the best rows of a pool. `adaptive`: fine-tuned on the last round's rows. `oracle`: fine-tuned on the images of
    `oracle`. The run's own arm is always there: `adaptive` with several rounds, `top_k` with sampling.top_k, else
    `one_shot`. Each arm costs one fine-tuning for each seed, except the first two."""
    pseudo_label_confidence: Fraction = 0.9
    """Least probability of a pseudo-label. If fewer than a tenth of the target images have one, the most confident
    tenth is taken. Raising it leaves fewer, more reliable labels."""
    feature_network: ModelConfig | None = None
    """A network whose features (the input of its last layer) the report's two-sample tests compare, between accepted
    rows and target images. Give it pretrained weights, and another network than the ratio's. null means simple image
    statistics."""

    @model_validator(mode="after")
    def _arms_have_data(self) -> EvaluationConfig:
        if ("oracle" in self.arms) != (self.oracle is not None):
            add, leave_out = ("oracle to arms", "its images") if self.oracle else ("its images as oracle", "the arm")
            raise refusal("arm `oracle` and the images of `oracle` go together", f"add {add}, or leave {leave_out} out")
        return self
