"""Rejection from a pool, each row of which is read once, and the best k of it; drawn in this process."""

import numpy as np
import pytest
import torch
from in_process import CHUNK, without_ray
from scipy import stats

from rsf_dist.config.sampling import Budget
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError, Shortfall, StatisticalRefusal
from rsf_dist.proposals import DatasetProposal, PoolProposal
from rsf_dist.ratios import VerifierRatio
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.envelope import CertifiedEnvelope, FixedEnvelope
from rsf_dist.sampling.sampler import RejectionSampler
from rsf_dist.sampling.top_k import TopKEnvelope
from rsf_dist.storage.run_store import RunStore

SIZE = 330
"""Six chunks of 50 rows and one of 30."""


def pool_of(log_ratio: torch.Tensor) -> PoolProposal:
    """A pool of black images whose column `l` is their log ratio."""
    n = len(log_ratio)
    images = torch.zeros(n, 1, 1, 1, dtype=torch.uint8)
    return PoolProposal(ImageSet(images, torch.arange(n) % 2, ("even", "odd"), {"l": log_ratio.double()}))


class Column:
    """The log ratio is the column l."""

    log_bound = None

    def log_ratio(self, batch):
        return batch["l"]


EVEN = VerifierRatio(lambda batch: batch["label"] == 0, columns=["label"])
POOL = pool_of(torch.zeros(SIZE)).shuffled(Streams(0))


@pytest.fixture
def drawn(monkeypatch):
    return without_ray(monkeypatch)


def sampler(pool=POOL, ratio=EVEN, envelope=None, **options):
    return RejectionSampler(pool, ratio, envelope or CertifiedEnvelope(60), seed=2, chunk_size=CHUNK, **options)


def accepted_of(work: ChunkWork, chunks: int) -> list[int]:
    return torch.cat([work(chunk).rows["base_index"] for chunk in range(chunks)]).tolist()


def test_a_verifier_accepts_every_row_that_passes_once_and_no_other(drawn):
    found = sampler().sample(165)  # the 165 even ones of 330
    assert (found.report.num_accepted, found.report.num_scored, found.report.shortfall) == (165, SIZE, 0)
    assert drawn == list(range(7))
    rows = accepted_of(sampler().plan().work, 7)
    assert sorted(rows) == list(range(0, SIZE, 2))
    assert rows != sorted(rows)  # in the order of the seed


def test_drawn_with_replacement_the_same_rows_come_again(drawn):
    """The negative control: of 165 draws from 165 rows only about 1 - 1/e = 63 % are different."""
    again = DatasetProposal(dict(POOL.take(0, SIZE)))
    rows = accepted_of(sampler(again).plan().work, 7)
    assert len(set(rows)) < 0.75 * len(rows)


def test_sampling_stops_at_the_rows_wanted_and_reads_no_further(drawn):
    found = sampler().sample(20)
    assert found.report.shortfall == 0
    assert found.report.num_proposed <= CHUNK * len(drawn) < SIZE
    assert sampler().sample(20).fingerprint == found.fingerprint
    other = sampler(pool_of(torch.zeros(SIZE)).shuffled(Streams(1)))
    assert other.sample(20).fingerprint != found.fingerprint  # another order


def test_a_pool_that_ends_short_says_what_to_do(drawn):
    with pytest.raises(Shortfall) as caught:
        sampler().sample(166)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(
        "165 of 166 rows accepted after 330 proposals, where the pool ends; lower sampling.num_accepted to 165, lower "
        "the envelope's log M, give sampling.top_k in place of num_accepted, or keep what there is"
    )
    assert drawn == list(range(7))
    nothing = VerifierRatio(lambda batch: batch["label"] > 1, columns=["label"])
    with pytest.raises(Shortfall, match=r"^0 of 1 rows accepted after 330 proposals, where the pool ends; log M is 0 "):
        sampler(ratio=nothing).sample(1)


def test_a_part_is_kept_where_that_is_wanted(drawn):
    found = sampler(budget=Budget(on_shortfall="partial")).sample(200)
    assert (found.report.num_accepted, found.report.shortfall) == (165, 35)


def test_the_budget_ends_a_pool_early_and_only_then_says_so(drawn):
    with pytest.raises(Shortfall, match=r"after 100 proposals, where the budget ends; raise sampling\.budget"):
        sampler(budget=Budget(max_proposals=149)).sample(165)  # two whole chunks
    assert drawn == [0, 1]
    assert sampler(budget=Budget(max_proposals=330)).sample(165).report.shortfall == 0
    with pytest.raises(InputError, match=r"sampling.budget.max_proposals=49: is below one chunk of 50 proposals"):
        sampler(budget=Budget(max_proposals=49)).sample(1)


def test_a_pool_of_less_than_a_chunk_is_one(drawn):
    tiny = pool_of(torch.zeros(9))
    assert sampler(tiny).sample(5).report.num_scored == 9
    assert drawn == [0]


def test_an_interrupted_read_goes_on_after_its_last_chunk(drawn, tmp_path):
    undisturbed = sampler().sample(165)
    short = RejectionSampler(
        POOL, EVEN, CertifiedEnvelope(60), seed=2, chunk_size=CHUNK, store=RunStore(tmp_path),
        budget=Budget(max_proposals=150, on_shortfall="partial"),
    )  # fmt: skip
    short.sample(165)
    drawn.clear()
    assert sampler(store=RunStore(tmp_path)).sample(165).fingerprint == undisturbed.fingerprint
    assert drawn == [3, 4, 5, 6]


# Of 20,000 rows a tenth has ratio 9 and the others 1: r is 9 to 1, and p gives both groups the same mass.
MANY = pool_of(torch.where(torch.arange(20_000) % 10 == 0, np.log(9.0), 0.0)).shuffled(Streams(0))


def test_rejection_leaves_both_groups_their_mass_under_the_target(drawn):
    """At M = 9: 2,000 rows are kept all, and of 18,000 each with probability 1/9: 2,000 of either group."""
    work = RejectionSampler(MANY, Column(), FixedEnvelope(np.log(9.0), 60), seed=1, chunk_size=5_000).plan().work
    rare = np.array(accepted_of(work, 4)) % 10 == 0
    assert rare.sum() == 2_000
    # Binomial(18,000, 1/9): a two-sided exact test, false-alarm rate 1e-3
    assert stats.binomtest(int((~rare).sum()), 18_000, 1 / 9).pvalue > 1e-3


@pytest.mark.parametrize(
    ("k", "share"),
    [
        (1_000, 0.5),  # M is 36: a quarter of what M = 9 keeps, and as even
        (4_000, 0.5),  # M is 9
        (8_000, 0.25),  # M is 3: 2,000 rows capped, 6,000 of the 18,000
    ],
)
def test_the_top_k_are_the_rows_of_rejection_at_the_m_that_leaves_k(k, share, drawn):
    found = RejectionSampler(MANY, Column(), TopKEnvelope(k, 20_000), seed=1, chunk_size=5_000).top_k(k)
    assert found.report.num_accepted == k
    assert np.exp(found.report.log_m) == pytest.approx(min(36_000 / k, 18_000 / (k - 2_000) if k > 4_000 else 99), 0.1)
    rare = found.ledger["log_ratio"] > 1
    assert abs(rare.mean() - share) < 4 * np.sqrt(share * (1 - share) / k)


def test_the_k_highest_ratios_would_be_of_one_group_alone():
    """The negative control: without the exponential in the key, k = 1,000 rows miss half of the target's mass."""
    log_ratio = MANY.take(0, 20_000)["l"].numpy()
    assert (np.sort(log_ratio)[::-1][:1_000] > 1).mean() == 1.0


def test_top_k_does_not_depend_on_the_pools_order_but_for_chance(drawn):
    """Any row is as likely in either half of the order: 2,000 of k = 4,000, sd of a hypergeometric count 28."""
    found = RejectionSampler(MANY, Column(), TopKEnvelope(4_000, 20_000), seed=1, chunk_size=5_000).top_k(4_000)
    assert abs((found.ledger["chunk"] < 2).sum() - 2_000) < 4 * 28.3


def test_of_the_top_k_there_must_be_one_more(drawn):
    assert sampler(envelope=TopKEnvelope(164, SIZE)).top_k(164).report.num_accepted == 164
    with pytest.raises(StatisticalRefusal, match="165 of 330 proposals have a ratio above 0, not more than k=165"):
        sampler(envelope=TopKEnvelope(165, SIZE)).top_k(165)


def test_a_forecast_of_the_top_k_takes_the_pilots_quantile(drawn):
    # 60 pilot rows of ratio 1: keys are exponentials, the highest tenth of which begins near log 10
    plan = sampler(pool_of(torch.zeros(SIZE)), Column(), TopKEnvelope(33, SIZE, num_pilot=2_000)).plan()
    assert plan.choice.log_m == pytest.approx(np.log(10), abs=0.3)
    assert plan.work.pool_size == SIZE
    # no row passes: there is no such quantile, and no reason to fail
    nothing = VerifierRatio(lambda batch: batch["label"] > 1, columns=["label"])
    assert np.isfinite(sampler(ratio=nothing, envelope=TopKEnvelope(33, SIZE)).plan().choice.log_m)


def test_rows_at_random_are_as_many_different_ones_in_another_order():
    own, control = (
        POOL.shuffled(Streams(2, stage)).take(0, 100)["base_index"] for stage in (Stage.SAMPLE, Stage.CONTROL)
    )
    assert len(set(control.tolist())) == 100
    # of 100 rows of 330 another 100 at random share 30, sd 3.8; the same order would share all
    assert abs(len(set(control.tolist()) & set(own.tolist())) - 30) < 4 * 3.8
