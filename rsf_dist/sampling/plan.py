"""The plan that follows from a pilot: M, the cost of a chunk, the chunks of a wave and of a task.

None of these numbers changes a row, except M.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rsf_dist.ratios.info import info_of
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.collector import RowCollector
from rsf_dist.sampling.diagnostics import Statistics
from rsf_dist.sampling.envelope import Choice
from rsf_dist.sampling.pilot import PilotRun
from rsf_dist.sampling.report import Setting

START_SECONDS = 5.0
"""Seconds to start an actor: it imports torch, and Ray Data waits for it."""

_TASK_SECONDS = 2.0  # Ray Data costs the driver some 6 ms a task
_LONGEST_TASK_SECONDS = 20.0  # in large waves: rows and the time limit wait for a task's end
_MAX_TASKS = 1_000  # a wave; each leaves some 10 KB with the driver


@dataclass(frozen=True)
class SamplingPlan:
    """The M that an envelope chose from a pilot, the work of a chunk, and the sizes of waves and tasks.

    Args:
        choice: log M and its origin.
        work: the work of a chunk.
        pilot: the pilot that both follow from.
        on_gpus: whether chunks are drawn on GPUs.
    """

    choice: Choice
    work: ChunkWork
    pilot: PilotRun
    on_gpus: bool = False

    @property
    def acceptance(self) -> float:
        """The expected fraction of accepted proposals, E_q[min(1, r/M)] over the pilot."""
        return float(np.exp(np.minimum(self.pilot.rows.log_ratio - self.choice.log_m, 0)).mean())

    @property
    def seconds_per_chunk(self) -> float:
        """Seconds of one core for a chunk."""
        a_chunk, a_row = self.pilot.making
        return a_chunk + (self.pilot.seconds_per_row + self.acceptance * a_row) * self.work.chunk_size

    def setting(self, log_m: float) -> Setting:
        """Return what the report needs besides the rows; log_m is the final log M."""
        info, log_ratio = info_of(self.work.ratio), self.pilot.rows.log_ratio
        return Setting(
            log_m=log_m,
            source=self.choice.source,
            normalised=info.normalised,
            target_log_ratio=None if info.held_out is None else info.held_out.log_ratio,
            target_at_most=info.held_out is not None and info.held_out.at_most,
            pilot=Statistics.of(log_ratio, log_ratio > log_m, log_m),
            log_ratio_quantile=float(np.quantile(log_ratio, 0.999, method="higher")),
        )

    def wave_size(self, collector: RowCollector) -> int:
        """Return the number of chunks that should fill the collector, with room for chance.

        While nothing is accepted, each wave is twice as large as everything drawn before.
        """
        largest = _MAX_TASKS * self.chunks_in(_LONGEST_TASK_SECONDS)
        if collector.exhaustive:
            return largest
        missing, scored = collector.wanted - len(collector), collector.scored.num_scored
        likely = missing + 3 * math.sqrt(missing) + 1
        if len(collector):
            proposals = likely * scored / len(collector)
        else:
            proposals = 2 * scored or likely / max(self.acceptance, 1e-9)
        return min(math.ceil(proposals / self.work.chunk_size), largest)

    def chunks_per_task(self, wave: int, actors: int) -> int:
        """Return the number of chunks of a task.

        A task lasts about _TASK_SECONDS, a wave has at most _MAX_TASKS tasks, and every actor gets some.
        The first chunk of each actor, which is a task of its own, is not counted.
        """
        several_each = math.ceil(wave / (4 * actors))
        return max(1, math.ceil(wave / _MAX_TASKS), min(self.chunks_in(_TASK_SECONDS), several_each))

    def starts_slower_than_it_draws(self, wave: int, actors: int) -> bool:
        """Return True if actors take longer to start than to draw a wave of so many chunks, so that tasks are quicker.

        On GPUs tasks are never quicker: each would start a process too.
        """
        return not self.on_gpus and wave * self.seconds_per_chunk / actors < START_SECONDS

    def chunks_in(self, seconds: float) -> int:
        """Return the number of chunks that one core computes in this time, at least one."""
        return max(1, round(seconds / max(self.seconds_per_chunk, 1e-6)))
