"""The k rows with the highest keys of a finite pool, drawn in this process."""

import numpy as np
import pytest
import torch
from in_process import CHUNK, without_ray
from torch.distributions import Normal

from rsf_dist.config.sampling import Budget
from rsf_dist.errors import InputError, StatisticalRefusal
from rsf_dist.proposals import DatasetProposal, DistributionProposal
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.round_draw import RoundDraw
from rsf_dist.sampling.sampler import RejectionSampler
from rsf_dist.sampling.top_k import _LOWEST_LOG_M, _threshold_candidates
from rsf_dist.storage.run_store import RunStore

SIZE = 330  # six chunks of 50 rows and one of 30
POOL = DatasetProposal({"l": torch.linspace(-4, 4, SIZE, dtype=torch.float64)})


class Column:
    """The log ratio is the column l; half of the rows, those below 0, cannot be accepted where `half` is set."""

    log_bound = None

    def __init__(self, half=False):
        self.half = half

    def log_ratio(self, batch):
        return torch.where(batch["l"] < 0, -torch.inf, batch["l"]) if self.half else batch["l"]


@pytest.fixture
def drawn(monkeypatch):
    return without_ray(monkeypatch)


def sampler(ratio=None, store=None, budget=None, proposal=POOL):
    return RejectionSampler(proposal, ratio or Column(), seed=2, chunk_size=CHUNK, store=store, budget=budget)


def all_keys(ratio):
    work = ChunkWork(POOL, ratio, _LOWEST_LOG_M, CHUNK, seed=2, pool_size=SIZE)
    return np.concatenate([work(chunk).rows["accept_key"].numpy() for chunk in range(7)])


@pytest.mark.parametrize("k", [1, 30, 329])
def test_the_rows_are_those_with_the_highest_keys(k, drawn):
    keys = np.sort(all_keys(Column()))[::-1]
    top = sampler().top_k(k)
    assert np.sort(top.ledger["accept_key"])[::-1].tolist() == keys[:k].tolist()
    assert top.report.log_m == keys[k]
    assert top.report.log_m_source == f"key {k + 1} of 330"
    assert (top.report.num_proposed, top.report.num_accepted, top.report.shortfall) == (SIZE, k, 0)
    assert drawn in ([*range(7)], 2 * [*range(7)])  # every chunk, once more where the first threshold kept too few


def test_rows_are_drawn_again_where_the_pilot_expected_too_much(drawn, monkeypatch):
    """log M = 3 keeps fewer than 160 of the 165 rows whose ratio is above 0; the lowest log M keeps them all."""
    monkeypatch.setattr("rsf_dist.sampling.top_k.key_quantile", lambda keys, acceptance: 3.0)
    top = sampler(Column(half=True)).top_k(160)
    assert len(top.ledger) == 160
    assert drawn == [*range(7), *range(7)]


def test_not_more_rows_than_have_a_ratio_above_zero(drawn):
    assert len(sampler(Column(half=True)).top_k(164).ledger) == 164
    with pytest.raises(StatisticalRefusal, match="165 of 330 proposals have a ratio above 0, not more than k=165"):
        sampler(Column(half=True)).top_k(165)


def test_time_must_last_for_the_whole_pool(drawn):
    with pytest.raises(StatisticalRefusal, match="time was up after 50 of 330 proposals"):
        sampler(budget=Budget(max_seconds=1e-9)).top_k(5)
    assert drawn == [0]


def test_an_interrupted_draw_goes_on_at_the_threshold_that_its_chunks_were_drawn_at(drawn, tmp_path, monkeypatch):
    """The first threshold had been given up when the run was interrupted: its chunks are not drawn a third time."""
    monkeypatch.setattr("rsf_dist.sampling.top_k.key_quantile", lambda keys, acceptance: 3.0)
    store, ratio = RunStore(tmp_path), Column(half=True)
    undisturbed = sampler(ratio).top_k(160)
    drawn.clear()
    run, attempts = RoundDraw.run, []

    def interrupted(draw, end, progress):
        attempts.append(draw.plan.choice.log_m)
        run(draw, end if len(attempts) == 1 else 3, progress)
        if len(attempts) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RoundDraw, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sampler(ratio, store).top_k(160)
    assert (attempts, drawn) == ([3.0, _LOWEST_LOG_M], [*range(7), 0, 1, 2])
    monkeypatch.setattr(RoundDraw, "run", run)
    again = sampler(ratio, store).top_k(160)
    assert again.fingerprint == undisturbed.fingerprint
    assert drawn == [*range(7), *range(7)]


@pytest.mark.parametrize(
    ("proposal", "k", "num_proposals", "refusal"),
    [
        (
            DistributionProposal(Normal(0.0, 1.0)),
            5,
            None,
            "num_proposals=None: is required, because this proposal is no finite pool",
        ),
        (POOL, 5, 331, "num_proposals=331: the pool has 330 rows"),
        (POOL, 330, None, r"k=330: must be in \(0, 330\)"),
        (POOL, 0, None, r"k=0: must be in \(0, 330\)"),
        (POOL, 100, 100, r"k=100: must be in \(0, 100\)"),
    ],
)
def test_what_cannot_be_asked_for(proposal, k, num_proposals, refusal, drawn):
    with pytest.raises(InputError, match=refusal):
        sampler(proposal=proposal).top_k(k, num_proposals)
    assert drawn == []


def test_the_first_threshold_keeps_four_standard_errors_more_than_asked_for():
    # of 1,000 keys a share .1 + 4 sqrt(.1/1000) + .004 = .144 is kept: the 145th highest of 0, ..., 999 is 855
    assert list(_threshold_candidates(np.arange(1000.0), 0.1)) == [pytest.approx(855, abs=1), _LOWEST_LOG_M]
    # half of the keys are -inf: a share above a half has no threshold
    keys = np.where(np.arange(1000) < 500, -np.inf, np.arange(1000.0))
    assert list(_threshold_candidates(keys, 0.6)) == [_LOWEST_LOG_M]
