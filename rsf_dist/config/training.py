"""Fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from rsf_dist.config.base import (
    Count,
    Cpus,
    Fraction,
    PositiveInt,
    ProcessCount,
    Seconds,
)
from rsf_dist.config.model import OptimizerConfig


class TrainingConfig(OptimizerConfig):
    """Fine-tuning, data parallel with Ray Train."""

    num_workers: ProcessCount = 1
    """DDP workers. They share batch_size, which must be a multiple of this number."""
    cpus_per_worker: Cpus = 1
    """CPUs that Ray reserves for each worker. Fractions are allowed. Ray Data needs at least one CPU that the workers
    leave."""
    use_gpu: bool = False
    """Give each worker a GPU, and communicate by NCCL instead of gloo."""
    use_row_weights: bool = False
    """Multiply each row's loss by its weight, max(1, r/M) with the row's ratio r. This removes the bias of capping and
    raises the variance."""
    validation_fraction: Fraction = 0.1
    """Share of the rows that is held out to score checkpoints."""
    evaluate_every: PositiveInt = 200
    """Optimizer steps between evaluations on the held-out rows, each with a checkpoint. Fewer lose less work in a
    failure and cost more time."""
    checkpoint: Literal["last", "best"] = "last"
    """The checkpoint that becomes the model. `last`: the last one, where the schedule has decayed. `best`: the best by
    the validation metric."""
    max_failures: Count = 2
    """Number of restarts of workers that died, from their last checkpoint."""
    wait_seconds: Seconds = 0.0
    """Seconds to wait for a cluster that scales by itself to provide what training needs. 0 refuses at once."""

    @model_validator(mode="after")
    def _even_shares(self) -> TrainingConfig:
        if self.batch_size % self.num_workers:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of num_workers={self.num_workers}")
        return self
