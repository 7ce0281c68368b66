"""The report in a few lines, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rsf_dist.report.arm_texts import ARMS
from rsf_dist.report.report_json import format_round
from rsf_dist.report.schema import Evaluation, Report
from rsf_dist.report.trust_card import format_trust_card


def format_report(report: Report) -> str:
    """Return a line for each round, the trust card's lines, and a table of the arms: means over seeds, every seed."""
    card = format_trust_card(report.rounds[-1].trust)
    origin = [] if report.taken_over is None else [report.taken_over]
    lines = [*origin, *map(format_round, report.rounds), card, *_other_cards(report)]
    if report.evaluation is not None:
        lines += ["", *_table(report.evaluation), ""]
    return "\n".join(lines)


def _table(evaluation: Evaluation) -> Iterator[str]:
    yield f"target {evaluation.metric} on {evaluation.num_test:,} test images, by arm"
    arms = [arm for arm in ARMS if arm in evaluation.arms]
    width = max(len(ARMS[arm].label) for arm in arms)
    for arm in arms:
        values, gap = evaluation.arms[arm], evaluation.gap_closed.get(arm)
        spread = f"   sd {np.std(values, ddof=1):.3f} over seeds {_listed(values)}" if len(values) > 1 else ""
        closed = "" if gap is None else f"   {gap:4.0%} of the gap"
        yield f"  {ARMS[arm].label:<{width}} {np.mean(values):.3f}{closed}{spread}"


def _other_cards(report: Report) -> Iterator[str]:
    """Yield a line on the cards of the other seeds, if there are any: the line above is the first seed's."""
    others = list(zip(report.seeds, report.red, strict=True))[1:]
    if others:
        red_of_others = "; ".join(f"seed {seed}: {', '.join(red) or 'none'}" for seed, red in others)
        yield f"the card above is that of seed {report.seeds[0]}; red on the cards of the others: {red_of_others}"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
