"""A round's progress in the manifest: committed while it comes in, and taken up again."""

import dataclasses
import itertools
import shutil
import sys
from pathlib import Path

import pytest
import torch
from records import GOOD_REPORT, result_of
from torch.distributions import Normal

from rsf_dist.config.sampling import Budget
from rsf_dist.errors import InputError
from rsf_dist.proposals import DistributionProposal
from rsf_dist.ratios import DensityRatio
from rsf_dist.sampling import checkpoint
from rsf_dist.sampling.checkpoint import RoundCheckpoint
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.collector import ChunkTask, RowCollector
from rsf_dist.storage.run_store import RunStore

Q = DistributionProposal(Normal(torch.tensor(0.0, dtype=torch.float64), 2.0))
WORK = ChunkWork(Q, DensityRatio(Normal(torch.tensor(0.0, dtype=torch.float64), 1.0), Q), 1.0, 50, seed=3)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "COMMIT_SECONDS", 0.0)


class Draw:
    """Draws chunks in this process, and remembers which."""

    def __init__(self, store: RunStore | None, work: ChunkWork = WORK):
        self.recorder, self.drawn = ChunkTask(work, store), []

    def __call__(self, chunks):
        for chunk in chunks:
            self.drawn.append(chunk)
            yield self.recorder(chunk)


def gathered(store: RunStore | None, chunks: range, **options) -> RowCollector:
    collector, book = RowCollector(10**6, WORK.log_m, **options), RoundCheckpoint(store, WORK)
    with book.keeping(collector):
        for record in Draw(store)(chunks):
            collector.add(record)
    return collector


def resumed(store: RunStore, draw: Draw, **options) -> RowCollector:
    collector = RowCollector(10**6, WORK.log_m, **options)
    RoundCheckpoint(store, WORK).restore(collector, draw)
    return collector


@pytest.mark.parametrize("margin", [None, 0.0])
def test_collection_resumes_where_it_stopped(store, margin, tmp_path):
    gathered(store, range(4), margin=margin)
    draw = Draw(store)
    collector = resumed(store, draw, margin=margin)
    assert (collector.num_chunks, draw.drawn) == (4, [])  # nothing is drawn again
    for record in draw(range(4, 9)):
        collector.add(record)
    whole = gathered(RunStore(tmp_path / "whole"), range(9), margin=margin)
    assert collector.found().tobytes() == whole.found().tobytes()
    assert (collector.scored, collector.log_m, len(collector)) == (whole.scored, whole.log_m, len(whole))
    assert [shard.chunk for shard in collector.shards] == list(range(9))


def test_nothing_is_restored_where_nothing_was_committed(store):
    assert resumed(store, Draw(store)).num_chunks == 0
    assert RoundCheckpoint(None, WORK).drawn_at() is None


def test_what_came_in_is_committed_whatever_ends_it(store):
    def interrupted() -> None:
        collector, book = RowCollector(99, WORK.log_m), RoundCheckpoint(store, WORK)
        with book.keeping(collector):
            collector.add(next(Draw(store)([0])))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.round(0).chunks == 1
    assert not store.round(0).complete


def test_commits_are_as_seldom_as_they_are_dear(store, monkeypatch):
    clock = iter([float(tick) for tick in range(100)])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    commits = []
    monkeypatch.setattr(store, "commit_round", lambda *given: commits.append(given))
    collector, book = RowCollector(99, WORK.log_m), RoundCheckpoint(store, WORK)
    for _ in range(30):  # a look at the clock is a second here, and a commit takes some two: the next is 40 later
        book.note(collector)
    assert len(commits) == 1


@pytest.mark.parametrize(
    "harm", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-20])], ids=["gone", "cut"]
)
def test_a_damaged_shard_is_drawn_again(store, harm):
    before = gathered(store, range(4))
    harm(Path(store.path(before.shards[2].path)))
    draw = Draw(store)
    assert resumed(store, draw).found().tobytes() == before.found().tobytes()
    assert draw.drawn == [2]


def test_a_damaged_shard_that_comes_out_otherwise_is_refused(store):
    path = Path(store.path(gathered(store, range(3)).shards[1].path))
    path.unlink()
    other = Draw(store, dataclasses.replace(WORK, seed=4))
    with pytest.raises(InputError, match=r"chunk-000001.parquet.* gives different rows than the manifest says"):
        resumed(store, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 4), ("chunk_size", 51), ("log_m", 2.0), ("pool_size", 99)],
)
def test_a_round_goes_on_with_the_same_work_only(store, name, value):
    gathered(store, range(2))
    changed = dataclasses.replace(WORK, **{name: value})
    with pytest.raises(InputError, match=f"{name}=.*: the round in .* was begun with"):
        RoundCheckpoint(store, changed).restore(RowCollector(9, changed.log_m), Draw(store))


def test_a_complete_round_says_so(store):
    collector, book = gathered(store, range(2)), RoundCheckpoint(store, WORK)
    budget = Budget(max_proposals=100)
    assert not book.is_complete(20, budget)
    book.commit(collector, result_of(wanted=20, budget=budget))
    assert book.is_complete(20, budget)
    assert book.is_complete(20, Budget())
    assert not book.is_complete(21, budget)
    again, later = RowCollector(20, WORK.log_m), RoundCheckpoint(store, WORK)
    later.restore(again, Draw(store))
    with later.keeping(again):
        pass  # nothing came in, and nothing is committed over it
    assert later.is_complete(20, budget)
    # what a budget ended is complete for that budget, and goes on with a larger one
    book.commit(collector, result_of(dataclasses.replace(GOOD_REPORT, shortfall=5), wanted=20, budget=budget))
    assert book.is_complete(20, budget)
    assert not book.is_complete(20, Budget(max_proposals=200))


def test_a_forgotten_round_is_drawn_anew(store):
    gathered(store, range(2))
    assert RoundCheckpoint(store, WORK).drawn_at() == WORK.log_m
    RoundCheckpoint(store, WORK).forget()
    assert resumed(store, Draw(store)).num_chunks == 0


def test_an_interrupt_at_any_line_leaves_a_chunk_in_or_out(store, tmp_path):
    """KeyboardInterrupt at each line of taking a record: what is committed then is a whole number of chunks."""
    records = list(Draw(store)(range(3)))
    whole = gathered(RunStore(tmp_path / "whole"), range(3))
    seen = set()
    for line in itertools.count():
        at = RunStore(tmp_path / f"at-{line}")
        shutil.copytree(store.path("rounds"), at.path("rounds"))
        collector, book = RowCollector(10**6, WORK.log_m), RoundCheckpoint(at, WORK)
        for record in records[:2]:
            collector.add(record)
        if not interrupted_at(line, lambda: collector.add(records[2])):  # noqa: B023
            break
        book.commit(collector)
        collector = resumed(at, Draw(at))
        seen.add(collector.num_chunks)
        for record in Draw(at)(range(collector.num_chunks, 3)):
            collector.add(record)
        assert collector.found().tobytes() == whole.found().tobytes()
        assert collector.scored == whole.scored
    assert line > 10
    assert seen == {2}  # the seal is its last line


def interrupted_at(line: int, call) -> bool:
    """Call it, with a KeyboardInterrupt before the line-th line of collector.py; False where it has fewer."""
    lines = itertools.count()

    def trace(frame, event, _):
        if not frame.f_code.co_filename.endswith("collector.py"):
            return None
        if event == "line" and next(lines) == line:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False
