"""Measurements on this cluster: a few rows in a task, then a short execution on the run's own actors.

The execution is like those of sampling, and so short that little time is lost by it. Actors unpickle classes of this
module. It therefore imports no more than sampling has actors import anyway.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import torch

from rsf_dist.cluster.capacity import max_actors
from rsf_dist.cluster.ray_workarounds import unwrapped
from rsf_dist.cluster.workers import run_in_task
from rsf_dist.config.resources import Share
from rsf_dist.config.sampling import PoolConfig
from rsf_dist.data.arrow import to_table
from rsf_dist.data.batch import Batch, num_rows, select, to_cpu
from rsf_dist.forecast.cost import MeasuredCosts
from rsf_dist.proposals.base import Proposal
from rsf_dist.ratios.base import Ratio
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.runtime.timeouts import time_limit
from rsf_dist.sampling.chunk import ChunkWork, propose_and_score
from rsf_dist.sampling.collector import ChunkTask
from rsf_dist.sampling.pilot import stored_bytes
from rsf_dist.sampling.plan import SamplingPlan
from rsf_dist.sampling.pool import TIMEOUT_REMEDY, USER_CODE_FIELD, map_chunks
from rsf_dist.types import Floats

_FEWEST_ROWS = 64
"""Rows of the first measurement of a row's cost; every further one has four times as many."""

_MOST_ROWS = 4 * 4 * 4 * _FEWEST_ROWS
"""Rows of the largest measurement of a row's cost."""

_MOST_SECONDS = 2.0
"""Seconds after which no further measurement of a row's cost begins."""

_REHEARSAL_ACTORS = 8
"""The largest number of actors that are measured, so that a plan does not take the time of a run."""

_REHEARSAL_SECONDS = 4.0
"""Seconds for which each actor computes chunks."""


_REHEARSAL_CHUNKS = 400
"""The most chunks of each actor. Where rows cost next to nothing, a chunk takes far longer than its rows."""


@dataclass(frozen=True)
class RowCost:
    """The cost of a row, as measured on a few.

    Args:
        seconds_per_row: seconds a row on one core that has nothing else to do.
        bytes_per_shard: bytes of a shard, its rows left out.
        bytes_per_row: bytes of a row in a shard.
    """

    seconds_per_row: float
    bytes_per_shard: float
    bytes_per_row: float


def measure_row(proposal: Proposal, ratio: Ratio, seed: int, pool: PoolConfig) -> RowCost:
    """Draw and score a few rows in a Ray task with an actor's resources."""
    return run_in_task(_measure_row, proposal, ratio, seed, pool.chunk_seconds, share=Share.of_pool(pool))


def _measure_row(proposal: Proposal, ratio: Ratio, seed: int, seconds: float) -> RowCost:
    size, fastest, started = _FEWEST_ROWS, math.inf, time.monotonic()
    while True:
        begun = time.monotonic()
        with time_limit(seconds, USER_CODE_FIELD, f"a chunk of {size} rows", TIMEOUT_REMEDY):
            proposed, log_ratio, exponentials = propose_and_score(proposal, ratio, Streams(seed, Stage.PILOT), size)
            batch = to_cpu(proposed)
        fastest = min(fastest, (time.monotonic() - begun) / size)  # the first call loads, any may have to wait
        if size == _MOST_ROWS or time.monotonic() - started > _MOST_SECONDS:
            return RowCost(fastest, *_shard_bytes(batch, log_ratio, log_ratio + exponentials))
        size *= 4


def _shard_bytes(batch: Batch, log_ratio: Floats, accept_key: Floats) -> tuple[float, float]:
    """Return the bytes of a shard without its rows, and of each row in it."""
    count = torch.arange(num_rows(batch))
    rows = batch | {
        "round": torch.zeros_like(count),
        "chunk": torch.zeros_like(count),
        "index": count,
        "log_ratio": torch.from_numpy(log_ratio),
        "accept_key": torch.from_numpy(accept_key),
        "weight": torch.ones(len(count)),
    }
    fewer_rows, more_rows = _FEWEST_ROWS // 4, _FEWEST_ROWS
    small, large = (stored_bytes(to_table(select(rows, slice(0, size)))) for size in (fewer_rows, more_rows))
    per_row = (large - small) / (more_rows - fewer_rows)
    return small - fewer_rows * per_row, per_row


def measure_pool(plan: SamplingPlan, pool: PoolConfig, actors: int, seconds_per_row: float) -> MeasuredCosts:
    """Measure the costs of the pool's start and of a proposal, on as many of the actors as the cluster has room for.

    Args:
        plan: the plan of the round to forecast.
        pool: the actors' resources.
        actors: actors of the run.
        seconds_per_row: seconds a row on one core that has nothing else to do, from which the number of chunks follows.
    """
    room = max_actors(pool.model_copy(update={"max_actors": None}))
    num_actors = min(actors, room, _REHEARSAL_ACTORS)
    per_row = max(seconds_per_row, 1e-9)
    size = max(1, min(plan.work.chunk_size, int(_REHEARSAL_SECONDS / 4 / per_row)))
    each = 1 + min(_REHEARSAL_CHUNKS, max(2, round(_REHEARSAL_SECONDS / (size * per_row))))
    pool = pool.model_copy(update={"min_actors": min(pool.min_actors, num_actors), "max_actors": num_actors})
    work = _TimedChunk(replace(plan.work, chunk_size=size, pool_size=None))  # a pool may have fewer such chunks
    started = time.monotonic()
    with unwrapped():
        records = list(
            map_chunks(work, range(num_actors * each), pool, plan.chunks_per_task(num_actors * each, num_actors))
        )
    return _costs(records, size, time.monotonic() - started)


@dataclass(frozen=True)
class _TimedChunk:
    """A function for actors that computes a chunk and its record, and returns how long both took."""

    work: ChunkWork

    def __call__(self, chunk: int) -> dict[str, int | str | bytes]:
        cpu, started = time.process_time_ns(), time.monotonic_ns()
        ChunkTask(self.work, None)(chunk)
        return {
            "actor": f"{socket.gethostname()}/{os.getpid()}",
            "cpu_before": cpu,
            "cpu": time.process_time_ns() - cpu,
            "wall": time.monotonic_ns() - started,
        }


def _costs(records: list[dict], size: int, seconds: float) -> MeasuredCosts:
    """Return the costs that follow from the actors' records.

    An actor's first chunk is slower than the others. It counts only where no actor drew a second one.
    """
    by_actor: defaultdict[str, list[dict]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record["cpu_before"]):
        by_actor[record["actor"]].append(record)
    later = [record for chunks in by_actor.values() for record in chunks[1:]] or records
    wall = float(np.mean([record["wall"] for record in later])) * 1e-9
    cpu = float(np.median([record["cpu"] for record in later])) * 1e-9  # other work on the machine spoils some records
    busiest = max(len(chunks) for chunks in by_actor.values()) * wall
    before = max(chunks[0]["cpu_before"] for chunks in by_actor.values()) * 1e-9
    return MeasuredCosts(max(0.0, seconds - busiest), wall / size, before, cpu / size)
