"""Socket 1: where x comes from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from rsf_dist.data.batch import Batch, LazyBatch
from rsf_dist.runtime.rng import Streams


@runtime_checkable
class Proposal(Protocol):
    """Draws rows x ~ q. The one method that the sampler needs; those whose density is known also have `log_prob`."""

    def sample(self, n: int, rng: Streams) -> Batch:
        """Draw n rows, on the CPU, all randomness from `rng`, so that equal streams give equal rows."""
        ...


@runtime_checkable
class DensityProposal(Proposal, Protocol):
    """A proposal whose density q is known."""

    def log_prob(self, batch: Batch) -> Tensor:
        """log q of each row, float [n]."""
        ...


@runtime_checkable
class OutliningProposal(Proposal, Protocol):
    """A proposal with columns that are costly: made of the rows alone that a ratio must see, or that are accepted.

    They may be made, and lie, on the device that the process computes on (`rsf_dist.runtime.device`).
    """

    def outline(self, n: int, rng: Streams) -> Batch | LazyBatch:
        """The rows of `sample`, to the last bit; an Outline makes its costly columns when they are asked for."""
        ...


def outline(proposal: Proposal, n: int, rng: Streams) -> Batch | LazyBatch:
    """The rows of `proposal.sample`, by its `outline` where it has one that a subclass's own `sample` does not undo."""
    for kind in type(proposal).__mro__:
        if "outline" in vars(kind):
            assert isinstance(proposal, OutliningProposal)
            return proposal.outline(n, rng)
        if "sample" in vars(kind):
            break
    return proposal.sample(n, rng)


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


@runtime_checkable
class FiniteProposal(Proposal, Protocol):
    """A proposal that is uniform on a pool of rows, which can also be gone through once."""

    num_rows: int

    def take(self, start: int, n: int) -> Batch:
        """The rows start to start + n of the pool."""
        ...
