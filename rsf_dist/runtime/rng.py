"""Randomness by name: every draw comes from a Philox stream keyed by (seed, stage, round, chunk).

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) is counter-based: streams with different
keys are independent, so a chunk draws the same numbers on whatever actor, after whatever failure, in whatever order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch


class Stage(IntEnum):
    """What the numbers are for. Part of the key: the values must never change, or old runs cannot be reproduced."""

    SAMPLE = 0
    PILOT = 1
    RATIO = 2
    CONTROL = 3
    TARGET = 4
    PRETRAIN = 5
    CONTROL_PILOT = 6


_PURPOSE_BITS, _STAGE_BITS, _ROUND_BITS, _CHUNK_BITS = 4, 4, 16, 40


@dataclass(frozen=True)
class Streams:
    """The random streams of one chunk: a NumPy generator for the keys, torch generators seeded from the same key.

    Args:
        seed: the run's seed, 0 <= seed < 2**64.
        stage: what is drawn.
        round: which round of the run, < 2**16.
        chunk: which chunk of the round, < 2**40.
    """

    seed: int
    stage: Stage = Stage.SAMPLE
    round: int = 0
    chunk: int = 0

    def __post_init__(self) -> None:
        for name, value, bits in [
            ("seed", self.seed, 64),
            ("round", self.round, _ROUND_BITS),
            ("chunk", self.chunk, _CHUNK_BITS),
        ]:
            if not 0 <= value < 2**bits:
                raise ValueError(f"{name}={value}: must be in [0, 2**{bits})")

    def numpy(self, purpose: int = 0) -> np.random.Generator:
        """A fresh generator at the beginning of this stream. `purpose` (0 to 15) separates draws within one chunk."""
        # The key's 128 bits: seed, then purpose, stage, round and chunk side by side, so that no two streams share one.
        if not 0 <= purpose < 2**_PURPOSE_BITS:
            raise ValueError(f"purpose={purpose}: must be in [0, 2**{_PURPOSE_BITS})")
        word = purpose
        for value, bits in [(int(self.stage), _STAGE_BITS), (self.round, _ROUND_BITS), (self.chunk, _CHUNK_BITS)]:
            word = word << bits | value
        # As a list, a number of 2**63 or more would turn both into floats and merge neighbouring streams.
        return np.random.Generator(np.random.Philox(key=np.array([self.seed, word], dtype=np.uint64)))

    def torch(self, purpose: int = 1) -> torch.Generator:
        """A torch CPU generator seeded from this stream."""
        return torch.Generator().manual_seed(self._torch_seed(purpose))

    @contextmanager
    def torch_global(self, purpose: int = 2) -> Iterator[None]:
        """Seed torch's global CPU generator inside the block, for code that takes no generator; restore it after."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._torch_seed(purpose))
            yield

    def _torch_seed(self, purpose: int) -> int:
        return int(self.numpy(purpose).integers(2**63))
