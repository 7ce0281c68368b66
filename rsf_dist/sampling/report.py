"""How a set of accepted rows came about, in one flat record: what is stored, shown and judged."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from rsf_dist.sampling.diagnostics import (
    Statistics,
    acceptance_interval,
    log_sum_of_excess,
    tail_threshold,
    target_side_bound,
    target_side_lower,
)
from rsf_dist.types import Floats


@dataclass(frozen=True)
class SamplingReport:
    """How a set of accepted rows came about.

    Args:
        num_proposed: proposals up to and including the last row of the set, in (chunk, index) order.
        num_accepted: rows in the set.
        acceptance_rate: num_accepted / num_proposed.
        acceptance_interval: exact 95 % interval of the acceptance probability.
        acceptance_predicted: (1 - eps)/M, with eps = tv_bound; times E_q[r], as estimated, for a ratio that is not
            normalised. None where M was raised afterwards.
        log_m, log_m_source: the envelope's constant and where it is from.
        normalised: whether the ratio claims E_q[r] = 1.
        num_scored: proposals in whole chunks; the figures below are taken over these.
        num_screened_out: of them, those that were given up before their log ratio was complete.
        num_capped: rows with l > log M, accepted with probability 1 for want of a larger M.
        num_nonfinite: NaN or +inf log ratios; always 0 in a set that was handed over.
        num_duplicates: accepted rows whose columns equal those of an earlier one to the last bit.
        max_log_ratio, ess_fraction, tail_index: see `Statistics`.
        tail_threshold: the tail index above which estimates from these ratios are not reliable.
        log_ratio_quantile: 99.9 % quantile of the pilot's log ratios.
        mean_ratio, mean_ratio_error: E_q[r] and its standard error, of a normalised ratio: 1 if right.
        mean_inverse_ratio: E_p[1/r], where target samples exist; 1 for the true ratio where p covers q, else below.
        tv_bound, tv_bound_source: bound on the total variation distance between target and sample, as far as the ratio
            is right: `target` (p-side, its estimate) where target samples exist, else `proposals` (q-side).
        tv_bound_lower, tv_bound_upper: 95 % confidence limits of the p-side bound, either by itself; else None. The
            lower one is 0 where target rows give upper bounds alone.
        tv_bound_proposals: the q-side bound; blind to what proposals never met.
        acceptance_by_label, scored_by_label: acceptance rate of each label, and of how many proposals, where rows have
            labels.
        curve: what other M would have given, from the stored keys: see `curve`.
        shortfall: rows that were asked for and not found within the budget.
        seconds: of sampling, the pilot's included. Not part of the fingerprint.
    """

    num_proposed: int
    num_accepted: int
    acceptance_rate: float
    acceptance_interval: tuple[float, float]
    acceptance_predicted: float | None
    log_m: float
    log_m_source: str
    normalised: bool
    num_scored: int
    num_screened_out: int
    num_capped: int
    num_nonfinite: int
    num_duplicates: int
    max_log_ratio: float
    ess_fraction: float
    tail_index: float | None
    tail_threshold: float
    log_ratio_quantile: float | None
    mean_ratio: float | None
    mean_ratio_error: float | None
    mean_inverse_ratio: float | None
    tv_bound: float
    tv_bound_source: str
    tv_bound_lower: float | None
    tv_bound_upper: float | None
    tv_bound_proposals: float
    acceptance_by_label: dict[int, float]
    scored_by_label: dict[int, int]
    curve: tuple[CurvePoint, ...] = ()
    shortfall: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> SamplingReport:
        """The inverse of `to_dict`, also after a way through JSON."""
        values = {entry.name: raw[entry.name] for entry in fields(SamplingReport)}
        values["acceptance_interval"] = tuple(values["acceptance_interval"])
        for name in ("acceptance_by_label", "scored_by_label"):
            values[name] = {int(label): value for label, value in values[name].items()}
        values["curve"] = tuple(CurvePoint(**point) for point in values["curve"])
        return SamplingReport(**values)


@dataclass(frozen=True)
class CurvePoint:
    """What one M would have given.

    Args:
        log_m: its logarithm.
        acceptance: share of the proposals with a key above it.
        bias_proposals: the q-side eps.
        bias_target: the p-side eps, where target samples exist, else None.
    """

    log_m: float
    acceptance: float
    bias_proposals: float
    bias_target: float | None


@dataclass(frozen=True)
class Setting:
    """What acceptance was asked to be, and what is known beside the accepted rows.

    Args:
        log_m, source: the envelope's constant in the end, and where it is from.
        normalised: as in SamplingReport.
        target_log_ratio: log r of target rows, float64 [m], or None.
        pilot: the statistics of the pilot, whose log ratios are all complete.
        log_ratio_quantile: as in SamplingReport.
        target_at_most: whether target_log_ratio are no more than upper bounds; then eps has no lower limit but 0.
    """

    log_m: float
    source: str
    normalised: bool = False
    target_log_ratio: Floats | None = None
    pilot: Statistics = field(default_factory=Statistics)
    log_ratio_quantile: float | None = None
    target_at_most: bool = False


def summarise(
    setting: Setting,
    statistics: Statistics,
    log_ratio: Floats,
    accept_key: Floats,
    *,
    num_proposed: int,
    num_accepted: int,
    num_duplicates: int,
    stopped: bool,
    shortfall: int = 0,
    seconds: float = 0.0,
) -> SamplingReport:
    """The report of a set.

    Args:
        setting: see there.
        statistics: of all scored proposals, at the M in force in the end.
        log_ratio, accept_key: of all accepted rows that these hold, float64 [n], the surplus included.
        num_proposed, num_accepted, num_duplicates, shortfall, seconds: as in SamplingReport.
        stopped: whether sampling stopped at the last row, rather than after a number of proposals.
    """
    bias, target, log_mean_ratio = _bias(setting, statistics), setting.target_log_ratio, statistics.log_mean_ratio
    mean_ratio = float(np.exp(log_mean_ratio)) if setting.normalised else None
    likely = np.log1p(-min(bias["tv_bound"], 1.0)) - setting.log_m
    predicted = (0.0 if setting.normalised else log_mean_ratio) + likely
    complete = setting.pilot if statistics.num_screened_out else statistics
    return SamplingReport(
        num_proposed=num_proposed,
        num_accepted=num_accepted,
        acceptance_rate=num_accepted / num_proposed,
        acceptance_interval=acceptance_interval(num_proposed, num_accepted, stopped),
        acceptance_predicted=float(np.exp(min(predicted, 0.0))),
        log_m=setting.log_m,
        log_m_source=setting.source,
        normalised=setting.normalised,
        num_scored=statistics.num_scored,
        num_screened_out=statistics.num_screened_out,
        num_capped=statistics.num_capped,
        num_nonfinite=statistics.num_nonfinite,
        num_duplicates=num_duplicates,
        max_log_ratio=max(statistics.max_log_ratio, setting.pilot.max_log_ratio),
        ess_fraction=statistics.ess_fraction,
        tail_index=complete.tail_index,
        tail_threshold=tail_threshold(complete.num_scored),
        log_ratio_quantile=setting.log_ratio_quantile,
        mean_ratio=mean_ratio,
        mean_ratio_error=None if mean_ratio is None else mean_ratio * statistics.mean_ratio_error,
        mean_inverse_ratio=None if target is None else float(np.exp(-target).mean()),
        **bias,
        tv_bound_proposals=statistics.tv_bound,
        acceptance_by_label={label: kept / n for label, (n, kept) in statistics.by_label.items()},
        scored_by_label={label: n for label, (n, _) in statistics.by_label.items()},
        curve=curve(log_ratio, accept_key, statistics.num_scored, log_mean_ratio, setting.log_m, target),
        shortfall=shortfall,
        seconds=seconds,
    )


def _bias(setting: Setting, statistics: Statistics) -> dict[str, Any]:
    """The bound on the total variation distance: by target rows where there are any, else by proposals."""
    target, log_m = setting.target_log_ratio, setting.log_m
    if target is None:
        bound, source, lower, upper = statistics.tv_bound, "proposals", None, None
    else:
        (bound, upper), source = target_side_bound(target, log_m), "target"
        lower = 0.0 if setting.target_at_most else target_side_lower(target, log_m)
    return {"tv_bound": bound, "tv_bound_source": source, "tv_bound_lower": lower, "tv_bound_upper": upper}


def curve(
    log_ratio: Floats,
    accept_key: Floats,
    num_scored: int,
    log_mean_ratio: float,
    log_m: float,
    target_log_ratio: Floats | None = None,
    points: int = 25,
) -> tuple[CurvePoint, ...]:
    """Acceptance and bias at M and above, from the accepted rows' log ratios and keys [n]: all that either depends on.

    Whatever exceeds some M' >= M has a key above it, and so was accepted. num_scored: proposals that the rows are from;
    log_mean_ratio: log E_q[r]; target_log_ratio: as in Setting.
    """

    def at(log_m: float) -> CurvePoint:
        log_excess = log_sum_of_excess(log_ratio[log_ratio > log_m], log_m)
        bias = min(1.0, float(np.exp(log_excess - np.log(num_scored) - log_mean_ratio)))
        on_target = None if target_log_ratio is None else target_side_bound(target_log_ratio, log_m)[0]
        return CurvePoint(log_m, int((accept_key > log_m).sum()) / num_scored, bias, on_target)

    end = max(float(log_ratio.max(initial=log_m)), log_m + 1.0)
    return tuple(at(float(log_m)) for log_m in np.linspace(log_m, end, points))
