"""Every proposal alike: the random control that rejection has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from rsf_dist.data.batch import Batch, num_rows
from rsf_dist.ratios.info import RatioInfo


class ConstantRatio:
    """p = q: log ratio 0 everywhere, so that at M = 1 everything is accepted."""

    log_bound = 0.0
    info = RatioInfo(columns=())

    def log_ratio(self, batch: Batch) -> Tensor:
        """Zeros, float64 [n]."""
        return torch.zeros(num_rows(batch), dtype=torch.float64)
