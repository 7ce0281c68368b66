"""Predictions on labelled images, and the measures that compare models by them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rsf_dist.cluster.capacity import max_tasks
from rsf_dist.cluster.workers import run_in_tasks
from rsf_dist.config.resources import Share
from rsf_dist.data.images import ImageSet
from rsf_dist.data.mapped import MappedTensor
from rsf_dist.runtime.device import device

_BATCH = 512
"""Images in a forward pass. Tasks share images out in whole batches, so that their number changes no prediction."""

_LEAST_BATCHES = 4  # a task: each one imports torch and unpickles every model, which takes seconds
_Name = TypeVar("_Name", bound=Hashable)


@dataclass(frozen=True)
class Predictions:
    """A classifier's predictions.

    Args:
        predicted: the model's labels, int64 [n].
        truth: the images' labels, int64 [n].
        num_classes: the number of classes.
    """

    predicted: NDArray[np.int64]
    truth: NDArray[np.int64]
    num_classes: int

    @property
    def accuracy(self) -> float:
        """The share of correct predictions."""
        return float((self.predicted == self.truth).mean())

    @property
    def by_class(self) -> list[float | None]:
        """The accuracy among the images of each class. None means that the class has no images."""
        rows = [self.truth == label for label in range(self.num_classes)]
        return [float((self.predicted[row] == label).mean()) if row.any() else None for label, row in enumerate(rows)]


def predict(model: nn.Module, images: ImageSet) -> Predictions:
    """Predict labelled images in this process."""
    truth = images.require_labels().numpy()
    return Predictions(_predict_labels(model, images.images), truth, len(images.classes))


def predict_all(models: Mapping[_Name, nn.Module], images: ImageSet | None, share: Share) -> dict[_Name, Predictions]:
    """Predict labelled images with each model, in as many tasks as the cluster has room for.

    Args:
        models: classifiers by name.
        images: the images with their labels. None gives no predictions.
        share: what each task reserves.
    """
    if images is None:
        return {}
    models_once, mapped = ray.put(dict(models)), isinstance(images.images, MappedTensor)
    pieces = split_into_batches(len(images), max_tasks(share))
    # A slice of a tensor in memory would be pickled with all of its storage.
    pixels: Tensor | NDArray[np.uint8] = images.images if mapped else images.images.numpy()
    parts = run_in_tasks(_predict_piece, [(models_once, pixels[piece]) for piece in pieces], share=share)
    truth = images.require_labels().numpy()
    return {
        name: Predictions(np.concatenate([part[name] for part in parts]), truth, len(images.classes)) for name in models
    }


def split_into_batches(num_rows: int, max_pieces: int) -> list[slice]:
    """Split rows into at most `max_pieces` runs of whole batches, alike in size, none of fewer than four batches.

    All rows are one piece where they are fewer, and the last batch need not be full.
    """
    num_batches = -(-num_rows // _BATCH)
    num_pieces = max(1, min(max_pieces, num_batches // _LEAST_BATCHES))
    starts = [piece * num_batches // num_pieces * _BATCH for piece in range(num_pieces)]
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], num_rows], strict=True)]


def _predict_piece(
    models: Mapping[_Name, nn.Module], pixels: NDArray[np.uint8] | Tensor
) -> dict[_Name, NDArray[np.int64]]:
    # A copy of an array: torch warns of those that cannot be written to, as those of Ray's store.
    images = pixels if isinstance(pixels, Tensor) else torch.tensor(pixels)
    return {name: _predict_labels(model, images) for name, model in models.items()}


def _predict_labels(model: nn.Module, images: Tensor) -> NDArray[np.int64]:
    model = model.to(device()).eval()
    with torch.inference_mode():
        return torch.cat([model(batch.to(device())).argmax(1).cpu() for batch in images.split(_BATCH)]).numpy()


def gap_closed(arms: Mapping[str, list[float]]) -> dict[str, float]:
    """Return (arm - random) / (oracle - random), of means over seeds, for each arm that rows or models distinguish.

    The result is empty without both ends of the gap, and where the oracle does not beat the random arm.

    Args:
        arms: the metric of each seed, by arm.
    """
    means = {name: float(np.mean(values)) for name, values in arms.items()}
    if "random" not in means or "oracle" not in means or means["oracle"] <= means["random"]:
        return {}
    width = means["oracle"] - means["random"]
    between = [name for name in means if name not in ("pretrained", "random", "oracle")]
    return {name: (means[name] - means["random"]) / width for name in between}
