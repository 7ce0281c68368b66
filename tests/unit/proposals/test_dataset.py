import pytest
import torch
from scipy import stats

from rsf_dist.errors import InputError
from rsf_dist.proposals import DatasetProposal, Proposal
from rsf_dist.proposals.base import FiniteProposal
from rsf_dist.runtime.rng import Streams

ROWS = {"x": torch.arange(6.0), "label": torch.arange(6) % 2}
POOL = DatasetProposal(ROWS)


def test_rows_stay_whole():
    drawn = POOL.sample(100, Streams(0))
    assert drawn["x"].shape == drawn["label"].shape == (100,)
    assert (drawn["x"].long() % 2 == drawn["label"]).all()
    assert isinstance(POOL, Proposal)
    assert isinstance(POOL, FiniteProposal)


def test_rows_are_drawn_uniformly_with_replacement():
    """A chi-square test of 6,000 draws from 6 rows; false-alarm rate 1e-3. 100 draws of 6 rows must repeat some."""
    counts = torch.bincount(POOL.sample(6000, Streams(1))["x"].long(), minlength=6)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_equal_streams_draw_equal_rows():
    first, second, other = (POOL.sample(50, streams)["x"] for streams in (Streams(1), Streams(1), Streams(1, chunk=1)))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_no_rows_may_be_asked_for():
    assert POOL.sample(0, Streams(0))["x"].shape == (0,)


def test_taking_goes_through_the_pool_once():
    taken = [POOL.take(start, 4) for start in (0, 4)]
    assert torch.cat([rows["x"] for rows in taken]).tolist() == ROWS["x"].tolist()
    assert taken[1]["label"].tolist() == [0, 1]
    assert POOL.num_rows == 6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "at least one column"),
        ({"x": torch.zeros(0)}, "must not be empty"),
        ({"x": torch.zeros(3), "label": torch.zeros(2)}, "columns differ in length"),
        ({"x": torch.tensor(1.0)}, "columns differ in length"),
    ],
)
def test_pools_that_are_refused(rows, message):
    with pytest.raises(InputError, match=message) as caught:
        DatasetProposal(rows)
    assert caught.value.field == "rows"
    assert caught.value.remedy
