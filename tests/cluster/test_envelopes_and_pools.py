"""The sampler goes beyond a fixed M: growing envelopes, products that screen, finite pools."""

import sys
import time

import numpy as np
import pytest
import ray
import torch
from torch.distributions import Normal

import rsf_dist as rsf
from rsf_dist.data.arrow import from_table
from rsf_dist.data.batch import num_rows
from rsf_dist.sampling.chunk import ChunkWork

pytestmark = pytest.mark.ray
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actors cannot import a test module

PROPOSAL = rsf.DistributionProposal(Normal(0.0, 2.0))
UNBOUNDED = rsf.DensityRatio(lambda x: -(x**2) / 2, PROPOSAL)  # its supremum is at 0; nobody tells it
ONE, TWO = (rsf.PoolConfig(min_actors=actors, max_actors=actors) for actors in (1, 2))


def rows_of(accepted: rsf.AcceptedSet) -> dict[str, np.ndarray]:
    return {name: column.numpy() for name, column in from_table(accepted.head(10**9)).items()}


def growing(pool: rsf.PoolConfig, store: rsf.RunStore | None = None) -> rsf.AcceptedSet:
    """A pilot of 4 rows, so that M must grow."""
    envelope = rsf.AdaptiveEnvelope(num_pilot=4)
    return rsf.RejectionSampler(PROPOSAL, UNBOUNDED, envelope, seed=3, chunk_size=500, pool=pool, store=store).sample(
        3_000
    )


def test_adaptive_rows_are_those_of_the_last_m_from_the_start(tmp_path) -> None:
    store = rsf.RunStore(tmp_path)
    grown, stored = growing(ONE), growing(TWO, store)
    assert grown.fingerprint == stored.fingerprint == rsf.AcceptedSet.load(store).fingerprint
    report = grown.report
    drawn_at = store.manifest().rounds[0].drawn_at_log_m
    assert drawn_at < report.log_m == report.max_log_ratio
    assert report.num_capped == 0
    rows, loaded = rows_of(grown), rows_of(rsf.AcceptedSet.load(store))
    assert all(np.array_equal(rows[name], loaded[name]) for name in rows)
    assert (rows["weight"] == 1).all()
    fixed = rsf.RejectionSampler(PROPOSAL, UNBOUNDED, rsf.FixedEnvelope(report.log_m), seed=3, chunk_size=500)
    assert np.array_equal(rows["x"], rows_of(fixed.sample(3_000))["x"])


class Bounded:
    """A ratio whose bound is known, counting what it is shown."""

    log_bound = 0.0

    def log_ratio(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return -((batch["x"].double() - 1) ** 2)


class Unscreened:
    """The same product, every factor scored on every row."""

    def __init__(self, factors: list):
        self.factors = factors
        self.log_bound = sum(factor.log_bound for factor in factors)

    def log_ratio(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(factor.log_ratio(batch) for factor in self.factors)


def test_a_product_that_screens_accepts_the_same_rows() -> None:
    factors = [rsf.DensityRatio(Normal(0.0, 1.0), PROPOSAL), Bounded()]
    screened, plain = (
        rsf.RejectionSampler(PROPOSAL, ratio, rsf.CertifiedEnvelope(), chunk_size=1000).sample(2_000)
        for ratio in (rsf.ProductRatio(factors), Unscreened(factors))
    )
    assert screened.fingerprint == plain.fingerprint
    assert 0.3 < screened.report.num_screened_out / screened.report.num_scored < 1
    assert plain.report.num_screened_out == 0
    # the mean ratio from the survivors against that from all: some 8,000 proposals, ESS about a third of them
    assert screened.report.ess_fraction == pytest.approx(plain.report.ess_fraction, rel=0.1)
    assert screened.report.acceptance_predicted == pytest.approx(plain.report.acceptance_predicted, rel=0.1)
    raised = screened.rethreshold(screened.report.log_m + 0.5).report
    assert 0 < raised.num_screened_out < raised.num_scored


def test_top_k_of_a_pool_are_its_highest_keys() -> None:
    pool = rsf.DatasetProposal({"x": torch.randn(3_333, generator=torch.Generator().manual_seed(0)) * 2})
    ratio = rsf.RewardRatio(lambda batch: -(batch["x"] ** 2))
    found = rsf.RejectionSampler(pool, ratio, chunk_size=500, pool=TWO).top_k(200)
    # every row once, in this process: seven chunks, the last one of 333 rows
    chunks = [ChunkWork(pool, ratio, -1e300, 500, seed=0, pool_size=3_333)(chunk).rows for chunk in range(7)]
    keys = torch.cat([rows["accept_key"] for rows in chunks])
    x = torch.cat([rows["x"] for rows in chunks])
    assert sum(map(num_rows, chunks)) == 3_333
    best = keys.argsort(descending=True)
    assert np.array_equal(rows_of(found)["x"], x[best[:200].sort().values].numpy())
    assert found.report.log_m == keys[best[200]]
    assert (found.report.num_accepted, found.report.num_proposed) == (200, 3_333)
    with pytest.raises(rsf.InputError, match="must be in"):
        rsf.RejectionSampler(pool, ratio).top_k(3_333)


def test_top_k_takes_almost_the_whole_pool_too() -> None:
    pool = rsf.DatasetProposal({"x": torch.arange(100.0)})
    even = rsf.VerifierRatio(lambda batch: batch["x"] % 2 == 0)
    assert set(rows_of(rsf.RejectionSampler(pool, even, chunk_size=30).top_k(49))["x"]) < set(range(0, 100, 2))
    with pytest.raises(rsf.StatisticalRefusal, match="50 of 100 proposals have a ratio above 0, not more than k=50"):
        rsf.RejectionSampler(pool, even, chunk_size=30).top_k(50)


def test_top_k_is_refused_where_time_ends_before_the_pool() -> None:
    pool = rsf.DatasetProposal({"x": torch.arange(20_000.0)})
    slow = rsf.RewardRatio(Slow(), max_score=0.0)
    budget = rsf.Budget(max_seconds=0.5)
    with pytest.raises(rsf.StatisticalRefusal, match=r"time was up after .* of 20,000 proposals"):
        rsf.RejectionSampler(pool, slow, rsf.FixedEnvelope(0.0, num_pilot=1), chunk_size=500, budget=budget).top_k(20)
    with pytest.raises(rsf.InputError, match="the pool has 20,000 rows"):
        rsf.RejectionSampler(pool, slow).top_k(20, 20_001)


class Slow:
    """A score of 0, at half a second a chunk."""

    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        time.sleep(0.5)
        return torch.zeros(num_rows(batch))
