"""Image classification: cross entropy, top-1 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsf_dist.config.model import ModelConfig
from rsf_dist.data.batch import Batch
from rsf_dist.errors import InputError
from rsf_dist.models.networks import Network
from rsf_dist.models.spec import NetworkSpec, load_network, save_network

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class ClassificationTask:
    """Columns image (uint8 [n, c, h, w]) and label (int64 [n] in [0, len(classes))).

    Args:
        classes: the classes' names, by label.
        model: which network, and its weights.
        channels: of the images, 1 or 3.
    """

    columns = ("image", "label")
    metric = "accuracy"

    def __init__(self, classes: Sequence[str], model: ModelConfig | None = None, channels: int = 3):
        self.spec = NetworkSpec(model or ModelConfig(), len(classes), channels, tuple(classes))

    def build_model(self, seed: int) -> Network:
        """The network with its weights and a head for these classes."""
        return self.spec.build(seed)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy, [n]. Raises InputError for images not uint8, and for labels that are not those of classes."""
        return F.cross_entropy(model(self._checked_image(batch)), self._checked_label(batch), reduction="none")

    def metrics(self) -> MetricCollection:
        """accuracy (micro) and loss."""
        # Here, for it brings torchvision along, which few processes need.
        from torchmetrics import MeanMetric, MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        accuracy = MulticlassAccuracy(num_classes=self.spec.num_outputs, average="micro")
        return MetricCollection(
            {"accuracy": accuracy, "loss": MeanMetric(nan_strategy="disable")}, compute_groups=False
        )

    def update(self, metrics: MetricCollection, model: nn.Module, batch: Batch) -> None:
        """One forward pass for both."""
        logits, label = model(self._checked_image(batch)), self._checked_label(batch)
        metrics["accuracy"].update(logits, label)
        metrics["loss"].update(F.cross_entropy(logits, label, reduction="none"))

    def _checked_image(self, batch: Batch) -> Tensor:
        image = batch["image"]
        if image.dtype != torch.uint8 and self.spec.config.name != "mlp":  # the network would scale it once more
            rule = "must be uint8 [n, channels, height, width]"
            raise InputError("image", image.dtype, rule, "convert the column, 0 to 255")
        return image

    def _checked_label(self, batch: Batch) -> Tensor:
        label = batch["label"]
        if label.is_floating_point() or label.ndim != 1:
            rule = "must be a class's number, one a row"
            raise InputError("label", f"{label.dtype} {list(label.shape)}", rule, "convert the column to int64")
        label = label.long()
        outside = label[(label < 0) | (label >= self.spec.num_outputs)]
        if len(outside):
            rule = f"must lie in [0, {self.spec.num_outputs}), the classes {list(self.spec.classes)}"
            raise InputError("label", outside[0].item(), rule, "correct the rows, or name all classes")
        return label

    def save(self, model: nn.Module, folder: Path) -> None:
        """model.safetensors and model.json."""
        save_network(model, self.spec, folder)

    def load(self, folder: Path) -> Network:
        """The saved network, in evaluation mode."""
        return load_network(folder)
