"""The k rows with the highest keys of a finite number of proposals.

This is rejection at the M that leaves k of the proposals: log M is the (k + 1)th highest key. Every proposal is drawn
once, at a log M that a pilot expects to keep somewhat more than k; if fewer are kept, all are drawn again at a log M
that keeps every row with a ratio above 0. The sample is as exact as that M: the report counts the rows that it capped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from rsf_dist.errors import InputError, StatisticalRefusal
from rsf_dist.proposals.base import FiniteProposal, Proposal
from rsf_dist.runtime.progress import Progress
from rsf_dist.sampling.accept import key_quantile
from rsf_dist.sampling.accepted import AcceptedSet
from rsf_dist.sampling.envelope import FORECAST_PILOT, Choice, Pilot
from rsf_dist.sampling.round_draw import RoundDraw
from rsf_dist.types import Floats

_LOWEST_LOG_M = -1e300  # below every log ratio that is not -inf


@dataclass(frozen=True)
class TopKEnvelope:
    """The M that a pilot expects to leave k of the proposals, for a forecast; `draw_top_k` finds M itself.

    Args:
        k: rows to keep.
        num_proposals: proposals to draw, more than k.
        num_pilot: proposals of the pilot.
    """

    k: int
    num_proposals: int
    num_pilot: int = FORECAST_PILOT

    def choose(self, pilot: Pilot) -> Choice:
        """Choose the quantile of the keys above which a share k / num_proposals lies."""
        log_m = key_quantile(pilot.accept_key, self.k / self.num_proposals)
        source = f"about key {self.k + 1:,} of {self.num_proposals:,}, by {len(pilot.accept_key):,} pilot keys"
        return Choice(log_m if np.isfinite(log_m) else _LOWEST_LOG_M, source, is_quantile=True)


def checked_pool_size(proposal: Proposal, k: int, num_proposals: int | None) -> int:
    """Return the number of proposals to draw. None means all rows of a finite proposal.

    Raises InputError where their number is missing, exceeds the pool, or is not above k.
    """
    if num_proposals is None:
        if not isinstance(proposal, FiniteProposal):
            rule = "is required, because this proposal is no finite pool"
            raise InputError("num_proposals", None, rule, "give the number of proposals to draw")
        num_proposals = proposal.num_rows
    elif isinstance(proposal, FiniteProposal) and num_proposals > proposal.num_rows:
        rule = f"the pool has {proposal.num_rows:,} rows"
        raise InputError("num_proposals", num_proposals, rule, "lower it, or leave it out")
    if not 0 < k < num_proposals:
        raise InputError("k", k, f"must be in (0, {num_proposals:,}), the proposals", "lower it")
    return num_proposals


def draw_top_k(
    k: int, num_proposals: int, pilot_keys: Floats, draw_at: Callable[[Choice], RoundDraw], progress: Progress
) -> AcceptedSet:
    """Draw all proposals and keep the k with the highest keys.

    Args:
        k: rows to keep, below num_proposals.
        num_proposals: proposals to draw.
        pilot_keys: accept keys of a pilot's proposals, float64 [n].
        draw_at: prepares the round's draw at a log M; its collector is exhaustive.
        progress: counts the rows.

    Raises:
        StatisticalRefusal: not more than k proposals have a ratio above 0, a ratio is NaN or +inf, time is up.
    """
    for log_m in _thresholds(pilot_keys, k / num_proposals, draw_at):
        draw = draw_at(Choice(log_m, f"key {k + 1:,} of {num_proposals:,}"))
        collector = draw.collector
        draw.run(math.ceil(num_proposals / draw.plan.work.chunk_size), progress)
        if collector.scored.num_scored < num_proposals:
            finding = f"time was up after {collector.scored.num_scored:,} of {num_proposals:,} proposals"
            raise StatisticalRefusal(finding, "raise budget.max_seconds: the top k are known when all were seen")
        if len(collector) > k:
            collector.keep_top()
            return draw.result()
        draw.checkpoint.forget()
    raise StatisticalRefusal(
        f"{len(collector):,} of {num_proposals:,} proposals have a ratio above 0, not more than k={k:,}",
        "lower k, or add proposals",
    )


def _thresholds(keys: Floats, acceptance: float, draw_at: Callable[[Choice], RoundDraw]) -> Iterator[float]:
    """Yield the candidates for log M, beginning with the one that the store's chunks were drawn at."""
    candidates = list(_threshold_candidates(keys, acceptance))
    drawn_at = draw_at(Choice(candidates[0], "")).checkpoint.drawn_at()
    yield from candidates[candidates.index(drawn_at) :] if drawn_at in candidates else candidates


def _threshold_candidates(keys: Floats, acceptance: float) -> Iterator[float]:
    """Yield a log M that should keep somewhat more than `acceptance`, then one that keeps every row with a ratio."""
    room = acceptance + 4 * math.sqrt(acceptance / len(keys)) + 4 / len(keys)
    likely = key_quantile(keys, min(room, 1.0))
    if np.isfinite(likely):
        yield likely
    yield _LOWEST_LOG_M
