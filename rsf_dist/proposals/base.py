"""Socket 1: where x comes from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from rsf_dist.batch import Batch
from rsf_dist.rng import Streams


@runtime_checkable
class Proposal(Protocol):
    """Draws rows x ~ q. The one method that the sampler needs; those whose density is known also have `log_prob`."""

    def sample(self, n: int, rng: Streams) -> Batch:
        """Draw n rows, all randomness from `rng`, so that equal streams give equal rows."""
        ...


@runtime_checkable
class DensityProposal(Proposal, Protocol):
    """A proposal whose density q is known."""

    def log_prob(self, batch: Batch) -> Tensor:
        """log q of each row, float [n]."""
        ...


@runtime_checkable
class FiniteProposal(Proposal, Protocol):
    """A proposal that is uniform on a pool of rows, which can also be gone through once."""

    num_rows: int

    def take(self, start: int, n: int) -> Batch:
        """The rows start to start + n of the pool."""
        ...
