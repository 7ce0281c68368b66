"""Rounds that move the proposal towards the target before the rows to train on are sampled."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from rsf_dist.config.base import Fraction, PositiveInt, StrictModel
from rsf_dist.config.class_prior import ClassPriorConfig
from rsf_dist.config.envelope import require_accepted_pilot_rows


class RoundsConfig(StrictModel):
    """Rounds that move the proposal to where its rows are accepted, before the rows to train on are sampled.

    A number in place of this section stands for its num_rounds: `rounds: 5`. The sections `envelope` and `sampling`
    describe the last round.
    """

    num_rounds: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Largest number of rounds. The last one samples sampling.num_accepted rows. 1 means one-shot rejection."""
    num_accepted: PositiveInt = 1_000
    """Rows that each round before the last accepts, to refit the proposal to."""
    acceptance: Fraction = 0.02
    """Share of the proposals that the rounds before the last accept, as in an envelope of kind `budget`. Raising it
    costs fewer proposals and moves the proposal less in each round."""
    num_pilot: PositiveInt = 4_000
    """Proposals on which this acceptance is measured in each round; at least 20 / acceptance."""
    min_auc_gain: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    """Ends the rounds early: the next round is the last one once a refit lowers the AUC by less than this and the AUC
    is below 0.95. The AUC is the held-out AUC of a learned ratio that tells proposals from the target. null means that
    every round is run."""
    warm_start_steps: PositiveInt | None = 200
    """Optimizer steps of a classifier ratio from the second round on, which starts from the previous round's ratio.
    null means that each round learns its ratio from scratch, in ratio.optimizer.steps."""
    max_components: Annotated[int, Field(ge=1, le=1_000)] = 3
    """Largest number of Gaussians in the refitted distribution. BIC chooses among 1 to this many."""
    defensive_share: Fraction = 0.1
    """Share of the proposals that is still drawn from the proposal as configured, so that no region is lost for good.
    Raising it is safer and lowers the acceptance."""
    class_prior: ClassPriorConfig | None = ClassPriorConfig()
    """The move of the proposal's class prior to an estimate of the target's, once, before the last round. It applies
    to a classifier ratio and a proposal that has a class_prior. null means that the class prior stays as configured."""

    @model_validator(mode="after")
    def _enough_pilot_rows(self) -> RoundsConfig:
        require_accepted_pilot_rows(self.acceptance, self.num_pilot)
        return self
