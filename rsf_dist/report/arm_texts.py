"""The texts and colours by which the report shows each arm."""

from __future__ import annotations

from dataclasses import dataclass

from rsf_dist.config.evaluation import Arm


@dataclass(frozen=True)
class ArmText:
    """The presentation of one arm.

    Args:
        label: what its model was fine-tuned on, readable without the other arms' labels.
        colour: of its bars and curves.
    """

    label: str
    colour: str


ARMS: dict[Arm, ArmText] = {
    "pretrained": ArmText("the model before fine-tuning", "#8a8f98"),
    "batch_norm": ArmText("pretrained, batch-norm statistics from the target domain", "#b0b4bb"),
    "pseudo_labels": ArmText("target images with pseudo-labels of the pretrained model", "#a07fb5"),
    "random": ArmText("random proposals", "#d98a3d"),
    "weighted": ArmText("random proposals, loss weighted by the ratio", "#c9b04a"),
    "one_shot": ArmText("proposals accepted by one-shot rejection", "#7fa9d4"),
    "top_k": ArmText("the best rows of the pool", "#5a8fc9"),
    "adaptive": ArmText("proposals accepted after rounds", "#2f6fb3"),
    "oracle": ArmText("labelled target images", "#4b9b63"),
}
"""The arms, in the order in which they are shown."""
