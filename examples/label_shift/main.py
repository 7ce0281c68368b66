"""Label shift on Fashion-MNIST: the target domain has another class prior, estimated from its unlabelled images.

p(x|y) = q(x|y), q(y) = 1/10, and p(y) either gives one class 0.9 (`one_class`) or is drawn from Dirichlet(0.1)
(`dirichlet`). A small classifier is trained on labelled source images. BBSE and EM (rsf_dist/ratios/class_prior.py)
estimate p(y) from its outputs on 2,000 unlabelled target images. Each estimate is used in two ways:

- to re-weight the classifier's posterior, p(y|x) ~ q(y|x) p(y)/q(y) (Saerens, Latinne & Decaestecker 2002);
- to draw source images by rejection and fine-tune on them. The ratio is p(y)/q(y), and M = max p(y)/q(y) is exact.

The baseline is fine-tuned on equally many random rows for equally many steps. Rejection has to beat this baseline after
its posterior is re-weighted too.

Labels of the target images and of the test split are used for the report alone.

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
from rsf_dist.config.images import IdxConfig
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
"""Coverage is also reported for the classes of at least this probability, because a percentile interval hardly ever
holds a p(y) of 0."""


@dataclass(frozen=True)
class Source:
    """Labelled source images.

    Args:
        fit: images for the classifier and for the proposals.
        calibration: images held out of both.
    """

    fit: rsf.ImageSet
    calibration: rsf.ImageSet


@dataclass(frozen=True)
class TargetDomain:
    """The target domain.

    Args:
        images: unlabelled images, uint8 [n, 1, 28, 28].
        prior: the true p(y), float64 [K], for the report alone.
        label_shares: the share of each class among the images, float64 [K], for the report alone.
    """

    images: Tensor
    prior: Floats
    label_shares: Floats


def split(photographs: rsf.ImageSet, seed: int) -> tuple[Source, rsf.ImageSet]:
    """Return the source images, and the other photographs, from which the target domain is made."""
    order = torch.from_numpy(Streams(seed, Stage.TARGET).numpy().permutation(len(photographs)))
    fit, calibration, rest = order.tensor_split([NUM_FIT, NUM_FIT + NUM_CALIBRATION])
    return Source(photographs.subset(fit), photographs.subset(calibration)), photographs.subset(rest)


def make_target(photographs: rsf.ImageSet, shift: str, seed: int) -> TargetDomain:
    """Draw NUM_TARGET photographs without replacement, with classes from the shifted class prior."""
    generator = Streams(seed, Stage.TARGET, chunk=1 + SHIFTS.index(shift)).numpy()
    if shift == "one_class":
        prior = np.full(K, 0.1 / (K - 1))
        prior[generator.integers(K)] = 0.9
    else:
        prior = generator.dirichlet(np.full(K, 0.1))
    counts = generator.multinomial(NUM_TARGET, prior)
    labels = photographs.require_labels().numpy()
    rows = [generator.choice(np.flatnonzero(labels == k), counts[k], replace=False) for k in range(K)]
    return TargetDomain(photographs.images[torch.from_numpy(np.concatenate(rows))], prior, counts / NUM_TARGET)


def logits(model: nn.Module, images: Tensor) -> Floats:
    """Return the logits of the images, float64 [n, K]."""
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in images.split(512)]).double().numpy()


def calibrate(model: nn.Module, calibration: rsf.ImageSet) -> BiasCorrectedTemperature:
    """Fit the map from logits to probabilities under the source's class prior, on held-out source images."""
    labels = calibration.require_labels().numpy()
    return BiasCorrectedTemperature.fit(logits(model, calibration.images), labels)


def estimate(model: nn.Module, calibration: rsf.ImageSet, target: Tensor, seed: int) -> dict[str, ClassPrior]:
    """Estimate p(y) of the unlabelled target images by each method."""
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
    """Return the mean of the classes' accuracies on the test split, weighted by the true class prior.

    This is the expected accuracy on test images drawn with `prior`, without the noise of drawing them.
    """
    predictions = Predictions(outputs.argmax(axis=1), test.require_labels().numpy(), K)
    return float(prior @ np.array(predictions.by_class, dtype=np.float64))


@dataclass(frozen=True)
class SeedSetup:
    """The source, the starting model and the settings of sampling and training that all arms of a seed share."""

    task: rsf.ClassificationTask
    source: Source
    start: nn.Module
    seed: int
    rows: int
    training: rsf.TrainingConfig
    storage: Path

    def random(self) -> nn.Module:
        """Fine-tune the starting model on random source images."""
        envelope = rsf.FixedEnvelope(0.0, num_pilot=64)
        return self._tuned(self._sampler(rsf.ConstantRatio(), envelope, Stage.CONTROL).sample(self.rows))

    def rejected(self, prior: Floats, round: int) -> tuple[nn.Module, dict[str, Any]]:
        """Fine-tune the starting model on source images accepted with probability p(y)/(M q(y)).

        Returns:
            The model, and the acceptance beside its theory.
        """
        ratio = rsf.LabelShiftRatio(prior, SOURCE_PRIOR)
        accepted = self._sampler(ratio, rsf.PilotEnvelope(), Stage.SAMPLE).sample(self.rows, round)
        return self._tuned(accepted), _acceptance(accepted.report, ratio)

    def _sampler(self, ratio: Any, envelope: Any, stage: Stage) -> rsf.RejectionSampler:
        proposal = rsf.AugmentProposal(self.source.fit, parameters={}, class_prior=torch.from_numpy(SOURCE_PRIOR))
        pool = rsf.PoolConfig(max_actors=1)  # starting a second actor would cost more than it saves on so few rows
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
    """Yield the results of one seed for each shift. The shifts share the starting model and the random baseline."""
    source, unseen = split(photographs, seed)
    task = rsf.ClassificationTask(CLASSES, ModelConfig(width=8), channels=1)
    training = rsf.TrainingConfig(steps=arguments.steps, evaluate_every=arguments.steps)
    pretraining = OptimizerConfig(steps=arguments.pretrain_steps, learning_rate=PRETRAIN_RATE)
    start = fit_in_process(task, source.fit, pretraining, seed)
    setup = SeedSetup(task, source, start, seed, arguments.rows, training, arguments.output.absolute() / "checkpoints")
    outputs = _three_outputs(start, setup.random(), source.calibration, test.images)
    for shift in arguments.shift:
        began = time.monotonic()
        target = make_target(unseen, shift, seed)
        estimates = estimate(start, source.calibration, target.images, seed)
        arms = _reweighted(outputs, {name: class_prior.prior for name, class_prior in estimates.items()}, target.prior)
        sampling = {}
        for name in arguments.tune:
            model, sampling[name] = setup.rejected(estimates[name].prior, round=SHIFTS.index(shift))
            arms[f"rejected_{name}"] = logits(model, test.images)
        yield {
            "seed": seed,
            "shift": shift,
            "prior": target.prior.tolist(),
            "source_accuracy": accuracy(outputs["start"], test, SOURCE_PRIOR),
            "estimates": _evaluate_estimates(estimates, target),
            "accuracy": {arm: accuracy(values, test, target.prior) for arm, values in arms.items()},
            "sampling": sampling,
            "seconds": round(time.monotonic() - began, 1),
        }


def _three_outputs(start: nn.Module, random: nn.Module, calibration: rsf.ImageSet, images: Tensor) -> dict[str, Floats]:
    """Return probabilities of test images: by the starting model, uncalibrated and calibrated, and by the baseline."""
    by_start, by_random = logits(start, images), logits(random, images)
    return {
        "uncalibrated": softmax(by_start, axis=1),
        "start": calibrate(start, calibration)(by_start),
        "random": calibrate(random, calibration)(by_random),
    }


def _reweighted(outputs: Mapping[str, Floats], estimates: Mapping[str, Floats], truth: Floats) -> dict[str, Floats]:
    """Return q(y|x) p(y)/q(y), the posterior up to a factor of x, for each estimate of p(y) and for the true p(y)."""
    priors = dict(estimates) | {"true": truth}
    arms = {"start": outputs["start"], "random": outputs["random"]}
    for name, prior in priors.items():
        base = "uncalibrated" if name == "em_uncalibrated" else "start"
        arms[f"start_{name}"] = outputs[base] * prior / SOURCE_PRIOR
        if name != "em_uncalibrated":
            arms[f"random_{name}"] = outputs["random"] * prior / SOURCE_PRIOR
    return arms


def _evaluate_estimates(estimates: Mapping[str, ClassPrior], target: TargetDomain) -> dict[str, dict[str, Any]]:
    """Return the error of the weights p(y)/q(y) and the coverage of the intervals, for each estimate.

    Two references give the scale: no shift assumed, and the labels counted.
    """

    def error(prior: Floats) -> float:
        return float((((prior - target.prior) / SOURCE_PRIOR) ** 2).mean())

    evaluated: dict[str, dict[str, Any]] = {
        "no_shift": {"prior": SOURCE_PRIOR.tolist(), "error": error(SOURCE_PRIOR)},
        "labels_counted": {"prior": target.label_shares.tolist(), "error": error(target.label_shares)},
    }
    for name, estimated in estimates.items():
        holds = (estimated.low <= target.prior) & (target.prior <= estimated.high)
        evaluated[name] = {
            "prior": estimated.prior.tolist(),
            "low": estimated.low.tolist(),
            "high": estimated.high.tolist(),
            "error": error(estimated.prior),
            "coverage": float(holds.mean()),
            "coverage_present": float(holds[target.prior >= PRESENT].mean()),
        }
    return evaluated


def summarise(seed_runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return, for each shift, [mean, sd] over seeds of every figure and of paired differences of accuracy."""
    summary = {}
    for shift in dict.fromkeys(run["shift"] for run in seed_runs):
        runs = [run for run in seed_runs if run["shift"] == shift]
        names, arms = runs[0]["estimates"], runs[0]["accuracy"]
        samplings = [sampling for run in runs for sampling in run["sampling"].values()]
        summary[shift] = {
            "seeds": len(runs),
            "source_accuracy": _spread([run["source_accuracy"] for run in runs]),
            "estimates": {
                name: {
                    figure: _spread([run["estimates"][name][figure] for run in runs])
                    for figure in ("error", "coverage", "coverage_present")
                    if figure in names[name]
                }
                for name in names
            },
            "em_beats_bbse": sum(run["estimates"]["em"]["error"] < run["estimates"]["bbse"]["error"] for run in runs),
            "accuracy": {arm: _spread([run["accuracy"][arm] for run in runs]) for arm in arms},
            "differences": _differences([run["accuracy"] for run in runs]),
            "acceptance_agrees": [sum(sampling["agrees"] for sampling in samplings), len(samplings)],
        }
    return summary


def _differences(arms: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return [mean, sd] over seeds of paired differences of accuracy.

    Re-weighting is compared with the starting model. Rejection is compared with the random baseline and with
    re-weighting.
    """
    pairs = [(f"start_{name}", "start") for name in ("bbse", "em_uncalibrated", "em", "true")]
    for arm in arms[0]:
        if arm.startswith("rejected_"):
            pairs += [
                (arm, "random"),
                (arm, arm.replace("rejected", "start")),
                (arm, arm.replace("rejected", "random")),
            ]
    return {
        f"{arm} - {other}": _spread([accuracies[arm] - accuracies[other] for accuracies in arms])
        for arm, other in pairs
    }


def _spread(values: Sequence[float]) -> list[float]:
    """Return [mean, sd]. The sd of a single value is given as 0, because JSON has no NaN."""
    return [float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0]


def print_tables(summary: Mapping[str, Any], rows: int) -> None:
    """Print the tables of each shift."""
    for shift, figures in summary.items():
        source = _mean_and_sd(figures["source_accuracy"])
        print(f"\n{shift}: mean ± sd over {figures['seeds']} seeds; accuracy under the source's class prior {source}")
        print(f"  {'estimate of p(y)':26}{'error of p(y)/q(y)':>20}{'coverage':>16}{'of p(y) >= 0.01':>20}")
        for name, row in figures["estimates"].items():
            cells = [_mean_and_sd(row[key]) if key in row else "" for key in ("coverage", "coverage_present")]
            print(f"  {name:26}{_mean_and_sd(row['error'], 4):>20}{cells[0]:>16}{cells[1]:>20}")
        print(f"  em's error is smaller than bbse's in {figures['em_beats_bbse']} of {figures['seeds']} seeds")
        print("  accuracy on the target domain")
        for arm, values in figures["accuracy"].items():
            print(f"  {arm:26}{_mean_and_sd(values):>20}")
        print(f"  paired differences ({rows:,} rows an arm)")
        for name, values in figures["differences"].items():
            print(f"  {name:40}{values[0]:+.3f} ± {values[1]:.3f}")
        print("  acceptance agrees with 1/M (99.9 %) in {} of {}".format(*figures["acceptance_agrees"]))


def _mean_and_sd(spread: Sequence[float], digits: int = 3) -> str:
    return f"{spread[0]:.{digits}f} ± {spread[1]:.{digits}f}"


def main(arguments: argparse.Namespace) -> None:
    """Run every seed, print the tables and write results.json.

    Raises:
        InputError: --root holds no IDX files.
    """
    torch.set_num_threads(1)  # sums of floats must not depend on the number of cores
    photographs, test = (
        load_images(IdxConfig(root=arguments.root, split=part, classes=CLASSES)) for part in ("train", "test")
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    seed_runs = []
    with rsf.connect():
        for seed in range(arguments.seeds):
            for seed_run in run_seed(photographs, test, seed, arguments):
                errors = {name: round(row["error"], 4) for name, row in seed_run["estimates"].items()}
                print(f"seed {seed}, {seed_run['shift']}: error of p(y)/q(y) {errors}", flush=True)
                seed_runs.append(seed_run)
                _write(seed_runs, arguments)
    print_tables(summarise(seed_runs), arguments.rows)


def _write(seed_runs: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Write results.json with the seeds and shifts that are done."""
    settings = {name: getattr(arguments, name) for name in ("rows", "steps", "pretrain_steps")}
    results = {"settings": settings, "summary": summarise(seed_runs), "seed_runs": seed_runs}
    (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")


def _download(root: str) -> None:
    from torchvision.datasets import FashionMNIST

    for train in (True, False):
        FashionMNIST(root, train=train, download=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=DEBIAN, help="folder of the IDX files")
    parser.add_argument("--output", type=Path, default=Path("runs/label_shift"), help="folder for results.json")
    parser.add_argument("--download", action="store_true", help="download the IDX files into --root first")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds, from 0")
    parser.add_argument("--shift", nargs="+", choices=SHIFTS, default=SHIFTS)
    parser.add_argument("--rows", type=int, default=2_000, help="source images that each arm is fine-tuned on")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of fine-tuning")
    parser.add_argument("--pretrain-steps", type=int, default=400, help="optimizer steps of the classifier")
    parser.add_argument(
        "--tune",
        nargs="*",
        choices=("em", "bbse"),
        default=("em", "bbse"),
        help="estimates of p(y) for rejection",
    )
    arguments = parser.parse_args()
    if arguments.download:
        _download(arguments.root)
    try:
        main(arguments)
    except rsf.RsfError as err:
        parser.exit(err.exit_code, f"error: {err}\n")
