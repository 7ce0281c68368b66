"""The ratio that a configuration describes: built from laws and functions, or learned in Ray tasks or by Ray Train."""

from __future__ import annotations

import math
from numbers import Real
from pathlib import Path

from rsf_dist.builders.classifier_fit import WarmStart, fit_classifier
from rsf_dist.builders.components import build_distribution, of_kind
from rsf_dist.builders.inputs import Inputs
from rsf_dist.builders.prior_estimation import class_prior, estimate_prior
from rsf_dist.config.ratio import (
    ClassifierRatioConfig,
    CustomRatioConfig,
    DensityRatioConfig,
    LabelShiftRatioConfig,
    ProductRatioConfig,
    RatioConfig,
    RewardRatioConfig,
    VerifierRatioConfig,
)
from rsf_dist.errors import InputError
from rsf_dist.proposals import DistributionProposal, Proposal
from rsf_dist.ratios import (
    ClassifierRatio,
    DensityRatio,
    LabelShiftRatio,
    ProductRatio,
    Ratio,
    RewardRatio,
    VerifierRatio,
)
from rsf_dist.runtime import user_code
from rsf_dist.tasks import ClassificationTask


def make_ratio(
    config: RatioConfig,
    inputs: Inputs,
    proposal: Proposal,
    seed: int,
    checkpoints: str | None = None,
    field: str = "ratio",
    saved: Path | None = None,
    before: WarmStart | None = None,
    split_seed: int | None = None,
) -> Ratio:
    """log p/q as configured, `proposal` being q; errors name `field`. Raises InputError, StatisticalRefusal.

    What is learned is learned in a Ray task; a classifier with `num_workers` through Ray Train, whose checkpoints go to
    `checkpoints`. With a folder that such a ratio's `save` filled, it is read from there, and nothing is learned.
    `split_seed` tells which target images stay apart; None: seed.
    """
    before = before or WarmStart()
    if isinstance(config, ProductRatioConfig):
        return ProductRatio(
            [
                make_ratio(
                    factor, inputs, proposal, seed, checkpoints, f"{field}.factors.{number}", part, known, split_seed
                )
                for number, factor in enumerate(config.factors)
                for part, known in [(saved and saved / f"factor-{number}", before.factor(number))]
            ]
        )
    if isinstance(config, ClassifierRatioConfig):
        if saved is not None:
            return ClassifierRatio.load(saved)
        return fit_classifier(config, inputs.target.images, proposal, seed, checkpoints, before, split_seed)
    if isinstance(config, LabelShiftRatioConfig) and config.target_prior is None:
        if saved is not None:
            return LabelShiftRatio.load(saved, class_prior(proposal, field))
        task = ClassificationTask(inputs.source.classes, config.network, inputs.source.images.shape[1])
        estimate = estimate_prior(config, task, inputs, proposal, seed)
        return LabelShiftRatio(estimate.prior, class_prior(proposal, field), estimate=estimate)
    return build_ratio(config, inputs, proposal, seed, field)


def build_ratio(config: RatioConfig, inputs: Inputs, proposal: Proposal, seed: int, field: str = "ratio") -> Ratio:
    """A ratio that needs no fit of ours: from laws, a known prior, functions or a factory. Raises InputError."""
    if isinstance(config, DensityRatioConfig):
        return _parameter_ratio(config, proposal, field)
    if isinstance(config, RewardRatioConfig):
        score = user_code.load_function(config.score, f"{field}.score", config.options)
        return RewardRatio(score, config.beta, config.max_score, config.columns)
    if isinstance(config, VerifierRatioConfig):
        return VerifierRatio(user_code.load_function(config.passes, f"{field}.passes", config.options), config.columns)
    if isinstance(config, LabelShiftRatioConfig) and config.target_prior is not None:
        return LabelShiftRatio(config.target_prior, class_prior(proposal, field))
    if isinstance(config, CustomRatioConfig):
        given = {"target": inputs.target.images, "proposal": proposal, "seed": seed}
        ratio = user_code.call(config.factory, f"{field}.factory", given, config.options)
        return _with_bound(of_kind(ratio, Ratio, config.factory, f"{field}.factory"), config.factory, field)
    raise TypeError(f"{field}: a {config.kind} ratio is learned, not built")


def _with_bound(ratio: Ratio, factory: str, field: str) -> Ratio:
    bound: object = ratio.log_bound
    finite = isinstance(bound, Real) and not isinstance(bound, bool) and math.isfinite(bound)
    if bound is not None and not finite:
        rule = f"its log_bound is {bound}, neither None nor a finite number"
        raise InputError(f"{field}.factory", factory, rule, "give the supremum of log_ratio where it is known")
    return ratio


def _parameter_ratio(config: DensityRatioConfig, proposal: Proposal, field: str) -> Ratio:
    laws = getattr(proposal, "parameters", {})
    unknown = sorted(config.parameters.keys() - laws.keys())
    if unknown:
        rule = "the proposal draws no such parameter"
        raise InputError(f"{field}.parameters", unknown[0], rule, "give it a law in proposal.parameters too")
    factors = [
        DensityRatio(build_distribution(law), DistributionProposal(laws[name], column=name))
        for name, law in config.parameters.items()
    ]
    return ProductRatio(factors) if len(factors) > 1 else factors[0]
