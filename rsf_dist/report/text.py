"""The report in a few lines, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rsf_dist.report.report_json import ARMS, format_round
from rsf_dist.report.trust_card import format_trust_card


def format_report(report: dict[str, Any]) -> str:
    """What was accepted, the trust card, and each arm's accuracy on the target: mean over seeds, every seed's value."""
    current = report["rounds"][-1]
    lines = [*map(format_round, report["rounds"]), format_trust_card(current["trust"]), *_other_cards(report)]
    evaluation = report["evaluation"]
    if evaluation:
        lines += ["", f"target {evaluation['metric']} on {evaluation['num_test']:,} test images, fine-tuned on"]
        for arm in (arm for arm in ARMS if arm in evaluation["arms"]):
            values = evaluation["arms"][arm]
            spread = f"   sd {np.std(values, ddof=1):.3f} over seeds {_listed(values)}" if len(values) > 1 else ""
            name = "nothing yet" if arm == "pretrained" else ARMS[arm]
            gap = evaluation["gap_closed"].get(arm)
            closed = "" if gap is None else f"   {gap:4.0%} of the gap"
            lines.append(f"  {name:<38} {np.mean(values):.3f}{closed}{spread}")
        lines.append("")
    return "\n".join(lines)


def _other_cards(report: dict[str, Any]) -> Iterator[str]:
    """A line on the cards of other seeds; that above is the first one's."""
    others = list(zip(report["seeds"], report["red"], strict=True))[1:]
    if others:
        told = (f"seed {seed}: {', '.join(red) or 'none'}" for seed, red in others)
        yield f"that is of seed {report['seeds'][0]}; red on the cards of the others: {'; '.join(told)}"


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
