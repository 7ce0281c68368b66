"""The ratio that a configuration describes.

Each kind has a maker here, and a loader where a ratio can be read back. A kind of your own adds a maker:

    @make_ratio.register
    def _(config: ToyRatioConfig, context: RatioContext) -> Ratio:
        return ToyRatio(config.scale)
"""

from __future__ import annotations

import math
from functools import singledispatch
from numbers import Real
from pathlib import Path

from rsf_dist.builders.classifier_fit import fit_classifier
from rsf_dist.builders.components import build_distribution, of_kind
from rsf_dist.builders.context import RatioContext
from rsf_dist.builders.prior_estimation import class_prior, estimate_prior
from rsf_dist.config.model import ModelConfig
from rsf_dist.config.ratio import (
    ClassifierRatioConfig,
    CustomRatioConfig,
    DensityRatioConfig,
    LabelShiftRatioConfig,
    ProductRatioConfig,
    RatioKind,
    RewardRatioConfig,
    VerifierRatioConfig,
)
from rsf_dist.errors import InputError, located
from rsf_dist.proposals import DistributionProposal
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


@singledispatch
def make_ratio(config: RatioKind, context: RatioContext) -> Ratio:
    """Make log p/q as configured, q being `context.proposal`.

    What is learned is learned in Ray tasks, or by Ray Train.

    Raises:
        InputError: the configuration does not fit the images, the proposal, the cluster or the user's own code.
        StatisticalRefusal: a fit failed.
    """
    rule, remedy = "no function makes a ratio of this kind", "register one with @make_ratio.register"
    raise InputError("kind", config.kind, rule, remedy)


@singledispatch
def load_ratio(config: RatioKind, context: RatioContext, folder: Path) -> Ratio:
    """Read a ratio from the folder that its `save` filled; a kind without a loader is made again.

    Raises:
        InputError: as make_ratio.
    """
    return make_ratio(config, context)


@make_ratio.register
def _make_product(config: ProductRatioConfig, context: RatioContext) -> Ratio:
    def made(number: int, factor: RatioKind) -> Ratio:
        with located(f"factors.{number}"):
            return make_ratio(factor, context.for_factor(number))

    return ProductRatio([made(number, factor) for number, factor in enumerate(config.factors)])


@load_ratio.register
def _load_product(config: ProductRatioConfig, context: RatioContext, folder: Path) -> Ratio:
    def loaded(number: int, factor: RatioKind) -> Ratio:
        with located(f"factors.{number}"):
            return load_ratio(factor, context.for_factor(number), folder / f"factor-{number}")

    return ProductRatio([loaded(number, factor) for number, factor in enumerate(config.factors)])


@make_ratio.register
def _make_classifier(config: ClassifierRatioConfig, context: RatioContext) -> Ratio:
    return fit_classifier(config, context)


@load_ratio.register
def _load_classifier(config: ClassifierRatioConfig, context: RatioContext, folder: Path) -> Ratio:
    return ClassifierRatio.load(folder)


@make_ratio.register
def _make_label_shift(config: LabelShiftRatioConfig, context: RatioContext) -> Ratio:
    if config.target_prior is not None:
        return LabelShiftRatio(config.target_prior, class_prior(context.proposal))
    source = context.inputs.source
    task = ClassificationTask(source.classes, config.network or ModelConfig(), source.images.shape[1])
    estimate = estimate_prior(config, task, context)
    return LabelShiftRatio(estimate.prior, class_prior(context.proposal), estimate=estimate)


@load_ratio.register
def _load_label_shift(config: LabelShiftRatioConfig, context: RatioContext, folder: Path) -> Ratio:
    if config.target_prior is not None:
        return make_ratio(config, context)
    return LabelShiftRatio.load(folder, class_prior(context.proposal))


@make_ratio.register
def _make_density(config: DensityRatioConfig, context: RatioContext) -> Ratio:
    known = getattr(context.proposal, "parameters", {})
    unknown = sorted(config.parameters.keys() - known.keys())
    if unknown:
        rule, remedy = "the proposal draws no such parameter", "give it a distribution in proposal.parameters too"
        if not hasattr(context.proposal, "parameters"):
            remedy = "use a ratio of kind classifier, reward, verifier or custom"
        raise InputError("parameters", unknown[0], rule, remedy)
    factors = [
        DensityRatio(build_distribution(target), DistributionProposal(known[name], column=name))
        for name, target in config.parameters.items()
    ]
    return ProductRatio(factors) if len(factors) > 1 else factors[0]


@make_ratio.register
def _make_reward(config: RewardRatioConfig, context: RatioContext) -> Ratio:
    score = user_code.load_function(config.score, "score", config.options)
    return RewardRatio(score, config.beta, config.max_score, config.columns)


@make_ratio.register
def _make_verifier(config: VerifierRatioConfig, context: RatioContext) -> Ratio:
    passes = user_code.load_function(config.passes, "passes", config.options)
    return VerifierRatio(passes, config.columns)


@make_ratio.register
def _make_custom(config: CustomRatioConfig, context: RatioContext) -> Ratio:
    arguments = {"target": context.inputs.target.images, "proposal": context.proposal, "seed": context.seed}
    made = user_code.call(config.factory, "factory", arguments, config.options)
    ratio: Ratio = of_kind(made, Ratio, config.factory)
    bound: object = ratio.log_bound
    finite = isinstance(bound, Real) and not isinstance(bound, bool) and math.isfinite(bound)
    if bound is not None and not finite:
        rule = f"its log_bound is {bound}, neither None nor a finite number"
        raise InputError("factory", config.factory, rule, "give the supremum of log_ratio where it is known")
    return ratio
