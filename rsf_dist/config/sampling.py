"""How many rows, by which actors, and when to stop short."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    model_validator,
)

from rsf_dist.config.base import PositiveFloat, PositiveInt, Seconds, StrictModel


class PoolConfig(StrictModel):
    """The pool of Ray actors that draw and score proposals.

    min_actors, max_actors: the pool's size; it grows while there is work. None: as many as the nodes that are up have
        CPUs for; name it on a cluster that scales by itself.
    cpus_per_actor, gpus_per_actor: reserved for each; fractions are allowed.
    max_tasks_in_flight: tasks sent to an actor at once, running or waiting there; more hide the way to it, fewer leave
        less behind when sampling ends. None: Ray Data's own.
    chunk_seconds: how long one chunk may take; what hangs in a proposal or ratio of your own is refused after that.
    wait_seconds: for a cluster that scales by itself to bring up what this stage needs; 0 refuses at once.
    """

    min_actors: PositiveInt = 1
    max_actors: PositiveInt | None = None
    cpus_per_actor: PositiveFloat = 1
    gpus_per_actor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    max_tasks_in_flight: PositiveInt | None = None
    chunk_seconds: PositiveFloat = 600.0
    wait_seconds: Seconds = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> PoolConfig:
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ValueError(f"max_actors={self.max_actors} must not be below min_actors={self.min_actors}")
        return self


class Budget(StrictModel):
    """When to stop without the rows that were asked for.

    max_proposals: None: 1,000 a wanted row, at least 100,000.
    max_seconds: of sampling, over all attempts at it; looked at whenever a chunk arrives. None: no limit. A stream
        knows max_proposals alone, and ends in an error.
    on_shortfall: `error` refuses (exit code 3), `partial` goes on with the rows there are; none at all is refused.
    """

    max_proposals: PositiveInt | None = None
    max_seconds: PositiveFloat | None = None
    on_shortfall: Literal["error", "partial"] = "error"

    def proposals_for(self, num_accepted: int) -> int:
        """The limit in force when num_accepted rows are wanted."""
        return self.max_proposals or max(100_000, 1_000 * num_accepted)


class SamplingConfig(StrictModel):
    """How many rows, and how.

    num_accepted: rows to keep.
    mode: `store` trains on these rows, epoch after epoch. `stream` samples while it trains: these rows are stored for
        validation and for the report, and training takes training.steps * training.batch_size further ones, each fresh
        and used once. It needs an envelope whose M stays, and room for workers and actors at once.
    chunk_size: proposals drawn and scored at once, the unit of work and of randomness.
    pool: the actors. budget: when to stop short.
    """

    num_accepted: PositiveInt
    mode: Literal["store", "stream"] = "store"
    chunk_size: PositiveInt = 4096
    pool: PoolConfig = PoolConfig()
    budget: Budget = Budget()
