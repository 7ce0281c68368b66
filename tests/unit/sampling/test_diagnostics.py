import json

import numpy as np
import pytest
from scipy import stats

from rsf_dist.sampling.diagnostics import TOP, Statistics, acceptance_interval, target_side_bound, target_side_lower

LN2 = np.log(2.0)


def pile(seed, n=1000, log_m=0.5):
    rng = np.random.default_rng(seed)
    log_ratio = rng.normal(-0.5, 1.0, n)
    log_ratio[:3] = np.nan, np.inf, -np.inf
    keep = (log_ratio + rng.exponential(size=n) > log_m) & (log_ratio < np.inf)
    return log_ratio, keep, log_m, rng.integers(0, 4, n)


def close(left, right):
    left, right = (json.loads(one.to_json()) for one in (left, right))
    assert left.keys() == right.keys()
    for name in left:
        assert left[name] == (
            right[name] if isinstance(right[name], dict) else pytest.approx(right[name], rel=1e-12)
        ), name


def test_counts_by_hand():
    # l = -inf, -1, 0, 1, NaN, +inf at log M = 0: 6 scored, one (l = 1) above M, two not finite.
    log_ratio = np.array([-np.inf, -1.0, 0.0, 1.0, np.nan, np.inf])
    keep = np.array([False, True, False, True, False, False])
    found = Statistics.of(log_ratio, keep, 0.0, np.array([3, 3, 3, 5, 5, 5]))
    assert (found.num_scored, found.num_accepted, found.num_capped, found.num_nonfinite) == (6, 2, 1, 2)
    assert found.max_log_ratio == 1.0
    assert found.top == (1.0, 0.0, -1.0, -np.inf)
    assert found.by_label == {3: (3, 1), 5: (3, 1)}
    # sum r = e^-1 + 1 + e, sum r^2 = e^-2 + 1 + e^2, sum (r - 1)+ = e - 1
    assert np.exp(found.log_sum_ratio) == pytest.approx(np.exp(-1) + 1 + np.e)
    assert np.exp(found.log_sum_ratio_squared) == pytest.approx(np.exp(-2) + 1 + np.exp(2))
    assert np.exp(found.log_sum_excess) == pytest.approx(np.e - 1)


def test_a_rounding_error_above_m_is_not_capped():
    log_ratio = np.array([0.0, 5e-7, 2e-6])
    assert Statistics.of(log_ratio, np.ones(3, bool), 0.0).num_capped == 1


def test_merged_shards_equal_one_shard():
    log_ratio, keep, log_m, labels = pile(0)
    whole = Statistics.of(log_ratio, keep, log_m, labels)
    merged = Statistics()
    for start, end in [(0, 1), (1, 300), (300, 300), (300, 1000)]:
        part = slice(start, end)
        merged = merged.merge(Statistics.of(log_ratio[part], keep[part], log_m, labels[part]))
    close(merged, whole)
    assert merged.ess_fraction == pytest.approx(whole.ess_fraction)
    assert merged.tail_index == whole.tail_index
    assert merged.tv_bound == pytest.approx(whole.tv_bound)
    assert len(whole.top) == TOP


def test_merge_order_does_not_matter():
    a, b, c = (Statistics.of(*pile(seed)) for seed in range(3))
    close(a.merge(b).merge(c), c.merge(a.merge(b)))
    close(a.merge(b).merge(c), b.merge(c.merge(a)))


def test_nothing_changes_nothing():
    some = Statistics.of(*pile(0))
    assert Statistics().merge(some) == some
    assert some.merge(Statistics()) == some
    nothing = Statistics.of(np.empty(0), np.empty(0, bool), 0.0, np.empty(0, np.int64))
    assert nothing == Statistics()


def test_statistics_through_json():
    for statistics in (Statistics.of(*pile(0)), Statistics()):
        assert Statistics.from_json(statistics.to_json()) == statistics


def test_ess_by_hand():
    # r = 1, 1, 2: (1 + 1 + 2)^2 / (3 (1 + 1 + 4)) = 16/18
    found = Statistics.of(np.log([1.0, 1.0, 2.0]), np.ones(3, bool), LN2)
    assert found.ess_fraction == pytest.approx(16 / 18)
    # equal ratios, whatever their unknown constant: 1. A row of ratio 0 counts: r = 0, 1 gives 1/2.
    assert Statistics.of(np.full(5, 700.0), np.ones(5, bool), 0.0).ess_fraction == pytest.approx(1)
    assert Statistics.of(np.array([-np.inf, 0.0]), np.ones(2, bool), 0.0).ess_fraction == pytest.approx(1 / 2)
    assert Statistics.of(np.full(2, -np.inf), np.zeros(2, bool), 0.0).ess_fraction == 0.0


def test_tv_bound_by_hand():
    # r = 1/2, 1/2, 3 at M = 2: sum (r - M)+ / sum r = 1/4. Scaling r and M alike changes nothing.
    log_ratio = np.log([0.5, 0.5, 3.0])
    for shift in (0.0, 500.0, -500.0):
        found = Statistics.of(log_ratio + shift, np.ones(3, bool), LN2 + shift)
        assert found.tv_bound == pytest.approx(1 / 4)
    assert Statistics.of(log_ratio, np.ones(3, bool), np.log(3.0)).tv_bound == 0.0


def test_tv_bound_is_exact_on_a_discrete_distribution():
    # q uniform on 4 atoms, p = .1 .2 .3 .4: r = .4 .8 1.2 1.6, M = 1. Sampled: q min(r, 1) / .8 = .125 .25 .3125 .3125.
    # TV = ((.25 - .2) + (.125 - .1) + (.3125 - .3)) = .0875 <= eps = (.2 + .6) / 4 = .2
    found = Statistics.of(np.log([0.4, 0.8, 1.2, 1.6]), np.ones(4, bool), 0.0)
    assert found.tv_bound == pytest.approx(0.2)
    assert np.abs(np.array([0.125, 0.25, 0.3125, 0.3125]) - [0.1, 0.2, 0.3, 0.4]).sum() / 2 <= found.tv_bound


@pytest.mark.parametrize("shape", [0.5, 0.0, -0.25])
def test_tail_index_of_a_known_distribution(shape):
    """Exceedances of a generalised Pareto distribution have its own shape; the 256 largest of 20,000 are fitted.

    The estimate's standard error is (1 + shape) / sqrt(256) (Smith 1987); 3.29 of them: false-alarm rate 1e-3 each.
    """
    ratios = stats.genpareto.rvs(shape, size=20_000, random_state=0)
    found = Statistics.of(np.log(ratios) + 30, np.ones(len(ratios), bool), 100.0)
    assert abs(found.tail_index - shape) < 3.29 * (1 + shape) / 16


def test_tail_index_of_too_few_or_equal_ratios_is_unknown():
    assert Statistics.of(np.arange(24.0), np.ones(24, bool), 0.0).tail_index is None
    assert Statistics.of(np.zeros(500), np.ones(500, bool), 0.0).tail_index is None
    assert Statistics.of(np.where(np.arange(500) < 5, 0.0, -np.inf), np.ones(500, bool), 0.0).tail_index is None


@pytest.mark.parametrize(("n", "k"), [(10, 3), (100, 1), (1000, 999), (50, 25)])
def test_binomial_interval_is_clopper_and_pearsons(n, k):
    exact = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert acceptance_interval(n, k, stopped=False) == pytest.approx((exact.low, exact.high))


def test_binomial_interval_at_the_ends():
    # No success in n: (1 - a)^n = .025, a = 1 - .025^(1/10) = .3085. Ten of ten: a^10 = .025, a = .6915.
    assert acceptance_interval(10, 0, stopped=False) == pytest.approx((0.0, 0.308497), abs=1e-6)
    assert acceptance_interval(10, 10, stopped=False) == pytest.approx((0.691503, 1.0), abs=1e-6)
    assert acceptance_interval(0, 0, stopped=False) == (0.0, 1.0)


def test_negative_binomial_interval_by_hand():
    # k = 1 at draw 5. low: P(N <= 5) = 1 - (1 - a)^5 = .025. high: P(N >= 5) = (1 - a)^4 = .025, a = .60236.
    low, high = acceptance_interval(5, 1, stopped=True)
    assert low == pytest.approx(1 - 0.975 ** (1 / 5))
    assert high == pytest.approx(1 - 0.025 ** (1 / 4))
    assert acceptance_interval(3, 3, stopped=True)[1] == 1.0


@pytest.mark.parametrize(("n", "k"), [(40, 4), (200, 100), (5000, 3)])
def test_negative_binomial_interval_solves_its_equations(n, k):
    # scipy's nbinom counts the failures, n - k, before success k
    low, high = acceptance_interval(n, k, stopped=True, confidence=0.9)
    assert stats.nbinom.cdf(n - k, k, low) == pytest.approx(0.05)
    assert stats.nbinom.sf(n - k - 1, k, high) == pytest.approx(0.05)


@pytest.mark.parametrize("acceptance", [0.02, 0.3, 0.9])
def test_intervals_cover(acceptance):
    """Coverage, summed over all outcomes, is at least 95 %; it is below 1, as these distributions are discrete."""
    n = 60
    k = np.arange(n + 1)
    limits = np.array([acceptance_interval(n, int(one), stopped=False) for one in k])
    inside = (limits[:, 0] <= acceptance) & (acceptance <= limits[:, 1])
    assert 0.95 <= stats.binom.pmf(k, n, acceptance)[inside].sum() < 0.9999
    draws = np.arange(5, 1500)
    limits = np.array([acceptance_interval(int(one), 5, stopped=True) for one in draws])
    inside = (limits[:, 0] <= acceptance) & (acceptance <= limits[:, 1])
    assert 0.95 - 1e-9 <= stats.nbinom.pmf(draws - 5, 5, acceptance)[inside].sum() < 0.9999


def test_target_side_bound_by_hand():
    # r = 1, 2, 4, 8 at M = 2: (1 - M/r)+ = 0, 0, 1/2, 3/4, mean 5/16
    estimate, upper = target_side_bound(np.log([1.0, 2.0, 4.0, 8.0]), LN2)
    assert estimate == pytest.approx(5 / 16)
    assert estimate < upper < 1


def test_target_side_bound_where_nothing_exceeds_m():
    # KL(0 || u) = -log(1 - u) = log(20)/100, so u = 1 - 20^(-1/100) = .029513
    estimate, upper = target_side_bound(np.append(np.full(99, -1.0), -np.inf), 0.0)
    assert estimate == 0.0
    assert upper == pytest.approx(1 - 20 ** (-1 / 100))


def test_target_side_bound_solves_its_equation():
    # n KL(m || u) = log(1/(1 - confidence)), written out
    log_ratio = np.random.default_rng(0).normal(1, 1, 200)
    m, u = target_side_bound(log_ratio, 1.0, confidence=0.9)
    assert m == pytest.approx(np.maximum(0, 1 - np.exp(1 - log_ratio)).mean())
    assert 200 * (m * np.log(m / u) + (1 - m) * np.log((1 - m) / (1 - u))) == pytest.approx(np.log(10))
    assert u > m


def test_target_side_limits_mirror_each_other():
    log_ratio = np.log([0.5, 2.0, 4.0, 4.0])  # losses at M = 1: 0, 1/2, 3/4, 3/4, of mean 1/2
    mean, upper = target_side_bound(log_ratio, 0.0)
    assert mean == pytest.approx(0.5)
    assert target_side_lower(log_ratio, 0.0) == pytest.approx(1 - upper)
    assert target_side_lower(np.zeros(3), 0.0) == 0.0


def test_target_side_bound_at_the_far_end():
    assert target_side_bound(np.full(5, np.inf), 0.0) == (1.0, 1.0)
    assert target_side_bound(np.full(1, 40.0), 0.0)[1] == pytest.approx(1.0)


def test_target_side_upper_limit_covers():
    """Bernoulli losses with mean .1 (r = M or infinity): the limit is above .1 in at least 95 % of samples.

    Summed over the binomial distribution of 50 samples, no simulation.
    """
    n, mean = 50, 0.1
    counts = np.arange(n + 1)
    uppers = [target_side_bound(np.repeat([60.0, 0.0], [count, n - count]), 0.0)[1] for count in counts]
    assert 0.95 <= stats.binom.pmf(counts, n, mean)[np.array(uppers) >= mean].sum() < 1
