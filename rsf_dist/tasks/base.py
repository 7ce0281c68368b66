"""Socket 3: a model, its loss and its metrics. The trainer knows nothing else of what is learned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor, nn

from rsf_dist.data.batch import Batch

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


@runtime_checkable
class Task(Protocol):
    """What is learned from which columns."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a row needs."""
        ...

    @property
    def metric(self) -> str:
        """The name of the metric by which checkpoints are compared; higher is better."""
        ...

    def build_model(self, seed: int) -> nn.Module:
        """The model before fine-tuning; what no weights give is drawn from `seed`. Raises InputError."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Loss of each row, [n], so that rows can be weighted."""
        ...

    def metrics(self) -> MetricCollection:
        """Fresh metrics."""
        ...

    def update(self, metrics: MetricCollection, model: nn.Module, batch: Batch) -> None:
        """Add a batch to the metrics."""
        ...

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write model.safetensors and model.json."""
        ...

    def load(self, folder: Path) -> nn.Module:
        """The inverse of `save`."""
        ...
