"""Target against proposals, as a task for the trainer: how a large ratio network is fitted data parallel."""

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
    """Columns image (uint8 [n, c, h, w]) and label (1: target, 0: proposal), as many of either.

    Args:
        config: the ratio's.
        channels: of the images.
    """

    columns = ("image", "label")
    metric = "accuracy"

    def __init__(self, config: ClassifierRatioConfig, channels: int):
        self.config = config
        self.spec = network_spec(config, channels)

    def build_model(self, seed: int) -> Network:
        """One logit an image; only its head trainable where the backbone is frozen."""
        return build_network(self.spec, self.config, seed)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logistic loss, [n]."""
        return F.binary_cross_entropy_with_logits(model(batch["image"])[:, 0], batch["label"].float(), reduction="none")

    def metrics(self) -> MetricCollection:
        """accuracy and loss."""
        # Here, for it brings torchvision along, which few processes need.
        from torchmetrics import MeanMetric, MetricCollection
        from torchmetrics.classification import BinaryAccuracy

        return MetricCollection(
            {"accuracy": BinaryAccuracy(), "loss": MeanMetric(nan_strategy="disable")}, compute_groups=False
        )

    def update(self, metrics: MetricCollection, model: nn.Module, batch: Batch) -> None:
        """One forward pass for both."""
        logits, truth = model(batch["image"])[:, 0], batch["label"]
        metrics["accuracy"].update(logits.sigmoid(), truth)
        metrics["loss"].update(F.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none"))

    def save(self, model: nn.Module, folder: Path) -> None:
        """model.safetensors and model.json."""
        save_network(model, self.spec, folder)

    def load(self, folder: Path) -> Network:
        """The saved network, in evaluation mode."""
        return load_network(folder)
