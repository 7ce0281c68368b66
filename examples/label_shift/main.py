"""Label shift on Fashion-MNIST: the same garments in another mix, known from unlabelled images alone.

p(x|y) = q(x|y), q(y) = 1/10, and p(y) either gives one class 0.9 (`one_class`) or is drawn from Dirichlet(0.1)
(`dirichlet`). A small classifier of labelled source images estimates p(y) from 2,000 unlabelled target images, by BBSE
and by EM (rsf_dist/ratios/class_prior.py). The estimate is then used in two ways: to re-weight the classifier's
posterior, p(y|x) ~ q(y|x) p(y)/q(y) (Saerens, Latinne & Decaestecker 2002), and to draw source images by rejection with
the ratio p(y)/q(y), whose M = max p(y)/q(y) is exact, and to fine-tune on them. The control is fine-tuned on as many
rows at random for as many steps; it is re-weighted too, which is what rejection has to beat.

Labels of the target and of the test split enter the report alone.

    python examples/label_shift/main.py [--root FOLDER] [--seeds 10] [--output FOLDER] [--download]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor, nn

import rsf_dist as rsf
from rsf_dist.config.images import ImagesConfig
from rsf_dist.config.model import ModelConfig, OptimizerConfig
from rsf_dist.data.images import load_images
from rsf_dist.evaluation.predictions import Predictions
from rsf_dist.ratios.class_prior import BiasCorrectedTemperature, ClassPrior, bbse, em
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.sampling.diagnostics import acceptance_interval
from rsf_dist.training.in_process import fit_in_process
from rsf_dist.types import Floats

DEBIAN = "/usr/share/datasets/fashion-mnist"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
K = len(CLASSES)
SOURCE_PRIOR = np.full(K, 1 / K)
SHIFTS = ("one_class", "dirichlet")
NUM_FIT, NUM_CALIBRATION, NUM_TARGET = 5_000, 2_000, 2_000
RESAMPLES = 100
PRETRAIN_RATE = 5e-3
PRESENT = 0.01
"""Coverage is also told of the classes of at least this probability: a percentile interval hardly holds a p(y) of 0."""


@dataclass(frozen=True)
class Source:
    """Labelled images: what the classifier and the proposals are made from, and what is held out of both."""

    fit: rsf.ImageSet
    calibration: rsf.ImageSet


@dataclass(frozen=True)
class Place:
    """The target: its images, and for the report its true p(y) and the share of each class among the images."""

    images: Tensor
    prior: Floats
    counted: Floats


def split(photographs: rsf.ImageSet, seed: int) -> tuple[Source, rsf.ImageSet]:
    """The source, and the photographs left for the target, which no classifier sees."""
    order = torch.from_numpy(Streams(seed, Stage.TARGET).numpy().permutation(len(photographs)))
    fit, calibration, rest = order.tensor_split([NUM_FIT, NUM_FIT + NUM_CALIBRATION])
    return Source(photographs.subset(fit), photographs.subset(calibration)), photographs.subset(rest)


def make_place(photographs: rsf.ImageSet, shift: str, seed: int) -> Place:
    """NUM_TARGET photographs, none twice, whose classes are drawn from the shifted prior."""
    generator = Streams(seed, Stage.TARGET, chunk=1 + SHIFTS.index(shift)).numpy()
    if shift == "one_class":
        prior = np.full(K, 0.1 / (K - 1))
        prior[generator.integers(K)] = 0.9
    else:
        prior = generator.dirichlet(np.full(K, 0.1))
    counts = generator.multinomial(NUM_TARGET, prior)
    labels = photographs.require_labels().numpy()
    rows = [generator.choice(np.flatnonzero(labels == k), counts[k], replace=False) for k in range(K)]
    return Place(photographs.images[torch.from_numpy(np.concatenate(rows))], prior, counts / NUM_TARGET)


def logits(model: nn.Module, images: Tensor) -> Floats:
    """float64 [n, K]."""
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in images.split(512)]).double().numpy()


def calibrate(model: nn.Module, calibration: rsf.ImageSet) -> BiasCorrectedTemperature:
    """From logits to probabilities under the source's prior, fitted on held-out source images."""
    labels = calibration.require_labels().numpy()
    return BiasCorrectedTemperature.fit(logits(model, calibration.images), labels)


def estimate(model: nn.Module, calibration: rsf.ImageSet, target: Tensor, seed: int) -> dict[str, ClassPrior]:
    """p(y) of the unlabelled target images, by each method."""
    labels = calibration.require_labels().numpy()
    scaled = calibrate(model, calibration)
    on_source, on_target = logits(model, calibration.images), logits(model, target)
    raw_source, raw_target = softmax(on_source, axis=1), softmax(on_target, axis=1)
    return {
        "bbse": bbse(raw_source, labels, raw_target, RESAMPLES, seed=seed),
        "em_uncalibrated": em(raw_source, raw_target, RESAMPLES, seed=seed),
        "em": em(scaled(on_source), scaled(on_target), RESAMPLES, seed=seed),
    }


def accuracy(outputs: Floats, test: rsf.ImageSet, prior: Floats) -> float:
    """Accuracy under `prior`: that of each class of the test split, weighted by its true probability.

    It is the expectation over test images drawn with that prior, without the noise of drawing them.
    """
    verdict = Predictions(outputs.argmax(axis=1), test.require_labels().numpy(), K)
    return float(prior @ np.array(verdict.by_class, dtype=np.float64))


@dataclass(frozen=True)
class Bench:
    """What the arms of one seed share: the source, the starting model, and how rows are drawn and trained on."""

    task: rsf.ClassificationTask
    source: Source
    start: nn.Module
    seed: int
    rows: int
    training: rsf.TrainingConfig
    storage: Path

    def random(self) -> nn.Module:
        """The start, fine-tuned on source images as they come."""
        envelope = rsf.FixedEnvelope(0.0, num_pilot=64)
        return self._tuned(self._sampler(rsf.ConstantRatio(), envelope, Stage.CONTROL).sample(self.rows))

    def rejected(self, prior: Floats, round: int) -> tuple[nn.Module, dict[str, Any]]:
        """The start, fine-tuned on source images accepted with probability p(y)/(M q(y)); and how many were."""
        ratio = rsf.LabelShiftRatio(prior, SOURCE_PRIOR)
        accepted = self._sampler(ratio, rsf.PilotEnvelope(), Stage.SAMPLE).sample(self.rows, round)
        return self._tuned(accepted), _acceptance(accepted.report, ratio)

    def _sampler(self, ratio: Any, envelope: Any, stage: Stage) -> rsf.RejectionSampler:
        proposal = rsf.AugmentProposal(self.source.fit, parameters={}, class_prior=torch.from_numpy(SOURCE_PRIOR))
        pool = rsf.PoolConfig(max_actors=1)  # so few rows that another actor would cost more to start than it saves
        return rsf.RejectionSampler(proposal, ratio, envelope, seed=self.seed, chunk_size=2048, pool=pool, stage=stage)

    def _tuned(self, accepted: rsf.AcceptedSet) -> nn.Module:
        tuner = rsf.FineTuner(
            self.task, self.training, seed=self.seed, initial=self.start, storage_path=str(self.storage)
        )
        return tuner.fit(accepted.dataset).load_model()


def _acceptance(report: rsf.SamplingReport, ratio: rsf.LabelShiftRatio) -> dict[str, Any]:
    low, high = acceptance_interval(report.num_proposed, report.num_accepted, stopped=True, confidence=0.999)
    theory = math.exp(-ratio.log_bound)
    return {
        "num_proposed": report.num_proposed,
        "num_accepted": report.num_accepted,
        "num_capped": report.num_capped,
        "log_m_source": report.log_m_source,
        "acceptance": report.acceptance_rate,
        "interval_99.9": [low, high],
        "one_over_m": theory,
        "agrees": low <= theory <= high,
    }


def run_seed(
    photographs: rsf.ImageSet, test: rsf.ImageSet, seed: int, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One trial a shift; the starting model and the one fine-tuned at random serve them all."""
    source, unseen = split(photographs, seed)
    task = rsf.ClassificationTask(CLASSES, ModelConfig(width=8), channels=1)
    training = rsf.TrainingConfig(steps=arguments.steps, evaluate_every=arguments.steps)
    pretraining = OptimizerConfig(steps=arguments.pretrain_steps, learning_rate=PRETRAIN_RATE)
    start = fit_in_process(task, source.fit, pretraining, seed)
    bench = Bench(task, source, start, seed, arguments.rows, training, arguments.output.absolute() / "checkpoints")
    outputs = _three_outputs(start, bench.random(), source.calibration, test.images)
    for shift in arguments.shift:
        began = time.monotonic()
        place = make_place(unseen, shift, seed)
        found = estimate(start, source.calibration, place.images, seed)
        arms = _reweighted(outputs, {name: one.prior for name, one in found.items()}, place.prior)
        sampling = {}
        for name in arguments.tune:
            model, sampling[name] = bench.rejected(found[name].prior, round=SHIFTS.index(shift))
            arms[f"rejected_{name}"] = logits(model, test.images)
        yield {
            "seed": seed,
            "shift": shift,
            "prior": place.prior.tolist(),
            "source_accuracy": accuracy(outputs["start"], test, SOURCE_PRIOR),
            "estimates": _judged(found, place),
            "accuracy": {arm: accuracy(values, test, place.prior) for arm, values in arms.items()},
            "sampling": sampling,
            "seconds": round(time.monotonic() - began, 1),
        }


def _three_outputs(start: nn.Module, random: nn.Module, calibration: rsf.ImageSet, images: Tensor) -> dict[str, Floats]:
    """Probabilities of test images: the start's, calibrated and not, and those of the random control, calibrated."""
    by_start, by_random = logits(start, images), logits(random, images)
    return {
        "uncalibrated": softmax(by_start, axis=1),
        "start": calibrate(start, calibration)(by_start),
        "random": calibrate(random, calibration)(by_random),
    }


def _reweighted(outputs: Mapping[str, Floats], found: Mapping[str, Floats], truth: Floats) -> dict[str, Floats]:
    """Posteriors q(y|x) p(y)/q(y), up to a factor of x, under each estimate and under the truth."""
    priors = dict(found) | {"true": truth}
    arms = {"start": outputs["start"], "random": outputs["random"]}
    for name, prior in priors.items():
        base = "uncalibrated" if name == "em_uncalibrated" else "start"
        arms[f"start_{name}"] = outputs[base] * prior / SOURCE_PRIOR
        if name != "em_uncalibrated":
            arms[f"random_{name}"] = outputs["random"] * prior / SOURCE_PRIOR
    return arms


def _judged(found: Mapping[str, ClassPrior], place: Place) -> dict[str, dict[str, Any]]:
    """The error of the weights p(y)/q(y), and how many intervals hold the true p(y); for scale, two references."""

    def error(prior: Floats) -> float:
        return float((((prior - place.prior) / SOURCE_PRIOR) ** 2).mean())

    judged: dict[str, dict[str, Any]] = {
        "no_shift": {"prior": SOURCE_PRIOR.tolist(), "error": error(SOURCE_PRIOR)},
        "labels_counted": {"prior": place.counted.tolist(), "error": error(place.counted)},
    }
    for name, one in found.items():
        holds = (one.low <= place.prior) & (place.prior <= one.high)
        judged[name] = {
            "prior": one.prior.tolist(),
            "low": one.low.tolist(),
            "high": one.high.tolist(),
            "error": error(one.prior),
            "coverage": float(holds.mean()),
            "coverage_present": float(holds[place.prior >= PRESENT].mean()),
        }
    return judged


def summarise(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of each shift: [mean, sd] over seeds of every figure, and of paired differences of accuracy."""
    summary = {}
    for shift in dict.fromkeys(trial["shift"] for trial in trials):
        of = [trial for trial in trials if trial["shift"] == shift]
        names, arms = of[0]["estimates"], of[0]["accuracy"]
        samplings = [one for trial in of for one in trial["sampling"].values()]
        summary[shift] = {
            "seeds": len(of),
            "source_accuracy": _spread([trial["source_accuracy"] for trial in of]),
            "estimates": {
                name: {
                    figure: _spread([trial["estimates"][name][figure] for trial in of])
                    for figure in ("error", "coverage", "coverage_present")
                    if figure in names[name]
                }
                for name in names
            },
            "em_beats_bbse": sum(t["estimates"]["em"]["error"] < t["estimates"]["bbse"]["error"] for t in of),
            "accuracy": {arm: _spread([trial["accuracy"][arm] for trial in of]) for arm in arms},
            "differences": _differences([trial["accuracy"] for trial in of]),
            "acceptance_agrees": [sum(one["agrees"] for one in samplings), len(samplings)],
        }
    return summary


def _differences(arms: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """What re-weighting gains over the start, and rejection over the control and over re-weighting, seed by seed."""
    pairs = [(f"start_{name}", "start") for name in ("bbse", "em_uncalibrated", "em", "true")]
    for arm in arms[0]:
        if arm.startswith("rejected_"):
            pairs += [
                (arm, "random"),
                (arm, arm.replace("rejected", "start")),
                (arm, arm.replace("rejected", "random")),
            ]
    return {f"{arm} - {other}": _spread([one[arm] - one[other] for one in arms]) for arm, other in pairs}


def _spread(values: Sequence[float]) -> list[float]:
    """[mean, sd]; the sd of one value is NaN, which JSON has not, so 0."""
    return [float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0]


def tell(summary: Mapping[str, Any], rows: int) -> None:
    """The tables."""
    for shift, of in summary.items():
        source = _in_words(of["source_accuracy"])
        print(f"\n{shift}: mean ± sd over {of['seeds']} seeds; accuracy on the source's own mix {source}")
        print(f"  {'estimate of p(y)':26}{'error of p(y)/q(y)':>20}{'coverage':>16}{'of p(y) >= 0.01':>20}")
        for name, figures in of["estimates"].items():
            cells = [_in_words(figures[key]) if key in figures else "" for key in ("coverage", "coverage_present")]
            print(f"  {name:26}{_in_words(figures['error'], 4):>20}{cells[0]:>16}{cells[1]:>20}")
        print(f"  em's error is the smaller in {of['em_beats_bbse']} of {of['seeds']}")
        print("  accuracy at the target")
        for arm, values in of["accuracy"].items():
            print(f"  {arm:26}{_in_words(values):>20}")
        print(f"  paired differences ({rows:,} rows an arm)")
        for name, values in of["differences"].items():
            print(f"  {name:40}{values[0]:+.3f} ± {values[1]:.3f}")
        print("  acceptance agrees with 1/M (99.9 %) in {} of {}".format(*of["acceptance_agrees"]))


def _in_words(spread: Sequence[float], digits: int = 3) -> str:
    return f"{spread[0]:.{digits}f} ± {spread[1]:.{digits}f}"


def main(arguments: argparse.Namespace) -> None:
    """Run every seed, print the tables, write results.json. Raises InputError where --root holds no IDX files."""
    torch.set_num_threads(1)  # sums of floats must not depend on the machine's cores
    photographs, test = (
        load_images(ImagesConfig(kind="idx", root=arguments.root, split=part, classes=CLASSES))
        for part in ("train", "test")
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    trials = []
    with rsf.connect():
        for seed in range(arguments.seeds):
            for trial in run_seed(photographs, test, seed, arguments):
                errors = {name: round(one["error"], 4) for name, one in trial["estimates"].items()}
                print(f"seed {seed}, {trial['shift']}: error of p(y)/q(y) {errors}", flush=True)
                trials.append(trial)
                _write(trials, arguments)
    tell(summarise(trials), arguments.rows)


def _write(trials: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """results.json of the trials so far."""
    settings = {name: getattr(arguments, name) for name in ("rows", "steps", "pretrain_steps")}
    results = {"settings": settings, "summary": summarise(trials), "trials": trials}
    (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")


def _download(root: str) -> None:
    from torchvision.datasets import FashionMNIST

    for train in (True, False):
        FashionMNIST(root, train=train, download=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=DEBIAN, help="where the IDX files are")
    parser.add_argument("--output", type=Path, default=Path("runs/label_shift"), help="where results.json goes")
    parser.add_argument("--download", action="store_true", help="fetch the IDX files into --root first")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0")
    parser.add_argument("--shift", nargs="+", choices=SHIFTS, default=SHIFTS)
    parser.add_argument("--rows", type=int, default=2_000, help="source images that each arm is fine-tuned on")
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning")
    parser.add_argument("--pretrain-steps", type=int, default=400, help="of the classifier")
    parser.add_argument("--tune", nargs="*", choices=("em", "bbse"), default=("em", "bbse"), help="rejection arms")
    arguments = parser.parse_args()
    if arguments.download:
        _download(arguments.root)
    try:
        main(arguments)
    except rsf.RsfError as err:
        parser.exit(err.exit_code, f"error: {err}\n")
