"""The accepted rows: a Ray Dataset, its report, and a fingerprint that is the same for equal rows in equal order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import Dataset
from ray.data.expressions import col

from rsf_dist.accept import capped_weight
from rsf_dist.batch import from_table, num_rows, row_digests
from rsf_dist.diagnostics import ROUNDING, SamplingReport, acceptance_interval
from rsf_dist.errors import InputError
from rsf_dist.store import RunStore, Shard

LEDGER_ROW = np.dtype(
    [("chunk", "<i8"), ("index", "<i8"), ("log_ratio", "<f8"), ("accept_key", "<f8"), ("digest", "u1", 32)]
)
"""What the driver keeps of each accepted row: 64 bytes, whatever the row's size."""


@dataclass(frozen=True)
class AcceptedSet:
    """N accepted rows, in (chunk, index) order.

    Args:
        dataset: the proposal's columns, and round, chunk, index (int64), log_ratio, accept_key (float64), weight
            (float32).
        report: how they came about.
        fingerprint: SHA-256 over the columns' names and types, log M and every row's digest, in order.
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
        new one only lowers.

        Raises:
            InputError: log_m is below the set's own, whose rows the lower M would need were not kept, or accepts none.
        """
        if not log_m >= self.report.log_m or not np.isfinite(log_m):
            rule = f"must be finite and not below the set's own {self.report.log_m:g}: the rows between were not kept"
            raise InputError("log_m", log_m, rule, "raise it, or sample anew")
        ledger = self.ledger[self.ledger["accept_key"] > log_m]
        if not len(ledger):
            raise InputError("log_m", log_m, "leaves no row", f"stay below {self.ledger['accept_key'].max():g}")
        dataset = self.dataset.filter(expr=col("accept_key") > log_m).map_batches(
            _reweigh, fn_kwargs={"log_m": log_m}, batch_format="pyarrow"
        )
        dataset = in_order(dataset)
        return AcceptedSet(
            dataset=dataset,
            report=_report_at(self.report, ledger, log_m),
            fingerprint=fingerprint(ledger, self.columns, log_m),
            ledger=ledger,
            columns=self.columns,
        )

    def head(self, n: int) -> pa.Table:
        """The first n rows, fewer where there are fewer."""
        return pa.concat_tables(self.dataset.limit(n).iter_batches(batch_size=None, batch_format="pyarrow"))

    @staticmethod
    def load(store: RunStore, round: int = 0) -> AcceptedSet:
        """The rows of a stored round, each shard checked against the manifest. Raises InputError."""
        described = store.manifest()["rounds"].get(str(round))
        if described is None:
            raise InputError("round", round, f"is not in {store.uri}", "sample it first: rsf sample")
        shards = [Shard(**listed) for listed in described["shards"]]
        report = SamplingReport.from_dict(described["report"])
        ledger = np.concatenate([ledger_of(store.read_shard(shard)) for shard in shards])[: report.num_accepted]
        found = fingerprint(ledger, described["columns"], report.log_m)
        if found != described["fingerprint"]:
            raise InputError("fingerprint", found, f"the manifest says {described['fingerprint']}", "sample anew")
        return AcceptedSet(stored_dataset(store, shards, ledger), report, found, ledger, described["columns"])


def ledger_of(rows: pa.Table) -> NDArray[np.void]:
    """The ledger's entries of accepted rows; the digest is of every column but the weight, which follows from M."""
    batch = from_table(rows.drop_columns("weight"))
    ledger = np.empty(num_rows(batch), LEDGER_ROW)
    for name in ("chunk", "index", "log_ratio", "accept_key"):
        ledger[name] = batch[name].numpy()
    ledger["digest"] = np.frombuffer(row_digests(batch), np.uint8).reshape(-1, 32)
    return ledger


def fingerprint(ledger: NDArray[np.void], columns: str, log_m: float) -> str:
    """SHA-256, in hexadecimal."""
    head = json.dumps({"columns": columns, "log_m": float(log_m).hex()}, sort_keys=True)
    return hashlib.sha256(head.encode() + np.ascontiguousarray(ledger["digest"]).tobytes()).hexdigest()


def describe_columns(rows: pa.Table) -> str:
    """The columns' names and types, in order of name."""
    return json.dumps({name: str(rows.schema.field(name).type) for name in sorted(rows.column_names)})


def stored_dataset(store: RunStore, shards: Sequence[Shard], ledger: NDArray[np.void]) -> Dataset:
    """The shards' rows up to the ledger's last: a later row of the last chunk is kept on disk and not handed over."""
    paths = [store.path(shard.path) for shard in shards if shard.rows]
    dataset = ray.data.read_parquet(paths, filesystem=store.filesystem, partitioning=None)
    if sum(shard.rows for shard in shards) == len(ledger):
        return in_order(dataset)
    chunk, index = int(ledger["chunk"][-1]), int(ledger["index"][-1])
    return in_order(dataset.filter(expr=(col("chunk") < chunk) | ((col("chunk") == chunk) & (col("index") <= index))))


def in_order(dataset: Dataset) -> Dataset:
    """The dataset itself, told to give its blocks in their order rather than as they are finished."""
    dataset.context.execution_options.preserve_order = True
    return dataset


def _report_at(report: SamplingReport, ledger: NDArray[np.void], log_m: float) -> SamplingReport:
    # Whatever exceeds M has a key above it and was accepted, so that the ledger holds every capped row.
    num_capped = int((ledger["log_ratio"] > log_m + ROUNDING).sum())
    blind = report.tv_bound_source == "proposals" and num_capped == 0
    return replace(
        report,
        num_capped=num_capped,
        tv_bound=0.0 if blind else report.tv_bound,
        num_accepted=len(ledger),
        acceptance_rate=len(ledger) / report.num_proposed,
        acceptance_interval=acceptance_interval(report.num_proposed, len(ledger), stopped=False),
        log_m=log_m,
        log_m_source="rethreshold",
        acceptance_by_label={},
    )


def _reweigh(rows: pa.Table, log_m: float) -> pa.Table:
    weight = capped_weight(rows["log_ratio"].to_numpy(), log_m)
    return rows.set_column(rows.column_names.index("weight"), "weight", pa.array(weight))
