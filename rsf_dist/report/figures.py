"""The report's pictures, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from rsf_dist.report.report_json import ARMS

_COLOURS = {
    "pretrained": "#8a8f98",
    "batch_norm": "#b0b4bb",
    "pseudo_labels": "#a07fb5",
    "random": "#d98a3d",
    "weighted": "#c9b04a",
    "one_shot": "#7fa9d4",
    "adaptive": "#2f6fb3",
    "oracle": "#4b9b63",
}


_OWN = _COLOURS["adaptive"]


_COLUMNS = 12


_CELL, _GAP = 85, 5  # pixels: of an image, about, and to the next one


def comparison(evaluation: dict[str, Any]) -> bytes:
    """Accuracy of each arm: the mean over seeds, and every seed as a dot."""
    arms = [arm for arm in ARMS if arm in evaluation["arms"]]
    figure, axes = _figure(6.4, 0.55 * len(arms) + 0.9)
    for row, arm in enumerate(arms):
        values = evaluation["arms"][arm]
        mean = float(np.mean(values))
        axes.barh(row, mean, color=_COLOURS[arm], height=0.62)
        if len(values) > 1:
            axes.plot(values, [row] * len(values), "o", color="black", markeredgecolor="white", markersize=5)
        axes.text(max(*values, mean) + 0.012, row, f"{mean:.3f}", va="center", fontsize=10)
    axes.set_yticks(range(len(arms)), [ARMS[arm] for arm in arms])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.set_xlabel(f"target {evaluation['metric']}")
    return _png(figure)


def by_class(evaluation: dict[str, Any]) -> bytes:
    """Accuracy of each class before and after."""
    arms = [arm for arm in ("pretrained", "random", evaluation["own_arm"]) if arm in evaluation["by_class"]]
    classes = evaluation["classes"]
    figure, axes = _figure(6.4, 2.6)
    width = 0.8 / len(arms)
    for number, arm in enumerate(arms):
        values = [np.nan if value is None else value for value in evaluation["by_class"][arm]]
        at = np.arange(len(classes)) + (number - (len(arms) - 1) / 2) * width
        axes.bar(at, values, width, color=_COLOURS[arm], label=ARMS[arm])
    long = max(len(name) for name in classes) > 4
    axes.set_xticks(range(len(classes)), classes, rotation=30 if long else 0, ha="right" if long else "center")
    axes.set_ylim(0, 1)
    axes.set_ylabel(evaluation["metric"])
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(arms))
    return _png(figure)


def training_curves(training: dict[str, Any]) -> bytes:
    """Training loss, and the metric on held-out rows of the arm's own kind."""
    figure, (loss, metric) = _figure(6.4, 2.6, columns=2)
    for arm, run in training.items():
        steps = [point["step"] for point in run["curve"]]
        loss.plot(steps, [point["train_loss"] for point in run["curve"]], color=_COLOURS[arm], label=ARMS[arm])
        points = run["evaluations"]
        accuracy = [point["accuracy"] for point in points]
        metric.plot([point["step"] for point in points], accuracy, "o-", color=_COLOURS[arm], markersize=3)
    loss.set_xlabel("step")
    loss.set_ylabel("training loss")
    loss.set_ylim(bottom=0)
    metric.set_xlabel("step")
    metric.set_ylabel("accuracy on the arm's held-out rows")
    metric.set_ylim(0, 1)
    figure.legend(*loss.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside upper center", ncols=3)
    return _png(figure)


def acceptance_by_label(rates: dict[int, float], overall: float, classes: Sequence[str]) -> bytes:
    """The acceptance rate of each class, against that of all."""
    figure, axes = _figure(3.6, 2.4)
    labels = sorted(rates, key=int)
    names = [classes[int(label)] if int(label) < len(classes) else str(label) for label in labels]
    axes.bar(range(len(labels)), [100 * rates[label] for label in labels], color=_OWN)
    axes.axhline(100 * overall, color="black", linewidth=0.8, linestyle="--")
    long = max(len(name) for name in names) > 4
    axes.set_xticks(range(len(labels)), names, rotation=40 if long else 0, ha="right" if long else "center")
    axes.set_ylabel("accepted (%)")
    return _png(figure)


def log_ratios(accepted: NDArray[np.float64], log_m: float) -> bytes:
    """The accepted rows' log ratios against log M; whatever lies to the right was capped."""
    figure, axes = _figure(3.6, 2.4)
    axes.hist(accepted, bins=40, color=_OWN)
    axes.axvline(log_m, color="black", linewidth=0.8, linestyle="--")
    axes.text(log_m, axes.get_ylim()[1], " log M", va="top", fontsize=8)
    axes.set_xlabel("log ratio of accepted rows")
    axes.set_ylabel("rows")
    return _png(figure)


def curve(points: Sequence[dict[str, Any]]) -> bytes:
    """What other M would have given: acceptance (logarithmic, left) and the bounds on its bias (right)."""
    figure, axes = _figure(3.6, 2.4)
    log_m = [point["log_m"] for point in points]
    accepted, biased = _OWN, _COLOURS["random"]
    axes.plot(log_m, [100 * point["acceptance"] or np.nan for point in points], color=accepted)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("log M")
    axes.set_ylabel("accepted (%)", color=accepted)
    right = axes.twinx()
    for key, style, name in [("bias_target", "-", "target rows"), ("bias_proposals", "--", "proposals")]:
        if points[0][key] is not None:
            bias = [np.nan if point[key] is None else point[key] for point in points]
            right.plot(log_m, bias, style, color=biased, label=f"from {name}")
    right.spines["top"].set_visible(False)
    right.tick_params(labelsize=8)
    right.set_ylim(0, max(0.05, *right.get_ylim()))
    right.set_ylabel("bias, at most", color=biased, fontsize=9)
    right.legend(frameon=False, fontsize=7, loc="upper right")
    return _png(figure)


def reliability(quality: dict[str, Any]) -> bytes:
    """What the calibrated classifier predicts against what is true, in bins of equal mass."""
    figure, axes = _figure(2.8, 2.6)
    predicted, share = zip(*quality["reliability"], strict=True)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    axes.plot(predicted, share, "o-", color=_OWN, markersize=4)
    axes.set_xlabel("predicted P(target)")
    axes.set_ylabel("share of target rows")
    axes.set_aspect("equal")
    return _png(figure)


def movement(rounds: Sequence[dict[str, Any]]) -> bytes:
    """What rows are made of, round by round: 5, 25, 50, 75 and 95 % of the proposed and of the accepted values."""
    names = list(rounds[-1]["parameters"])
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(2.15 * columns, 1.75 * rows + 0.3), layout="constrained")
    at = np.arange(len(rounds))
    for number, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, number + 1)
        for kind, colour, shift in (("proposed", _COLOURS["random"], -0.13), ("accepted", _OWN, 0.13)):
            low, quarter, half, three, high = np.array([one["parameters"][name][kind] for one in rounds]).T
            axes.vlines(at + shift, low, high, color=colour, linewidth=1)
            axes.vlines(at + shift, quarter, three, color=colour, linewidth=4, label=kind)
            axes.plot(at + shift, half, "o", color="white", markeredgecolor=colour, markersize=4)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
        axes.set_title(name, fontsize=9)
        axes.set_xticks(at, [one["round"] for one in rounds])
        if number >= len(names) - columns:
            axes.set_xlabel("round", fontsize=8)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside upper center", ncols=2)
    return _png(figure)


def grid(images: NDArray[np.uint8]) -> bytes:
    """Images [n, c, h, w] side by side, small ones enlarged by a whole factor."""
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
    """Test images with the model's answers before and after, right ones in green."""
    columns = 8
    rows = -(-len(shown["images"]) // columns)
    figure = Figure(figsize=(6.4, 1.15 * rows), layout="constrained")
    for number, image in enumerate(shown["images"]):
        axes = figure.add_subplot(rows, columns, number + 1)
        _show(axes, image)
        for height, when in [(1.24, "before"), (1.04, "after")]:
            right = shown[when][number] == shown["truth"][number]
            text = f"{when}: {classes[shown[when][number]]}"
            colour = "#2e7d4f" if right else "#b3372f"
            axes.text(0.5, height, text, transform=axes.transAxes, ha="center", fontsize=6, color=colour)
    return _png(figure)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns)
    for one in np.atleast_1d(axes):
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
        one.xaxis.label.set_size(9)
        one.yaxis.label.set_size(9)
    return figure, axes


def _show(axes: Axes, image: NDArray[np.uint8]) -> None:
    axes.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=160, bbox_inches="tight", pad_inches=0.05)
    return sink.getvalue()
