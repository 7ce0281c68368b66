"""Is a run what it says it is? Files against the manifest, chunks against themselves, the report against the rows.

Needs no cluster: a chunk is a pure function, and a few are drawn again in this process, as an actor would.
"""

from __future__ import annotations
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
import numpy as np
import pyarrow as pa
from rsf_dist.sampling.accept import capped_weight
from rsf_dist.sampling.accepted import LEDGER_ROW, check_schema, fingerprint, ledger_of, num_duplicates
from rsf_dist.runs.arms import arms
from rsf_dist.data.arrow import from_table
from rsf_dist.data.batch import row_digests
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.runs.class_prior import means_folder, class_prior_folder
from rsf_dist.sampling.diagnostics import ROUNDING
from rsf_dist.errors import InputError, RsfError
from rsf_dist.sampling.pilot import one_thread
from rsf_dist.runs.pipeline import changed_inputs, prepare, stored_config, seed_folder
from rsf_dist.sampling.pool import USER_CODE_FIELD, TIMEOUT_REMEDY
from rsf_dist.runtime.progress import Progress
from rsf_dist.report import report_json
from rsf_dist.runs.rounds import stored_sampler
from rsf_dist.storage.run_store import MANIFEST, RunStore, Shard
from rsf_dist.runtime.timeouts import time_limit
from rsf_dist.runs.seed_run import SeedRun, pilot_folder, ratio_folder



_NO_ROWS = np.empty(0, LEDGER_ROW)


@dataclass(frozen=True)
class Findings:
    """What a verification found.

    Args:
        wrong: one line each; empty for a run in order.
        num_files, num_rows: whose SHA-256 and whose bookkeeping were checked.
        num_chunks: drawn again and compared bit for bit.
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

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def verify(
    output: str, num_chunks: int = 8, rng: np.random.Generator | None = None, progress: Progress | None = None
) -> Findings:
    """Check the run in the directory `output`.

    Args:
        output: a path or a URI.
        num_chunks: how many chunks of each seed to draw again, at most.
        rng: chooses them; None: others every time.
        progress: who is told.

    Raises:
        InputError: there is no run, its manifest cannot be read, or its inputs are gone.
    """
    progress, store = progress or Progress(), RunStore(output)
    config = stored_config(store)
    inputs = prepare(config, progress)
    found = Findings(tuple(f"the images of {name} have changed" for name in changed_inputs(store, inputs)))
    for number in range(config.num_seeds):
        at = store.at(seed_folder(number, config.num_seeds))
        progress.say(f"verifying {at.uri}")
        seed_run = SeedRun(config, inputs, at, config.seed + number, progress)
        found += _verify_trial(seed_run, num_chunks, rng or np.random.default_rng())
        if config.own_arm != "one_shot" and "one_shot" in arms(config) and seed_run.one_shot().store.exists(MANIFEST):
            found += _verify_trial(seed_run.one_shot(), num_chunks, rng or np.random.default_rng())
    return found if config.num_seeds == 1 else found + _verify_summary(store, config.num_seeds)


def _verify_summary(store: RunStore, num_seeds: int) -> Findings:
    """The report.json of several seeds against theirs."""
    folders = [seed_folder(number, num_seeds) for number in range(num_seeds)]
    try:
        wanted = report_json.finite(report_json.merge([store.at(folder) for folder in folders], folders))
        told = report_json.read(store)
    except InputError as err:
        return Findings((f"the run's report.json cannot be compared with its seeds: {err}",))
    other = sorted(name for name in wanted.keys() | told.keys() if wanted.get(name) != told.get(name))
    return Findings(tuple(f"the run's report.json differs from its seeds' in {name}" for name in other))


def _verify_trial(seed_run: SeedRun, num_chunks: int, rng: np.random.Generator) -> Findings:
    manifest = seed_run.store.manifest()
    found = _verify_folders(seed_run.store, manifest["folders"])
    if not manifest["rounds"]:
        return found + Findings((f"{seed_run.store.uri} has no round of accepted rows",))
    for number, described in manifest["rounds"].items():
        shards = {listed["chunk"]: Shard(**listed) for listed in described["shards"]}
        ledgers, wrong, damaged = _read(seed_run.store, described, shards.values())
        found += Findings(tuple(wrong), num_files=len(shards))
        found += _verify_chunks(seed_run, int(number), described, shards, damaged, num_chunks, rng)
        if not damaged:
            found += _verify_rows(seed_run.store, int(number), described, np.concatenate([_NO_ROWS, *ledgers]))
    return found


def _read(
    store: RunStore, described: dict[str, Any], shards: Iterable[Shard]
) -> tuple[list[np.ndarray], list[str], set[int]]:
    """LEDGER_ROW of each whole shard, what is wrong with shards, and which chunks are damaged."""
    ledgers, wrong, damaged = [], [], set()
    for shard in shards:
        try:
            rows = store.find_shard(shard)
            if rows is None:
                wrong.append(f"{shard.path} is missing or differs from its SHA-256")
                damaged.add(shard.chunk)
                continue
            check_schema(rows, shard, described["columns"])
        except InputError as err:
            wrong.append(str(err))
            damaged.add(shard.chunk)
            continue
        ledgers.append(ledger_of(rows))
        if rows.num_rows != shard.rows:
            wrong.append(f"{shard.path} has {rows.num_rows:,} rows, and the manifest says {shard.rows:,}")
        weight = capped_weight(rows["log_ratio"].to_numpy(), described["drawn_at_log_m"])
        if not np.array_equal(rows["weight"].to_numpy(), weight):
            wrong.append(f"{shard.path} has weights that are not max(1, r/M)")
    return ledgers, wrong, damaged


def _verify_folders(store: RunStore, folders: dict[str, dict[str, str]]) -> Findings:
    damage = [line for folder in folders if (line := store.damage_of(folder)) is not None]
    return Findings(tuple(damage), num_files=sum(map(len, folders.values())))


def _verify_chunks(
    seed_run: SeedRun,
    number: int,
    described: dict[str, Any],
    shards: Mapping[int, Shard],
    damaged: set[int],
    num_chunks: int,
    rng: np.random.Generator,
) -> Findings:
    """Draw some chunks again, those without an accepted row among them, but none whose shard is damaged anyway."""
    there = [chunk for chunk in range(described["chunks"]) if chunk not in damaged]
    chosen = sorted(rng.choice(there, min(num_chunks, len(there)), replace=False).tolist())
    made_in = number if seed_run.config.ratio.is_learned else 0
    kept = [folder for folder in (class_prior_folder(number), means_folder(number)) if seed_run.store.is_listed(folder)]
    wanted = [ratio_folder(made_in), pilot_folder(number), *kept]
    lost = [folder for folder in wanted if not seed_run.store.is_intact(folder)]
    if lost:  # nothing is made here
        return Findings((f"no chunk can be drawn again without {', '.join(lost)}",))
    if seed_run.config.sampling.pool.gpus_per_actor:
        seed_run.progress.say("its chunks were drawn on GPUs, where rows come out otherwise: none is drawn again here")
        return Findings()
    if not chosen:
        return Findings()
    try:
        work = stored_sampler(seed_run, number).plan(number).work
    except RsfError as err:
        return Findings((f"no chunk can be drawn again: {err}",))
    wrong = []
    for chunk in chosen:
        seed_run.progress.say(f"drawing chunk {chunk} again")
        rows = seed_run.store.read_shard(shards[chunk]) if chunk in shards else None
        told = f"chunk {chunk} of round {work.round} comes out otherwise when it is drawn again"
        try:
            with one_thread(), time_limit(seed_run.config.sampling.pool.chunk_seconds, USER_CODE_FIELD, f"chunk {chunk}", TIMEOUT_REMEDY):
                if not _same(work, chunk, rows):
                    wrong.append(told)
        except RsfError as err:
            wrong.append(f"{told}: {err}")
    return Findings(tuple(wrong), num_chunks=len(chosen))


def _same(work: ChunkWork, chunk: int, stored: pa.Table | None) -> bool:
    """Whether the chunk's accepted rows are those stored, bit for bit; none where nothing is stored."""
    drawn = work(chunk).rows
    return row_digests(drawn) == (b"" if stored is None else row_digests(from_table(stored)))


def _verify_rows(store: RunStore, round: int, described: dict[str, Any], ledger: np.ndarray) -> Findings:
    """Bookkeeping of the rows themselves, then the manifest and report.json against them."""
    wrong = list(_wrong_in_rows(described, ledger))
    if described["complete"]:
        wrong += _wrong_in_report(store, round, described, ledger)
    return Findings(tuple(f"round {round}: {line}" for line in wrong), num_rows=len(ledger))


def _wrong_in_rows(described: dict[str, Any], ledger: np.ndarray) -> Iterator[str]:
    place = ledger["chunk"] * np.int64(described["work"]["chunk_size"]) + ledger["index"]
    if (np.diff(place) <= 0).any():
        yield "rows are not in the order of chunk and index, or one is there twice"
    log_m = described["drawn_at_log_m"]
    if not (ledger["accept_key"] > log_m).all():
        yield f"a row's accept_key is not above log M = {log_m:g}"


def _counted(described: dict[str, Any], ledger: np.ndarray, handed_over: np.ndarray) -> dict[str, Any]:
    """What a report must say of these rows, as far as the rows alone tell."""
    report = described["report"]
    counted: dict[str, Any] = {
        "num_duplicates": num_duplicates(handed_over),
        "num_capped": int((ledger["log_ratio"] > report["log_m"] + ROUNDING).sum()),  # each was accepted
    }
    if report["shortfall"] == 0 and len(handed_over) and described["work"]["pool_size"] is None:
        last = handed_over[-1]
        counted["num_proposed"] = int(last["chunk"] * described["work"]["chunk_size"] + last["index"] + 1)
    counted["acceptance_rate"] = report["num_accepted"] / counted.get("num_proposed", report["num_proposed"])
    return counted


def _wrong_in_report(store: RunStore, round: int, described: dict[str, Any], ledger: np.ndarray) -> Iterator[str]:
    report = described["report"]
    handed_over = ledger[ledger["accept_key"] > report["log_m"]][: report["num_accepted"]]
    if len(handed_over) != report["num_accepted"]:
        yield f"the manifest reports {report['num_accepted']:,} accepted rows, and {len(handed_over):,} are there"
    if fingerprint(handed_over, described["columns"], report["log_m"]) != described["fingerprint"]:
        yield "the rows have another fingerprint than the manifest says"
    for name, value in _counted(described, ledger, handed_over).items():
        if report[name] != value:
            yield f"the manifest reports {name}={report[name]}, and of the rows it is {value}"
    try:
        told = report_json.read(store)["rounds"][round]
    except (InputError, IndexError):
        yield "report.json does not tell of it, or is damaged"
        return
    if told["fingerprint"] != described["fingerprint"]:
        yield "report.json has another fingerprint"
    reported = report_json.finite(report)
    for name in sorted(reported.keys() | told["sampling"].keys()):
        if told["sampling"].get(name) != reported.get(name):
            yield f"report.json has sampling.{name}={told['sampling'].get(name)}, the manifest {reported.get(name)}"
