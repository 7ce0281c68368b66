"""The accepted rows: a Ray Dataset, its report, and a fingerprint that is the same for equal rows in equal order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray
from ray.data import DataContext, Dataset
from ray.data.expressions import col

from rsf_dist.data.arrow import from_table
from rsf_dist.data.batch import num_rows, row_digests
from rsf_dist.errors import InputError
from rsf_dist.sampling.accept import capped_weight
from rsf_dist.sampling.chunk import BOOKKEEPING, class_labels
from rsf_dist.sampling.diagnostics import ROUNDING, acceptance_interval
from rsf_dist.sampling.report import SamplingReport
from rsf_dist.storage.manifest import RoundProgress, RoundResult, Shard
from rsf_dist.storage.run_store import RunStore

LEDGER_ROW = np.dtype(
    [
        ("chunk", "<i8"),
        ("index", "<i8"),
        ("log_ratio", "<f8"),
        ("accept_key", "<f8"),
        ("label", "<i8"),
        ("digest", "u1", 32),
    ]
)
"""What the driver keeps of each accepted row: 72 bytes, whatever the row's size. label: -1 where there is none."""


@dataclass(frozen=True)
class AcceptedSet:
    """N accepted rows, in (chunk, index) order.

    Args:
        dataset: the proposal's columns, and round, chunk, index (int64), log_ratio, accept_key (float64), weight
            (float32).
        report: how they came about.
        fingerprint: SHA-256 over the columns' names and types, log M and the ledger.
        ledger: LEDGER_ROW [N].
        columns: name -> "dtype shape" of each column, for the fingerprint.
    """

    dataset: Dataset
    report: SamplingReport
    fingerprint: str
    ledger: NDArray[np.void]
    columns: str

    def rethreshold(self, log_m: float) -> AcceptedSet:
        """The set that a larger M would have given from the same proposals: a filter on the keys, nothing is redrawn.

        Rows that were capped at the old M are thinned as they should have been, and weights follow the new M. The count
        of proposals stays, as do ESS and tail, which are of the proposals; the TV bound is that of the old M, which the
        new one only lowers. Capped rows are counted among the set's own num_proposed, no longer in whole chunks.

        Raises:
            InputError: log_m is below the set's own, whose rows the lower M would need were not kept, or accepts none.
        """
        if not log_m >= self.report.log_m or not np.isfinite(log_m):
            rule = f"must be finite and not below the set's own {self.report.log_m:g}: the rows between were not kept"
            raise InputError("log_m", log_m, rule, "raise it, or sample anew")
        ledger = self.ledger[self.ledger["accept_key"] > log_m]
        if not len(ledger):
            raise InputError("log_m", log_m, "leaves no row", f"stay below {self.ledger['accept_key'].max():g}")
        return AcceptedSet(
            dataset=filter_by_key(self.dataset, log_m),
            report=_report_at(self.report, self.ledger, ledger, log_m),
            fingerprint=fingerprint(ledger, self.columns, log_m),
            ledger=ledger,
            columns=self.columns,
        )

    def head(self, n: int) -> pa.Table:
        """The first n rows, fewer where there are fewer."""
        return pa.concat_tables(self.dataset.limit(n).iter_batches(batch_size=None, batch_format="pyarrow"))

    @staticmethod
    def load(store: RunStore, round: int = 0) -> AcceptedSet:
        """Return the rows of a stored round. Every shard is checked against the manifest.

        Raises:
            InputError: the round is not complete, or a shard is missing or damaged.
        """
        progress, result = _complete_round(store, round)
        report, columns = SamplingReport.from_dict(result.report), progress.columns
        drawn = np.concatenate(
            [ledger_of(check_schema(store.read_shard(shard), shard, columns)) for shard in progress.shards]
        )
        ledger = drawn[drawn["accept_key"] > report.log_m][: report.num_accepted]
        digest = fingerprint(ledger, columns, report.log_m)
        if digest != result.fingerprint:
            raise InputError("fingerprint", digest, f"the manifest says {result.fingerprint}", "sample anew")
        rows = stored_dataset(store, progress.shards)
        rows = result_rows(rows, drawn, ledger, progress.drawn_at_log_m, report.log_m)
        return AcceptedSet(rows, report, digest, ledger, columns)


def stored_rows(store: RunStore, round: int) -> pa.Table:
    """Return all rows of a stored round as one table, read in this process. Raises InputError as `AcceptedSet.load`."""
    progress, result = _complete_round(store, round)
    report = SamplingReport.from_dict(result.report)
    tables = [check_schema(store.read_shard(shard), shard, progress.columns) for shard in progress.shards]
    rows = pa.concat_tables(tables)
    return rows.filter(pc.greater(rows["accept_key"], report.log_m)).slice(0, report.num_accepted)


def _complete_round(store: RunStore, round: int) -> tuple[RoundProgress, RoundResult]:
    """Return a round's entry in the manifest and its outcome. Raises InputError where the round is not complete."""
    progress = store.round(round)
    if progress is None or progress.result is None:
        state = "is not in" if progress is None else "is not complete in"
        raise InputError("round", round, f"{state} {store.uri}", "sample it first: rsf sample")
    return progress, progress.result


def ledger_of(rows: pa.Table) -> NDArray[np.void]:
    """The ledger's entries of accepted rows; the digest is of the proposal's own columns."""
    batch = from_table(rows)
    ledger = np.empty(num_rows(batch), LEDGER_ROW)
    for name in ("chunk", "index", "log_ratio", "accept_key"):
        ledger[name] = batch[name].numpy()
    labels = class_labels(batch)
    ledger["label"] = -1 if labels is None else labels
    content = {name: column for name, column in batch.items() if name not in BOOKKEEPING}
    ledger["digest"] = np.frombuffer(row_digests(content), np.uint8).reshape(-1, 32)
    return ledger


def num_duplicates(ledger: NDArray[np.void]) -> int:
    """Rows whose content equals that of an earlier one."""
    return len(ledger) - len(np.unique(ledger["digest"].view("V32")))


def fingerprint(ledger: NDArray[np.void], columns: str, log_m: float) -> str:
    """SHA-256, in hexadecimal."""
    head = json.dumps({"columns": columns, "log_m": float(log_m).hex()}, sort_keys=True)
    return hashlib.sha256(head.encode() + np.ascontiguousarray(ledger).tobytes()).hexdigest()


def describe_columns(rows: pa.Table) -> str:
    """The columns' names and types, in order of name."""
    return json.dumps({name: str(rows.schema.field(name).type) for name in sorted(rows.column_names)})


def check_schema(rows: pa.Table, shard: Shard, columns: str) -> pa.Table:
    """A shard's rows themselves. Raises InputError where their columns are not those that the manifest describes."""
    told, found = json.loads(columns), json.loads(describe_columns(rows))
    for name in sorted(told.keys() | found.keys()):
        if told.get(name) != found.get(name):
            rule = f"this column is {found.get(name, 'missing')}, and by the manifest {told.get(name, 'missing')}"
            raise InputError(shard.path, name, rule, "restore the file, or sample anew into another directory")
    return rows


def stored_dataset(store: RunStore, shards: Sequence[Shard]) -> Dataset:
    """All rows of the shards, in order."""
    paths = [store.path(shard.path) for shard in shards if shard.rows]
    context = DataContext.get_current().copy()
    context.use_datasource_v2 = False  # each execution of a V2 read starts 32 actors to look at footers
    with DataContext.current(context):
        return preserve_order(ray.data.read_parquet(paths, filesystem=store.filesystem, partitioning=None))


def result_rows(
    drawn: Dataset, found: NDArray[np.void], ledger: NDArray[np.void], drawn_at: float, log_m: float
) -> Dataset:
    """The dataset of the rows in `ledger`: of those `found` at log M = drawn_at, those up to its last, at log_m.

    Surplus rows of the last chunk, and rows that a larger M gave up, are kept where they are and not handed over.
    """
    if log_m > drawn_at:
        drawn = filter_by_key(drawn, log_m)
    (chunk, index), end = (rows[["chunk", "index"]][-1].item() for rows in (ledger, found))
    if (chunk, index) != end:
        drawn = drawn.filter(expr=(col("chunk") < chunk) | ((col("chunk") == chunk) & (col("index") <= index)))
    return preserve_order(drawn)


def filter_by_key(dataset: Dataset, log_m: float) -> Dataset:
    """Only the rows with a key above log_m, their weights those of that M."""
    kept = dataset.filter(expr=col("accept_key") > log_m)
    return preserve_order(kept.map_batches(_reweigh, fn_kwargs={"log_m": log_m}, batch_format="pyarrow"))


def preserve_order(dataset: Dataset) -> Dataset:
    """The dataset itself, told to give its blocks in their order rather than as they are finished."""
    dataset.context.execution_options.preserve_order = True
    return dataset


def _report_at(
    report: SamplingReport, before: NDArray[np.void], ledger: NDArray[np.void], log_m: float
) -> SamplingReport:
    # Whatever exceeds M has a key above it and was accepted, so that the ledger holds every capped row.
    num_capped = int((ledger["log_ratio"] > log_m + ROUNDING).sum())
    blind = report.tv_bound_source == "proposals" and num_capped == 0

    def kept(label: int) -> float:
        had = int((before["label"] == label).sum())
        return int((ledger["label"] == label).sum()) / had if had else 0.0

    return replace(
        report,
        num_scored=report.num_proposed,
        num_screened_out=round(report.num_screened_out * report.num_proposed / report.num_scored),
        num_capped=num_capped,
        num_duplicates=num_duplicates(ledger),
        tv_bound=0.0 if blind else report.tv_bound,
        tv_bound_proposals=0.0 if num_capped == 0 else report.tv_bound_proposals,
        num_accepted=len(ledger),
        acceptance_rate=len(ledger) / report.num_proposed,
        acceptance_interval=acceptance_interval(report.num_proposed, len(ledger), stopped=False),
        acceptance_predicted=None,
        log_m=log_m,
        log_m_source="rethreshold",
        acceptance_by_label={label: rate * kept(label) for label, rate in report.acceptance_by_label.items()},
        curve=tuple(point for point in report.curve if point.log_m >= log_m),
    )


def _reweigh(rows: pa.Table, log_m: float) -> pa.Table:
    weight = capped_weight(rows["log_ratio"].to_numpy(), log_m)
    return rows.set_column(rows.column_names.index("weight"), "weight", pa.array(weight))
