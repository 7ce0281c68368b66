"""The ratio of the random baseline, which accepts every proposal alike."""

from __future__ import annotations

import torch
from torch import Tensor

from rsf_dist.data.batch import Batch, num_rows
from rsf_dist.ratios.info import RatioInfo


class ConstantRatio:
    """The ratio of p = q: log ratio 0 everywhere, so that M = 1 accepts every row."""

    log_bound = 0.0
    info = RatioInfo(columns=())

    def log_ratio(self, batch: Batch) -> Tensor:
        """Return zeros, float64 [n]."""
        return torch.zeros(num_rows(batch), dtype=torch.float64)
