"""The driver collects chunks' records while M grows, or keeps the highest keys of a pool."""

import numpy as np
import pytest
import torch

from rsf_dist.proposals import DatasetProposal
from rsf_dist.sampling.accept import accept, top_k
from rsf_dist.sampling.accepted import LEDGER_ROW
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.collector import ChunkTask, RowCollector
from rsf_dist.sampling.diagnostics import Statistics
from rsf_dist.storage.run_store import RunStore

CHUNK = 100


def record(chunk, log_ratio, exponentials, log_m, labels=None):
    """A chunk's record, as ChunkTask makes it; its rows are said to be in a store."""
    log_ratio, exponentials = np.array(log_ratio, dtype=float), np.array(exponentials, dtype=float)
    decision = accept(log_ratio, exponentials, log_m)
    index = np.flatnonzero(decision.keep)
    ledger = np.zeros(len(index), LEDGER_ROW)
    ledger["chunk"], ledger["index"] = chunk, index
    ledger["log_ratio"], ledger["accept_key"] = log_ratio[index], decision.key[index]
    ledger["label"] = -1 if labels is None else np.array(labels)[index]
    statistics = Statistics.of(log_ratio, decision.keep, log_m, None if labels is None else np.array(labels))
    shard = f"chunk-{chunk}" if len(index) else ""
    sent = {"statistics": statistics.to_json(), "columns": "{}", "ledger": ledger.tobytes()}
    return sent | {"shard": shard, "sha256": "0"}


def random_records(num_chunks, log_m, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [
        (rng.normal(size=CHUNK), rng.exponential(size=CHUNK), rng.integers(0, 3, CHUNK)) for _ in range(num_chunks)
    ]
    records = [record(chunk, ratios, draws, log_m, labels) for chunk, (ratios, draws, labels) in enumerate(drawn)]
    return records, *(np.concatenate(column) for column in zip(*drawn, strict=True))


def filled(collector, records):
    for one in records:
        collector.add(one)
    return collector


def test_a_larger_ratio_takes_earlier_rows_back():
    # At log M = 0: keys 1, .5, 2 of chunk 0 all stay. Chunk 1 brings l = .75: M grows to it, and the key .5 goes.
    collector = RowCollector(wanted=9, log_m=0.0, margin=0.0)
    collector.add(record(0, [-1.0, -0.5, 0.0, -4.0], [2.0, 1.0, 2.0, 1.0], 0.0))
    assert (len(collector), collector.log_m) == (3, 0.0)
    collector.add(record(1, [0.75, -1.0], [0.5, 1.2], 0.0))
    # keys 1, 2 and 1.25 exceed .75; .5 and .2 do not
    assert (len(collector), collector.log_m) == (3, 0.75)
    assert collector.accepted()["accept_key"].tolist() == [1.0, 2.0, 1.25]
    assert collector.accepted()["chunk"].tolist() == [0, 0, 1]
    assert collector.found()["accept_key"].tolist() == pytest.approx([1.0, 0.5, 2.0, 1.25, 0.2])
    assert len(collector.shards) == 2


def test_the_margin_is_added():
    collector = RowCollector(wanted=9, log_m=0.5, margin=0.5)
    collector.add(record(0, [0.0, -1.0], [2.0, 2.0], 0.5))
    assert collector.log_m == 0.5  # 0 + .5
    collector.add(record(1, [0.25], [2.0], 0.5))
    assert collector.log_m == 0.75
    assert collector.accepted()["accept_key"].tolist() == [2.0, 1.0, 2.25]


def test_m_never_falls_and_stays_where_it_is_not_adaptive():
    collector = filled(RowCollector(wanted=9, log_m=3.0, margin=0.0), [record(0, [1.0], [9.0], 3.0)])
    assert collector.log_m == 3.0
    collector.raise_to(2.0)
    assert collector.log_m == 3.0
    fixed = filled(RowCollector(wanted=9, log_m=0.0), [record(0, [5.0], [1.0], 0.0)])
    assert fixed.log_m == 0.0
    assert fixed.statistics().num_capped == 1


def test_a_row_that_raises_m_itself_stays():
    # l = .75 becomes log M; its key l + E is above it for any E > 0
    collector = filled(RowCollector(wanted=9, log_m=0.0, margin=0.0), [record(0, [0.75], [1e-6], 0.0)])
    assert (len(collector), collector.log_m) == (1, 0.75)
    assert collector.statistics().num_capped == 0


def test_a_full_collector_may_need_more_rows_again():
    collector = RowCollector(wanted=2, log_m=0.0, margin=0.0)
    collector.add(record(0, [-1.0], [1.5], 0.0))
    collector.add(record(1, [1.0], [2.0], 0.0))  # the first row's key .5 is not above 1 any more
    assert not collector.full
    assert collector.num_proposed(1) == 2
    collector.add(record(2, [0.5, 0.0], [0.25, 1.5], 0.0))
    assert collector.full
    assert collector.ledger()["chunk"].tolist() == [1, 2]
    assert collector.num_proposed(2) == 2 * 2 + 1 + 1


def test_it_is_what_the_last_m_would_have_given_from_the_start():
    records, log_ratio, exponentials, labels = random_records(8, log_m=0.5)
    collector = filled(RowCollector(wanted=60, log_m=0.5, margin=0.0), records)
    last = log_ratio.max()
    assert collector.log_m == last > 0.5
    keep = log_ratio + exponentials > last
    assert collector.full
    position = CHUNK * collector.accepted()["chunk"] + collector.accepted()["index"]
    assert position.tolist() == np.flatnonzero(keep).tolist()
    assert len(collector) == keep.sum() < len(collector.found())
    assert collector.ledger()["index"].tolist() == (np.flatnonzero(keep)[:60] % CHUNK).tolist()
    assert collector.num_proposed(CHUNK) == np.flatnonzero(keep)[59] + 1

    found, whole = collector.statistics(), Statistics.of(log_ratio, keep, last, labels)
    assert found.num_capped == whole.num_capped == 0
    assert found.tv_bound == 0.0
    for name in ("num_scored", "num_accepted", "by_label", "top", "max_log_ratio", "log_sum_excess"):
        assert getattr(found, name) == getattr(whole, name), name
    assert found.log_sum_ratio == pytest.approx(whole.log_sum_ratio)
    # not so the sums at the M that rows were drawn at, which had capped some
    assert collector.scored.num_capped > 0
    assert collector.scored.tv_bound > 0


def test_raising_by_less_than_the_maximum_leaves_capped_rows():
    records, log_ratio, exponentials, labels = random_records(5, log_m=0.5, seed=1)
    collector = filled(RowCollector(wanted=9999, log_m=0.5), records)
    collector.raise_to(1.0)
    whole = Statistics.of(log_ratio, log_ratio + exponentials > 1.0, 1.0, labels)
    found = collector.statistics()
    assert found.num_capped == whole.num_capped > 0
    assert found.log_sum_excess == pytest.approx(whole.log_sum_excess)
    assert found.by_label == whole.by_label


def test_what_is_no_ratio_never_becomes_m():
    collector = RowCollector(wanted=9, log_m=0.0, margin=0.0)
    collector.add(record(0, [np.inf, np.nan, -np.inf], [1.0, 1.0, 1.0], 0.0))
    assert collector.log_m == 0.0
    assert collector.scored.num_nonfinite == 2
    assert len(collector) == 0


def test_a_collector_without_accepted_rows():
    collector = filled(RowCollector(wanted=5, log_m=1.0, margin=0.0), [record(0, [-9.0, -8.0], [1.0, 1.0], 1.0)])
    assert (len(collector), len(collector.found()), len(collector.ledger())) == (0, 0, 0)
    assert not collector.full
    assert collector.shards == []
    assert collector.num_proposed(2) == 2
    assert collector.statistics().num_scored == 2
    assert collector.statistics().num_accepted == 0


@pytest.mark.parametrize("k", [1, 7, 150])
def test_the_top_k_are_those_of_all_keys(k):
    log_m = -0.5
    records, log_ratio, exponentials, _ = random_records(4, log_m)
    collector = filled(RowCollector(wanted=k, log_m=log_m, exhaustive=True), records)
    assert not collector.full
    collector.keep_top()
    keys = log_ratio + exponentials
    highest = np.argsort(-keys)
    assert len(collector) == len(collector.ledger()) == k
    assert collector.log_m == keys[highest[k]]
    position = CHUNK * collector.ledger()["chunk"] + collector.ledger()["index"]
    assert position.tolist() == sorted(highest[:k].tolist()) == top_k(keys, k)[0].tolist()
    assert collector.statistics().num_accepted == k
    assert collector.num_proposed(CHUNK) == 4 * CHUNK


def test_keeping_the_top_needs_one_more():
    collector = filled(RowCollector(wanted=2, log_m=0.0, exhaustive=True), [record(0, [1.0, 2.0], [1.0, 1.0], 0.0)])
    with pytest.raises(ValueError, match=r"k=2: must be in \(0, 2\)"):
        collector.keep_top()


class Column:
    log_bound = None

    def log_ratio(self, batch):
        return batch["l"]


def test_recorded_chunks_of_a_pool_are_gone_through_once(tmp_path):
    pool = DatasetProposal({"l": torch.linspace(-2, 1, 250, dtype=torch.float64), "number": torch.arange(250)})
    work = ChunkWork(pool, Column(), -3.0, CHUNK, seed=0, pool_size=250)
    recorder = ChunkTask(work, RunStore(tmp_path))
    collector = filled(RowCollector(wanted=40, log_m=-3.0, exhaustive=True), [recorder(chunk) for chunk in range(3)])
    assert collector.scored.num_scored == 250
    assert len(collector) == 250  # every key exceeds -3
    collector.keep_top()
    assert len(collector.ledger()) == 40
    assert collector.num_proposed(CHUNK) == 250
