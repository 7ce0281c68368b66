"""The flat record of how a set of accepted rows came about, which the manifest stores and the report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from rsf_dist.errors import InputError
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
class CurvePoint:
    """The acceptance and the bias that one M would have given."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    log_m: float
    """The logarithm of this M."""

    acceptance: float
    """The share of the proposals whose key exceeds log_m, in [0, 1]."""

    bias_proposals: float | None
    """The q-side eps at this M, in [0, 1]; null where it is not finite."""

    bias_target: float | None
    """The p-side eps at this M, in [0, 1]; null without target rows."""


@dataclass(frozen=True)
class SamplingReport:
    """The figures on how a set of accepted rows came about.

    In report.json a number that is not finite is null. In memory and in the manifest such a number stays as computed.
    """

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    num_proposed: int
    """Proposals up to and including the last row of the set, in (chunk, index) order."""

    num_accepted: int
    """Rows in the set."""

    acceptance_rate: float
    """num_accepted / num_proposed."""

    acceptance_interval: tuple[float, float]
    """The exact 95 % interval of the acceptance probability: lower and upper limit."""

    acceptance_predicted: float | None
    """(1 - eps)/M with eps = tv_bound, times the estimate of E_q[r] where the ratio is not normalised.

    Null where M was raised afterwards.
    """

    log_m: float
    """The logarithm of the envelope's constant M."""

    log_m_source: str
    """The origin of M, in words."""

    normalised: bool
    """True if the ratio claims E_q[r] = 1."""

    num_scored: int
    """Proposals in whole chunks. The figures below are taken over these proposals."""

    num_screened_out: int
    """Scored proposals that were given up before their log ratio was complete."""

    num_capped: int
    """Rows with log ratio above log M. They are accepted with probability 1, because M is not larger."""

    num_nonfinite: int
    """Log ratios that are NaN or +inf. Always 0 in a set that was handed over."""

    num_duplicates: int
    """Accepted rows whose columns equal those of an earlier row to the last bit."""

    max_log_ratio: float | None
    """The largest log ratio; null in report.json where no proposal has a ratio above 0."""

    ess_fraction: float
    """E_q[r]^2 / E_q[r^2], the effective sample size as a fraction of the scored proposals, in [0, 1]."""

    tail_index: float | None
    """The shape of a generalised Pareto distribution fitted to the largest ratios; null with too few of them."""

    tail_threshold: float
    """The tail index above which estimates from these ratios are not reliable."""

    log_ratio_quantile: float | None
    """The 99.9 % quantile of the pilot's log ratios; null where it is not known or not finite."""

    mean_ratio: float | None
    """The estimate of E_q[r], which is 1 for the true ratio; null for a ratio that is not normalised."""

    mean_ratio_error: float | None
    """The standard error of mean_ratio; null where mean_ratio is."""

    mean_inverse_ratio: float | None
    """The mean of 1/r over target rows, 1 for the true ratio where p covers q, else below; null without target rows."""

    tv_bound: float | None
    """A bound on the total variation distance between target and sample, in [0, 1], as far as the ratio is right."""

    tv_bound_source: str
    """`target` if tv_bound is the p-side estimate over target rows, `proposals` if it is the q-side one."""

    tv_bound_lower: float | None
    """The lower 95 % confidence limit of the p-side bound; null without target rows.

    0 where the log ratios of target rows are upper bounds only.
    """

    tv_bound_upper: float | None
    """The upper 95 % confidence limit of the p-side bound; null without target rows."""

    tv_bound_proposals: float | None
    """The q-side bound. It cannot see parts of the target that no proposal met."""

    acceptance_by_label: dict[int, float]
    """The acceptance rate of each class, by the class's number; empty where rows have no labels."""

    scored_by_label: dict[int, int]
    """The number of scored proposals of each class; empty where rows have no labels."""

    curve: tuple[CurvePoint, ...] = ()
    """Acceptance and bias at this M and at larger ones, computed from the stored keys."""

    shortfall: int = 0
    """Rows that were asked for and not found within the budget."""

    seconds: float = 0.0
    """Seconds that sampling took, the pilot included. The fingerprint does not depend on them."""

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the fields as JSON values: tuples as lists, the numbers of classes as texts."""
        return _ADAPTER.dump_python(self, mode="json")

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> SamplingReport:
        """Return the report that `to_dict` gave, also after a way through JSON.

        Raises:
            InputError: a field is missing, unknown, or of another type.
        """
        try:
            return _ADAPTER.validate_python(raw)
        except ValidationError as err:
            first = err.errors()[0]
            field = ".".join(map(str, first["loc"]))
            remedy = "restore the file that holds this report, or sample anew into another directory"
            raise InputError(
                f"report.{field}", first["input"], f"is no part of a report ({first['msg']})", remedy
            ) from err


_ADAPTER = TypeAdapter(SamplingReport)


@dataclass(frozen=True)
class Setting:
    """The envelope in force, and what is known about the ratio besides the accepted rows.

    Args:
        log_m: the logarithm of the final M.
        source: the origin of M, in words.
        normalised: True if the ratio claims E_q[r] = 1.
        target_log_ratio: log r of target rows, float64 [m]; None without target rows.
        pilot: the statistics of the pilot, whose log ratios are all complete.
        log_ratio_quantile: the 99.9 % quantile of the pilot's log ratios; None where it is not known.
        target_at_most: True if target_log_ratio holds upper bounds only, so that eps has no lower limit but 0.
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
    """Return the report of a set of accepted rows.

    Args:
        setting: the envelope in force, and what is known about the ratio.
        statistics: sums over all scored proposals, at the final M.
        log_ratio, accept_key: of all accepted rows among these proposals, float64 [n], the surplus included.
        num_proposed, num_accepted, num_duplicates, shortfall, seconds: as in SamplingReport.
        stopped: True if sampling stopped at the last row, rather than after a fixed number of proposals.
    """
    bias, log_mean_ratio = _bias(setting, statistics), statistics.log_mean_ratio
    return SamplingReport(
        num_proposed=num_proposed,
        num_accepted=num_accepted,
        acceptance_rate=num_accepted / num_proposed,
        acceptance_interval=acceptance_interval(num_proposed, num_accepted, stopped),
        acceptance_predicted=_predicted_acceptance(setting, log_mean_ratio, bias.tv_bound),
        log_m=setting.log_m,
        log_m_source=setting.source,
        normalised=setting.normalised,
        num_scored=statistics.num_scored,
        num_screened_out=statistics.num_screened_out,
        num_capped=statistics.num_capped,
        num_nonfinite=statistics.num_nonfinite,
        num_duplicates=num_duplicates,
        **_spread(setting, statistics)._asdict(),
        **bias._asdict(),
        tv_bound_proposals=statistics.tv_bound,
        acceptance_by_label={label: kept / n for label, (n, kept) in statistics.by_label.items()},
        scored_by_label={label: n for label, (n, _) in statistics.by_label.items()},
        curve=curve(
            log_ratio, accept_key, statistics.num_scored, log_mean_ratio, setting.log_m, setting.target_log_ratio
        ),
        shortfall=shortfall,
        seconds=seconds,
    )


class _Spread(NamedTuple):
    """The fields on the distribution of the ratio, as in SamplingReport."""

    max_log_ratio: float
    log_ratio_quantile: float | None
    ess_fraction: float
    tail_index: float | None
    tail_threshold: float
    mean_ratio: float | None
    mean_ratio_error: float | None
    mean_inverse_ratio: float | None


def _spread(setting: Setting, statistics: Statistics) -> _Spread:
    """Return what the scored proposals, and target rows where there are any, tell about the ratio."""
    mean_ratio = float(np.exp(statistics.log_mean_ratio)) if setting.normalised else None
    complete, target = setting.pilot if statistics.num_screened_out else statistics, setting.target_log_ratio
    return _Spread(
        max_log_ratio=max(statistics.max_log_ratio, setting.pilot.max_log_ratio),
        log_ratio_quantile=setting.log_ratio_quantile,
        ess_fraction=statistics.ess_fraction,
        tail_index=complete.tail_index,
        tail_threshold=tail_threshold(complete.num_scored),
        mean_ratio=mean_ratio,
        mean_ratio_error=None if mean_ratio is None else mean_ratio * statistics.mean_ratio_error,
        mean_inverse_ratio=None if target is None else float(np.exp(-target).mean()),
    )


class _Bias(NamedTuple):
    """The fields on the total variation distance, as in SamplingReport."""

    tv_bound: float
    tv_bound_source: str
    tv_bound_lower: float | None = None
    tv_bound_upper: float | None = None


def _bias(setting: Setting, statistics: Statistics) -> _Bias:
    """Return the bound from target rows where there are any, else from proposals."""
    target, log_m = setting.target_log_ratio, setting.log_m
    if target is None:
        return _Bias(statistics.tv_bound, "proposals")
    bound, upper = target_side_bound(target, log_m)
    lower = 0.0 if setting.target_at_most else target_side_lower(target, log_m)
    return _Bias(bound, "target", lower, upper)


def _predicted_acceptance(setting: Setting, log_mean_ratio: float, tv_bound: float) -> float:
    """Return (1 - eps)/M, times E_q[r] where the ratio is not normalised; at most 1."""
    log_kept = np.log1p(-min(tv_bound, 1.0)) - setting.log_m
    return float(np.exp(min((0.0 if setting.normalised else log_mean_ratio) + log_kept, 0.0)))


def curve(
    log_ratio: Floats,
    accept_key: Floats,
    num_scored: int,
    log_mean_ratio: float,
    log_m: float,
    target_log_ratio: Floats | None = None,
    points: int = 25,
) -> tuple[CurvePoint, ...]:
    """Return acceptance and bias at M and at larger ones, from the accepted rows alone.

    A row whose ratio exceeds some M' >= M has a key above log M', and so was accepted.

    Args:
        log_ratio: of the accepted rows, float64 [n].
        accept_key: of the accepted rows, float64 [n].
        num_scored: proposals that the rows come from.
        log_mean_ratio: log E_q[r].
        log_m: the smallest log M of the curve.
        target_log_ratio: log r of target rows, float64 [m]; None without target rows.
        points: the number of points.
    """

    def at(log_m: float) -> CurvePoint:
        log_excess = log_sum_of_excess(log_ratio[log_ratio > log_m], log_m)
        bias = min(1.0, float(np.exp(log_excess - np.log(num_scored) - log_mean_ratio)))
        on_target = None if target_log_ratio is None else target_side_bound(target_log_ratio, log_m)[0]
        return CurvePoint(log_m, int((accept_key > log_m).sum()) / num_scored, bias, on_target)

    end = max(float(log_ratio.max(initial=log_m)), log_m + 1.0)
    return tuple(at(float(log_m)) for log_m in np.linspace(log_m, end, points))
