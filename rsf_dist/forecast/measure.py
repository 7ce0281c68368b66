"""What the pool's start and a proposal cost here: a glance at a few rows, and a rehearsal on the run's own actors.

The rehearsal is an execution like those of sampling, so short that little is lost by it. Actors unpickle what is here,
and so this module imports no more than what sampling has them import.
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
from rsf_dist.cluster.workers import Share, run_in_task
from rsf_dist.config.sampling import PoolConfig
from rsf_dist.data.arrow import to_table
from rsf_dist.data.batch import Batch, num_rows, select, to_cpu
from rsf_dist.forecast.estimate import Costs
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

_GLANCE_ROWS = 64


_MOST_ROWS = 4 * 4 * 4 * _GLANCE_ROWS


_GLANCE_SECONDS = 2.0


_REHEARSAL_ACTORS = 8  # at most: a plan is not to take the time of a run


_REHEARSAL_SECONDS = 4.0  # of chunks, an actor


@dataclass(frozen=True)
class RowCost:
    """What a few rows tell: seconds a row on one core; a shard of k takes bytes_per_shard + k bytes_per_row."""

    seconds_per_row: float
    bytes_per_shard: float
    bytes_per_row: float


def measure_row(proposal: Proposal, ratio: Ratio, seed: int, pool: PoolConfig) -> RowCost:
    """Draw and score a few rows in a Ray task with an actor's resources."""
    return run_in_task(_glance, proposal, ratio, seed, pool.chunk_seconds, share=Share.of_pool(pool))


def _glance(proposal: Proposal, ratio: Ratio, seed: int, seconds: float) -> RowCost:
    size, fastest, started = _GLANCE_ROWS, math.inf, time.monotonic()
    while True:
        begun = time.monotonic()
        with time_limit(seconds, USER_CODE_FIELD, f"a chunk of {size} rows", TIMEOUT_REMEDY):
            outline, log_ratio, exponentials = propose_and_score(proposal, ratio, Streams(seed, Stage.PILOT), size)
            batch = to_cpu(outline)
        fastest = min(fastest, (time.monotonic() - begun) / size)  # the first call loads, any may have to wait
        if size == _MOST_ROWS or time.monotonic() - started > _GLANCE_SECONDS:
            return RowCost(fastest, *_shard_bytes(batch, log_ratio, log_ratio + exponentials))
        size *= 4


def _shard_bytes(batch: Batch, log_ratio: Floats, accept_key: Floats) -> tuple[float, float]:
    """Bytes of a shard and of each row in it."""
    count = torch.arange(num_rows(batch))
    rows = batch | {
        "round": torch.zeros_like(count),
        "chunk": torch.zeros_like(count),
        "index": count,
        "log_ratio": torch.from_numpy(log_ratio),
        "accept_key": torch.from_numpy(accept_key),
        "weight": torch.ones(len(count)),
    }
    few, more = _GLANCE_ROWS // 4, _GLANCE_ROWS
    small, large = (stored_bytes(to_table(select(rows, slice(0, size)))) for size in (few, more))
    per_row = (large - small) / (more - few)
    return small - few * per_row, per_row


def measure_pool(plan: SamplingPlan, pool: PoolConfig, actors: int, seconds_per_row: float) -> Costs:
    """Measure what the pool's start and a proposal cost, on as many of the actors as there is room for.

    seconds_per_row: of a core that has nothing else to do; how much is rehearsed follows from it.
    """
    room = max_actors(pool.model_copy(update={"max_actors": None}))
    here = min(actors, room, _REHEARSAL_ACTORS)
    per_row = max(seconds_per_row, 1e-9)
    size = max(1, min(plan.work.chunk_size, int(_REHEARSAL_SECONDS / 4 / per_row)))
    each = 1 + max(2, round(_REHEARSAL_SECONDS / (size * per_row)))
    pool = pool.model_copy(update={"min_actors": min(pool.min_actors, here), "max_actors": here})
    work = _TimedChunk(replace(plan.work, chunk_size=size))
    started = time.monotonic()
    with unwrapped():
        records = list(map_chunks(work, range(here * each), pool, plan.chunks_per_task(here * each, here)))
    return _costs(records, size, time.monotonic() - started)


@dataclass(frozen=True)
class _TimedChunk:
    """Runs in an actor: computes a chunk and its record, and sends how long that took."""

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


def _costs(records: list[dict], size: int, seconds: float) -> Costs:
    """Derive the costs from what the actors recorded.

    An actor's first chunk is slower than the others. It counts only where no actor drew a second one.
    """
    by_actor: defaultdict[str, list[dict]] = defaultdict(list)
    for one in sorted(records, key=lambda one: one["cpu_before"]):
        by_actor[one["actor"]].append(one)
    later = [one for chunks in by_actor.values() for one in chunks[1:]] or records
    wall = float(np.mean([one["wall"] for one in later])) * 1e-9
    cpu = float(np.median([one["cpu"] for one in later])) * 1e-9  # other work on the machine spoils some
    busiest = max(len(chunks) for chunks in by_actor.values()) * wall
    before = max(chunks[0]["cpu_before"] for chunks in by_actor.values()) * 1e-9
    return Costs(max(0.0, seconds - busiest), wall / size, before, cpu / size)
