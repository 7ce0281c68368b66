"""Socket 1: where x comes from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from rsf_dist.data.batch import Batch, LazyBatch
from rsf_dist.errors import InputError
from rsf_dist.runtime.rng import Streams


@runtime_checkable
class Proposal(Protocol):
    """A source of rows x ~ q. A proposal whose density is known also has `log_prob` (`DensityProposal`)."""

    def sample(self, n: int, rng: Streams) -> Batch | LazyBatch:
        """Draw n rows, with all randomness from `rng`: equal streams give equal rows.

        Return a dict of tensors, or a `LazyBatch` for columns that are expensive to compute (rendered images, say): its
        expensive columns are computed only for the rows that a ratio reads or that are accepted. Use `to_cpu` to get
        every column of either as a dict of tensors on the CPU.
        """
        ...


@runtime_checkable
class DensityProposal(Proposal, Protocol):
    """A proposal whose density q is known."""

    def log_prob(self, batch: Batch) -> Tensor:
        """log q of each row, float [n]."""
        ...


@runtime_checkable
class Refittable(Proposal, Protocol):
    """A proposal that can be moved to where its rows were accepted, for rounds.

    Rounds mix what it gives with the proposal itself (`DefensiveProposal`), so that nothing gets lost for ever. Where
    it also has a `class_prior` [k], it may have `with_class_prior(prior) -> Proposal`, by which rounds set the classes'
    shares apart from all else.
    """

    def refit(self, rows: Batch, seed: int, max_components: int) -> Proposal:
        """The proposal fitted to `rows`, accepted ones with all columns; the same classes in the same shares.

        Args:
            rows: columns as `sample` gives them.
            seed: all randomness follows from it, so that equal rows give equal proposals.
            max_components: how many modes it may tell apart.
        """
        ...


def has_settable_class_prior(proposal: Proposal) -> bool:
    """Return True if the proposal has a class prior and gives itself again with another one."""
    prior = getattr(proposal, "class_prior", None)
    if prior is None or not hasattr(proposal, "with_class_prior"):
        return False
    try:
        proposal.with_class_prior(prior)
    except InputError:  # a mixture has the method even where one of its parts cannot
        return False
    return True


@runtime_checkable
class FiniteProposal(Proposal, Protocol):
    """A proposal that is uniform on a pool of rows, which can also be gone through once."""

    num_rows: int

    def take(self, start: int, n: int) -> Batch:
        """The rows start to start + n of the pool."""
        ...
