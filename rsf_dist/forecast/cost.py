"""From an acceptance to the cost of sampling: rows, proposals, wall time, CPU time and disk.

With an acceptance a, N rows wanted, chunks of n proposals and A actors:

    proposals  N/a        chunks  C = ceil(N/(a n))        wall time  pilot + start-up + ceil(C/A) seconds a chunk

A budget ends sampling earlier, and then with fewer rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rsf_dist.config.sampling import Budget
from rsf_dist.sampling.collector import RowCollector
from rsf_dist.sampling.plan import SamplingPlan

_MOST_PROPOSALS = 10**18
"""The number of proposals where the acceptance is 0."""


@dataclass(frozen=True)
class Cost:
    """The cost of sampling, and the rows that it buys. Costs of several rounds add up.

    Args:
        num_accepted: accepted rows to expect: those wanted, or fewer where the budget ends first.
        proposals: proposals until the last row, the pilot's left out.
        seconds: wall time of sampling, including the pilot's, without the ratio's.
        cpu_hours: CPU time of sampling: the pilot, the actors' start, drawing and scoring.
        disk_bytes: bytes of the accepted rows' files.
    """

    num_accepted: int
    proposals: int
    seconds: float
    cpu_hours: float
    disk_bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.num_accepted + other.num_accepted,
            self.proposals + other.proposals,
            self.seconds + other.seconds,
            self.cpu_hours + other.cpu_hours,
            self.disk_bytes + other.disk_bytes,
        )


@dataclass(frozen=True)
class MeasuredCosts:
    """The measured costs of the parts that sampling consists of.

    Args:
        startup_seconds: seconds of the pool's start, over and above the time in which its actors compute.
        seconds_per_row: seconds a proposal of one actor, while the other actors work too.
        cpu_startup_seconds: CPU seconds of an actor before its first chunk.
        cpu_seconds_per_row: CPU seconds of a proposal.
        num_pilot: proposals of the run's pilot; 0 where the run's directory holds the pilot already.
        pilot_seconds: wall time of the pilot; 0 where the run's directory holds the pilot already.
        ratio_seconds: wall time of making the ratio. None means that the run's directory holds the ratio already.
        bytes_per_shard: bytes of a shard, its rows left out.
        bytes_per_row: bytes of a row in a shard.
    """

    startup_seconds: float
    seconds_per_row: float
    cpu_startup_seconds: float = 0.0
    cpu_seconds_per_row: float = 0.0
    num_pilot: int = 0
    pilot_seconds: float = 0.0
    ratio_seconds: float | None = None
    bytes_per_shard: float = 0.0
    bytes_per_row: float = 0.0


@dataclass(frozen=True)
class Request:
    """The rows that are asked for.

    Args:
        num_accepted: accepted rows wanted.
        actors: actors that sample.
        budget: when to stop short of the rows wanted.
        num_seeds: how many seeds repeat all of this.
        whole_pool: True if all of a pool is read, whatever the acceptance.
    """

    num_accepted: int
    actors: int
    budget: Budget = field(default_factory=Budget)
    num_seeds: int = 1
    whole_pool: bool = False


@dataclass(frozen=True)
class CostModel:
    """The cost of a request as a function of the acceptance.

    Args:
        plan: the pilot, the chunk size and the size of a wave.
        request: the rows that are asked for.
        measured: what the parts of sampling cost.
    """

    plan: SamplingPlan
    request: Request
    measured: MeasuredCosts

    def cost(self, acceptance: float) -> Cost:
        """Return the cost until all rows are accepted, or until the budget ends."""
        proposals, num_accepted = self.proposals(acceptance), self.num_accepted(acceptance)
        cpu_hours, disk_bytes = self.cpu_seconds(proposals) / 3600, self.disk_bytes(proposals, num_accepted)
        return Cost(num_accepted, proposals, self.seconds(proposals), cpu_hours, disk_bytes)

    def proposals(self, acceptance: float) -> int:
        """Return the number of proposals until all rows are accepted, or until the budget or the pool ends."""
        return min(self.proposals_without_budget(acceptance), self.proposals_of_budget)

    def proposals_without_budget(self, acceptance: float) -> int:
        """Return the number of proposals until all rows are accepted, whatever the budget; all of a whole pool."""
        if self.request.whole_pool and self.plan.work.pool_size is not None:
            return self.plan.work.pool_size
        return math.ceil(min(self.request.num_accepted / max(acceptance, 1e-300), _MOST_PROPOSALS))

    @property
    def proposals_of_budget(self) -> int:
        """The number of proposals at which the budget or the pool ends; the first chunk is always drawn."""
        budget, size, pool_size = self.request.budget, self.plan.work.chunk_size, self.plan.work.pool_size
        chunks = budget.chunks_for(self.request.num_accepted, size, pool_size)
        if budget.max_seconds is not None:
            computing = max(0.0, budget.max_seconds - self.measured.startup_seconds)
            chunks = min(chunks, self.request.actors * int(computing / max(self._chunk_seconds, 1e-9)))
        return min(max(1, chunks) * size, pool_size or _MOST_PROPOSALS)

    def num_accepted(self, acceptance: float) -> int:
        """Return the number of accepted rows: all that are wanted, or those that the budget allows."""
        wanted, proposals = self.request.num_accepted, self.proposals(acceptance)
        if self.request.whole_pool:
            return wanted
        return min(wanted, round(proposals * acceptance)) if proposals == self.proposals_of_budget else wanted

    def chunks(self, proposals: int) -> int:
        """Return the number of chunks that hold these proposals."""
        return -(-proposals // self.plan.work.chunk_size)

    def seconds(self, proposals: int) -> float:
        """Return the wall time of sampling: the pilot, the pool's start before each wave, and the chunks."""
        chunks, largest_wave = self.chunks(proposals), self.plan.wave_size(RowCollector(1, exhaustive=True))
        starts = max(1, math.ceil(chunks / largest_wave)) * self.measured.startup_seconds
        return self.measured.pilot_seconds + starts + math.ceil(chunks / self.request.actors) * self._chunk_seconds

    def cpu_seconds(self, proposals: int) -> float:
        """Return the CPU time of the pilot, of the actors' start, and of drawing and scoring whole chunks."""
        scored = self.measured.num_pilot + self.chunks(proposals) * self.plan.work.chunk_size
        return self.request.actors * self.measured.cpu_startup_seconds + scored * self.measured.cpu_seconds_per_row

    def disk_bytes(self, proposals: int, num_accepted: int) -> int:
        """Return the bytes of the accepted rows, and of one file for each chunk that has any of them."""
        num_shards = min(num_accepted, self.chunks(proposals))
        return round(num_shards * self.measured.bytes_per_shard + num_accepted * self.measured.bytes_per_row)

    @property
    def _chunk_seconds(self) -> float:
        return self.measured.seconds_per_row * self.plan.work.chunk_size
