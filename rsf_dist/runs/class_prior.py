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
from rsf_dist.config.ratio import ClassifierRatioConfig, ClassPriorConfig
from rsf_dist.errors import InputError, StatisticalRefusal
from rsf_dist.builders.prior_estimation import estimate_prior, mean_given_class
from rsf_dist.proposals import Proposal
from rsf_dist.ratios import GivenClassRatio, LabelShiftRatio, Ratio
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.tasks import ClassificationTask
from rsf_dist.runs.seed_run import Trial



_MIX, _MEANS = "mix.json", "means.json"


_OF_THE_ROWS = ("labels", "logits", "source", "target")
"""Fields of errors that say of an estimate's rows, not of the configuration, that they will not do."""


@dataclass(frozen=True)
class ClassMix:
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
    def from_json(raw: dict[str, Any]) -> ClassMix:
        """The inverse of `to_json`."""
        return ClassMix(raw["estimate"] and ClassPrior.from_json(raw["estimate"]), raw["kept"])


def mix_folder(number: int) -> str:
    """Where a round keeps what became of the mix of classes; only the last one has it."""
    return f"rounds/{number:03d}/class_mix"


def means_folder(number: int) -> str:
    """Where a round whose mix was moved keeps its ratio's means within the classes."""
    return f"rounds/{number:03d}/class_means"


def stored_mix(trial: Trial, number: int) -> ClassMix:
    """What became of it in a round. Raises InputError where that is damaged."""
    if not trial.store.lists(mix_folder(number)):
        return ClassMix()
    return trial.store.fetch(mix_folder(number), lambda at: ClassMix.from_json(json.loads((at / _MIX).read_text())))


def settle_mix(trial: Trial, number: int, proposal: Proposal) -> None:
    """Estimate the target's mix of classes against the last round's proposal, and keep what becomes of it.

    The mix stays as configured where it is not to be moved, where the estimator refuses, or its estimate collapsed.
    """
    if trial.store.find(mix_folder(number), lambda at: json.loads((at / _MIX).read_text())) is not None:
        return
    config, kept = trial.config.rounds.class_prior, why_kept(trial, proposal)
    estimate = None
    if config is not None and kept is None:
        estimate, kept = _estimated(trial, number, proposal, config)
        if kept is not None:
            trial.progress.say(f"the mix of classes stays as configured: {kept}")
    mix = json.dumps(ClassMix(estimate, kept).to_json(), indent=1) + "\n"
    trial.store.keep(mix_folder(number), lambda at: (at / _MIX).write_text(mix))


def mix_told(trial: Trial, number: int, proposal: Proposal) -> dict[str, Any] | None:
    """For the report of a round; None where it is not the last of several.

    `class_prior`: the estimate, with its effective classes; `class_mix_kept`: why the mix stays as configured;
    `tried`: whether it was to be moved.
    """
    if not trial.store.lists(mix_folder(number)):
        return None
    mix = stored_mix(trial, number)
    estimate = mix.estimate and mix.estimate.to_json() | {"effective_classes": mix.estimate.effective_classes}
    return {"class_prior": estimate, "class_mix_kept": mix.kept, "tried": why_kept(trial, proposal) is None}


def why_kept(trial: Trial, proposal: Proposal) -> str | None:
    """Why there is no mix of classes to move, in words; None where there is."""
    config = trial.config.rounds.class_prior
    if config is None:
        return "rounds.class_prior is null"
    if not isinstance(trial.config.ratio, ClassifierRatioConfig):
        return f"a {trial.config.ratio.kind} ratio says itself what classes it wants"
    if getattr(proposal, "class_prior", None) is None or not hasattr(proposal, "with_class_prior"):
        return "the proposal has none that could be set"
    if config.network is None and not {"image", "label"} >= set(trial.task().columns):
        return "the task needs more than images and labels; rounds.class_prior.network does not"
    return None


def _estimated(
    trial: Trial, number: int, proposal: Proposal, config: ClassPriorConfig
) -> tuple[ClassPrior | None, str | None]:
    """The estimate, and why it is not followed."""
    if config.network is None:
        task, initial = trial.task(), trial.starting_model()
    else:
        inputs = trial.inputs
        task = ClassificationTask(inputs.source.classes, config.network, inputs.source.images.shape[1])
        initial = task.build_model(trial.seed)
    with trial.stage("class_prior", f"estimating the target's mix of classes by {config.method}"):
        try:
            estimate = estimate_prior(config, task, trial.inputs, proposal, trial.round_seed(number), initial)
        except StatisticalRefusal as err:
            return None, str(err)
        except InputError as err:
            if err.field not in _OF_THE_ROWS:
                raise
            return None, str(err)
    if estimate.effective_classes < config.min_effective_classes:
        return estimate, f"the estimate collapsed to {estimate.effective_classes:.2f} effective classes"
    return estimate, None


def with_mix(trial: Trial, number: int, proposal: Proposal) -> Proposal:
    """The round's proposal with the estimated mix of classes, smoothed, where it was moved; else as it is."""
    mix, config = stored_mix(trial, number), trial.config.rounds.class_prior
    if mix.estimate is None or mix.kept is not None or config is None:
        return proposal
    before: Tensor = proposal.class_prior  # type: ignore[attr-defined]
    smoothed = config.smoothing * before + (1 - config.smoothing) * torch.from_numpy(mix.estimate.prior)
    return proposal.with_class_prior(smoothed)  # type: ignore[attr-defined]


def settle_means(trial: Trial, number: int, proposal: Proposal, ratio: Ratio) -> None:
    """Keep the ratio's means within the classes, where the mix was moved."""
    mix, folder = stored_mix(trial, number), means_folder(number)
    if mix.estimate is None or mix.kept is not None or trial.store.find(folder, _read_means) is not None:
        return
    with trial.stage("class_prior", "taking the ratio's mean within each class"):
        seed = trial.round_seed(number)
        means = mean_given_class(ratio, proposal, len(mix.estimate.prior), seed, trial.config.sampling)
    trial.store.keep(folder, lambda at: (at / _MEANS).write_text(json.dumps(means.tolist()) + "\n"))


def without_classes(trial: Trial, number: int, proposal: Proposal, ratio: Ratio) -> Ratio:
    """The ratio as the round uses it: where the mix was moved, one that leaves classes to the proposal."""
    mix = stored_mix(trial, number)
    if mix.estimate is None or mix.kept is not None:
        return ratio
    prior = proposal.class_prior.numpy()  # type: ignore[attr-defined]
    classes = LabelShiftRatio(prior, prior, estimate=mix.estimate)  # the smoothed estimate is proposed from already
    return GivenClassRatio(ratio, classes, trial.store.fetch(means_folder(number), _read_means))


def _read_means(folder: Path) -> np.ndarray:
    return np.array(json.loads((folder / _MEANS).read_text()))
