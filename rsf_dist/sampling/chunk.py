"""A chunk: propose, score, accept. A pure function of (work, chunk id), in one process, without Ray.

Every process gets the same rows in the same order, however often it computes the chunk. Retrying is safe, and the
number of actors does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsf_dist.data.batch import Batch, Index, LazyBatch, num_rows, select, to_cpu
from rsf_dist.errors import InputError, StatisticalRefusal, located
from rsf_dist.proposals.base import FiniteProposal, Proposal
from rsf_dist.ratios.base import Ratio, Screened, ScreeningRatio, log_ratios, on_ratio_device
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.runtime.user_code import reported_as
from rsf_dist.sampling.accept import accept
from rsf_dist.sampling.diagnostics import Statistics
from rsf_dist.types import Floats

BOOKKEEPING = ("round", "chunk", "index", "log_ratio", "accept_key", "weight")
"""The columns added to each accepted row."""


@dataclass(frozen=True)
class ChunkWork:
    """The work of every chunk of a round; a chunk is computed from this and its id.

    Args:
        proposal, ratio: q, and log p/q.
        log_m: the logarithm of the envelope's constant M.
        chunk_size: proposals a chunk. Another size gives other rows.
        seed, stage, round: the key of the random streams, together with the chunk's id.
        pool_size: rows of a finite pool, each read once. None means that proposals are drawn without end.
    """

    proposal: Proposal
    ratio: Ratio
    log_m: float
    chunk_size: int
    seed: int
    stage: Stage = Stage.SAMPLE
    round: int = 0
    pool_size: int | None = None

    def __call__(self, chunk: int, section: str = "ratio") -> Chunk:
        """Compute one chunk. Errors of the ratio name its `section`, which is empty where the caller locates them."""
        streams = Streams(self.seed, self.stage, self.round, chunk)
        batch = self._proposals(chunk, streams)
        exponentials = streams.numpy().exponential(size=num_rows(batch))
        with located(section):
            screened = self._screened(batch, exponentials)
        log_ratio = screened.log_ratio.numpy()
        decision = accept(log_ratio, exponentials, self.log_m)
        statistics = Statistics.of(
            log_ratio,
            decision.keep,
            self.log_m,
            class_labels(batch),
            log_inclusion=screened.log_inclusion.numpy(),
            num_screened_out=int((~screened.scored).sum()),
        )
        index = np.flatnonzero(decision.keep)
        rows = to_cpu(select(batch, torch.from_numpy(index))) | {
            "round": torch.full((len(index),), self.round),
            "chunk": torch.full((len(index),), chunk),
            "index": torch.from_numpy(index),
            "log_ratio": torch.from_numpy(log_ratio[index]),
            "accept_key": torch.from_numpy(decision.key[index]),
            "weight": torch.from_numpy(decision.weight[index]),
        }
        return Chunk(chunk, rows, statistics)

    def _proposals(self, chunk: int, streams: Streams) -> Batch | LazyBatch:
        if self.pool_size is None:
            return propose(self.proposal, streams, self.chunk_size)
        start = chunk * self.chunk_size
        n = min(self.chunk_size, self.pool_size - start)
        if isinstance(self.proposal, FiniteProposal):
            with _proposing(self.proposal, n):
                batch = validate_batch(self.proposal.take(start, n), n)
            return _validate_when_made(batch, self.proposal) if isinstance(batch, LazyBatch) else batch
        return propose(self.proposal, streams, n)

    def _screened(self, batch: Batch | LazyBatch, exponentials: Floats) -> Screened:
        if isinstance(self.ratio, ScreeningRatio):
            with reported_as("", type(self.ratio).__name__, f"fails on {num_rows(batch)} proposals", "fix it"):
                return self.ratio.screened(
                    on_ratio_device(batch, self.ratio), torch.from_numpy(exponentials), self.log_m
                )
        log_ratio = torch.from_numpy(score(self.ratio, batch))
        return Screened(log_ratio, torch.ones_like(log_ratio, dtype=torch.bool), torch.zeros_like(log_ratio))


@dataclass(frozen=True)
class Chunk:
    """The accepted rows of one chunk (the proposal's columns and BOOKKEEPING), and statistics of all its proposals."""

    id: int
    rows: Batch
    statistics: Statistics


def propose_and_score(
    proposal: Proposal, ratio: Ratio, streams: Streams, n: int
) -> tuple[Batch | LazyBatch, Floats, Floats]:
    """Draw n proposals, their log ratios and Exp(1) variables, float64 [n]. Raises InputError on a broken contract."""
    batch = propose(proposal, streams, n)
    with located("ratio"):
        log_ratio = score(ratio, batch)
    return batch, log_ratio, streams.numpy().exponential(size=n)


def propose(proposal: Proposal, streams: Streams, n: int) -> Batch | LazyBatch:
    """Draw n proposals. Raises InputError where the proposal breaks its contract."""
    with _proposing(proposal, n):
        batch = validate_batch(proposal.sample(n, streams), n)
    return _validate_when_made(batch, proposal) if isinstance(batch, LazyBatch) else batch


def _proposing(proposal: Proposal, n: int) -> AbstractContextManager[None]:
    return reported_as("proposal", type(proposal).__name__, f"fails to give {n} rows", "fix it", absolute=True)


def validate_batch(batch: Batch | LazyBatch, n: int) -> Batch | LazyBatch:
    """Return the batch, its known columns on the CPU.

    Raises InputError unless it has n rows, columns that can be stored, and no column of BOOKKEEPING.
    """
    known = batch.columns if isinstance(batch, LazyBatch) else batch
    if not (isinstance(known, dict) and all(isinstance(column, Tensor) for column in known.values())):
        raise InputError(
            "proposal",
            type(batch).__name__,
            "must give a dict of tensors or a LazyBatch",
            "give column -> tensor [n, …]",
            absolute=True,
        )
    try:
        count = num_rows(batch)
    except ValueError as err:
        raise InputError("proposal", sorted(batch), str(err), f"give every column {n} rows", absolute=True) from err
    if count != n:
        raise InputError("proposal", f"{count} rows", f"must give the {n} asked for", "fix the proposal", absolute=True)
    for name, column in known.items():
        _require_storable(name, column)
    taken = sorted(set(BOOKKEEPING) & batch.keys())
    if taken:
        raise InputError(
            "proposal", taken[0], "this column's name is taken", "rename the proposal's column", absolute=True
        )
    return batch if isinstance(batch, LazyBatch) else to_cpu(batch)


def _require_storable(name: str, column: Tensor) -> None:
    if column.is_complex() or column.is_quantized or column.dtype == torch.bfloat16:
        raise InputError(
            "proposal", f"{name} {column.dtype}", "has no column in Arrow", "convert it to float32", absolute=True
        )


def _validate_when_made(drawn: LazyBatch, proposal: Proposal) -> LazyBatch:
    """Return the batch with lazy columns that are checked once computed; errors in them name the proposal."""
    kind = type(proposal).__name__

    def guard(name: str, make: Callable[[Index], Tensor]) -> Callable[[Index], Tensor]:
        def made(rows: Index) -> Tensor:
            count = len(rows) if isinstance(rows, Tensor) else num_rows(drawn)
            what = f"fails to make the {name} of {count} rows"
            with reported_as("proposal", kind, what, "fix it", absolute=True):
                column = make(rows)
            if not isinstance(column, Tensor) or column.shape[:1] != (count,):
                result = list(column.shape) if isinstance(column, Tensor) else type(column).__name__
                rule = f"makes {result} as the {name} of {count} rows"
                raise InputError("proposal", kind, rule, "fix it", absolute=True)
            _require_storable(name, column)
            return column

        return made

    return drawn.with_producers({name: guard(name, make) for name, make in drawn.producers.items()})


def score(ratio: Ratio, batch: Batch | LazyBatch) -> Floats:
    """Compute the log ratios, float64 [n]. Raises InputError where the ratio breaks its contract."""
    return log_ratios(ratio, batch).numpy()


def class_labels(batch: Mapping[str, Tensor]) -> NDArray[np.int64] | None:
    """Return the column `label`, int64 [n], where it holds one class number a row, else None."""
    label = batch.get("label")
    if label is None or label.ndim != 1 or label.is_floating_point():
        return None
    return label.long().cpu().numpy()


def refuse_nonfinite(count: int, total: int, what: str = "") -> None:
    """Raise StatisticalRefusal if `count` of `total` log ratios are NaN or +inf."""
    if count:
        raise StatisticalRefusal(
            f"{count:,} of {total:,} {what}log ratios are NaN or +inf",
            "fix the target or the ratio there; the proposal must have density wherever the target has",
        )
