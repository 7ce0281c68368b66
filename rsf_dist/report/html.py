"""report.html: one file with its figures embedded, readable without this package."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from rsf_dist.config.evaluation import Arm
from rsf_dist.report import figures, sample_images
from rsf_dist.report.arm_texts import ARMS
from rsf_dist.report.schema import Check, Evaluation, Light, Report, RoundEntry
from rsf_dist.report.trust_card import SEVERITY, overall
from rsf_dist.storage.run_store import RunStore


@dataclass(frozen=True)
class _Card:
    """The trust card as the page shows it: the checks, worst first, the number of each light, and the worst light."""

    checks: list[Check]
    counts: dict[Light, int]
    overall: Light


@dataclass(frozen=True)
class _PriorRow:
    """A table row for one class of an estimated class prior: its name, its share and the ends of its interval."""

    name: str
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class _ArmRow:
    """A table row for one arm, in means over seeds. A figure that does not exist is None.

    Args:
        arm, name: the arm and its label.
        mean, sd: the metric on test images of the target domain, and its standard deviation over seeds.
        source: the metric on held-out images of the source domain.
        gap_closed: the share of the gap between random proposals and labelled target images.
    """

    arm: Arm
    name: str
    mean: float
    sd: float | None
    source: float | None
    gap_closed: float | None


def write_html(store: RunStore, first_seed: RunStore, report: Report) -> None:
    """Draw figures/*.png and write report.html.

    Args:
        store: the run's directory.
        first_seed: the directory of the first seed, whose images and details are shown.
        report: of the run, merged over its seeds.
    """
    pictures = _sample_pictures(first_seed, report) | _evaluation_pictures(first_seed, report) | _figures(report)
    for name, png in pictures.items():
        store.write(f"figures/{name}.png", png)
    environment = Environment(
        loader=PackageLoader("rsf_dist", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        report=report,
        pictures={name: base64.b64encode(png).decode() for name, png in pictures.items()},
        arms=_arms(report.evaluation),
        arm_texts=ARMS,
        gain=_gain(report.evaluation),
        card=_card(report.rounds[-1].trust),
        prior=_prior(report.rounds[-1], report.evaluation.classes if report.evaluation else []),
    )
    store.write("report.html", page)


def _sample_pictures(first_seed: RunStore, report: Report) -> dict[str, bytes]:
    """Draw what needs the kept images: sheets of them, and the log ratios of the accepted rows."""
    drawn: dict[str, bytes] = {}
    images = sample_images.load(first_seed, sample_images.SAMPLES)
    if images is not None:
        for kind in ("source", "proposals", "accepted", "target"):
            drawn[kind] = figures.grid(images[kind])
        drawn["log_ratios"] = figures.log_ratios(images["accepted_log_ratio"], report.rounds[-1].sampling.log_m)
    if len(report.rounds) > 1:
        kept = [sample_images.load(first_seed, sample_images.round_samples(entry.round)) for entry in report.rounds]
        rows = [arrays["accepted"] for arrays in kept if arrays is not None]
        if rows:
            drawn["rounds"] = figures.grid(np.concatenate(rows))
    return drawn


def _evaluation_pictures(first_seed: RunStore, report: Report) -> dict[str, bytes]:
    """Draw the comparison of the arms; nothing without an evaluation."""
    evaluation = report.evaluation
    if evaluation is None:
        return {}
    drawn = {"comparison": figures.comparison(evaluation), "by_class": figures.by_class(evaluation)}
    predictions = sample_images.load(first_seed, sample_images.PREDICTIONS)
    if predictions is not None:
        drawn["predictions"] = figures.predictions(predictions, evaluation.classes)
    return drawn


def _figures(report: Report) -> dict[str, bytes]:
    """Draw what needs the report alone."""
    drawn: dict[str, bytes] = {}
    current = report.rounds[-1]
    sampling, quality = current.sampling, current.ratio.quality
    if len(report.rounds) > 1 and current.parameters:
        drawn["movement"] = figures.movement(report.rounds)
    if sampling.acceptance_by_label:
        classes = report.evaluation.classes if report.evaluation else []
        rates, overall_rate = sampling.acceptance_by_label, sampling.acceptance_rate
        drawn["acceptance_by_label"] = figures.acceptance_by_label(rates, overall_rate, classes)
    if sampling.curve:
        drawn["curve"] = figures.curve(sampling.curve)
    if quality is not None:
        drawn["reliability"] = figures.reliability(quality)
    if report.training:
        drawn["training"] = figures.training_curves(report.training)
    return drawn


def _card(trust: list[Check]) -> _Card:
    lights = [check.light for check in trust]
    return _Card(
        checks=sorted(trust, key=lambda check: SEVERITY.index(check.light)),
        counts={light: lights.count(light) for light in SEVERITY if light in lights},
        overall=overall(lights),
    )


def _prior(entry: RoundEntry, classes: list[str]) -> list[_PriorRow]:
    estimate = entry.estimate
    if estimate is None:
        return []
    names = [classes[label] if label < len(classes) else str(label) for label in range(len(estimate.prior))]
    rows = zip(names, estimate.prior, estimate.low, estimate.high, strict=True)
    return [_PriorRow(*row) for row in rows]


def _arms(evaluation: Evaluation | None) -> list[_ArmRow]:
    if evaluation is None:
        return []
    return [_arm_row(evaluation, arm) for arm in ARMS if arm in evaluation.arms]


def _arm_row(evaluation: Evaluation, arm: Arm) -> _ArmRow:
    values, source = evaluation.arms[arm], evaluation.source.get(arm)
    return _ArmRow(
        arm=arm,
        name=ARMS[arm].label,
        mean=float(np.mean(values)),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        source=float(np.mean(source)) if source else None,
        gap_closed=evaluation.gap_closed.get(arm),
    )


def _gain(evaluation: Evaluation | None) -> float | None:
    """Return the points of the metric by which rejection is ahead of random proposals; None without that arm."""
    if evaluation is None or "random" not in evaluation.arms:
        return None
    own = evaluation.arms[evaluation.own_arm]
    return 100 * float(np.mean(own) - np.mean(evaluation.arms["random"]))
