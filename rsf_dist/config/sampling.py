"""Sampling: how many rows to accept, on which actors, and when to stop short."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from rsf_dist.config import size_rules
from rsf_dist.config.base import (
    LARGEST_COUNT,
    Cpus,
    Gpus,
    PositiveFloat,
    PositiveInt,
    ProcessCount,
    Seconds,
    StrictModel,
    refusal,
)


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
    """Largest number of proposals. null means 1,000 for each row of num_accepted, and at least 100,000; of a pool, all
    of its rows."""
    max_seconds: PositiveFloat | None = None
    """Largest number of seconds of sampling, over all attempts of a run. It is looked at whenever a chunk arrives, and
    not in mode `stream`. null means no limit."""
    on_shortfall: Literal["error", "partial"] = "error"
    """`error`: refuse a shortfall, with exit code 3. `partial`: go on with the rows that were accepted, if there are
    any. A stream always ends in an error."""

    def proposals_for(self, num_accepted: int) -> int:
        """Return the largest number of proposals when num_accepted rows are wanted."""
        return self.max_proposals or max(100_000, 1_000 * num_accepted)

    def chunks_for(self, num_accepted: int, chunk_size: int, pool_size: int | None = None) -> int:
        """Return the number of chunks when num_accepted rows are wanted. They are whole, but for a pool's last one.

        Args:
            num_accepted: the rows wanted.
            chunk_size: proposals of a chunk.
            pool_size: rows of a pool, each read once. None means that proposals are drawn without end.
        """
        if pool_size is not None and (self.max_proposals is None or self.max_proposals >= pool_size):
            return -(-pool_size // chunk_size)
        return self.proposals_for(num_accepted) // chunk_size


class SamplingConfig(StrictModel):
    """The number of rows to accept, and the means of sampling them."""

    num_accepted: PositiveInt
    """Rows to accept and store. May be left out where top_k says how many."""
    top_k: PositiveInt | None = None
    """For a proposal that is a pool: read all of it, and keep the rows with the top_k highest keys. This is rejection
    at the M that leaves so many, so that `envelope` has no effect; of `budget`, only max_seconds holds. null means
    rejection at the envelope's M, until num_accepted rows are accepted or the pool ends."""
    mode: Literal["store", "stream"] = "store"
    """`store`: train on the stored rows, epoch after epoch. `stream`: sample while training. Then the stored rows are
    for validation and the report, and training takes training.steps * training.batch_size further rows, each used once.
    `stream` needs an envelope whose M does not change, and room for workers and actors at the same time."""
    chunk_size: PositiveInt | None = None
    """Proposals that are drawn and scored together: the unit of work and of randomness. Another size accepts other
    rows. Larger chunks need more memory. null means 4096, or the largest power of two whose rows take 64 MiB or
    less, if this is smaller: 256 for RGB images of 224 x 224 pixels. It is never below 8, so that a chunk of rows of
    more than 8 MiB each takes more than 64 MiB."""
    pool: PoolConfig = PoolConfig()
    """The Ray actors."""
    budget: Budget = Budget()
    """The limits at which sampling stops short."""

    @property
    def chunk_rows(self) -> int:
        """The rows of a chunk; as of small images while `chunk_size` is open, which the images then fill."""
        return self.chunk_size or size_rules.CHUNK_ROWS

    @model_validator(mode="before")
    @classmethod
    def _count_top_k(cls, raw: Any) -> Any:
        """Let top_k stand for num_accepted, too; a top_k that is no count is refused for itself."""
        if not isinstance(raw, dict) or raw.get("num_accepted") is not None or raw.get("top_k") is None:
            return raw
        k = raw["top_k"]
        return raw | {"num_accepted": k if type(k) is int and 0 < k <= LARGEST_COUNT else 1}

    @model_validator(mode="after")
    def _top_k_reads_all(self) -> SamplingConfig:
        if self.top_k is None:
            return self
        key, k = "top_k", self.top_k
        if self.num_accepted != k:
            rule = f"and num_accepted={self.num_accepted} both say how many rows are kept"
            raise refusal(rule, "leave num_accepted out, or give it the same number", key, k)
        if self.mode == "stream":
            rule = "is known when all of the pool was read, and mode stream does not wait"
            raise refusal(rule, "set sampling.mode=store", key, k)
        if self.budget.max_proposals is not None:
            raise refusal("reads all of the pool, whatever budget.max_proposals", "leave max_proposals out", key, k)
        if self.budget.on_shortfall == "partial":
            raise refusal("keeps so many rows, never a part of them", "leave budget.on_shortfall out", key, k)
        return self
