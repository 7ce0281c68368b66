import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from rsf_dist.config.model import ModelConfig
from rsf_dist.data.batch import num_rows
from rsf_dist.errors import InputError
from rsf_dist.models.networks import in_pieces
from rsf_dist.models.spec import NetworkSpec
from rsf_dist.proposals import DistributionProposal
from rsf_dist.ratios import DensityRatio, LabelShiftRatio, ProductRatio, VerifierRatio
from rsf_dist.ratios.base import ScreeningRatio
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.diagnostics import Statistics

LOG_M = 1.0
STREAMS = Streams(3)


class Column:
    """Log ratios from a column, with the bound given; counts the rows that it is shown."""

    def __init__(self, name, log_bound=None):
        self.name, self.log_bound = name, log_bound
        self.seen = []

    def log_ratio(self, batch):
        self.seen.append(num_rows(batch))
        return batch[self.name]


class Whole:
    """A product that scores every row in full: what screening is held against."""

    log_bound = None

    def __init__(self, product):
        self.product = product

    def log_ratio(self, batch):
        return self.product.log_ratio(batch)


class Rows:
    """Log ratios l1 and l2 <= 1/2, drawn anew in each chunk."""

    def sample(self, n, rng):
        generator = rng.torch()
        first = torch.randn(n, generator=generator, dtype=torch.float64)
        return {"l1": first, "l2": 0.5 - torch.rand(n, generator=generator, dtype=torch.float64)}


class Logits:
    """A real network on its column: log r = 2 tanh(logit)."""

    log_bound = 2.0

    def __init__(self, name, channels):
        self.network = NetworkSpec(ModelConfig(name=name, width=8, dropout=0.0), 1, channels).build(seed=1).eval()

    def log_ratio(self, batch):
        return 2 * in_pieces(self.network, batch["rows"])[:, 0].double().tanh()


class NetworkRows:
    """Rows that such a network reads, with the log ratio of a cheap factor."""

    def __init__(self, name):
        self.name = name

    def sample(self, n, rng):
        generator = rng.torch()
        cheap = torch.randn(n, generator=generator, dtype=torch.float64)
        if self.name == "mlp":
            return {"rows": torch.randn(n, 3, generator=generator), "l1": cheap}
        return {"rows": torch.randint(256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8), "l1": cheap}


def columns(**values):
    return {name: torch.tensor(column, dtype=torch.float64) for name, column in values.items()}


def screened(factors, batch, exponentials, log_m=LOG_M):
    return ProductRatio(factors).screened(batch, torch.tensor(exponentials, dtype=torch.float64), log_m)


def test_log_ratios_add_up():
    batch = columns(l1=[0.5, -1.0, -math.inf], l2=[0.25, 2.0, 0.0], l3=[0.0, 1.0, 9.0])
    found = ProductRatio([Column("l1"), Column("l2"), Column("l3")]).log_ratio(batch)
    assert found.dtype == torch.float64
    assert found.tolist() == [0.75, 2.0, -math.inf]


def test_the_bound_is_the_sum_of_bounds_where_each_has_one():
    assert ProductRatio([Column("a", 1.0), Column("b", -0.25), Column("c", 0.0)]).log_bound == 0.75
    assert ProductRatio([Column("a", 1.0), Column("b")]).log_bound is None
    assert isinstance(ProductRatio([Column("a"), Column("b")]), ScreeningRatio)


@pytest.mark.parametrize("factors", [[], [Column("l1")]])
def test_fewer_than_two_factors_are_refused(factors):
    with pytest.raises(InputError, match=r"^factors=\d: a product needs two or more; use the factor itself"):
        ProductRatio(factors)


def test_a_row_is_left_out_exactly_where_its_reach_is_below_m():
    # b = .5, log M = 1: l1 + .5 + E <= 1, so a row with l1 = -1 needs E > 1.5. The slack for rounding is 1e-6.
    exponentials = [1.5 - 1e-5, 1.5 - 2e-6, 1.5 - 5e-7, 1.5, 1.5 + 1e-9, 9.0]
    costly = Column("l2", 0.5)
    found = screened([Column("l1", 9.0), costly], columns(l1=[-1.0] * 6, l2=[0.25] * 6), exponentials)
    assert found.scored.tolist() == [False, False, True, True, True, True]
    assert found.log_ratio.tolist() == [-math.inf, -math.inf, -0.75, -0.75, -0.75, -0.75]
    assert costly.seen == [4]


def test_the_chance_of_being_scored_by_hand():
    # log P(E > log M - l1 - b) = min(0, l1 + b - log M), with b = .5 and log M = 1: -1.5, -.5, 0, 0; left out: 0.
    batch = columns(l1=[-1.0, 0.0, 0.5, 7.0, -3.0], l2=[0.0] * 5)
    found = screened([Column("l1"), Column("l2", 0.5)], batch, [9.0, 9.0, 9.0, 9.0, 0.1])
    assert found.scored.tolist() == [True, True, True, True, False]
    assert found.log_inclusion.tolist() == pytest.approx([-1.5, -0.5, 0.0, 0.0, 0.0], abs=2e-6)


def test_later_bounds_add_up_and_each_factor_sees_fewer_rows():
    # Bounds 1 and .5 are still to come after l1: it needs l1 + 1.5 + E > 1. After l2 it is l1 + l2 + .5 + E > 1.
    second, third = Column("l2", 1.0), Column("l3", 0.5)
    batch = columns(l1=[-2.0, -1.0, -1.0, 0.0], l2=[1.0, -1.0, 1.0, 1.0], l3=[0.5, 0.5, -1.0, 0.5])
    found = screened([Column("l1"), second, third], batch, [1.0] * 4)
    # first row: -2 + 1.5 + 1 = .5; second: -1 + 1.5 + 1 = 1.5, then -2 + .5 + 1 = -.5; third: 0 + .5 + 1 = 1.5
    assert found.log_ratio.tolist() == [-math.inf, -math.inf, -1.0, 1.5]
    assert (second.seen, third.seen) == ([3], [2])
    assert found.log_inclusion.tolist() == pytest.approx([0.0, 0.0, -0.5, 0.0], abs=2e-6)


def test_without_a_bound_only_rows_of_ratio_zero_are_left_out():
    costly = Column("l2")
    batch = columns(l1=[-math.inf, -500.0, math.nan, math.inf], l2=[1.0, 1.0, 1.0, 1.0])
    found = screened([Column("l1"), costly], batch, [1.0] * 4)
    assert found.scored.tolist() == [False, True, True, True]
    assert costly.seen == [3]
    assert found.log_ratio[0] == -math.inf
    assert found.log_ratio[1] == -499.0
    assert found.log_ratio[2].isnan()
    assert found.log_ratio[3] == math.inf
    assert ProductRatio([Column("l1"), Column("l2")]).log_ratio(batch).tolist()[:2] == [-math.inf, -499.0]


def test_what_is_no_ratio_reaches_the_sampler():
    batch = columns(l1=[math.nan, math.inf, 0.0], l2=[0.0, 0.0, math.nan])
    found = screened([Column("l1"), Column("l2", 0.5)], batch, [9.0] * 3)
    assert found.scored.all()
    assert (~found.log_ratio.isfinite()).all()


def test_a_factor_that_rounds_above_its_bound_loses_no_row():
    # l2 exceeds b = .5 by half of the slack; the row's key -1 + .5000005 + 1.5 is above log M = 1 by as much.
    batch = columns(l1=[-1.0], l2=[0.5 + 5e-7])
    found = screened([Column("l1"), Column("l2", 0.5)], batch, [1.5])
    assert found.log_ratio.item() + 1.5 > LOG_M


def work(ratio, proposal=None, log_m=LOG_M, chunk_size=2000):
    return ChunkWork(proposal or Rows(), ratio, log_m, chunk_size, seed=3)


def test_rows_and_keys_are_those_of_scoring_everything():
    product = ProductRatio([Column("l1"), Column("l2", 0.5)])
    quick, whole = work(product)(0), work(Whole(product))(0)
    assert quick.statistics.num_screened_out > 500
    assert num_rows(quick.rows) > 100
    assert quick.rows.keys() == whole.rows.keys()
    assert all(torch.equal(quick.rows[name], whole.rows[name]) for name in quick.rows)


@pytest.mark.parametrize(("name", "channels"), [("mlp", 3), ("small_cnn", 1)])
def test_a_network_gives_the_survivors_the_same_keys_to_the_last_bit(name, channels):
    product = ProductRatio([Column("l1", 9.0), Logits(name, channels)])
    quick, whole = (work(ratio, NetworkRows(name), 2.0, 600)(0) for ratio in (product, Whole(product)))
    assert 100 < quick.statistics.num_screened_out < 600
    assert num_rows(quick.rows) > 20
    assert quick.rows["accept_key"].numpy().tobytes() == whole.rows["accept_key"].numpy().tobytes()
    assert torch.equal(quick.rows["index"], whole.rows["index"])


@pytest.mark.parametrize(("name", "channels"), [("mlp", 3), ("small_cnn", 1)])
def test_a_network_to_which_no_row_is_left(name, channels):
    # l1 + 2 + E <= 1000 whatever E: no row survives
    chunk = work(ProductRatio([Column("l1", 9.0), Logits(name, channels)]), NetworkRows(name), 1000.0, 50)(0)
    assert num_rows(chunk.rows) == 0
    assert chunk.statistics.num_screened_out == 50


def test_statistics_know_what_was_left_out():
    product = ProductRatio([Column("l1"), Column("l2", 0.5)])
    quick, whole = work(product)(0).statistics, work(Whole(product))(0).statistics
    for name in ("num_scored", "num_accepted", "num_capped", "num_nonfinite", "max_log_ratio"):
        assert getattr(quick, name) == getattr(whole, name), name
    # whatever exceeds M is scored; so what TV and the cap are taken from is exact
    assert quick.num_capped > 0
    assert quick.log_sum_excess == whole.log_sum_excess
    above = [one for one in whole.top if one > LOG_M]
    assert list(quick.top[: len(above)]) == above
    found = screened_rows(product, 2000, LOG_M)
    assert (quick.num_screened_out, whole.num_screened_out) == (int((~found.scored).sum()), 0)


def screened_rows(product, n, log_m):
    """Return the product's screened rows of chunk 0 of `work`."""
    exponentials = torch.from_numpy(STREAMS.numpy().exponential(size=n))
    return product.screened(Rows().sample(n, STREAMS), exponentials, log_m)


def test_the_largest_ratio_below_m_is_that_of_the_rows_scored():
    # l = -.9 has E = .1 and reach -.9 + .5 + .1 <= 1: left out; l = -1 has E = 9
    product = ProductRatio([Column("l1"), Column("l2", 0.5)])
    found = product.screened(columns(l1=[-0.9, -1.0], l2=[0.0, 0.0]), torch.tensor([0.1, 9.0]).double(), LOG_M)
    left_out = int((~found.scored).sum())
    statistics = Statistics.of(
        found.log_ratio.numpy(), np.array([False, True]), LOG_M, None, found.log_inclusion.numpy(), left_out
    )
    assert statistics.num_screened_out == 1
    assert statistics.max_log_ratio == -1.0
    assert statistics.top == (-1.0, -math.inf)


def normal_sums(n, log_m):
    """n screened rows: l1 ~ N(0, 1), l2 = 1/2 - U, and the truth: E[r] = e^(1/2) (e^(1/2) - e^(-1/2))."""
    product = ProductRatio([Column("l1"), Column("l2", 0.5)])
    statistics = work(product, log_m=log_m, chunk_size=n)(0).statistics
    mean = math.exp(0.5) * (math.exp(0.5) - math.exp(-0.5))
    mean_square = math.exp(2) * (math.exp(1) - math.exp(-1)) / 2
    return product, statistics, mean, mean_square


def test_sums_over_proposals_are_without_bias():
    """n = 100,000 rows at log M = 3: the estimate of E[r] has the error sqrt(E[r^2/pi] - E[r]^2)/sqrt(n).

    With pi = min(1, e^(l1 + 1/2 - log M)), r^2/pi <= r^2 + r M, so the error is below
    sqrt((8.7 + 1.72 * 20.1 - 3)/n) = .0201; 3.29 of them, false-alarm rate 1e-3. Without the weights the rows that were
    left out are missing: that must fail.
    """
    n, log_m = 100_000, 3.0
    product, statistics, mean, mean_square = normal_sums(n, log_m)
    error = math.sqrt((mean_square + mean * math.exp(log_m) - mean**2) / n)
    assert statistics.num_screened_out > n / 2
    assert abs(math.exp(statistics.log_mean_ratio) - mean) < 3.29 * error

    found = screened_rows(product, n, log_m)
    unweighted = Statistics.of(found.log_ratio.numpy(), np.zeros(n, bool), log_m)
    assert mean - math.exp(unweighted.log_mean_ratio) > 20 * error


def test_the_error_of_the_mean_ratio_covers_what_screening_adds():
    """The spread of E_q[r] over 200 seeds of 500 rows is what mean_ratio_error says, within a fifth.

    An sd from 200 draws has a relative error of 1/sqrt(400) = .05, heavy tails perhaps twice that.
    """
    product = ProductRatio([Column("l1"), Column("l2", 0.5)])
    found = [work(product, log_m=3.0, chunk_size=500)(chunk).statistics for chunk in range(200)]
    spread = np.std([math.exp(one.log_mean_ratio) for one in found])
    claimed = np.mean([math.exp(one.log_mean_ratio) * one.mean_ratio_error for one in found])
    assert claimed == pytest.approx(spread, rel=0.2)


def test_screened_statistics_merge():
    product = ProductRatio([Column("l1"), Column("l2", 0.5)])
    parts = [work(product)(chunk).statistics for chunk in range(3)]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.num_screened_out == sum(part.num_screened_out for part in parts)
    sums = np.logaddexp.reduce([part.log_sum_ratio for part in parts])
    assert merged.log_sum_ratio == pytest.approx(sums)
    assert Statistics.from_json(merged.to_json()) == merged
    assert merged.merge(Statistics()) == merged


def test_a_product_of_products():
    inner = ProductRatio([Column("l2", 0.5), Column("l3", 0.25)])
    batch = columns(l1=[-2.0, 0.0], l2=[0.5, 0.5], l3=[0.25, 0.0])
    found = screened([Column("l1", 1.0), inner], batch, [1.0, 1.0])
    assert found.log_ratio.tolist() == [-math.inf, 0.5]
    assert ProductRatio([Column("l1", 1.0), inner]).log_bound == 1.75


def test_real_factors():
    # N(0, 1) over N(0, 2) at 0 and 3: log 2 and log 2 - 27/8; label 1 has log 1.5; the check passes x < 2.
    wide = DistributionProposal(Normal(0.0, 2.0))
    factors = [
        VerifierRatio(lambda batch: batch["x"] < 2),
        LabelShiftRatio([0.25, 0.75], [0.5, 0.5]),
        DensityRatio(Normal(0.0, 1.0), wide),
    ]
    ratio = ProductRatio(factors)
    found = ratio.log_ratio({"x": torch.tensor([0.0, 3.0]), "label": torch.tensor([1, 1])})
    assert found.tolist() == pytest.approx([math.log(3), -math.inf])
    assert ratio.log_bound == pytest.approx(math.log(3))


def test_a_factor_of_another_shape_is_refused():
    with pytest.raises(
        InputError,
        match=r"^factors\.1=.*\[2, 1\]: log_ratio must have shape \[2\]; give one number",
    ):
        ProductRatio([Column("l1"), Column("wide")]).log_ratio(columns(l1=[0.0, 0.0], wide=[[0.0], [0.0]]))


def test_factors_that_can_be_written_are(tmp_path):
    prior = LabelShiftRatio([0.25, 0.75], [0.5, 0.5])
    ProductRatio([Column("l1"), prior, ProductRatio([prior, Column("l1")])]).save(tmp_path)
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json"))
    assert written == ["factor-1/ratio.json", "factor-2/factor-0/ratio.json"]
