"""The sampler: a pilot that chooses M and plans, then waves of chunks over the pool until N rows are accepted.

"The first N" means in (chunk, index) order, so that quick chunks are not preferred; the rows depend on the
configuration and the seed, never on the number of actors. The driver holds 64 bytes an accepted row and references to
the rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import Dataset

from rsf_dist.accept import Floats
from rsf_dist.accepted import (
    LEDGER_ROW,
    AcceptedSet,
    describe_columns,
    fingerprint,
    in_order,
    ledger_of,
    stored_dataset,
)
from rsf_dist.batch import to_table
from rsf_dist.chunk import ChunkWork, draw
from rsf_dist.config import Budget, PoolConfig
from rsf_dist.diagnostics import SamplingReport, Statistics, acceptance_interval, target_side_bound
from rsf_dist.envelope import Choice, Envelope, Pilot, PilotEnvelope
from rsf_dist.errors import InputError, StatisticalRefusal, unwrapped
from rsf_dist.pool import map_chunks
from rsf_dist.progress import Progress
from rsf_dist.proposals.base import Proposal
from rsf_dist.ratios.base import Ratio
from rsf_dist.resources import check_pool, confine, ensure_cluster, max_actors, require_shared
from rsf_dist.rng import Stage, Streams
from rsf_dist.store import RunStore, Shard

_TASK_SECONDS = 2.0  # Ray Data costs the driver some 6 ms a task
_LONGEST_TASK_SECONDS = 20.0  # in large waves: rows and the time limit wait for a task's end
_MAX_TASKS = 1_000  # a wave; each leaves some 10 KB with the driver


class RejectionSampler:
    """Draw x ~ q on a pool of actors and keep each with probability min(1, p(x) / (M q(x))).

    Args:
        proposal, ratio: q, and log p/q.
        envelope: how M is chosen.
        seed: every random draw follows from it.
        chunk_size: proposals drawn and scored at once. Larger chunks use vectorised code better and need more memory.
        pool: the actors.
        store: a run's directory for the accepted rows, as Parquet; None: Ray's object store.
        budget: when to stop short.
        stage: which family of random streams; a control sample drawn beside the main one needs another.

    Raises:
        InputError: chunk_size is not positive.
    """

    def __init__(
        self,
        proposal: Proposal,
        ratio: Ratio,
        envelope: Envelope | None = None,
        *,
        seed: int = 0,
        chunk_size: int = 4096,
        pool: PoolConfig | None = None,
        store: RunStore | None = None,
        budget: Budget | None = None,
        stage: Stage = Stage.SAMPLE,
    ):
        if chunk_size < 1:
            raise InputError("chunk_size", chunk_size, "must be positive", "use e.g. 4096")
        self.proposal, self.ratio, self.envelope = proposal, ratio, envelope or PilotEnvelope()
        self.seed, self.chunk_size, self.stage = seed, chunk_size, stage
        self.pool, self.store, self.budget = pool or PoolConfig(), store, budget or Budget()

    def sample(self, num_accepted: int, round: int = 0, progress: Progress | None = None) -> AcceptedSet:
        """Sample until `num_accepted` rows are accepted.

        Raises:
            InputError: num_accepted is not positive, the pool does not fit the cluster, a column is missing.
            StatisticalRefusal: nothing is accepted, the budget ends short of the rows, a ratio is NaN or +inf.
        """
        self._check(num_accepted)
        started = time.monotonic()
        plan = self._plan(round)
        harvest = Harvest(num_accepted)
        with unwrapped():
            self._gather(plan, harvest, started, progress or Progress())
        self._check_shortfall(plan, harvest)
        report = self._report(plan, harvest, time.monotonic() - started)
        return self._hand_over(plan, harvest, report)

    def _check(self, num_accepted: int) -> None:
        if num_accepted < 1:
            raise InputError("num_accepted", num_accepted, "must be positive", "ask for at least one row")
        limit = self.budget.proposals_for(num_accepted)
        if limit < self.chunk_size:
            rule = f"is below one chunk of {self.chunk_size:,} proposals"
            raise InputError("budget.max_proposals", limit, rule, "raise it, or lower chunk_size")
        ensure_cluster()
        check_pool(self.pool)
        if self.store is not None:
            require_shared(self.store.uri, "output")

    def _plan(self, round: int) -> Plan:
        pool = self.pool
        task = _pilot.options(num_cpus=pool.cpus_per_actor, num_gpus=pool.gpus_per_actor)
        streams = Streams(self.seed, _pilot_stage(self.stage), round)
        certified = isinstance(self.envelope, PilotEnvelope) and self.ratio.log_bound is not None
        num_pilot = min(self.envelope.num_pilot, 2_000) if certified else self.envelope.num_pilot
        with unwrapped():
            pilot, seconds = ray.get(task.remote(self.proposal, self.ratio, streams, num_pilot, self.chunk_size))
        _refuse_nonfinite(int((~(pilot.log_ratio < np.inf)).sum()), len(pilot.log_ratio), "pilot ")
        choice = self.envelope.choose(pilot)
        work = ChunkWork(self.proposal, self.ratio, choice.log_m, self.chunk_size, self.seed, self.stage, round)
        acceptance = float(np.exp(np.minimum(pilot.log_ratio - choice.log_m, 0)).mean())
        return Plan(choice, work, acceptance, seconds_per_chunk=seconds * self.chunk_size / num_pilot)

    def _gather(self, plan: Plan, harvest: Harvest, started: float, progress: Progress) -> None:
        """Waves of chunks into the harvest until it is full or the budget spent."""
        end = self.budget.proposals_for(harvest.wanted) // self.chunk_size
        recorder = ChunkRecorder(plan.work, self.store)
        first = 0
        while first < end and not harvest.full:
            wave = range(first, min(end, first + plan.wave_size(harvest, self.chunk_size)))
            per_task = plan.chunks_per_task(wave, max_actors(self.pool))
            with closing(map_chunks(recorder, wave, self.pool, per_task)) as records:
                for record in records:
                    harvest.add(record)
                    _refuse_nonfinite(harvest.statistics.num_nonfinite, harvest.statistics.num_scored)
                    progress.count("accepted rows", min(len(harvest), harvest.wanted), harvest.wanted)
                    if harvest.full:
                        break
                    if self._out_of_time(started):
                        return
            first = wave.stop

    def _out_of_time(self, started: float) -> bool:
        return self.budget.max_seconds is not None and time.monotonic() - started > self.budget.max_seconds

    def _check_shortfall(self, plan: Plan, harvest: Harvest) -> None:
        if harvest.full or (len(harvest) and self.budget.on_shortfall == "partial"):
            return
        found, scored = len(harvest), harvest.statistics.num_scored
        largest = harvest.statistics.max_log_ratio
        finding = f"{found:,} of {harvest.wanted:,} rows accepted after {scored:,} proposals, where the budget ends"
        if found:
            needed = math.ceil(1.2 * harvest.wanted * scored / found)
            remedy = (
                f"raise budget.max_proposals to about {needed:,}, lower the envelope's log M, or keep what there is "
            )
            raise StatisticalRefusal(finding, remedy + "with budget.on_shortfall=partial")
        remedy = f"log M is {plan.choice.log_m:.4g} and the largest log ratio seen {largest:.4g}: lower log M to that "
        raise StatisticalRefusal(
            finding, remedy + "(envelope kind pilot or budget), or move the proposal to the target"
        )

    def _report(self, plan: Plan, harvest: Harvest, seconds: float) -> SamplingReport:
        statistics, accepted = harvest.statistics, min(len(harvest), harvest.wanted)
        proposed = harvest.num_proposed(self.chunk_size)
        bound, source, upper = statistics.tv_bound, "proposals", None
        target: Floats | None = getattr(self.ratio, "target_log_ratio", None)
        if target is not None:
            (bound, upper), source = target_side_bound(target, plan.choice.log_m), "target"
        return SamplingReport(
            num_proposed=proposed,
            num_accepted=accepted,
            acceptance_rate=accepted / proposed,
            acceptance_interval=acceptance_interval(proposed, accepted, stopped=harvest.full),
            log_m=plan.choice.log_m,
            log_m_source=plan.choice.source,
            num_scored=statistics.num_scored,
            num_capped=statistics.num_capped,
            num_nonfinite=statistics.num_nonfinite,
            max_log_ratio=statistics.max_log_ratio,
            ess_fraction=statistics.ess_fraction,
            tail_index=statistics.tail_index,
            tv_bound=bound,
            tv_bound_source=source,
            tv_bound_upper=upper,
            acceptance_by_label={label: kept / n for label, (n, kept) in statistics.by_label.items()},
            shortfall=harvest.wanted - accepted,
            seconds=seconds,
        )

    def _hand_over(self, plan: Plan, harvest: Harvest, report: SamplingReport) -> AcceptedSet:
        ledger = harvest.ledger()
        mark = fingerprint(ledger, harvest.columns, plan.choice.log_m)
        if self.store is None:
            return AcceptedSet(harvest.dataset(), report, mark, ledger, harvest.columns)
        described = {"fingerprint": mark, "columns": harvest.columns, "report": report.to_dict()}
        self.store.commit_round(plan.work.round, harvest.shards, described)
        dataset = stored_dataset(self.store, harvest.shards, ledger)
        return AcceptedSet(dataset, report, mark, ledger, harvest.columns)


@dataclass(frozen=True)
class Plan:
    """What the pilot taught: M, the chunks' work, the acceptance to expect and what a chunk costs on one core."""

    choice: Choice
    work: ChunkWork
    acceptance: float
    seconds_per_chunk: float

    def wave_size(self, harvest: Harvest, chunk_size: int) -> int:
        """Chunks that should fill the harvest, with room for chance; twice what was drawn where nothing came of it."""
        missing, seen = harvest.wanted - len(harvest), harvest.statistics
        likely = missing + 3 * math.sqrt(missing) + 1
        if seen.num_accepted:
            proposals = likely * seen.num_scored / seen.num_accepted
        else:
            proposals = 2 * seen.num_scored or likely / max(self.acceptance, 1e-9)
        return min(math.ceil(proposals / chunk_size), _MAX_TASKS * self.chunks_in(_LONGEST_TASK_SECONDS))

    def chunks_per_task(self, wave: range, actors: int) -> int:
        """So many that a task lasts about _TASK_SECONDS and a wave has at most _MAX_TASKS, yet some for every actor."""
        several_each = math.ceil(len(wave) / (4 * actors))
        return max(math.ceil(len(wave) / _MAX_TASKS), min(self.chunks_in(_TASK_SECONDS), several_each))

    def chunks_in(self, seconds: float) -> int:
        """Chunks that one core computes in this time, at least one."""
        return max(1, round(seconds / max(self.seconds_per_chunk, 1e-6)))


@dataclass
class Harvest:
    """The records of chunks so far, in the order of their ids."""

    wanted: int
    statistics: Statistics = field(default_factory=Statistics)
    shards: list[Shard] = field(default_factory=list)
    columns: str = ""
    _ledgers: list[NDArray[np.void]] = field(default_factory=list)
    _rows: list[ray.ObjectRef] = field(default_factory=list)
    _count: int = 0

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """Whether the wanted rows are there."""
        return self._count >= self.wanted

    def add(self, record: dict) -> None:
        """Take one chunk's record, of the next chunk."""
        self.statistics = self.statistics.merge(Statistics.from_json(record["statistics"]))
        self.columns = record["columns"]
        ledger = np.frombuffer(record["ledger"], LEDGER_ROW)
        if not len(ledger):
            return
        spare = max(0, self._count + len(ledger) - self.wanted)
        self._ledgers.append(ledger[: len(ledger) - spare])
        if record["shard"]:
            self.shards.append(Shard(record["shard"], len(ledger), record["sha256"]))
        else:
            rows = pa.ipc.open_stream(record["rows"]).read_all()
            self._rows.append(ray.put(rows.slice(0, len(ledger) - spare)))
        self._count += len(ledger)

    def ledger(self) -> NDArray[np.void]:
        """LEDGER_ROW of the rows handed over, [min(found, wanted)]."""
        return np.concatenate(self._ledgers)

    def num_proposed(self, chunk_size: int) -> int:
        """Proposals up to and including the last row handed over; all that were scored where the harvest fell short."""
        if not self.full:
            return self.statistics.num_scored
        last = self._ledgers[-1][-1]
        return int(last["chunk"]) * chunk_size + int(last["index"]) + 1

    def dataset(self) -> Dataset:
        """The rows in the object store."""
        return in_order(ray.data.from_arrow_refs(self._rows))


@dataclass(frozen=True)
class ChunkRecorder:
    """Runs in an actor: computes a chunk and sends its record; rows go to the store, or along without one."""

    work: ChunkWork
    store: RunStore | None

    def __call__(self, chunk: int) -> dict[str, int | str | bytes]:
        """The record of one chunk."""
        done = self.work(chunk)
        rows = to_table(done.rows)
        shard = self.store.write_shard(self.work.round, chunk, rows) if self.store and rows.num_rows else None
        return {
            "chunk": chunk,
            "statistics": done.statistics.to_json(),
            "columns": describe_columns(rows),
            "ledger": ledger_of(rows).tobytes(),
            "rows": _to_ipc(rows) if rows.num_rows and shard is None else b"",
            "shard": shard.path if shard else "",
            "sha256": shard.sha256 if shard else "",
        }


@ray.remote
def _pilot(proposal: Proposal, ratio: Ratio, streams: Streams, num_pilot: int, chunk_size: int) -> tuple[Pilot, float]:
    """Score num_pilot proposals as actors would; and the seconds it took."""
    confine()
    pieces: list[tuple[Floats, Floats]] = []
    started = time.monotonic()
    for chunk, size in enumerate(_sizes(num_pilot, chunk_size)):
        one = Streams(streams.seed, streams.stage, streams.round, chunk)
        _, log_ratio, exponentials = draw(proposal, ratio, one, size)
        pieces.append((log_ratio, log_ratio + exponentials))
    log_ratios, keys = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return Pilot(log_ratios, keys, ratio.log_bound), time.monotonic() - started


def _sizes(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


def _pilot_stage(stage: Stage) -> Stage:
    """A pilot's streams are never those of the rows that it helps to choose."""
    return {Stage.SAMPLE: Stage.PILOT, Stage.CONTROL: Stage.CONTROL_PILOT}[stage]


def _refuse_nonfinite(count: int, total: int, what: str = "") -> None:
    if count:
        raise StatisticalRefusal(
            f"{count:,} of {total:,} {what}log ratios are NaN or +inf",
            "mend the target or the ratio there; the proposal must have density wherever the target has",
        )


def _to_ipc(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()
