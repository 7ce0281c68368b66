"""The mix of classes of a trial's last round: estimated apart from all else, proposed from, and left to the ratio.

    unlabelled target images, labelled proposals of the last round -> p(y) -> q(y), and g(x)/E_q[g | y]

A ratio of images takes one class for another that looks like it, and a mix of classes taken from accepted rows would
feed that error back, round after round. So it is estimated once, with a classifier of its own (`ratios.class_prior`).
What became of it is kept in the last round's folder, also where the mix stays as configured: by that a round is known
to be the last.
"""

from __future__ import annotations
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
import numpy as np
import torch
from torch import Tensor
from rsf_dist.config.class_prior import ClassPriorConfig
from rsf_dist.errors import InputError, StatisticalRefusal
from rsf_dist.builders.prior_estimation import class_log_mean_ratios, estimate_class_prior
from rsf_dist.proposals import Proposal
from rsf_dist.proposals.base import has_settable_class_prior
from rsf_dist.ratios import ClassConditionalRatio, LabelShiftRatio, Ratio
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.tasks import ClassificationTask
from rsf_dist.runs.seed_run import SeedRun



_MIX, _MEANS = "mix.json", "means.json"


_OF_THE_ROWS = ("labels", "logits", "source", "target")
"""Fields of errors that say of an estimate's rows, not of the configuration, that they will not do."""


@dataclass(frozen=True)
class ClassPriorDecision:
    """What became of the mix of classes.

    Args:
        estimate: of the target's; None where there is none.
        kept: why the proposal's mix stays as configured; None where it was moved.
    """

    estimate: ClassPrior | None = None
    kept: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For files and reports."""
        return asdict(self) | {"estimate": None if self.estimate is None else self.estimate.to_json()}

    @staticmethod
    def from_json(raw: dict[str, Any]) -> ClassPriorDecision:
        """The inverse of `to_json`."""
        return ClassPriorDecision(raw["estimate"] and ClassPrior.from_json(raw["estimate"]), raw["kept"])


def class_prior_folder(number: int) -> str:
    """Where a round keeps what became of the mix of classes; only the last one has it."""
    return f"rounds/{number:03d}/class_mix"


def means_folder(number: int) -> str:
    """Where a round whose mix was moved keeps its ratio's means within the classes."""
    return f"rounds/{number:03d}/class_means"


def stored_decision(seed_run: SeedRun, number: int) -> ClassPriorDecision:
    """What became of it in a round. Raises InputError where that is damaged."""
    if not seed_run.store.is_listed(class_prior_folder(number)):
        return ClassPriorDecision()
    return seed_run.store.load_folder(class_prior_folder(number), lambda at: ClassPriorDecision.from_json(json.loads((at / _MIX).read_text())))


def decide_class_prior(seed_run: SeedRun, number: int, proposal: Proposal) -> None:
    """Estimate the target's mix of classes against the last round's proposal, and keep what becomes of it.

    The mix stays as configured where it is not to be moved, where the estimator refuses, or its estimate collapsed.
    """
    if seed_run.store.find_folder(class_prior_folder(number), lambda at: json.loads((at / _MIX).read_text())) is not None:
        return
    config, kept = seed_run.config.rounds.class_prior, reason_to_keep(seed_run, proposal)
    estimate = None
    if config is not None and kept is None:
        estimate, kept = _estimate(seed_run, number, proposal, config)
        if kept is not None:
            seed_run.progress.say(f"the mix of classes stays as configured: {kept}")
    mix = json.dumps(ClassPriorDecision(estimate, kept).to_json(), indent=1) + "\n"
    seed_run.store.commit_folder(class_prior_folder(number), lambda at: (at / _MIX).write_text(mix))


def describe(seed_run: SeedRun, number: int, proposal: Proposal) -> dict[str, Any] | None:
    """For the report of a round; None where it is not the last of several.

    `class_prior`: the estimate, with its effective classes; `class_mix_kept`: why the mix stays as configured;
    `tried`: whether it was to be moved.
    """
    if not seed_run.store.is_listed(class_prior_folder(number)):
        return None
    mix = stored_decision(seed_run, number)
    estimate = mix.estimate and mix.estimate.to_json() | {"effective_classes": mix.estimate.effective_classes}
    return {"class_prior": estimate, "class_mix_kept": mix.kept, "tried": reason_to_keep(seed_run, proposal) is None}


def reason_to_keep(seed_run: SeedRun, proposal: Proposal) -> str | None:
    """Why there is no mix of classes to move, in words; None where there is."""
    config = seed_run.config.rounds.class_prior
    if config is None:
        return "rounds.class_prior is null"
    if not seed_run.config.ratio.leaves_class_prior_open:
        return f"a {seed_run.config.ratio.kind} ratio says itself what classes it wants"
    if not has_settable_class_prior(proposal):
        return "the proposal has none that could be set"
    if config.network is None and not {"image", "label"} >= set(seed_run.task().columns):
        return "the task needs more than images and labels; rounds.class_prior.network does not"
    return None


def _estimate(
    seed_run: SeedRun, number: int, proposal: Proposal, config: ClassPriorConfig
) -> tuple[ClassPrior | None, str | None]:
    """The estimate, and why it is not followed."""
    if config.network is None:
        task, initial = seed_run.task(), seed_run.starting_model()
    else:
        inputs = seed_run.inputs
        task = ClassificationTask(inputs.source.classes, config.network, inputs.source.images.shape[1])
        initial = task.build_model(seed_run.seed)
    with seed_run.stage("class_prior", f"estimating the target's mix of classes by {config.method}"):
        try:
            seed = seed_run.round_seed(number)
            estimate = estimate_class_prior(config, task, seed_run.inputs, proposal, seed, initial)
        except StatisticalRefusal as err:
            return None, str(err)
        except InputError as err:
            if err.field not in _OF_THE_ROWS:
                raise
            return None, str(err)
    if estimate.effective_classes < config.min_effective_classes:
        return estimate, f"the estimate collapsed to {estimate.effective_classes:.2f} effective classes"
    return estimate, None


def apply_class_prior(seed_run: SeedRun, number: int, proposal: Proposal) -> Proposal:
    """The round's proposal with the estimated mix of classes, smoothed, where it was moved; else as it is."""
    mix, config = stored_decision(seed_run, number), seed_run.config.rounds.class_prior
    if mix.estimate is None or mix.kept is not None or config is None:
        return proposal
    before: Tensor = proposal.class_prior  # type: ignore[attr-defined]
    smoothed = config.smoothing * before + (1 - config.smoothing) * torch.from_numpy(mix.estimate.prior)
    return proposal.with_class_prior(smoothed)  # type: ignore[attr-defined]


def compute_class_means(seed_run: SeedRun, number: int, proposal: Proposal, ratio: Ratio) -> None:
    """Keep the ratio's means within the classes, where the mix was moved."""
    mix, folder = stored_decision(seed_run, number), means_folder(number)
    if mix.estimate is None or mix.kept is not None or seed_run.store.find_folder(folder, _read_means) is not None:
        return
    with seed_run.stage("class_prior", "taking the ratio's mean within each class"):
        seed = seed_run.round_seed(number)
        means = class_log_mean_ratios(ratio, proposal, len(mix.estimate.prior), seed, seed_run.config.sampling)
    seed_run.store.commit_folder(folder, lambda at: (at / _MEANS).write_text(json.dumps(means.tolist()) + "\n"))


def condition_on_class(seed_run: SeedRun, number: int, proposal: Proposal, ratio: Ratio) -> Ratio:
    """The ratio as the round uses it: where the mix was moved, one that leaves classes to the proposal."""
    mix = stored_decision(seed_run, number)
    if mix.estimate is None or mix.kept is not None:
        return ratio
    prior = proposal.class_prior.numpy()  # type: ignore[attr-defined]
    classes = LabelShiftRatio(prior, prior, estimate=mix.estimate)  # the smoothed estimate is proposed from already
    return ClassConditionalRatio(ratio, classes, seed_run.store.load_folder(means_folder(number), _read_means))


def _read_means(folder: Path) -> np.ndarray:
    return np.array(json.loads((folder / _MEANS).read_text()))
