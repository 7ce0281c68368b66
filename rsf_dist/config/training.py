"""Fine-tuning, and the task that is learned."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Tag,
    model_validator,
)

from rsf_dist.config.base import (
    Count,
    Fraction,
    ImportPath,
    PositiveFloat,
    PositiveInt,
    Seconds,
    StrictModel,
)
from rsf_dist.config.kinds import kind_discriminator
from rsf_dist.config.model import OptimizerConfig


class TrainingConfig(OptimizerConfig):
    """Fine-tuning, data parallel.

    num_workers: DDP workers; batch_size is shared among them.
    cpus_per_worker: fractions are allowed; Ray Data needs what the workers leave, at least one CPU.
    use_gpu: one GPU a worker, with NCCL; otherwise gloo.
    use_row_weights: multiply each row's loss by its `weight`, max(1, p/(Mq)), which takes the bias of capping out.
    validation_fraction: of the rows, held out to score checkpoints.
    evaluate_every: steps between evaluations (and checkpoints).
    checkpoint: `last` (the schedule has decayed; the default) or `best` by the validation metric becomes the model.
    max_failures: times that workers which died are started again from their last checkpoint.
    wait_seconds: for a cluster that scales by itself to bring up what this stage needs; 0 refuses at once.
    """

    num_workers: PositiveInt = 1
    cpus_per_worker: PositiveFloat = 1
    use_gpu: bool = False
    use_row_weights: bool = False
    validation_fraction: Fraction = 0.1
    evaluate_every: PositiveInt = 200
    checkpoint: Literal["last", "best"] = "last"
    max_failures: Count = 2
    wait_seconds: Seconds = 0.0

    @model_validator(mode="after")
    def _even_shares(self) -> TrainingConfig:
        if self.batch_size % self.num_workers:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of num_workers={self.num_workers}")
        return self


class ClassificationTaskConfig(StrictModel):
    """Image classification: cross entropy, top-1 accuracy."""

    kind: Literal["classification"] = "classification"


class CustomTaskConfig(StrictModel):
    """A task of your own: `factory` is called with classes, model (a ModelConfig), channels and `options`.

    It gives a `Task`, see `rsf_dist.tasks.base`; its model takes images to one logit a class.
    """

    kind: Literal["custom"]
    factory: ImportPath
    options: dict[str, Any] = {}


TaskConfig = Annotated[
    Annotated[ClassificationTaskConfig, Tag("kind=classification")] | Annotated[CustomTaskConfig, Tag("kind=custom")],
    kind_discriminator("classification"),
]
