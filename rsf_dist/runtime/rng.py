"""Randomness by name: every draw comes from a Philox stream keyed by (seed, purpose, stage, round, chunk).

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) is counter-based. Streams with different
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
    """The stage of a run that draws. It is part of the key: a value that changed would change the rows of old runs."""

    SAMPLE = 0
    PILOT = 1
    RATIO = 2
    CONTROL = 3
    TARGET = 4
    PRETRAIN = 5
    CONTROL_PILOT = 6
    TRAIN = 7


class Purpose(IntEnum):
    """The use of one stream within a stage, round and chunk. Part of the key, 0 to 15: the values must never change.

    A value has several names where different stages use it.
    """

    ACCEPT_KEYS = 0
    """Exponentials of accept keys, and the default of `Streams.numpy`."""

    ROWS = 1
    """Rows that a proposal draws with a torch generator, and the default of `Streams.torch`."""

    GLOBAL_GENERATOR = 2
    """Draws of code that takes no generator, such as torch's distributions and dropout."""

    SPLIT = 3
    """RATIO: the split into rows to fit, to calibrate and to test."""

    SHUFFLE = 3
    """TRAIN: the order of stored rows in an epoch."""

    ORACLE_ROWS = 3
    """CONTROL: the order of labelled target images."""

    MINIBATCHES = 4
    """RATIO: the rows of each step of a classifier's fit."""

    PSEUDO_LABELS = 4
    """CONTROL: the target images that are drawn with their pseudo-labels."""

    DROPOUT = 5
    """RATIO: dropout in a classifier's fit."""

    BATCH_NORM_ORDER = 5
    """CONTROL: the order of the target images that batch norm statistics are taken from."""

    BALANCED_ROWS = 6
    """RATIO: target rows drawn and shuffled for a data-parallel fit."""

    BATCH_NORM_DROPOUT = 6
    """CONTROL: dropout while batch norm statistics are taken."""

    ENSEMBLE_MEMBER = 7
    """RATIO: the seed of a network of an ensemble."""

    SHIFT_PARAMETERS = 7
    """TARGET: the parameters of a shifted target's images."""

    PIXEL_NOISE = 8
    """TARGET: the noise of a shifted target's images."""

    TARGET_MIXTURE = 8
    """The component of each row of a mixture with target rows, in the stage that draws from it."""

    ROUND_SEED = 9
    """RATIO: the seed of all that is fitted in a later round."""

    DEFENSIVE_MIXTURE = 10
    """The component of each row of a defensive mixture, which may itself be a component of the mixture above."""

    POOL_ORDER = 11
    """The order in which a pool of rows is read, in the stage that reads it."""


_PURPOSE_BITS, _STAGE_BITS, _ROUND_BITS, _CHUNK_BITS = 4, 4, 16, 40


@dataclass(frozen=True)
class Streams:
    """The random streams of one chunk: a NumPy generator, and torch generators seeded from the same key.

    Args:
        seed: the run's seed, 0 <= seed < 2**64.
        stage: the stage that draws.
        round: the round of the run, < 2**16; in Stage.TRAIN the rank of the worker.
        chunk: the chunk of the round, < 2**40; in Stage.TRAIN the step, or the epoch.
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

    def numpy(self, purpose: Purpose = Purpose.ACCEPT_KEYS) -> np.random.Generator:
        """Return a fresh generator at the beginning of the stream for this purpose, 0 to 15."""
        # The key's 128 bits: seed, then purpose, stage, round and chunk side by side, so that no two streams share one.
        if not 0 <= purpose < 2**_PURPOSE_BITS:
            raise ValueError(f"purpose={purpose}: must be in [0, 2**{_PURPOSE_BITS})")
        word = int(purpose)
        for value, bits in [(int(self.stage), _STAGE_BITS), (self.round, _ROUND_BITS), (self.chunk, _CHUNK_BITS)]:
            word = word << bits | value
        # As a list, a number of 2**63 or more would turn both into floats and merge neighbouring streams.
        return np.random.Generator(np.random.Philox(key=np.array([self.seed, word], dtype=np.uint64)))

    def torch(self, purpose: Purpose = Purpose.ROWS) -> torch.Generator:
        """Return a torch CPU generator seeded from this stream."""
        return torch.Generator().manual_seed(self.torch_seed(purpose))

    @contextmanager
    def torch_global(self, purpose: Purpose = Purpose.GLOBAL_GENERATOR) -> Iterator[None]:
        """Seed torch's global CPU generator inside the block, for code that takes no generator; restore it after."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.torch_seed(purpose))
            yield

    def torch_seed(self, purpose: Purpose = Purpose.GLOBAL_GENERATOR) -> int:
        """Return a seed for torch's generators, < 2**63."""
        return self.integer(2**63, purpose)

    def integer(self, end: int, purpose: Purpose) -> int:
        """Return one integer >= 0 and < `end` from this stream, for code that takes a seed."""
        return int(self.numpy(purpose).integers(end))
