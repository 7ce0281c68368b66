"""A pool of labelled images: each read once, in an order that is a function of the seed."""

import pickle

import pytest
import torch
from scipy import stats

from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.proposals import DatasetProposal, Pool, PoolProposal, Proposal
from rsf_dist.proposals.base import FiniteProposal, has_settable_class_prior
from rsf_dist.runtime.rng import Stage, Streams

N = 10
IMAGES = ImageSet(
    torch.arange(N, dtype=torch.uint8)[:, None, None, None].expand(N, 1, 2, 2).contiguous(),
    torch.arange(N) % 3,
    ("a", "b", "c"),
    {"age": torch.arange(N) * 7},
)
POOL = PoolProposal(IMAGES)


def grey(rows) -> list[int]:
    """The grey level of each image, which is its position in the pool."""
    return rows["image"][:, 0, 0, 0].tolist()


def read(pool: Pool, size: int) -> list[int]:
    return [row for start in range(0, pool.num_rows, size) for row in grey(pool.take(start, size))]


@pytest.mark.parametrize("size", [1, 3, 10, 99])
def test_reading_goes_through_every_row_once_whatever_the_chunks(size):
    assert read(POOL, size) == list(range(N))
    assert sorted(read(POOL.shuffled(Streams(5)), size)) == list(range(N))
    assert read(POOL.shuffled(Streams(5)), size) == read(POOL.shuffled(Streams(5)), 4)


def test_the_order_is_a_function_of_the_seed_and_of_the_stage():
    order = read(POOL.shuffled(Streams(1)), 4)
    assert order == read(PoolProposal(IMAGES).shuffled(Streams(1)), 4)
    assert order == read(POOL.shuffled(Streams(8)).shuffled(Streams(1)), 4)  # whatever the order before
    assert order != read(POOL.shuffled(Streams(2)), 4)
    assert order != read(POOL.shuffled(Streams(1, Stage.CONTROL)), 4)


def test_every_row_is_equally_often_the_first():
    """A chi-square test over 2,000 seeds; false-alarm rate 1e-3. Without shuffling it is always row 0."""
    first = torch.tensor([grey(POOL.shuffled(Streams(seed)).take(0, 1))[0] for seed in range(2_000)])
    assert stats.chisquare(torch.bincount(first, minlength=N).numpy()).pvalue > 1e-3
    unshuffled = torch.tensor([grey(POOL.take(0, 1))[0]] * 2_000)
    assert stats.chisquare(torch.bincount(unshuffled, minlength=N).numpy()).pvalue < 1e-3


def test_a_row_keeps_its_label_its_attributes_and_its_place():
    rows = POOL.shuffled(Streams(3)).take(2, 5)
    assert rows["base_index"].tolist() == grey(rows)
    assert rows["label"].tolist() == [row % 3 for row in grey(rows)]
    assert rows["age"].tolist() == [7 * row for row in grey(rows)]


def test_rows_to_learn_from_are_different_as_long_as_there_are_any():
    """8 of 10 rows drawn with replacement would all differ with probability 10!/(2! 10^8) = 0.018."""
    draws = [grey(POOL.sample(8, Streams(seed))) for seed in range(20)]
    assert all(len(set(draw)) == 8 for draw in draws)
    assert len({tuple(draw) for draw in draws}) == 20
    with_replacement = DatasetProposal({"image": IMAGES.images})
    assert any(len(set(grey(with_replacement.sample(8, Streams(seed))))) < 8 for seed in range(20))


def test_more_rows_than_the_pool_has_repeat_none_before_all_were_there():
    counts = torch.bincount(torch.tensor(grey(POOL.sample(23, Streams(0)))), minlength=N)
    assert set(counts.tolist()) == {2, 3}
    assert grey(POOL.sample(0, Streams(0))) == []
    assert grey(POOL.sample(23, Streams(0))) == grey(POOL.sample(23, Streams(0)))


def test_images_are_copied_for_the_rows_that_are_looked_at_alone(monkeypatch):
    copied = []
    monkeypatch.setattr("rsf_dist.proposals.pool.take_rows", lambda column, rows: copied.append(len(rows)) or rows)
    rows = POOL.take(0, 10)
    rows["label"], rows.select(torch.tensor([1, 4]))["image"]
    assert copied == [2]


def test_it_is_a_pool_and_knows_its_class_prior_which_nobody_can_set():
    assert isinstance(POOL, Proposal)
    assert isinstance(POOL, FiniteProposal)
    assert isinstance(POOL, Pool)
    assert POOL.class_prior.tolist() == [0.4, 0.3, 0.3]
    assert not has_settable_class_prior(POOL)
    assert not isinstance(DatasetProposal({"x": torch.zeros(3)}), Pool)


def test_it_travels_with_its_order():
    shuffled = POOL.shuffled(Streams(4))
    assert read(pickle.loads(pickle.dumps(shuffled)), 3) == read(shuffled, 3)


def test_unlabelled_images_are_refused():
    with pytest.raises(InputError, match="unlabelled images: needs labels"):
        PoolProposal(ImageSet(IMAGES.images))
