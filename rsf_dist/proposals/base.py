"""The protocols of a proposal, the source of x."""

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
        """Return log q of each row, float [n]."""
        ...


@runtime_checkable
class Refittable(Proposal, Protocol):
    """A proposal that rounds can refit to its accepted rows.

    Rounds mix the refitted proposal with the original one (`DefensiveProposal`), so that no mode is lost. A proposal
    with a `class_prior` [k] may also have `with_class_prior(prior) -> Proposal`: rounds then set the class prior apart
    from everything else.
    """

    def refit(self, rows: Batch, seed: int, max_components: int) -> Proposal:
        """Return the proposal fitted to accepted rows, with the same class prior.

        Args:
            rows: the accepted rows, with the columns that `sample` gives.
            seed: the seed of all randomness, so that equal rows give equal proposals.
            max_components: the largest number of modes to tell apart.
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
    """A proposal that is uniform on a pool of rows, which can also be read once from start to end."""

    num_rows: int

    def take(self, start: int, n: int) -> Batch | LazyBatch:
        """Return the rows start to start + n of the pool."""
        ...


@runtime_checkable
class Pool(FiniteProposal, Protocol):
    """A finite proposal of which a sampler reads each row once, in the order of `take`, until its rows end.

    `sample` is for everything else: it gives different rows as long as there are any, so that rows to learn from and
    rows to evaluate on do not overlap.
    """

    def shuffled(self, rng: Streams) -> Pool:
        """Return the same pool in a random order; equal streams give equal orders."""
        ...
