"""Clocks that all processes of a machine share."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rsf_dist.sampling.collector import ChunkTask


@dataclass(frozen=True)
class Clocked:
    """A chunk's record, and when and where it was made."""

    recorder: ChunkTask

    def __call__(self, chunk: int) -> dict[str, Any]:
        began = time.monotonic()
        return {**self.recorder(chunk), "actor": os.getpid(), "began": began, "ended": time.monotonic()}


def chunks_per_second(clocks: Iterable[tuple[int, float]]) -> float:
    """Chunks that ended a second while every actor was at work. clocks: (actor, when a chunk ended).

    Raises ValueError where that was less than half of the time.
    """
    ends = defaultdict(list)
    for actor, ended in clocks:
        ends[actor].append(ended)
    begin, end = max(map(min, ends.values())), min(map(max, ends.values()))
    everything = max(map(max, ends.values())) - min(map(min, ends.values()))
    if not end - begin > everything / 2:
        raise ValueError(f"actors worked together for {end - begin:.1f} of {everything:.1f} s")
    return sum(sum(begin < one <= end for one in times) for times in ends.values()) / (end - begin)
