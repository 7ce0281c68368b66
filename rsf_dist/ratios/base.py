"""Socket 2: log p(x) - log q(x) of a batch."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from rsf_dist.batch import Batch


@runtime_checkable
class Ratio(Protocol):
    """The logarithm of target density over proposal density, up to a constant that M absorbs."""

    @property
    def log_bound(self) -> float | None:
        """The supremum of log_ratio where it is known, else None."""
        ...

    def log_ratio(self, batch: Batch) -> Tensor:
        """float64 [n]. -inf rejects; NaN and +inf are counted by the sampler and refused."""
        ...
