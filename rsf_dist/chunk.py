"""A chunk: propose, score, accept. A pure function of (work, chunk id), in one process, without Ray.

Whoever computes it, however often, gets the same rows in the same order; so retrying is safe and the number of actors
does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rsf_dist.accept import Floats, accept
from rsf_dist.batch import Batch, num_rows, select
from rsf_dist.diagnostics import Statistics
from rsf_dist.errors import InputError
from rsf_dist.proposals.base import Proposal
from rsf_dist.ratios.base import Ratio
from rsf_dist.rng import Stage, Streams

BOOKKEEPING = ("round", "chunk", "index", "log_ratio", "accept_key", "weight")
"""The columns added to each accepted row."""


@dataclass(frozen=True)
class ChunkWork:
    """What a chunk needs besides its id.

    Args:
        proposal, ratio: q, and log p/q.
        log_m: the envelope's constant.
        chunk_size: proposals a chunk; part of what determines the rows.
        seed, stage, round: the rest of the key of its random streams.
    """

    proposal: Proposal
    ratio: Ratio
    log_m: float
    chunk_size: int
    seed: int
    stage: Stage = Stage.SAMPLE
    round: int = 0

    def __call__(self, chunk: int) -> Chunk:
        """Compute one chunk."""
        batch, log_ratio, exponentials = draw(self.proposal, self.ratio, self.streams(chunk), self.chunk_size)
        decision = accept(log_ratio, exponentials, self.log_m)
        statistics = Statistics.of(log_ratio, decision.keep, self.log_m, _class_labels(batch))
        index = np.flatnonzero(decision.keep)
        rows = select(batch, torch.from_numpy(index)) | {
            "round": torch.full((len(index),), self.round),
            "chunk": torch.full((len(index),), chunk),
            "index": torch.from_numpy(index),
            "log_ratio": torch.from_numpy(log_ratio[index]),
            "accept_key": torch.from_numpy(decision.key[index]),
            "weight": torch.from_numpy(decision.weight[index]),
        }
        return Chunk(chunk, rows, statistics)

    def streams(self, chunk: int) -> Streams:
        """The chunk's random streams."""
        return Streams(self.seed, self.stage, self.round, chunk)


@dataclass(frozen=True)
class Chunk:
    """The accepted rows of one chunk (the proposal's columns and BOOKKEEPING), and statistics of all its proposals."""

    id: int
    rows: Batch
    statistics: Statistics


def draw(proposal: Proposal, ratio: Ratio, streams: Streams, n: int) -> tuple[Batch, Floats, NDArray[np.float64]]:
    """n proposals, their log ratios float64 [n] and their Exp(1) draws [n]. Raises InputError on a broken contract."""
    batch = proposal.sample(n, streams)
    if num_rows(batch) != n:
        raise InputError("proposal", f"{num_rows(batch)} rows", f"sample({n}) must give {n}", "mend the proposal")
    taken = sorted(set(BOOKKEEPING) & batch.keys())
    if taken:
        raise InputError("proposal", taken[0], "this column's name is taken", "rename the proposal's column")
    log_ratio = ratio.log_ratio(batch).detach().double().cpu().numpy()
    if log_ratio.shape != (n,):
        raise InputError("ratio", list(log_ratio.shape), f"log_ratio must have shape [{n}]", "give one number a row")
    return batch, log_ratio, streams.numpy().exponential(size=n)


def _class_labels(batch: Batch) -> NDArray[np.int64] | None:
    """The column `label` where it holds class numbers, one a row."""
    label = batch.get("label")
    if label is None or label.ndim != 1 or label.is_floating_point():
        return None
    return label.long().cpu().numpy()
