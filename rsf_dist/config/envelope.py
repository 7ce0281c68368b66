"""The envelopes: how M, the largest ratio allowed for, is chosen (`rsf_dist.sampling.envelope`).

What the rest of the package asks of a kind is a property of its model here. The object itself is made by
`rsf_dist.builders.components.build_envelope`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import model_validator

from rsf_dist.config.base import (
    Finite,
    Fraction,
    ImportPath,
    NonNegative,
    PositiveInt,
    StrictModel,
)
from rsf_dist.config.kinds import Kinds


class EnvelopeKind(StrictModel):
    """The base of every kind of envelope.

    A kind of your own derives from this class, names itself in `kind`, and is registered by `@ENVELOPE_KINDS.register`.
    It overrides the facts below that do not hold for it.
    """

    kind: str
    """The kind's name."""

    needs_bound: ClassVar[bool] = False
    """True if M is the ratio's own bound, so that a ratio without one is refused."""
    moves: ClassVar[bool] = False
    """True if M grows while rows are drawn, so that rows already accepted may be given up."""

    @property
    def acceptance_known(self) -> float | None:
        """The share of the proposals that is accepted whatever the proposal. None means that a pilot must tell."""
        return None

    def without_rounds(self, acceptance: float, num_pilot: int) -> EnvelopeKind:
        """Return the envelope of a single round from the proposal as configured, in place of several rounds.

        Args:
            acceptance: share of the proposals that every round before the last accepts.
            num_pilot: proposals of their pilots.
        """
        return self


ENVELOPE_KINDS = Kinds[EnvelopeKind]("envelope")
"""The kinds that `envelope:` can have."""

EnvelopeConfig = Annotated[EnvelopeKind, ENVELOPE_KINDS]
"""The type of a field that holds an envelope of any registered kind."""


@ENVELOPE_KINDS.register
class FixedEnvelopeConfig(EnvelopeKind):
    """A given M. Rows whose log ratio exceeds log_m are capped, counted and reported."""

    kind: Literal["fixed"]
    """Chooses this envelope."""
    log_m: Finite
    """The natural logarithm of M. Raising it by 1 caps fewer rows and costs 2.7 times as many proposals."""


@ENVELOPE_KINDS.register
class CertifiedEnvelopeConfig(EnvelopeKind):
    """The ratio's own bound as M, which makes rejection exact. A ratio without a bound is refused."""

    needs_bound: ClassVar[bool] = True

    kind: Literal["certified"]
    """Chooses this envelope."""
    num_pilot: PositiveInt = 2_000
    """Proposals that are drawn to forecast the acceptance. They do not change M."""


@ENVELOPE_KINDS.register
class PilotEnvelopeConfig(EnvelopeKind):
    """The ratio's own bound, or else an M from a pilot: log M = the pilot's largest log ratio + margin."""

    kind: Literal["pilot"]
    """Chooses this envelope."""
    num_pilot: PositiveInt = 10_000
    """Proposals of the pilot. More come closer to the largest ratio there is; each is drawn and scored once."""
    margin: NonNegative = 0.0
    """Added to log M. Raising it by 1 caps fewer rows and costs 2.7 times as many proposals."""


@ENVELOPE_KINDS.register
class AdaptiveEnvelopeConfig(EnvelopeKind):
    """An M that grows while rows are drawn: log M = the largest log ratio drawn so far + margin.

    Rows that were accepted earlier are thinned by their keys, as if M had been known from the start.
    """

    moves: ClassVar[bool] = True

    kind: Literal["adaptive"]
    """Chooses this envelope. It does not go with sampling.mode `stream`."""
    num_pilot: PositiveInt = 10_000
    """Proposals of the pilot, which gives the first M."""
    margin: NonNegative = 0.0
    """Added to log M. Raising it by 1 costs 2.7 times as many proposals."""


@ENVELOPE_KINDS.register
class BudgetEnvelopeConfig(EnvelopeKind):
    """An M that spends a budget: log M is such that a given share of the proposals is accepted.

    Rows above this M are capped: of all ways to accept this share, the one whose rows come closest to the target.
    """

    kind: Literal["budget"]
    """Chooses this envelope."""
    acceptance: Fraction
    """Share of the proposals to accept. Raising it costs fewer proposals and caps more rows."""
    num_pilot: PositiveInt = 20_000
    """Proposals of the pilot, on which the acceptance is measured; at least 20 / acceptance."""

    @property
    def acceptance_known(self) -> float:
        """The budget itself."""
        return self.acceptance

    def without_rounds(self, acceptance: float, num_pilot: int) -> BudgetEnvelopeConfig:
        """Return the budget of the rounds before the last, whose own acceptance suits a proposal that has moved."""
        return BudgetEnvelopeConfig(kind="budget", acceptance=acceptance, num_pilot=max(self.num_pilot, num_pilot))

    @model_validator(mode="after")
    def _enough_pilot_rows(self) -> BudgetEnvelopeConfig:
        require_accepted_pilot_rows(self.acceptance, self.num_pilot)
        return self


def require_accepted_pilot_rows(acceptance: float, num_pilot: int) -> None:
    """Raise ValueError unless the pilot is expected to accept 20 rows, the fewest that tell an acceptance."""
    if acceptance * num_pilot < 20:
        raise ValueError(f"num_pilot must be at least {math.ceil(20 / acceptance)}: 20 accepted pilot rows")


@ENVELOPE_KINDS.register
class CustomEnvelopeConfig(EnvelopeKind):
    """An envelope of your own."""

    kind: Literal["custom"]
    """Chooses this envelope."""
    factory: ImportPath
    """Import path of a class or function that returns an `Envelope` (`rsf_dist.sampling.envelope`)."""
    options: dict[str, Any] = {}
    """Keyword arguments of `factory`."""
