"""How M is chosen (`rsf_dist.sampling.envelope`)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    Tag,
    model_validator,
)

from rsf_dist.config.base import Fraction, ImportPath, PositiveInt, StrictModel
from rsf_dist.config.kinds import kind_discriminator


class FixedEnvelopeConfig(StrictModel):
    """M as given: rows whose log ratio exceeds log_m are capped, counted and reported."""

    kind: Literal["fixed"]
    log_m: Annotated[float, Field(allow_inf_nan=False)]


class CertifiedEnvelopeConfig(StrictModel):
    """M is the ratio's own bound; a ratio without one is refused. num_pilot proposals only forecast the acceptance."""

    kind: Literal["certified"]
    num_pilot: PositiveInt = 2_000


class PilotEnvelopeConfig(StrictModel):
    """The ratio's own bound where it has one; else log M = the largest log ratio of num_pilot proposals + margin."""

    kind: Literal["pilot"]
    num_pilot: PositiveInt = 10_000
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class AdaptiveEnvelopeConfig(StrictModel):
    """log M = the largest log ratio of everything drawn + margin; earlier rows are thinned by their keys."""

    kind: Literal["adaptive"]
    num_pilot: PositiveInt = 10_000
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class CustomEnvelopeConfig(StrictModel):
    """An envelope of your own: `factory` is called with `options`, and gives an `Envelope`."""

    kind: Literal["custom"]
    factory: ImportPath
    options: dict[str, Any] = {}


class BudgetEnvelopeConfig(StrictModel):
    """log M such that a fraction `acceptance` of the proposals is kept, judged on num_pilot of them."""

    kind: Literal["budget"]
    acceptance: Fraction
    num_pilot: PositiveInt = 20_000

    @model_validator(mode="after")
    def _enough_pilot_rows(self) -> BudgetEnvelopeConfig:
        if self.acceptance * self.num_pilot < 20:
            raise ValueError(f"num_pilot must be at least {math.ceil(20 / self.acceptance)}: 20 accepted pilot rows")
        return self


EnvelopeConfig = Annotated[
    Annotated[FixedEnvelopeConfig, Tag("kind=fixed")]
    | Annotated[CertifiedEnvelopeConfig, Tag("kind=certified")]
    | Annotated[PilotEnvelopeConfig, Tag("kind=pilot")]
    | Annotated[AdaptiveEnvelopeConfig, Tag("kind=adaptive")]
    | Annotated[BudgetEnvelopeConfig, Tag("kind=budget")]
    | Annotated[CustomEnvelopeConfig, Tag("kind=custom")],
    kind_discriminator(),
]
