"""Sampling: how many rows to accept, on which actors, and when to stop short."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from rsf_dist.config import size_rules
from rsf_dist.config.base import Cpus, Gpus, PositiveFloat, PositiveInt, ProcessCount, Seconds, StrictModel


class PoolConfig(StrictModel):
    """The pool of Ray actors that draw and score proposals. It changes how long a run takes, but no row."""

    min_actors: ProcessCount = 1
    """Actors that the cluster must have room for before sampling starts."""
    max_actors: ProcessCount | None = None
    """Largest number of actors; the pool grows while there is work. null means as many as the nodes that are up have
    CPUs for. Set it on a cluster that scales by itself."""
    cpus_per_actor: Cpus = 1
    """CPUs that Ray reserves for each actor. Fractions are allowed."""
    gpus_per_actor: Gpus = 0
    """GPUs that Ray reserves for each actor. Fractions are allowed, so that actors can share a GPU."""
    max_tasks_in_flight: PositiveInt | None = None
    """Chunks that are sent to an actor at once, running or waiting. More hide the time that a chunk travels; fewer
    waste less work when sampling ends. null means Ray Data's own default."""
    chunk_seconds: PositiveFloat = 600.0
    """Timeout of one chunk in seconds. A proposal or ratio of your own that takes longer is refused."""
    wait_seconds: Seconds = 0.0
    """Seconds to wait for a cluster that scales by itself to provide what sampling needs. 0 refuses at once."""

    @model_validator(mode="after")
    def _ordered(self) -> PoolConfig:
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ValueError(f"max_actors={self.max_actors} must not be below min_actors={self.min_actors}")
        return self


class Budget(StrictModel):
    """The limits at which sampling stops with fewer rows than sampling.num_accepted."""

    max_proposals: PositiveInt | None = None
    """Largest number of proposals. null means 1,000 for each row of num_accepted, and at least 100,000."""
    max_seconds: PositiveFloat | None = None
    """Largest number of seconds of sampling, over all attempts of a run. It is looked at whenever a chunk arrives, and
    not in mode `stream`. null means no limit."""
    on_shortfall: Literal["error", "partial"] = "error"
    """`error`: refuse a shortfall, with exit code 3. `partial`: go on with the rows that were accepted, if there are
    any. A stream always ends in an error."""

    def proposals_for(self, num_accepted: int) -> int:
        """Return the largest number of proposals when num_accepted rows are wanted."""
        return self.max_proposals or max(100_000, 1_000 * num_accepted)


class SamplingConfig(StrictModel):
    """The number of rows to accept, and the means of sampling them."""

    num_accepted: PositiveInt
    """Rows to accept and store."""
    mode: Literal["store", "stream"] = "store"
    """`store`: train on the stored rows, epoch after epoch. `stream`: sample while training. Then the stored rows are
    for validation and the report, and training takes training.steps * training.batch_size further rows, each used once.
    `stream` needs an envelope whose M does not change, and room for workers and actors at the same time."""
    chunk_size: PositiveInt | None = None
    """Proposals that are drawn and scored together: the unit of work and of randomness. Another size accepts other
    rows. Larger chunks need more memory. null means 4096, or the largest power of two whose rows take 64 MiB or
    less, if this is smaller: 256 for RGB images of 224 x 224 pixels."""
    pool: PoolConfig = PoolConfig()
    """The Ray actors."""
    budget: Budget = Budget()
    """The limits at which sampling stops short."""

    @property
    def chunk_rows(self) -> int:
        """The rows of a chunk; as of small images while `chunk_size` is open, which the images then fill."""
        return self.chunk_size or size_rules.CHUNK_ROWS
