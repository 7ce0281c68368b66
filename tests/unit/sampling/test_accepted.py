"""The parts of sampling that need no cluster: ledgers, fingerprints, and the collection of chunks' records."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.distributions import Normal

from rsf_dist.config.sampling import Budget, PoolConfig
from rsf_dist.data.arrow import from_table, to_table
from rsf_dist.data.batch import num_rows, select
from rsf_dist.errors import InputError
from rsf_dist.proposals import DistributionProposal
from rsf_dist.ratios import ConstantRatio, DensityRatio
from rsf_dist.sampling import collector, round_draw
from rsf_dist.sampling.accepted import describe_columns, fingerprint, ledger_of, num_duplicates
from rsf_dist.sampling.checkpoint import RoundCheckpoint
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.collector import ChunkTask, RowCollector
from rsf_dist.sampling.diagnostics import Statistics
from rsf_dist.sampling.envelope import Choice, Pilot
from rsf_dist.sampling.pilot import PilotRun, Probe
from rsf_dist.sampling.plan import SamplingPlan
from rsf_dist.storage.run_store import RunStore, Shard

WIDE = DistributionProposal(Normal(0.0, 2.0))
WORK = ChunkWork(WIDE, DensityRatio(Normal(0.0, 1.0), WIDE), math.log(2), 100, seed=0)
REJECTING = ChunkWork(WIDE, WORK.ratio, 100.0, 100, seed=0)


def collect(records, wanted):
    collected = RowCollector(wanted)
    for record in records:
        collected.add(record)
    return collected


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path)


def test_ledger_of_a_chunk():
    rows = WORK(3).rows
    ledger = ledger_of(to_table(rows))
    assert len(ledger) == num_rows(rows)
    for name in ("chunk", "index", "log_ratio", "accept_key"):
        assert ledger[name].tolist() == rows[name].tolist()
    assert len({entry.tobytes() for entry in ledger["digest"]}) == len(ledger)


def test_ledger_is_of_every_column_but_round_and_weight():
    rows = WORK(3).rows
    before = ledger_of(to_table(rows))
    for name in ("weight", "round"):
        assert np.array_equal(before, ledger_of(to_table(rows | {name: rows[name] + 1})))
    for name in ("x", "log_ratio", "accept_key", "index", "chunk"):
        assert (before != ledger_of(to_table(rows | {name: rows[name] + 1}))).all(), name


def test_digests_tell_duplicates():
    rows = WORK(3).rows
    ledger = ledger_of(to_table(rows))
    assert num_duplicates(ledger) == 0
    twice = rows | {"x": rows["x"].clone()}
    twice["x"][5:8] = twice["x"][0]  # three rows like the first one, whatever their keys
    assert num_duplicates(ledger_of(to_table(twice))) == 3


def test_ledger_has_the_label_where_there_is_one():
    rows = WORK(3).rows
    assert set(ledger_of(to_table(rows))["label"]) == {-1}
    labelled = rows | {"label": torch.arange(num_rows(rows))}
    assert ledger_of(to_table(labelled))["label"].tolist() == list(range(num_rows(rows)))


def test_fingerprint_is_of_rows_order_columns_and_m():
    table = to_table(WORK(3).rows)
    ledger, columns = ledger_of(table), describe_columns(table)
    mark = fingerprint(ledger, columns, 0.5)
    assert mark == fingerprint(ledger.copy(), columns, 0.5)
    others = [
        fingerprint(ledger[::-1], columns, 0.5),
        fingerprint(ledger[:-1], columns, 0.5),
        fingerprint(ledger, columns + " ", 0.5),
        fingerprint(ledger, columns, np.nextafter(0.5, 1)),
    ]
    assert len({mark, *others}) == 5


def test_record_of_a_chunk_that_accepts_nothing(store):
    record = ChunkTask(REJECTING, store)(0)
    assert (record["ledger"], record["rows"], record["shard"]) == (b"", b"", "")
    assert record["columns"] == ChunkTask(WORK, store)(0)["columns"]
    assert Statistics.from_json(record["statistics"]).num_scored == 100


def test_record_of_a_chunk(store):
    chunk, record = WORK(3), ChunkTask(WORK, store)(3)
    assert Statistics.from_json(record["statistics"]) == chunk.statistics
    stored = from_table(store.read_shard(Shard(3, record["shard"], num_rows(chunk.rows), record["sha256"])))
    assert stored.keys() == chunk.rows.keys()
    assert all(torch.equal(stored[name], chunk.rows[name]) for name in stored)


def test_the_first_accepted_rows_are_taken_in_order(store):
    records = [ChunkTask(WORK, store)(chunk) for chunk in range(3)]
    chunks = [WORK(chunk).rows for chunk in range(3)]
    first, second = num_rows(chunks[0]), num_rows(chunks[1])
    collected = collect(records[:2], wanted=first + 5)
    assert collected.full
    ledger = collected.ledger()
    assert ledger["chunk"].tolist() == [0] * first + [1] * 5
    assert ledger["index"].tolist() == chunks[0]["index"].tolist() + chunks[1]["index"][:5].tolist()
    # proposals up to and including the last row handed over: 100 of chunk 0, index + 1 of chunk 1
    assert collected.num_proposed(100) == 100 + chunks[1]["index"][4].item() + 1
    assert [shard.rows for shard in collected.shards] == [first, second]
    assert collected.scored.num_scored == 200


def test_too_few_accepted_rows_count_all_proposals(store):
    records = [ChunkTask(work, store)(chunk) for chunk, work in enumerate([WORK, REJECTING])]
    collected = collect(records, wanted=10_000)
    assert not collected.full
    assert collected.num_proposed(100) == 200
    assert len(collected) == num_rows(WORK(0).rows)


def test_accepted_rows_may_fill_up_with_the_last_row_of_a_chunk(store):
    rows = WORK(0).rows
    collected = collect([ChunkTask(WORK, store)(0)], wanted=num_rows(rows))
    assert collected.full
    assert collected.num_proposed(100) == rows["index"][-1].item() + 1
    assert collected.ledger()["index"].tolist() == select(rows, slice(None))["index"].tolist()


@pytest.mark.parametrize("limits", [(3, 2**30), (100, 2_000), (1, 1), (100, 2**30)])
def test_accepted_rows_of_chunks_are_bundled_and_stay_in_order(limits, monkeypatch):
    bundles = []
    monkeypatch.setattr(collector, "_BUNDLE", limits[0])
    monkeypatch.setattr(collector, "_BUNDLE_BYTES", limits[1])
    monkeypatch.setattr(collector.ray, "put", lambda rows: bundles.append(rows) or rows)
    monkeypatch.setattr(collector.ray.data, "from_arrow_refs", lambda refs: pa.concat_tables(refs))
    monkeypatch.setattr(collector, "preserve_order", lambda rows: rows)
    works = [REJECTING if chunk == 4 else WORK for chunk in range(8)]
    collected = RowCollector(10_000, WORK.log_m)
    rows = []
    for chunk, work in enumerate(works):
        collected.add(ChunkTask(work, None)(chunk))
        rows.append(to_table(work(chunk).rows))
        assert np.array_equal(collected.found(), np.concatenate([ledger_of(one) for one in rows]))
        if chunk == 5:  # asked for in between
            assert collected.dataset(None).equals(pa.concat_tables(rows))
    assert collected.dataset(None).equals(pa.concat_tables(rows))
    assert collected.dataset(None).num_rows == len(collected) == len(collected.found())
    assert all(bundle.num_rows for bundle in bundles)
    keys = np.sort(collected.found()["accept_key"])
    collected.raise_to(keys[-21])
    assert len(collected) == 20
    collected.wanted = 5
    collected.keep_top()
    assert sorted(collected.accepted()["accept_key"]) == keys[-5:].tolist()


def test_chunks_of_other_columns_are_refused():
    collected = collect([ChunkTask(WORK, None)(0)], wanted=10_000)
    record = ChunkTask(
        replace(WORK, proposal=DistributionProposal(WIDE.distribution, "y"), ratio=ConstantRatio()), None
    )(1)
    with pytest.raises(InputError, match=r"proposal=columns: gives \{.*\"y\".* in chunk 1, and gave \{.*\"x\""):
        collected.add(record)


def plan():
    """Return a plan from a pilot of ratios 1: acceptance is 1/2 at M = 2, and a chunk takes .1 s."""
    pilot = PilotRun(Pilot(np.zeros(3), np.ones(3)), seconds_per_row=0.001, probe=Probe("", ()))
    return SamplingPlan(Choice(math.log(2), "fixed"), WORK, pilot)


def test_first_wave_is_sized_by_the_pilot():
    # 100 wanted and 3 sqrt(100) + 1 for chance: 131 rows at acceptance 1/2 are 262 proposals, 3 chunks of 100
    assert plan().wave_size(RowCollector(100)) == 3


def test_later_waves_are_sized_by_what_was_drawn():
    # 20 of 1,000 accepted so far; 80 + 3 sqrt(80) + 1 = 107.8 wanted at 1/50: 5,392 proposals
    collected = RowCollector(100, scored=Statistics(num_scored=1000, num_accepted=20), _count=20)
    assert plan().wave_size(collected) == 54
    # nothing of 1,000: twice as many
    assert plan().wave_size(RowCollector(100, scored=Statistics(num_scored=1000))) == 20
    # a finite pool is gone through whole, in waves of 1,000 tasks of 20 s, 200 chunks each
    assert plan().wave_size(RowCollector(100, exhaustive=True, _count=500)) == 200_000


# A chunk of .1 s: 20 make 2 s. 80 chunks on 2 actors: 10 a task, 4 tasks an actor. 1e6 chunks: at most 1,000 tasks.
@pytest.mark.parametrize(
    ("chunks", "actors", "per_task"), [(1000, 2, 20), (80, 2, 10), (80, 10, 2), (1, 2, 1), (1_000_000, 2, 1000)]
)
def test_chunks_per_task(chunks, actors, per_task):
    assert plan().chunks_per_task(chunks, actors) == per_task


# Chunks of .1 s: 49 of them are 4.9 s of work, less than an actor takes to start, and 50 are 5 s; on two actors half.
@pytest.mark.parametrize(
    ("chunks", "actors", "as_tasks"), [(1, 1, True), (49, 1, True), (50, 1, False), (99, 2, True), (100, 2, False)]
)
def test_a_wave_shorter_than_the_start_of_actors_is_drawn_in_tasks(chunks, actors, as_tasks, monkeypatch):
    """A short wave needs no actors, and a round has the pool draw it in tasks."""
    assert plan().starts_slower_than_it_draws(chunks, actors) == as_tasks
    assert not replace(plan(), on_gpus=True).starts_slower_than_it_draws(
        chunks, actors
    )  # where each task starts a process
    asked = []
    monkeypatch.setattr(round_draw, "max_actors", lambda pool: actors)
    monkeypatch.setattr(round_draw, "map_chunks", lambda *given: asked.append(given) or [])
    checkpoint = RoundCheckpoint(None, plan().work)
    drawing = round_draw.RoundDraw(plan(), RowCollector(1), checkpoint, PoolConfig(), Budget(), None)
    assert list(drawing._records(range(chunks))) == []
    ((_, ids, pool, per_task, told),) = asked
    assert (ids, pool, per_task, told) == (
        range(chunks),
        drawing.pool,
        plan().chunks_per_task(chunks, actors),
        as_tasks,
    )
