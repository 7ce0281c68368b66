"""Estimation of the target's class prior."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rsf_dist.config.base import LARGEST_COUNT, Fraction
from rsf_dist.config.model import ModelConfig, OptimizerConfig
from rsf_dist.config.resources import TaskResources

NumProposals = Annotated[int, Field(ge=50, le=LARGEST_COUNT)]
"""A number of proposals that a classifier can be fitted on."""


class PriorEstimatorConfig(TaskResources):
    """Estimation of the target's class prior from its unlabelled images, with a classifier fitted on proposals."""

    method: Literal["em", "bbse"] = "em"
    """`em` is maximum likelihood after bias-corrected temperature scaling, `bbse` is black box shift estimation."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer of the classifier, which learns the classes of labelled proposals."""
    num_proposals: NumProposals = 8000
    """Proposals drawn for the classifier."""
    calibration_fraction: Fraction = 0.3
    """Share of the proposals that is held out for the classifier's calibration and confusions."""


class ClassPriorConfig(PriorEstimatorConfig):
    """Estimation of the target's class prior for the last round's proposal."""

    network: ModelConfig | None = None
    """The classifier's network. null means the run's `model`, which goes on from where fine-tuning starts."""
    optimizer: OptimizerConfig = OptimizerConfig(steps=600, batch_size=128)
    """The optimizer of the classifier, which learns the classes of labelled proposals."""
    smoothing: Fraction = 0.05
    """Share of the proposal's own class prior in the class prior that is proposed from. An estimate too easily has rare
    classes at 0."""
    min_effective_classes: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.2
    """Least effective number of classes, exp of the entropy. An estimate with fewer counts as collapsed, and the class
    prior stays as configured."""
