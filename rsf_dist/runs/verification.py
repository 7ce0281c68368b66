"""Verification of a run: files against the manifest, chunks against themselves, the report against the rows.

It needs no cluster. A chunk is a pure function, and a few chunks are drawn again in this process, as an actor would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
from pydantic import JsonValue

from rsf_dist.builders.image_packing import packing_for
from rsf_dist.builders.inputs import Inputs
from rsf_dist.config.run import RunConfig
from rsf_dist.data.arrow import from_table
from rsf_dist.data.batch import row_digests
from rsf_dist.errors import InputError, RsfError
from rsf_dist.report import report_json
from rsf_dist.report.schema import Report, finite
from rsf_dist.runs.arms import arms
from rsf_dist.runs.class_prior import class_prior_folder
from rsf_dist.runs.pipeline import changed_inputs
from rsf_dist.runs.preparation import prepare
from rsf_dist.runs.rounds import stored_sampler
from rsf_dist.runs.run_folder import seed_folder, stored_config
from rsf_dist.runs.seed_run import SeedRun, pilot_folder, ratio_folder
from rsf_dist.runtime.progress import Progress
from rsf_dist.runtime.timeouts import time_limit
from rsf_dist.sampling.accept import capped_weight
from rsf_dist.sampling.accepted import LEDGER_ROW, check_schema, fingerprint, ledger_of, num_duplicates
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.diagnostics import ROUNDING
from rsf_dist.sampling.pilot import one_thread
from rsf_dist.sampling.pool import TIMEOUT_REMEDY, USER_CODE_FIELD
from rsf_dist.sampling.report import SamplingReport
from rsf_dist.storage.manifest import MANIFEST, RoundProgress, Shard
from rsf_dist.storage.run_store import RunStore

_NO_ROWS = np.empty(0, LEDGER_ROW)


@dataclass(frozen=True)
class Findings:
    """The findings of a verification.

    Args:
        wrong: one line for each finding; empty for a run in order.
        num_files: files whose SHA-256 was checked.
        num_rows: rows whose bookkeeping was checked.
        num_chunks: chunks that were drawn again and compared bit for bit.
    """

    wrong: tuple[str, ...] = ()
    num_files: int = 0
    num_rows: int = 0
    num_chunks: int = 0

    def __str__(self) -> str:
        return f"{self.num_files:,} files, {self.num_rows:,} rows, {self.num_chunks:,} chunks drawn again"

    def __add__(self, other: Findings) -> Findings:
        counts = (self.num_files + other.num_files, self.num_rows + other.num_rows, self.num_chunks + other.num_chunks)
        return Findings(self.wrong + other.wrong, *counts)

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the fields as plain values, for JSON."""
        return asdict(self)


def verify(
    output: str, num_chunks: int = 8, rng: np.random.Generator | None = None, progress: Progress | None = None
) -> Findings:
    """Check a run.

    Args:
        output: the run's directory, a path or a URI.
        num_chunks: the largest number of chunks to draw again, of each round of each seed.
        rng: chooses the chunks; None means other chunks every time.
        progress: shows messages.

    Raises:
        InputError: the directory has no run, its manifest cannot be read, or its inputs are missing.
    """
    progress, store = progress or Progress(), RunStore(output)
    config = stored_config(store)
    rng = rng or np.random.default_rng()
    with packing_for(config, progress, join=None, keeps=False) as packing:
        inputs = prepare(config, progress, packing)
        return _verify_run(config, inputs, store, num_chunks, rng, progress)


def _verify_run(
    config: RunConfig, inputs: Inputs, store: RunStore, num_chunks: int, rng: np.random.Generator, progress: Progress
) -> Findings:
    """Check each seed of a run, and what the run says of them."""
    findings = Findings(tuple(f"the images of {name} have changed" for name in changed_inputs(store, inputs)))
    for number in range(config.num_seeds):
        at = store.at(seed_folder(number, config.num_seeds))
        progress.say(f"verifying {at.uri}")
        seed_run = SeedRun(config, inputs, at, config.seed + number, progress)
        findings += _verify_seed(seed_run, num_chunks, rng)
        if config.own_arm != "one_shot" and "one_shot" in arms(config) and seed_run.one_shot().store.exists(MANIFEST):
            findings += _verify_seed(seed_run.one_shot(), num_chunks, rng)
    return findings if config.num_seeds == 1 else findings + _verify_summary(store, config.num_seeds)


def _verify_summary(store: RunStore, num_seeds: int) -> Findings:
    """Compare the report.json of several seeds with the one that their own give."""
    folders = [seed_folder(number, num_seeds) for number in range(num_seeds)]
    try:
        expected = report_json.merge([store.at(folder) for folder in folders], folders)
        stored = report_json.read(store)
    except InputError as err:
        return Findings((f"the run's report.json cannot be compared with its seeds: {err}",))
    differing = [name for name in sorted(Report.model_fields) if getattr(expected, name) != getattr(stored, name)]
    return Findings(tuple(f"the run's report.json differs from its seeds' in {name}" for name in differing))


def _verify_seed(seed_run: SeedRun, num_chunks: int, rng: np.random.Generator) -> Findings:
    manifest = seed_run.store.manifest()
    findings = _verify_folders(seed_run.store, manifest.folders)
    if not manifest.rounds:
        return findings + Findings((f"{seed_run.store.uri} has no round of accepted rows",))
    for number, progress in manifest.rounds.items():
        ledgers, wrong, damaged = _read(seed_run.store, progress)
        findings += Findings(tuple(wrong), num_files=len(progress.shards))
        findings += _verify_chunks(seed_run, number, progress, damaged, num_chunks, rng)
        if not damaged:
            ledger = np.concatenate([_NO_ROWS, *ledgers])
            findings += _verify_rows(seed_run.store, number, progress, ledger, _keeps_top(seed_run))
    return findings


def _keeps_top(seed_run: SeedRun) -> bool:
    """Return True if all of a pool was read and its best rows kept, rather than rows until there were enough."""
    return seed_run.config.sampling.top_k is not None


def _read(store: RunStore, progress: RoundProgress) -> tuple[list[np.ndarray], list[str], set[int]]:
    """Return LEDGER_ROW of each undamaged shard, what is wrong with shards, and the chunks with a damaged one."""
    ledgers, wrong, damaged = [], [], set()
    for shard in progress.shards:
        try:
            rows = store.find_shard(shard)
            if rows is None:
                wrong.append(f"{shard.path} is missing or differs from its SHA-256")
                damaged.add(shard.chunk)
                continue
            check_schema(rows, shard, progress.columns)
        except InputError as err:
            wrong.append(str(err))
            damaged.add(shard.chunk)
            continue
        ledgers.append(ledger_of(rows))
        wrong += _wrong_in_shard(shard, rows, progress.drawn_at_log_m)
    return ledgers, wrong, damaged


def _wrong_in_shard(shard: Shard, rows: pa.Table, log_m: float) -> Iterator[str]:
    if rows.num_rows != shard.rows:
        yield f"{shard.path} has {rows.num_rows:,} rows, and the manifest says {shard.rows:,}"
    if not np.array_equal(rows["weight"].to_numpy(), capped_weight(rows["log_ratio"].to_numpy(), log_m)):
        yield f"{shard.path} has weights that are not max(1, r/M)"


def _verify_folders(store: RunStore, folders: Mapping[str, Mapping[str, str]]) -> Findings:
    damage = [line for folder in folders if (line := store.damage_of(folder)) is not None]
    return Findings(tuple(damage), num_files=sum(map(len, folders.values())))


def _verify_chunks(
    seed_run: SeedRun,
    number: int,
    progress: RoundProgress,
    damaged: set[int],
    num_chunks: int,
    rng: np.random.Generator,
) -> Findings:
    """Draw some of a round's chunks again and compare their rows bit for bit.

    Chunks without an accepted row may be among them. Chunks with a damaged shard are left out, as they are reported.
    """
    missing = _missing_for_redraw(seed_run, number)
    if missing:
        return Findings((f"no chunk can be drawn again without {', '.join(missing)}",))
    if seed_run.config.sampling.pool.gpus_per_actor:
        seed_run.progress.say("chunks were drawn on GPUs, which round otherwise than CPUs: none is drawn again here")
        return Findings()
    undamaged = [chunk for chunk in range(progress.chunks) if chunk not in damaged]
    chosen = sorted(rng.choice(undamaged, min(num_chunks, len(undamaged)), replace=False).tolist())
    if not chosen:
        return Findings()
    try:
        work = stored_sampler(seed_run, number).plan(number).work
        if _keeps_top(seed_run):  # at which of several log M it read the pool, only the manifest tells
            work = replace(work, log_m=progress.drawn_at_log_m)
    except RsfError as err:
        return Findings((f"no chunk can be drawn again: {err}",))
    shards = {shard.chunk: shard for shard in progress.shards}
    wrong = [line for chunk in chosen if (line := _redraw(seed_run, work, chunk, shards.get(chunk))) is not None]
    return Findings(tuple(wrong), num_chunks=len(chosen))


def _missing_for_redraw(seed_run: SeedRun, number: int) -> list[str]:
    """Return the missing or damaged folders that a round's chunks are drawn from; verification makes none of them."""
    fitted_in = number if seed_run.config.ratio.is_learned else 0
    optional = [class_prior_folder(number)]
    listed = [folder for folder in optional if seed_run.store.is_listed(folder)]
    needed = [ratio_folder(fitted_in), pilot_folder(number), *listed]
    return [folder for folder in needed if not seed_run.store.is_intact(folder)]


def _redraw(seed_run: SeedRun, work: ChunkWork, chunk: int, shard: Shard | None) -> str | None:
    """Draw a chunk again and return the finding, or None where its rows are those of the shard."""
    seed_run.progress.say(f"drawing chunk {chunk} again")
    stored = None if shard is None else seed_run.store.read_shard(shard)
    finding = f"chunk {chunk} of round {work.round} gives different rows when it is drawn again"
    seconds = seed_run.config.sampling.pool.chunk_seconds
    try:
        with one_thread(), time_limit(seconds, USER_CODE_FIELD, f"chunk {chunk}", TIMEOUT_REMEDY):
            return None if _has_rows(work, chunk, stored) else finding
    except RsfError as err:
        return f"{finding}: {err}"


def _has_rows(work: ChunkWork, chunk: int, stored: pa.Table | None) -> bool:
    """Return True if the chunk's accepted rows are the stored ones, bit for bit. None stands for no rows."""
    drawn = work(chunk).rows
    return row_digests(drawn) == (b"" if stored is None else row_digests(from_table(stored)))


def _verify_rows(store: RunStore, round: int, progress: RoundProgress, ledger: np.ndarray, keeps_top: bool) -> Findings:
    """Check the rows' own bookkeeping, then the manifest and report.json against the rows."""
    wrong = list(_wrong_in_rows(progress, ledger))
    if progress.result is not None:
        report = SamplingReport.from_dict(progress.result.report)
        wrong += _wrong_in_result(progress, progress.result.fingerprint, report, ledger, keeps_top)
        wrong += _wrong_in_report_json(store, round, progress.result.fingerprint, report)
    return Findings(tuple(f"round {round}: {line}" for line in wrong), num_rows=len(ledger))


def _wrong_in_rows(progress: RoundProgress, ledger: np.ndarray) -> Iterator[str]:
    position = ledger["chunk"] * np.int64(progress.work.chunk_size) + ledger["index"]
    if (np.diff(position) <= 0).any():
        yield "rows are not in the order of chunk and index, or a row is there twice"
    if not (ledger["accept_key"] > progress.drawn_at_log_m).all():
        yield f"a row's accept_key is not above log M = {progress.drawn_at_log_m:g}"


def _wrong_in_result(
    progress: RoundProgress, stored_fingerprint: str, report: SamplingReport, ledger: np.ndarray, keeps_top: bool
) -> Iterator[str]:
    result_rows = ledger[ledger["accept_key"] > report.log_m][: report.num_accepted]
    if len(result_rows) != report.num_accepted:
        yield f"the manifest reports {report.num_accepted:,} accepted rows, and {len(result_rows):,} are there"
    if fingerprint(result_rows, progress.columns, report.log_m) != stored_fingerprint:
        yield "the rows have another fingerprint than the manifest says"
    for name, value in _counted(progress, report, ledger, result_rows, keeps_top).items():
        if getattr(report, name) != value:
            yield f"the manifest reports {name}={getattr(report, name)}, and of the rows it is {value}"


def _counted(
    progress: RoundProgress, report: SamplingReport, ledger: np.ndarray, result_rows: np.ndarray, keeps_top: bool
) -> dict[str, float]:
    """Return the fields of the report that follow from the rows alone, with their right values."""
    num_proposed = report.num_proposed
    if keeps_top:
        num_proposed = progress.work.pool_size or num_proposed
    elif report.shortfall == 0 and len(result_rows):
        last = result_rows[-1]
        num_proposed = int(last["chunk"] * progress.work.chunk_size + last["index"] + 1)
    return {
        "num_duplicates": num_duplicates(result_rows),
        "num_capped": int((ledger["log_ratio"] > report.log_m + ROUNDING).sum()),  # each was accepted
        "num_proposed": num_proposed,
        "acceptance_rate": report.num_accepted / num_proposed,
    }


def _wrong_in_report_json(
    store: RunStore, round: int, stored_fingerprint: str, report: SamplingReport
) -> Iterator[str]:
    try:
        entry = report_json.read(store).rounds[round]
    except (InputError, IndexError):
        yield "report.json has no entry for it, or is damaged"
        return
    if entry.fingerprint != stored_fingerprint:
        yield "report.json has another fingerprint"
    reported, expected = entry.sampling.to_dict(), finite(report.to_dict())
    for name in sorted(expected):
        if reported[name] != expected[name]:
            yield f"report.json has sampling.{name}={reported[name]}, the manifest {expected[name]}"
