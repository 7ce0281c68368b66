"""The report's figures, as PNG."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from rsf_dist.config.evaluation import Arm
from rsf_dist.report.arm_texts import ARMS
from rsf_dist.report.schema import Evaluation, RatioQualityEntry, RoundEntry, TrainingEntry
from rsf_dist.sampling.report import CurvePoint

_OWN = ARMS["adaptive"].colour
_OTHER = ARMS["random"].colour
_COLUMNS = 12
_CELL, _GAP = 85, 5  # pixels: about the size of a shown image, and the space between two
_LABEL_WIDTH, _LEGEND_WIDTH = 32, 48  # characters, after which an arm's label is broken: at a bar, in two columns


def comparison(evaluation: Evaluation) -> bytes:
    """Draw the metric of each arm: a bar for the mean over seeds, a dot for each seed."""
    arms = [arm for arm in ARMS if arm in evaluation.arms]
    figure, axes = _figure(6.4, 0.55 * len(arms) + 0.9)
    for row, arm in enumerate(arms):
        values = evaluation.arms[arm]
        mean = float(np.mean(values))
        axes.barh(row, mean, color=ARMS[arm].colour, height=0.62)
        if len(values) > 1:
            axes.plot(values, [row] * len(values), "o", color="black", markeredgecolor="white", markersize=5)
        axes.text(max(*values, mean) + 0.012, row, f"{mean:.3f}", va="center", fontsize=10)
    axes.set_yticks(range(len(arms)), [textwrap.fill(ARMS[arm].label, _LABEL_WIDTH) for arm in arms])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.set_xlabel(f"target {evaluation.metric}")
    return as_png(figure)


def by_class(evaluation: Evaluation) -> bytes:
    """Draw the metric of each class before and after fine-tuning."""
    before_and_after: tuple[Arm, ...] = ("pretrained", "random", evaluation.own_arm)
    arms = [arm for arm in before_and_after if arm in evaluation.by_class]
    figure, axes = _figure(6.4, 2.6)
    width = 0.8 / len(arms)
    for number, arm in enumerate(arms):
        values = [np.nan if value is None else value for value in evaluation.by_class[arm]]
        at = np.arange(len(evaluation.classes)) + (number - (len(arms) - 1) / 2) * width
        axes.bar(at, values, width, color=ARMS[arm].colour, label=textwrap.fill(ARMS[arm].label, _LABEL_WIDTH))
    _name_classes(axes, evaluation.classes, rotation=30)
    axes.set_ylim(0, 1)
    axes.set_ylabel(evaluation.metric)
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(arms))
    return as_png(figure)


def training_curves(training: Mapping[Arm, TrainingEntry]) -> bytes:
    """Draw the training loss, and the accuracy on held-out rows of each arm's own kind, where the task measures it."""
    figure, (loss, metric) = _figure(6.4, 2.4 + 0.2 * math.ceil(len(training) / 2), columns=2)
    for arm, entry in training.items():
        text = ARMS[arm]
        steps = [point.step for point in entry.curve]
        losses = [np.nan if point.train_loss is None else point.train_loss for point in entry.curve]
        loss.plot(steps, losses, color=text.colour, label=textwrap.fill(text.label, _LEGEND_WIDTH))
        measured = [point for point in entry.evaluations if "accuracy" in point]
        accuracy = [np.nan if point["accuracy"] is None else point["accuracy"] for point in measured]
        metric.plot([point["step"] for point in measured], accuracy, "o-", color=text.colour, markersize=3)
    loss.set_xlabel("step")
    loss.set_ylabel("training loss")
    loss.set_ylim(bottom=0)
    metric.set_xlabel("step")
    metric.set_ylabel("accuracy on the\narm's held-out rows")
    metric.set_ylim(0, 1)
    figure.legend(*loss.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside upper center", ncols=2)
    return as_png(figure)


def _name_classes(axes: Axes, names: Sequence[str], rotation: int) -> None:
    """Write the classes' names below their bars, turned where they are long."""
    long = max(len(name) for name in names) > 4
    axes.set_xticks(range(len(names)), names, rotation=rotation if long else 0, ha="right" if long else "center")


def acceptance_by_label(rates: dict[int, float], overall: float, classes: Sequence[str]) -> bytes:
    """Draw the acceptance rate of each class, and a dashed line at that of all rows."""
    figure, axes = _figure(3.6, 2.4)
    labels = sorted(rates)
    names = [classes[label] if label < len(classes) else str(label) for label in labels]
    axes.bar(range(len(labels)), [100 * rates[label] for label in labels], color=_OWN)
    axes.axhline(100 * overall, color="black", linewidth=0.8, linestyle="--")
    _name_classes(axes, names, rotation=40)
    axes.set_ylabel("accepted (%)")
    return as_png(figure)


def log_ratios(accepted: NDArray[np.float64], log_m: float) -> bytes:
    """Draw the log ratios of the accepted rows, and a dashed line at log M: rows to the right of it were capped."""
    figure, axes = _figure(3.6, 2.4)
    axes.hist(accepted, bins=40, color=_OWN)
    axes.axvline(log_m, color="black", linewidth=0.8, linestyle="--")
    axes.text(log_m, axes.get_ylim()[1], " log M", va="top", fontsize=8)
    axes.set_xlabel("log ratio of accepted rows")
    axes.set_ylabel("rows")
    return as_png(figure)


def curve(points: Sequence[CurvePoint]) -> bytes:
    """Draw the acceptance (logarithmic, left) and the bounds on the bias (right) that other M would have given."""
    figure, axes = _figure(3.6, 2.4)
    log_m = [point.log_m for point in points]
    axes.plot(log_m, [100 * point.acceptance or np.nan for point in points], color=_OWN)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("log M")
    axes.set_ylabel("accepted (%)", color=_OWN)
    right = axes.twinx()
    if points[0].bias_target is not None:
        _plot_bias(right, log_m, [point.bias_target for point in points], "-", "target rows")
    if points[0].bias_proposals is not None:
        _plot_bias(right, log_m, [point.bias_proposals for point in points], "--", "proposals")
    right.spines["top"].set_visible(False)
    right.tick_params(labelsize=8)
    right.set_ylim(0, max(0.05, *right.get_ylim()))
    right.set_ylabel("bias, at most", color=_OTHER, fontsize=9)
    right.legend(frameon=False, fontsize=7, loc="upper right")
    return as_png(figure)


def _plot_bias(axes: Axes, log_m: Sequence[float], bias: Sequence[float | None], style: str, name: str) -> None:
    values = [np.nan if value is None else value for value in bias]
    axes.plot(log_m, values, style, color=_OTHER, label=f"from {name}")


def reliability(quality: RatioQualityEntry) -> bytes:
    """Draw the calibrated classifier's predictions against the true shares, in bins of equal mass."""
    figure, axes = _figure(2.8, 2.6)
    predicted, share = zip(*quality.reliability, strict=True)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    axes.plot(predicted, share, "o-", color=_OWN, markersize=4)
    axes.set_xlabel("predicted P(target)")
    axes.set_ylabel("share of target rows")
    axes.set_aspect("equal")
    return as_png(figure)


def movement(rounds: Sequence[RoundEntry]) -> bytes:
    """Draw each column of real numbers over the rounds: 5, 25, 50, 75 and 95 % of proposals and of accepted rows."""
    names = list(rounds[-1].parameters)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(2.15 * columns, 1.75 * rows + 0.3), layout="constrained")
    at = np.arange(len(rounds), dtype=np.float64)
    for number, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, number + 1)
        of_rounds = [entry.parameters[name] for entry in rounds]
        _plot_quantiles(axes, at - 0.13, [quantiles.proposed for quantiles in of_rounds], _OTHER, "proposed")
        _plot_quantiles(axes, at + 0.13, [quantiles.accepted for quantiles in of_rounds], _OWN, "accepted")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
        axes.set_title(name, fontsize=9)
        axes.set_xticks(at, [str(entry.round) for entry in rounds])
        if number >= len(names) - columns:
            axes.set_xlabel("round", fontsize=8)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside upper center", ncols=2)
    return as_png(figure)


def _plot_quantiles(axes: Axes, at: NDArray, quantiles: Sequence[list[float | None]], colour: str, label: str) -> None:
    low, quarter, half, three_quarters, high = np.array(quantiles, np.float64).T
    axes.vlines(at, low, high, color=colour, linewidth=1)
    axes.vlines(at, quarter, three_quarters, color=colour, linewidth=4, label=label)
    axes.plot(at, half, "o", color="white", markeredgecolor=colour, markersize=4)


def grid(images: NDArray[np.uint8]) -> bytes:
    """Draw images, uint8 [n, c, h, w], side by side. Small ones are enlarged by a whole factor."""
    factor, rows = max(1, _CELL // max(images.shape[2:])), -(-len(images) // _COLUMNS)
    enlarged = images.repeat(factor, axis=2).repeat(factor, axis=3)
    height, width = (size + _GAP for size in enlarged.shape[2:])
    cells = np.full((rows * _COLUMNS, 3, height, width), 255, np.uint8)
    cells[: len(images), :, :-_GAP, :-_GAP] = enlarged  # a grey channel for all three
    sheet = cells.reshape(rows, _COLUMNS, 3, height, width).transpose(0, 3, 1, 4, 2)
    sink = io.BytesIO()
    imsave(sink, sheet.reshape(rows * height, _COLUMNS * width, 3)[:-_GAP, :-_GAP], format="png")
    return sink.getvalue()


def predictions(shown: dict[str, NDArray], classes: Sequence[str]) -> bytes:
    """Draw test images with the model's predictions before and after fine-tuning, right ones in green."""
    columns = 8
    rows = -(-len(shown["images"]) // columns)
    figure = Figure(figsize=(6.4, 1.15 * rows), layout="constrained")
    for number, image in enumerate(shown["images"]):
        axes = figure.add_subplot(rows, columns, number + 1)
        show_image(axes, image)
        for height, when in [(1.24, "before"), (1.04, "after")]:
            right = shown[when][number] == shown["truth"][number]
            text = f"{when}: {classes[shown[when][number]]}"
            colour = "#2e7d4f" if right else "#b3372f"
            axes.text(0.5, height, text, transform=axes.transAxes, ha="center", fontsize=6, color=colour)
    return as_png(figure)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns)
    for one in np.atleast_1d(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
        one.xaxis.label.set_size(9)
        one.yaxis.label.set_size(9)
    return figure, axes


def show_image(axes: Axes, image: NDArray[np.uint8]) -> None:
    """Draw an image, uint8 [c, h, w], without axes."""
    axes.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()


def as_png(figure: Figure) -> bytes:
    """Return the bytes of a figure's PNG file."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=160, bbox_inches="tight", pad_inches=0.05)
    return sink.getvalue()
