"""Image classification, by cross entropy and top-1 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from rsf_dist.config.model import ModelConfig
from rsf_dist.data.batch import Batch
from rsf_dist.errors import InputError
from rsf_dist.models.networks import ExpectedImages, Network
from rsf_dist.models.spec import NetworkSpec, load_network, save_network

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class ClassificationTask:
    """Classification of the column image (uint8 [n, c, h, w]) by label (int64 [n] in [0, len(classes))).

    Args:
        classes: the classes' names, by label.
        model: the network and its weights. None means the default network.
        channels: of the images, 1 or 3.
        images: the size of the images, which is saved with the model. None means that it is not.
    """

    columns = ("image", "label")
    metric = "accuracy"

    def __init__(
        self,
        classes: Sequence[str],
        model: ModelConfig | None = None,
        channels: int = 3,
        images: ExpectedImages | None = None,
    ):
        self.spec = NetworkSpec(model or ModelConfig(), len(classes), channels, tuple(classes), images)

    def build_model(self, seed: int) -> Network:
        """Build the network with its weights and a head for these classes."""
        return self.spec.build(seed)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross entropy, [n]. Raises InputError if labels are not classes, and what the model raises."""
        return F.cross_entropy(model(batch["image"]), self._checked_label(batch), reduction="none")

    def metrics(self) -> MetricCollection:
        """Return fresh metrics: accuracy (micro) and loss."""
        # Imported here, because torchmetrics imports torchvision, which few processes need.
        from torchmetrics import MeanMetric, MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        accuracy = MulticlassAccuracy(num_classes=self.spec.num_outputs, average="micro")
        return MetricCollection(
            {"accuracy": accuracy, "loss": MeanMetric(nan_strategy="disable")}, compute_groups=False
        )

    def update(self, metrics: MetricCollection, model: nn.Module, batch: Batch) -> None:
        """Add a batch to both metrics, in one forward pass."""
        logits, label = model(batch["image"]), self._checked_label(batch)
        metrics["accuracy"].update(logits, label)
        metrics["loss"].update(F.cross_entropy(logits, label, reduction="none"))

    def _checked_label(self, batch: Batch) -> Tensor:
        label = batch["label"]
        if label.is_floating_point() or label.ndim != 1:
            rule = "must be a class's number, one a row"
            raise InputError(
                "label", f"{label.dtype} {list(label.shape)}", rule, "convert the column to int64", absolute=True
            )
        label = label.long()
        outside = label[(label < 0) | (label >= self.spec.num_outputs)]
        if len(outside):
            rule = f"must lie in [0, {self.spec.num_outputs}), the classes {list(self.spec.classes)}"
            raise InputError("label", outside[0].item(), rule, "correct the rows, or name all classes", absolute=True)
        return label

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write model.safetensors and model.json."""
        save_network(model, self.spec, folder)

    def load(self, folder: Path) -> Network:
        """Read the saved network, in evaluation mode."""
        return load_network(folder)
