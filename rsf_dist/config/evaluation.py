"""What the fine-tuned model is compared with, and on what."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    model_validator,
)

from rsf_dist.config.base import Fraction, StrictModel
from rsf_dist.config.images import ImagesConfig, TargetImagesConfig
from rsf_dist.config.model import ModelConfig

Arm = Literal["pretrained", "batch_norm", "pseudo_labels", "random", "weighted", "one_shot", "adaptive", "oracle"]


class EvaluationConfig(StrictModel):
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
    feature_network: a network whose features (the input of its last layer) tell accepted rows from target images in
        the report's two-sample tests; None: simple image statistics. Give it weights, and not those of the ratio.
    """

    test: TargetImagesConfig | None = None
    source_test: ImagesConfig | None = None
    oracle: TargetImagesConfig | None = None
    arms: tuple[Arm, ...] = ("pretrained", "random")
    pseudo_label_confidence: Fraction = 0.9
    feature_network: ModelConfig | None = None

    @model_validator(mode="after")
    def _arms_have_data(self) -> EvaluationConfig:
        if ("oracle" in self.arms) != (self.oracle is not None):
            raise ValueError("arm `oracle` and the images of `oracle` go together")
        return self
