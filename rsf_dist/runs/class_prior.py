"""The class prior of a seed run's last round: estimated apart from the ratio, proposed, and left out of the ratio.

    unlabelled target images, labelled proposals of the last round  ->  estimate p(y)
    proposal's class prior:  q(y) <- s q(y) + (1 - s) p(y)            s = rounds.class_prior.smoothing
    ratio of images:         g(x) <- g(x) / E_q[g | y]                says nothing of the classes any more

A ratio of images takes one class for another that looks like it. A class prior taken from accepted rows would feed this
error back, round after round. The class prior is therefore estimated once, by a classifier of its own
(`ratios.class_prior`).

The decision is one value. It is stored in the last round's folder as soon as the estimate is made, because the ratio
must be fitted to the new proposal before its means within the classes can be taken; the means are added to it then.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rsf_dist.builders.prior_estimation import class_log_mean_ratios, estimate_class_prior
from rsf_dist.config.class_prior import ClassPriorConfig
from rsf_dist.errors import InputError, StatisticalRefusal, located
from rsf_dist.proposals import Proposal
from rsf_dist.proposals.base import has_settable_class_prior
from rsf_dist.ratios import ClassConditionalRatio, LabelShiftRatio, Ratio
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.report import report_json
from rsf_dist.report.schema import ClassPriorEntry
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.tasks import ClassificationTask, Task
from rsf_dist.types import Floats

DECISION, MEANS = "decision.json", "class_means.json"

_OF_THE_ROWS = ("labels", "logits", "source", "target")
"""InputError fields that blame the estimator's input data rather than the configuration.

Such an error means: keep the configured class prior.
"""


@dataclass(frozen=True)
class ClassPriorDecision:
    """The decision about the class prior of the last round.

    `ClassPriorDecision()` is the decision of a run of one round, which has nothing to decide.

    Args:
        estimate: the estimated class prior of the target domain. None means that there is no estimate.
        reason_to_keep: why the proposal keeps its configured class prior, although the run has several rounds.
        tried: True where an estimate was tried, successfully or not.
        prior: the class prior to propose, float64 [k]. None means that proposal and ratio stay as they are.
        log_means: log E_q[g | y] of the last round's ratio g, float64 [k]. None means that they are not computed yet.
    """

    estimate: ClassPrior | None = None
    reason_to_keep: str | None = None
    tried: bool = False
    prior: Floats | None = None
    log_means: Floats | None = None

    def proposal(self, moved: Proposal) -> Proposal:
        """Return the last round's proposal: `moved` with the decided class prior."""
        if self.prior is None:
            return moved
        return moved.with_class_prior(torch.from_numpy(self.prior))  # type: ignore[attr-defined]

    def ratio(self, fitted: Ratio) -> Ratio:
        """Return the last round's ratio: `fitted`, with the classes left to the proposal.

        Raises InputError where the means within the classes are not computed yet.
        """
        if self.prior is None:
            return fitted
        if self.log_means is None:
            remedy = "run it again with the same configuration, which computes them"
            raise InputError("class means", None, "have not been computed for the last round", remedy)
        classes = LabelShiftRatio(self.prior, self.prior, estimate=self.estimate)  # q(y) is what is wanted already
        return ClassConditionalRatio(fitted, classes, self.log_means)

    def describe(self) -> ClassPriorEntry | None:
        """Return the decision's entry in the report; None means that there was nothing to decide."""
        if self.estimate is None and self.reason_to_keep is None:
            return None
        estimate = None if self.estimate is None else report_json.describe_class_prior(self.estimate)
        return ClassPriorEntry(estimate=estimate, reason_kept=self.reason_to_keep, wanted=self.tried)

    def save(self, folder: Path) -> None:
        """Write the decision, and the class means where they are computed.

        The means have a file of their own, so that adding them leaves the decision's file as it is: a run that is
        killed while it adds them keeps its estimate.
        """
        decision = {
            "estimate": None if self.estimate is None else self.estimate.to_json(),
            "reason_to_keep": self.reason_to_keep,
            "tried": self.tried,
            "prior": None if self.prior is None else self.prior.tolist(),
        }
        (folder / DECISION).write_text(json.dumps(decision, indent=1) + "\n")
        if self.log_means is not None:
            (folder / MEANS).write_text(json.dumps(self.log_means.tolist()) + "\n")

    @staticmethod
    def load(folder: Path) -> ClassPriorDecision:
        """Read what `save` wrote, to the last bit."""
        decision = json.loads((folder / DECISION).read_text())
        means = folder / MEANS
        return ClassPriorDecision(
            estimate=None if decision["estimate"] is None else ClassPrior.from_json(decision["estimate"]),
            reason_to_keep=decision["reason_to_keep"],
            tried=decision["tried"],
            prior=None if decision["prior"] is None else np.array(decision["prior"]),
            log_means=np.array(json.loads(means.read_text())) if means.exists() else None,
        )


def class_prior_folder(number: int) -> str:
    """Return the folder of a round's decision about its class prior."""
    return f"rounds/{number:03d}/class_prior"


def stored_decision(seed_run: SeedRun, number: int) -> ClassPriorDecision | None:
    """Return the decision of a round that is the last one; None means that the round explores.

    Raises InputError where the stored decision is damaged.
    """
    if seed_run.config.rounds.num_rounds == 1:
        return ClassPriorDecision()
    folder = class_prior_folder(number)
    return seed_run.store.load_folder(folder, ClassPriorDecision.load) if seed_run.store.is_listed(folder) else None


def decide_class_prior(seed_run: SeedRun, number: int, proposal: Proposal) -> ClassPriorDecision:
    """Decide which class prior the last round proposes, once, and store the decision.

    Every last round of several has a decision. The class prior stays as configured where it is not to be moved, where
    the estimator refuses, and where its estimate collapsed.

    Args:
        seed_run: the seed run.
        number: the last round's number.
        proposal: the last round's proposal with the configured class prior.
    """
    if seed_run.config.rounds.num_rounds == 1:
        return ClassPriorDecision()
    decision = seed_run.store.find_folder(class_prior_folder(number), ClassPriorDecision.load)
    if decision is None:
        decision = _decide(seed_run, number, proposal)
        seed_run.store.commit_folder(class_prior_folder(number), decision.save)
    return decision


def add_class_means(
    seed_run: SeedRun, number: int, decision: ClassPriorDecision, proposal: Proposal, fitted: Ratio
) -> ClassPriorDecision:
    """Return the decision with the fitted ratio's means within the classes, computed once and stored.

    A decision that keeps the class prior needs no means and is returned as it is.
    """
    if decision.prior is None or decision.log_means is not None:
        return decision
    with seed_run.stage("class_prior", "taking the ratio's mean within each class"):
        seed, sampling = seed_run.round_seed(number), seed_run.config.sampling
        log_means = class_log_mean_ratios(fitted, proposal, len(decision.prior), seed, sampling)
    decision = replace(decision, log_means=log_means)
    seed_run.store.commit_folder(class_prior_folder(number), decision.save)
    return decision


def reason_to_keep(seed_run: SeedRun, proposal: Proposal) -> str | None:
    """Return why the class prior is not to be moved; None means that it is."""
    config = seed_run.config.rounds.class_prior
    if config is None:
        return "rounds.class_prior is null"
    if not seed_run.config.ratio.leaves_class_prior_open:
        return f"a {seed_run.config.ratio.kind} ratio already fixes the class prior"
    if not has_settable_class_prior(proposal):
        return "the proposal has no class prior that can be set"
    if config.network is None and not {"image", "label"} >= set(seed_run.task().columns):
        return "the task needs more than images and labels; rounds.class_prior.network does not"
    return None


def _decide(seed_run: SeedRun, number: int, proposal: Proposal) -> ClassPriorDecision:
    config, reason = seed_run.config.rounds.class_prior, reason_to_keep(seed_run, proposal)
    if config is None or reason is not None:
        return ClassPriorDecision(reason_to_keep=reason)
    task, initial = _classifier(seed_run, config)
    seed = seed_run.round_seed(number)
    try:
        doing = f"estimating the target domain's class prior by {config.method}"
        with seed_run.stage("class_prior", doing), located("rounds.class_prior"):
            estimate = estimate_class_prior(config, task, seed_run.inputs, proposal, seed, initial)
    except (StatisticalRefusal, InputError) as err:
        if isinstance(err, InputError) and err.field not in _OF_THE_ROWS:
            raise
        return _kept_after_trying(seed_run, None, str(err))
    if estimate.effective_classes < config.min_effective_classes:
        collapse = f"the estimate collapsed to {estimate.effective_classes:.2f} effective classes"
        return _kept_after_trying(seed_run, estimate, collapse)
    configured: Tensor = proposal.class_prior  # type: ignore[attr-defined]
    smoothed = config.smoothing * configured + (1 - config.smoothing) * torch.tensor(estimate.prior)
    return ClassPriorDecision(estimate, tried=True, prior=smoothed.numpy())


def _classifier(seed_run: SeedRun, config: ClassPriorConfig) -> tuple[Task, nn.Module]:
    """Return the task and the initial model of the classifier that the estimate rests on."""
    if config.network is None:
        return seed_run.task(), seed_run.starting_model()
    source = seed_run.inputs.source
    task = ClassificationTask(source.classes, config.network, source.images.shape[1])
    with located("rounds.class_prior.network"):
        return task, task.build_model(seed_run.seed)


def _kept_after_trying(seed_run: SeedRun, estimate: ClassPrior | None, reason: str) -> ClassPriorDecision:
    seed_run.progress.say(f"the class prior stays as configured: {reason}")
    return ClassPriorDecision(estimate, reason, tried=True)
