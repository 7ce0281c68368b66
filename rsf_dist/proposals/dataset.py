"""Proposals from a finite pool of rows, drawn with replacement or read in order."""

from __future__ import annotations

import torch

from rsf_dist.data.batch import Batch, LazyBatch, num_rows, select, to_cpu
from rsf_dist.errors import InputError
from rsf_dist.runtime.rng import Streams


class DatasetProposal:
    """The uniform distribution on given rows.

    Args:
        rows: columns of one length, e.g. image uint8 [n, c, h, w] and label int64 [n].

    `RejectionSampler.sample` draws rows with replacement, so that accepted rows repeat; `RejectionSampler.top_k` reads
    every row once and keeps the rows with the highest keys.

    Raises:
        InputError: no rows, columns that differ in length.
    """

    def __init__(self, rows: Batch | LazyBatch):
        try:
            self.num_rows = num_rows(rows)
        except ValueError as err:
            raise InputError("rows", sorted(rows), str(err), "give columns of one length") from err
        if self.num_rows == 0:
            raise InputError("rows", 0, "must not be empty", "give at least one row")
        self.rows = to_cpu(rows)

    def sample(self, n: int, rng: Streams) -> Batch:
        """Draw n rows with replacement."""
        return select(self.rows, torch.randint(self.num_rows, (n,), generator=rng.torch()))

    def take(self, start: int, n: int) -> Batch:
        """Return the rows start to start + n."""
        return select(self.rows, slice(start, start + n))
