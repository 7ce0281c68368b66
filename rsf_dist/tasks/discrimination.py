"""Discrimination of target images from proposals, the task by which the trainer fits a large ratio network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from rsf_dist.config.ratio import ClassifierRatioConfig
from rsf_dist.data.batch import Batch
from rsf_dist.models.networks import Network
from rsf_dist.models.spec import load_network, save_network
from rsf_dist.ratios.classifier import build_network, network_spec

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class DiscriminationTask:
    """Discrimination of the column image (uint8 [n, c, h, w]) by label: 1 of the target, 0 of proposals, equally many.

    Args:
        config: the ratio's section of the configuration.
        channels: of the images, 1 or 3.
    """

    columns = ("image", "label")
    metric = "accuracy"

    def __init__(self, config: ClassifierRatioConfig, channels: int):
        self.config = config
        self.spec = network_spec(config, channels)

    def build_model(self, seed: int) -> Network:
        """Build a network of one logit an image. If the backbone is frozen, only its head is trainable."""
        return build_network(self.spec, self.config, seed)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logistic loss, [n]."""
        return F.binary_cross_entropy_with_logits(model(batch["image"])[:, 0], batch["label"].float(), reduction="none")

    def metrics(self) -> MetricCollection:
        """Return fresh metrics: accuracy and loss."""
        # Imported here, because torchmetrics imports torchvision, which few processes need.
        from torchmetrics import MeanMetric, MetricCollection
        from torchmetrics.classification import BinaryAccuracy

        return MetricCollection(
            {"accuracy": BinaryAccuracy(), "loss": MeanMetric(nan_strategy="disable")}, compute_groups=False
        )

    def update(self, metrics: MetricCollection, model: nn.Module, batch: Batch) -> None:
        """Add a batch to both metrics, in one forward pass."""
        logits, truth = model(batch["image"])[:, 0], batch["label"]
        metrics["accuracy"].update(logits.sigmoid(), truth)
        metrics["loss"].update(F.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none"))

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write model.safetensors and model.json."""
        save_network(model, self.spec, folder)

    def load(self, folder: Path) -> Network:
        """Read the saved network, in evaluation mode."""
        return load_network(folder)
