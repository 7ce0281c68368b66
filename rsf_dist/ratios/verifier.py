"""The ratio of a target that is the proposal given that a check v passes: p(x) = q(x) 1[v(x)] / P_q(v).

The acceptance is P_q(v) and M = 1 is exact: a rejection sampler with a 0/1 verdict. Degenerate case: a check that
nothing passes has no target, and the sampler refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rsf_dist.data.batch import Batch, num_rows
from rsf_dist.errors import InputError
from rsf_dist.ratios.base import checked_columns
from rsf_dist.ratios.info import RatioInfo
from rsf_dist.runtime.user_code import reported_as


class VerifierRatio:
    """The ratio log r(x) = 0 where the check passes, and -inf where it does not.

    Args:
        passes: Batch -> bool [n].
        columns: the only columns that the check needs, so that others need not be made of rows that it rejects. None
            means any.

    Raises:
        InputError: at scoring, the verdicts are not bool [n]. A score belongs into `RewardRatio`.
    """

    log_bound = 0.0

    def __init__(self, passes: Callable[[Batch], Tensor], columns: Sequence[str] | None = None):
        self.passes = passes
        self.info = RatioInfo(columns=checked_columns(columns))

    def log_ratio(self, batch: Batch) -> Tensor:
        """Return the log ratio of each row, float64 [n]."""
        failure = f"fails on {num_rows(batch)} proposals"
        with (
            torch.no_grad(),
            reported_as("passes", getattr(self.passes, "__name__", "(yours)"), failure, "fix it"),
        ):
            verdict = torch.as_tensor(self.passes(batch))
        if verdict.dtype != torch.bool or verdict.shape != (num_rows(batch),):
            value, rule = f"{verdict.dtype} {list(verdict.shape)}", f"must be torch.bool [{num_rows(batch)}]"
            raise InputError("passes", value, rule, "compare with a threshold, or use RewardRatio")
        return torch.where(verdict, 0.0, -torch.inf).double()
