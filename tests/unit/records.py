"""Entries of manifest.json and report.json, made by hand: those of a good run, with changes."""

from __future__ import annotations

from typing import Any

from rsf_dist.config.sampling import Budget
from rsf_dist.report.schema import Evaluation, RatioEntry, RoundEntry
from rsf_dist.sampling.report import CurvePoint, SamplingReport
from rsf_dist.storage.manifest import RoundProgress, RoundResult, Shard, WorkIdentity

GOOD_REPORT = SamplingReport(
    num_proposed=20_000,
    num_accepted=2_000,
    acceptance_rate=0.1,
    acceptance_interval=(0.096, 0.104),
    acceptance_predicted=0.099,
    log_m=2.3,
    log_m_source="estimate: largest of 10,000 pilot ratios + 0",
    normalised=True,
    num_scored=20_000,
    num_screened_out=0,
    num_capped=0,
    num_nonfinite=0,
    num_duplicates=0,
    max_log_ratio=2.3,
    ess_fraction=0.3,
    tail_index=-0.2,
    tail_threshold=0.7,
    log_ratio_quantile=2.1,
    mean_ratio=1.01,
    mean_ratio_error=0.02,
    mean_inverse_ratio=0.9,
    tv_bound=0.0,
    tv_bound_source="target",
    tv_bound_lower=0.0,
    tv_bound_upper=0.04,
    tv_bound_proposals=0.0,
    acceptance_by_label={0: 0.05, 1: 0.15},
    scored_by_label={0: 10_000, 1: 10_000},
    curve=(CurvePoint(2.3, 0.1, 0.0, 0.0), CurvePoint(3.3, 0.037, 0.0, 0.0)),
)


def progress_of(*shards: Shard, result: RoundResult | None = None, **changes: Any) -> RoundProgress:
    """A round in the manifest with these shards, complete where it has a result."""
    work = WorkIdentity(seed=0, chunk_size=4096, log_m=2.3, pool_size=None, stage=0)
    described: dict[str, Any] = {"drawn_at_log_m": 2.3, "seconds": 1.0, "chunks": len(shards), "log_m": 2.3}
    described |= {"statistics": {}, "columns": "{}", "shards": list(shards), "result": result}
    return RoundProgress(work=work, **described | changes)


def result_of(report: SamplingReport = GOOD_REPORT, fingerprint: str = "f", **changes: Any) -> RoundResult:
    """The outcome of a round."""
    described = {"wanted": report.num_accepted, "budget": Budget(), "fingerprint": fingerprint}
    return RoundResult(**described | {"report": report.to_dict()} | changes)


def entry_of(number: int = 0, last: bool = False, fingerprint: str = "f", **changes: Any) -> RoundEntry:
    """A round in the report."""
    described: dict[str, Any] = {"sampling": GOOD_REPORT, "ratio": RatioEntry(kind="ConstantRatio", log_bound=0.0)}
    return RoundEntry(round=number, last=last, fingerprint=fingerprint, **described | {"trust": []} | changes)


def evaluation_of(arms: dict[str, list[float]], **changes: Any) -> Evaluation:
    """An evaluation with these accuracies; on source images they are half as large."""
    described: dict[str, Any] = {"metric": "accuracy", "num_test": 100, "arms": arms, "gap_closed": {}}
    described |= {"source": {arm: [value / 2 for value in values] for arm, values in arms.items()}}
    described |= {"classes": ["a", "b"], "by_class": {arm: [0.5, None] for arm in arms}}
    return Evaluation.model_validate(described | {"own_arm": "adaptive", "fingerprint": "f"} | changes)
