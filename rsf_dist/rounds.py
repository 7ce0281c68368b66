"""The sampling half of a trial: rounds that move the proposal, and the accepted rows of the last one.

    ratio -> rows accepted under a budget -> proposal refitted to them      again and again, then
    ratio -> sampling.num_accepted rows

Each round is a rejection sampler for its own q: a learned ratio is learned anew against the round's proposals, any
other is corrected by the two densities (`MovedRatio`). It is the cross-entropy method (Rubinstein 1999) with rejection
in the place of a quantile of scores, and a defensive share of the proposal as configured. Classes are moved apart, and
last: a ratio of images takes one class for another that looks like it, and a mix of classes taken from accepted rows
would feed that error back. So the mix is estimated with a classifier of its own (`ratios.class_prior`), and the ratio
of the last round says nothing of classes (`GivenClassRatio`).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsf_dist.accepted import AcceptedSet, stored_rows
from rsf_dist.batch import from_table
from rsf_dist.build import build_envelope
from rsf_dist.config import ClassPriorConfig
from rsf_dist.envelope import BudgetEnvelope
from rsf_dist.errors import InputError, StatisticalRefusal
from rsf_dist.fitting import estimate_prior, is_learned, mean_given_class
from rsf_dist.judging import judge_round
from rsf_dist.proposals import DefensiveProposal, Proposal, Refittable
from rsf_dist.ratios import GivenClassRatio, LabelShiftRatio, Ratio, RelativeRatio
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.report import record, samples
from rsf_dist.report.trust import card_in_words
from rsf_dist.sampler import RejectionSampler
from rsf_dist.stream import Cursor, RowStream
from rsf_dist.tasks import ClassificationTask
from rsf_dist.trial import Trial

_PRIOR, _MEANS = "prior.json", "means.json"
_ROWS_FOR_MEANS = 8_192


def sample_trial(trial: Trial) -> AcceptedSet:
    """Move the proposal round by round, sample the rows to train on, and judge them."""
    record.begin(trial.store, trial.seed)
    last = explore(trial)
    move_classes(trial, last)
    proposal = round_proposal(trial, last)
    trial.ratio(proposal, last)
    ratio = last_ratio(trial, last, proposal)
    wanted = trial.config.sampling.num_accepted
    with trial.stage("sampling", f"sampling until {wanted:,} rows are accepted"):
        accepted = round_sampler(trial, proposal, ratio).sample(wanted, last, trial.progress)
    if not record.has_round(trial.store, accepted.fingerprint):
        with trial.stage("two_sample", "comparing proposals and accepted rows with held-out target images"):
            judge, target = trial.config.evaluation.judge, trial.inputs.target.images
            judged = judge_round(ratio, proposal, accepted, target, judge, trial.seed)
        samples.save(trial.store, proposal, accepted, trial.inputs, trial.seed)
        _tell(trial, last, proposal, ratio, accepted, judged, last=True)
        trial.progress.say(card_in_words(record.last_round(trial.store)["trust"]))
    return accepted


def explore(trial: Trial) -> int:
    """The rounds before the last one, which has the number that is given back."""
    rounds, before = trial.config.rounds, math.inf  # the first round follows no refit
    for number in range(rounds.num_rounds - 1):
        auc = explore_once(trial, number)
        if auc is not None and before - auc < rounds.min_gain:
            trial.progress.say(f"AUC {auc:.3f} after {before:.3f}: the proposal has converged")
            return number + 1
        before = before if auc is None else auc
    return rounds.num_rounds - 1


def explore_once(trial: Trial, number: int) -> float | None:
    """A round's ratio and rows, for the next one's proposal; the ratio's held-out AUC, where it has one."""
    proposal = round_proposal(trial, number)
    ratio = trial.ratio(proposal, number)
    wanted = trial.config.rounds.num_accepted
    with trial.stage("rounds", f"round {number}: sampling {wanted:,} rows to move the proposal to"):
        accepted = round_sampler(trial, proposal, ratio, exploring=True).sample(wanted, number, trial.progress)
    if not record.has_round(trial.store, accepted.fingerprint):
        _tell(trial, number, proposal, ratio, accepted)
    quality = getattr(ratio, "quality", None)
    return None if quality is None else quality.auc


def round_proposal(trial: Trial, number: int) -> Proposal:
    """The q of a round: as configured, or refitted to the rows of the round before, and its mix of classes moved.

    Raises InputError where the round before has no rows, or the proposal cannot be refitted.
    """
    rounds, proposal = trial.config.rounds, trial.proposal()
    if number:
        if not isinstance(proposal, Refittable):
            rule = "has no `refit`, which rounds need"
            raise InputError("proposal", type(proposal).__name__, rule, "give it one, or set rounds=1")
        rows = from_table(stored_rows(trial.store, number - 1))
        moved = proposal.refit(rows, trial.round_seed(number), rounds.max_components)
        proposal = DefensiveProposal(proposal, moved, rounds.broad_share)
    estimate = moved_prior(trial, number)
    if estimate is None or rounds.class_prior is None:
        return proposal
    share = rounds.class_prior.smoothing
    prior: Tensor = proposal.class_prior  # type: ignore[attr-defined]
    return proposal.with_class_prior(share * prior + (1 - share) * torch.from_numpy(estimate.prior))  # type: ignore[attr-defined]


def last_ratio(trial: Trial, number: int, proposal: Proposal) -> Ratio:
    """The last round's ratio, which the trial keeps; of images and classes, where the mix of classes was moved."""
    ratio, estimate = trial.stored_ratio(proposal, number), moved_prior(trial, number)
    if estimate is None:
        return ratio
    prior = proposal.class_prior.numpy()  # type: ignore[attr-defined]
    classes = LabelShiftRatio(prior, prior, estimate=estimate)  # the smoothed estimate is proposed from already
    folder = f"rounds/{number:03d}/class_means"
    if not trial.store.holds(folder):
        seed = trial.round_seed(number)
        means = mean_given_class(ratio, proposal, len(estimate.prior), _ROWS_FOR_MEANS, seed)
        trial.store.keep(folder, lambda at: (at / _MEANS).write_text(json.dumps(means.tolist()) + "\n"))
    means = trial.store.fetch(folder, lambda at: np.array(json.loads((at / _MEANS).read_text())))
    return GivenClassRatio(ratio, classes, means)


def moved_prior(trial: Trial, number: int) -> ClassPrior | None:
    """The estimated mix of classes that a round's proposal was moved to; None where it stays as configured."""
    config, estimate = trial.config.rounds.class_prior, trial.store.find(_prior_folder(number), _read_prior)
    return None if estimate is None or config is None or has_collapsed(estimate, config) else estimate


def move_classes(trial: Trial, number: int) -> None:
    """Estimate the target's mix of classes against the round's proposal, where rounds are to move it.

    Where the estimator refuses, or its estimate has collapsed, the mix stays as configured.
    """
    config, proposal = trial.config.rounds.class_prior, round_proposal(trial, number)
    if number == 0 or config is None or trial.store.holds(_prior_folder(number)):
        return
    has_classes = getattr(proposal, "class_prior", None) is not None and hasattr(proposal, "with_class_prior")
    if not (is_learned(trial.config.ratio) and has_classes):
        return
    before = trial.starting_model()
    with trial.stage("class_prior", f"estimating the target's mix of classes by {config.method}"):
        task, initial = trial.task(), before
        if config.network is not None:
            inputs = trial.inputs
            task = ClassificationTask(inputs.source.classes, config.network, inputs.source.images.shape[1])
            initial = task.build_model(trial.seed)
        try:
            estimate = estimate_prior(config, task, trial.inputs, proposal, trial.round_seed(number), initial)
        except StatisticalRefusal as err:  # rows of the mix as configured are worth more than none
            trial.progress.say(f"the mix of classes stays as it was: {err}")
            return
        trial.store.keep(_prior_folder(number), lambda folder: _write_prior(estimate, folder))
    if has_collapsed(estimate, config):
        trial.progress.say("the estimated mix of classes has collapsed; it stays as it was")


def has_collapsed(estimate: ClassPrior, config: ClassPriorConfig) -> bool:
    """Whether an estimated mix has too few effective classes to be believed."""
    return estimate.effective_classes < config.min_effective_classes


def round_sampler(trial: Trial, proposal: Proposal, ratio: Ratio, exploring: bool = False) -> RejectionSampler:
    """What samples a round's rows; from a relative ratio's mixture where there is one. Raises InputError."""
    sampling, rounds = trial.config.sampling, trial.config.rounds
    budget = BudgetEnvelope(rounds.acceptance, rounds.num_pilot)
    return RejectionSampler(
        ratio.mixture if isinstance(ratio, RelativeRatio) else proposal,
        ratio,
        budget if exploring else build_envelope(trial.config.envelope),
        seed=trial.seed,
        chunk_size=sampling.chunk_size,
        pool=sampling.pool,
        store=trial.store,
        budget=sampling.budget,
    )


def stored_sampler(trial: Trial, number: int) -> RejectionSampler:
    """A round's sampler with what the trial keeps; nothing is made. Raises InputError where something is missing."""
    proposal = round_proposal(trial, number)
    told = record.read(trial.store)["rounds"]
    last = any(described["round"] == number and described["last"] for described in told)
    return round_sampler(trial, proposal, last_ratio(trial, number, proposal), exploring=not last)


def last_rows(trial: Trial) -> AcceptedSet:
    """The rows to train on, as the trial keeps them. Raises InputError where the sampling half is not done."""
    return AcceptedSet.load(trial.store, record.last_round(trial.store)["round"])


def last_stream(trial: Trial, accepted: AcceptedSet, num_rows: int) -> RowStream:
    """What draws the rows that come after the accepted ones of the last round."""
    number = record.last_round(trial.store)["round"]
    return stored_sampler(trial, number).row_stream(num_rows, number, after=Cursor.after(accepted))


def _tell(
    trial: Trial,
    number: int,
    proposal: Proposal,
    ratio: Ratio,
    accepted: AcceptedSet,
    judged: dict[str, Any] | None = None,
    last: bool = False,
) -> None:
    described = record.describe_round(number, accepted, ratio, judged, last)
    described |= samples.save_round(trial.store, number, proposal, trial.seed)
    estimate = trial.store.find(_prior_folder(number), _read_prior)
    if estimate is not None:
        described["class_prior"] = estimate.to_json() | {"effective_classes": estimate.effective_classes}
    record.add_round(trial.store, described)
    trial.progress.say(record.round_in_words(described))


def _prior_folder(number: int) -> str:
    return f"rounds/{number:03d}/class_prior"


def _write_prior(estimate: ClassPrior, folder: Path) -> None:
    (folder / _PRIOR).write_text(json.dumps(estimate.to_json(), indent=1) + "\n")


def _read_prior(folder: Path) -> ClassPrior:
    return ClassPrior.from_json(json.loads((folder / _PRIOR).read_text()))
