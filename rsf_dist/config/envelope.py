"""The envelopes: how M, the largest ratio allowed for, is chosen (`rsf_dist.sampling.envelope`)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    Tag,
    model_validator,
)

from rsf_dist.config.base import (
    Finite,
    Fraction,
    ImportPath,
    NonNegative,
    PositiveInt,
    StrictModel,
)
from rsf_dist.config.kinds import kind_discriminator


class FixedEnvelopeConfig(StrictModel):
    """A given M. Rows whose log ratio exceeds log_m are capped, counted and reported."""

    kind: Literal["fixed"]
    """Chooses this envelope."""
    log_m: Finite
    """The natural logarithm of M. Raising it by 1 caps fewer rows and costs 2.7 times as many proposals."""


class CertifiedEnvelopeConfig(StrictModel):
    """The ratio's own bound as M, which makes rejection exact. A ratio without a bound is refused."""

    kind: Literal["certified"]
    """Chooses this envelope."""
    num_pilot: PositiveInt = 2_000
    """Proposals that are drawn to forecast the acceptance. They do not change M."""


class PilotEnvelopeConfig(StrictModel):
    """The ratio's own bound, or else an M from a pilot: log M = the pilot's largest log ratio + margin."""

    kind: Literal["pilot"]
    """Chooses this envelope."""
    num_pilot: PositiveInt = 10_000
    """Proposals of the pilot. More come closer to the largest ratio there is; each is drawn and scored once."""
    margin: NonNegative = 0.0
    """Added to log M. Raising it by 1 caps fewer rows and costs 2.7 times as many proposals."""


class AdaptiveEnvelopeConfig(StrictModel):
    """An M that grows while rows are drawn: log M = the largest log ratio drawn so far + margin.

    Rows that were accepted earlier are thinned by their keys, as if M had been known from the start.
    """

    kind: Literal["adaptive"]
    """Chooses this envelope. It does not go with sampling.mode `stream`."""
    num_pilot: PositiveInt = 10_000
    """Proposals of the pilot, which gives the first M."""
    margin: NonNegative = 0.0
    """Added to log M. Raising it by 1 costs 2.7 times as many proposals."""


class CustomEnvelopeConfig(StrictModel):
    """An envelope of your own."""

    kind: Literal["custom"]
    """Chooses this envelope."""
    factory: ImportPath
    """Import path of a class or function that returns an `Envelope` (`rsf_dist.sampling.envelope`)."""
    options: dict[str, Any] = {}
    """Keyword arguments of `factory`."""


class BudgetEnvelopeConfig(StrictModel):
    """An M that spends a budget: log M is such that a given share of the proposals is accepted.

    Rows above this M are capped: of all ways to accept this share, the one whose rows come closest to the target.
    """

    kind: Literal["budget"]
    """Chooses this envelope."""
    acceptance: Fraction
    """Share of the proposals to accept. Raising it costs fewer proposals and caps more rows."""
    num_pilot: PositiveInt = 20_000
    """Proposals of the pilot, on which the acceptance is measured; at least 20 / acceptance."""

    @model_validator(mode="after")
    def _enough_pilot_rows(self) -> BudgetEnvelopeConfig:
        require_accepted_pilot_rows(self.acceptance, self.num_pilot)
        return self


def require_accepted_pilot_rows(acceptance: float, num_pilot: int) -> None:
    """Raise ValueError unless the pilot is expected to accept 20 rows, the fewest that tell an acceptance."""
    if acceptance * num_pilot < 20:
        raise ValueError(f"num_pilot must be at least {math.ceil(20 / acceptance)}: 20 accepted pilot rows")


EnvelopeConfig = Annotated[
    Annotated[FixedEnvelopeConfig, Tag("kind=fixed")]
    | Annotated[CertifiedEnvelopeConfig, Tag("kind=certified")]
    | Annotated[PilotEnvelopeConfig, Tag("kind=pilot")]
    | Annotated[AdaptiveEnvelopeConfig, Tag("kind=adaptive")]
    | Annotated[BudgetEnvelopeConfig, Tag("kind=budget")]
    | Annotated[CustomEnvelopeConfig, Tag("kind=custom")],
    kind_discriminator(),
]
