"""The accepted rows: a Ray Dataset, its report, and a fingerprint that is equal for equal rows in equal order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray
from ray.data import Dataset
from ray.data.expressions import col

from rsf_dist.cluster.ray_workarounds import parquet_datasource_v1, preserve_order
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
"""The driver's entry for each accepted row: 72 bytes, whatever the row's size. A label of -1 means none."""


@dataclass(frozen=True)
class AcceptedSet:
    """N accepted rows, in (chunk, index) order.

    Args:
        dataset: the proposal's columns, and round, chunk, index (int64), log_ratio, accept_key (float64), weight
            (float32).
        report: the figures on how the rows came about.
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
        """Return the set that a larger M would have given from the same proposals, by a filter on the keys.

        Nothing is drawn again. Rows that were capped at the old M are thinned as the new M requires, and weights follow
        the new M. The number of proposals stays, and so do the ESS and the tail, which describe the proposals. The TV
        bound stays that of the old M, which a larger M only lowers. Capped rows are counted among num_proposed, no
        longer in whole chunks.

        Args:
            log_m: the new log M, finite and not below the set's own.

        Raises:
            InputError: log_m is below the set's own, or accepts no row.
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
        """Return the first n rows, or all of them where the set has fewer."""
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
    return pa.concat_tables(stored_tables(store, round))


def stored_tables(store: RunStore, round: int) -> Iterator[pa.Table]:
    """Yield the rows of a stored round, and no surplus rows, a shard at a time, read in this process.

    Raises:
        InputError: the round is not complete, or a shard is missing or damaged.
    """
    progress, result = _complete_round(store, round)
    report = SamplingReport.from_dict(result.report)
    left = report.num_accepted
    for shard in progress.shards:
        rows = check_schema(store.read_shard(shard), shard, progress.columns)
        rows = rows.filter(pc.greater(rows["accept_key"], report.log_m)).slice(0, left)
        left -= rows.num_rows
        yield _reweigh(rows, report.log_m) if report.log_m > progress.drawn_at_log_m else rows
    if left:
        there_are = f"the manifest says {report.num_accepted:,} rows, and {left:,} of them are in no shard"
        raise InputError("round", round, there_are, "sample anew into another directory")


def _complete_round(store: RunStore, round: int) -> tuple[RoundProgress, RoundResult]:
    """Return a round's entry in the manifest and its outcome. Raises InputError where the round is not complete."""
    progress = store.round(round)
    if progress is None or progress.result is None:
        state = "is not in" if progress is None else "is not complete in"
        raise InputError("round", round, f"{state} {store.uri}", "sample it first: rsf sample")
    return progress, progress.result


def ledger_of(rows: pa.Table) -> NDArray[np.void]:
    """Return the ledger's entries of accepted rows. Their digests are taken over the proposal's own columns."""
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
    """Return the number of rows whose content equals that of an earlier row."""
    return len(ledger) - len(np.unique(ledger["digest"].view("V32")))


def fingerprint(ledger: NDArray[np.void], columns: str, log_m: float) -> str:
    """Return the SHA-256, in hexadecimal, over the columns' description, log M and the ledger."""
    head = json.dumps({"columns": columns, "log_m": float(log_m).hex()}, sort_keys=True)
    return hashlib.sha256(head.encode() + np.ascontiguousarray(ledger).tobytes()).hexdigest()


def describe_columns(rows: pa.Table) -> str:
    """Return the columns' names and types as JSON, in order of name."""
    return json.dumps({name: str(rows.schema.field(name).type) for name in sorted(rows.column_names)})


def check_schema(rows: pa.Table, shard: Shard, columns: str) -> pa.Table:
    """Return a shard's rows unchanged. Raises InputError where their columns are not those in the manifest."""
    expected, actual = json.loads(columns), json.loads(describe_columns(rows))
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            rule = f"this column is {actual.get(name, 'missing')}, and by the manifest {expected.get(name, 'missing')}"
            raise InputError(shard.path, name, rule, "restore the file, or sample anew into another directory")
    return rows


def stored_dataset(store: RunStore, shards: Sequence[Shard]) -> Dataset:
    """Return all rows of the shards, in order."""
    paths = [store.path(shard.path) for shard in shards if shard.rows]
    with parquet_datasource_v1():
        return preserve_order(ray.data.read_parquet(paths, filesystem=store.filesystem, partitioning=None))


def result_rows(
    drawn: Dataset, found: NDArray[np.void], ledger: NDArray[np.void], drawn_at: float, log_m: float
) -> Dataset:
    """Return the dataset of the rows in a ledger.

    Surplus rows of the last chunk, and rows that a larger M gives up, are stored but not handed over.

    Args:
        drawn: all stored rows.
        found: LEDGER_ROW of all stored rows.
        ledger: LEDGER_ROW of the rows to hand over, the first of those accepted at log_m.
        drawn_at: the log M at which the rows were stored.
        log_m: the log M in force.
    """
    if log_m > drawn_at:
        drawn = filter_by_key(drawn, log_m)
    (chunk, index), end = (rows[["chunk", "index"]][-1].item() for rows in (ledger, found))
    if (chunk, index) != end:
        drawn = drawn.filter(expr=(col("chunk") < chunk) | ((col("chunk") == chunk) & (col("index") <= index)))
    return preserve_order(drawn)


def filter_by_key(dataset: Dataset, log_m: float) -> Dataset:
    """Return the rows with a key above log_m, with the weights of this M."""
    kept = dataset.filter(expr=col("accept_key") > log_m)
    return preserve_order(kept.map_batches(_reweigh, fn_kwargs={"log_m": log_m}, batch_format="pyarrow"))


def _report_at(
    report: SamplingReport, before: NDArray[np.void], ledger: NDArray[np.void], log_m: float
) -> SamplingReport:
    # A row whose ratio exceeds M has a key above log M and was accepted, so the ledger holds every capped row.
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
