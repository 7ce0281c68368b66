"""report.html: one file with its pictures within, readable without this package."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from rsf_dist.report import figures, sample_images
from rsf_dist.report.report_json import ARMS
from rsf_dist.report.trust_card import SEVERITY, overall
from rsf_dist.storage.run_store import RunStore


def write_html(store: RunStore, first_trial: RunStore, report: dict[str, Any]) -> None:
    """Draw figures/*.png and report.html. Details are of the first trial, comparisons of all."""
    pictures = _pictures(first_trial, report)
    for name, png in pictures.items():
        store.write(f"figures/{name}.png", png)
    environment = Environment(
        loader=PackageLoader("rsf_dist", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        report=report,
        pictures={name: base64.b64encode(png).decode() for name, png in pictures.items()},
        arms=_arms(report["evaluation"]),
        gain=_gain(report["evaluation"]),
        card=_card(report["rounds"][-1]["trust"]),
        prior=_prior(report),
    )
    store.write("report.html", page)


def _pictures(seed_run: RunStore, report: dict[str, Any]) -> dict[str, bytes]:
    drawn: dict[str, bytes] = {}
    evaluation, current = report["evaluation"], report["rounds"][-1]
    sampling = current["sampling"]
    classes = evaluation["classes"] if evaluation else []
    images = sample_images.load(seed_run, sample_images.SAMPLES)
    if images is not None:
        for kind in ("source", "proposals", "accepted", "target"):
            drawn[kind] = figures.grid(images[kind])
        drawn["log_ratios"] = figures.log_ratios(images["accepted_log_ratio"], sampling["log_m"])
    if len(report["rounds"]) > 1:
        if current["parameters"]:
            drawn["movement"] = figures.movement(report["rounds"])
        kept = [sample_images.load(seed_run, sample_images.round_samples(one["round"])) for one in report["rounds"]]
        rows = [one["accepted"] for one in kept if one is not None]
        if rows:
            drawn["rounds"] = figures.grid(np.concatenate(rows))
    if sampling["acceptance_by_label"]:
        rates, of_all = sampling["acceptance_by_label"], sampling["acceptance_rate"]
        drawn["acceptance_by_label"] = figures.acceptance_by_label(rates, of_all, classes)
    if sampling["curve"]:
        drawn["curve"] = figures.curve(sampling["curve"])
    if "reliability" in current["ratio"]:
        drawn["reliability"] = figures.reliability(current["ratio"])
    if report["training"]:
        drawn["training"] = figures.training_curves(report["training"])
    if evaluation:
        drawn["comparison"] = figures.comparison(evaluation)
        drawn["by_class"] = figures.by_class(evaluation)
        shown = sample_images.load(seed_run, sample_images.PREDICTIONS)
        if shown is not None:
            drawn["predictions"] = figures.predictions(shown, classes)
    return drawn


def _card(trust: list[dict[str, str]]) -> dict[str, Any]:
    """The checks, worst first, how many there are of each light, and the worst light."""
    lights = [check["light"] for check in trust]
    return {
        "checks": sorted(trust, key=lambda check: SEVERITY.index(check["light"])),
        "counts": {light: lights.count(light) for light in SEVERITY if light in lights},
        "overall": overall(lights),
    }


def _prior(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A table row for each class of an estimated class prior."""
    current = report["rounds"][-1]
    estimate = current["class_prior"] or current["ratio"].get("estimate")
    if estimate is None:
        return []
    classes = report["evaluation"]["classes"] if report["evaluation"] else []
    names = [classes[label] if label < len(classes) else str(label) for label in range(len(estimate["prior"]))]
    rows = zip(names, estimate["prior"], estimate["low"], estimate["high"], strict=True)
    return [dict(zip(("name", "share", "low", "high"), row, strict=True)) for row in rows]


def _arms(evaluation: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A table row for each arm: mean and spread over seeds, on the target's and the source's test images."""
    if evaluation is None:
        return []
    rows = []
    for arm in ARMS:
        if arm not in evaluation["arms"]:
            continue
        values, source = evaluation["arms"][arm], evaluation["source"].get(arm)
        rows.append(
            {
                "arm": arm,
                "name": ARMS[arm],
                "mean": float(np.mean(values)),
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "source": float(np.mean(source)) if source else None,
                "gap_closed": evaluation["gap_closed"].get(arm),
            }
        )
    return rows


def _gain(evaluation: dict[str, Any] | None) -> float | None:
    """Points of accuracy that rejection is ahead of the random control."""
    if evaluation is None or "random" not in evaluation["arms"]:
        return None
    own = evaluation["arms"][evaluation["own_arm"]]
    return 100 * float(np.mean(own) - np.mean(evaluation["arms"]["random"]))
