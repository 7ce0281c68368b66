"""Rounds that move the proposal."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import (
    Field,
    model_validator,
)

from rsf_dist.config.base import Fraction, PositiveInt, StrictModel
from rsf_dist.config.class_prior import ClassPriorConfig


class RoundsConfig(StrictModel):
    """Rounds that move the proposal to where its rows are accepted, before the rows to train on are sampled.

    num_rounds: at most so many. The last samples sampling.num_accepted rows; 1 is one-shot rejection.
    num_accepted: rows that each round before the last accepts, for the proposal to be refitted to.
    acceptance: the share of proposals that these rounds accept, judged on num_pilot of them (envelope kind budget).
    min_auc_gain: the last round comes early once a refit lowers the ratio's held-out AUC, by which it tells proposals
        from the target, by less than this, and it is below 0.95. Only a learned ratio has one. null: all rounds.
    warm_start_steps: optimizer steps by which a classifier ratio goes on, from the second round on, from that of the
        round before; null: it is learned from scratch, in its own number of steps.
    max_components: Gaussians that the refitted law may have; BIC chooses.
    defensive_share: of the proposals, drawn from the proposal as configured, so that nothing is lost for ever.
    class_prior: how the proposal's mix of classes is moved, once, before the last round of a classifier ratio, where
        the proposal has a class_prior; null: it stays as configured.
    """

    num_rounds: Annotated[int, Field(ge=1, le=1_000)] = 1
    num_accepted: PositiveInt = 1_000
    acceptance: Fraction = 0.02
    num_pilot: PositiveInt = 4_000
    min_auc_gain: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    warm_start_steps: PositiveInt | None = 200
    max_components: Annotated[int, Field(ge=1, le=1_000)] = 3
    defensive_share: Fraction = 0.1
    class_prior: ClassPriorConfig | None = ClassPriorConfig()

    @model_validator(mode="after")
    def _enough_pilot_rows(self) -> RoundsConfig:
        if self.acceptance * self.num_pilot < 20:
            raise ValueError(f"num_pilot must be at least {math.ceil(20 / self.acceptance)}: 20 accepted pilot rows")
        return self
