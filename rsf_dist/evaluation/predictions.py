"""What a model is worth on labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rsf_dist.data.images import ImageSet
from rsf_dist.runtime.device import device

_BATCH = 512


@dataclass(frozen=True)
class Predictions:
    """A classifier's predictions.

    Args:
        predicted, truth: labels, int64 [n].
        num_classes: how many there are.
    """

    predicted: NDArray[np.int64]
    truth: NDArray[np.int64]
    num_classes: int

    @property
    def accuracy(self) -> float:
        """Share of right predictions."""
        return float((self.predicted == self.truth).mean())

    @property
    def by_class(self) -> list[float | None]:
        """Accuracy among the images of each class; None for a class without any."""
        rows = [self.truth == label for label in range(self.num_classes)]
        return [float((self.predicted[row] == label).mean()) if row.any() else None for label, row in enumerate(rows)]


def predict(model: nn.Module, images: ImageSet) -> Predictions:
    """Predict labelled images in this process."""
    model = model.to(device()).eval()
    with torch.inference_mode():
        predicted = torch.cat([model(batch.to(device())).argmax(1).cpu() for batch in images.images.split(_BATCH)])
    return Predictions(predicted.numpy(), images.require_labels("images").numpy(), len(images.classes))


def gap_closed(arms: Mapping[str, list[float]]) -> dict[str, float]:
    """(arm - random) / (oracle - random) of the means over seeds, for the arms between them; empty without both ends.

    Left out where the oracle does not beat the control, which leaves no gap to close.
    """
    means = {name: float(np.mean(values)) for name, values in arms.items()}
    if "random" not in means or "oracle" not in means or means["oracle"] <= means["random"]:
        return {}
    width = means["oracle"] - means["random"]
    between = [name for name in means if name not in ("pretrained", "random", "oracle")]
    return {name: (means[name] - means["random"]) / width for name in between}
