"""Socket 3: a model, its loss and its metrics. The trainer knows nothing else about the task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor, nn

from rsf_dist.data.batch import Batch

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


@runtime_checkable
class Task(Protocol):
    """The model, its loss and its metrics, on named columns of rows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that training and evaluation read."""
        ...

    @property
    def metric(self) -> str:
        """The name of the metric by which checkpoints are compared; higher is better."""
        ...

    def build_model(self, seed: int) -> nn.Module:
        """Build the model before fine-tuning; the seed draws parameters without given weights. Raises InputError."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of each row, [n], so that rows can be weighted."""
        ...

    def metrics(self) -> MetricCollection:
        """Return fresh metrics."""
        ...

    def update(self, metrics: MetricCollection, model: nn.Module, batch: Batch) -> None:
        """Add a batch to the metrics."""
        ...

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write model.safetensors and model.json."""
        ...

    def load(self, folder: Path) -> nn.Module:
        """Read the model that `save` wrote, on the CPU and in evaluation mode."""
        ...
