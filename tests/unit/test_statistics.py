"""The accepted law. Each test states its false-alarm rate; negative controls must fail."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, MultivariateNormal, Normal

from rsf_dist.batch import concat, num_rows
from rsf_dist.chunk import ChunkWork
from rsf_dist.diagnostics import Statistics, target_side_bound
from rsf_dist.proposals import DistributionProposal
from rsf_dist.ratios import DensityRatio

Z = 3.29  # two-sided normal quantile of 1e-3
WIDE = DistributionProposal(Normal(0.0, 2.0))
TO_STANDARD = DensityRatio(Normal(0.0, 1.0), WIDE)
LOG_2 = math.log(2.0)  # sup of N(0, 1)/N(0, 2), at 0


def sample(ratio, log_m, chunks=5, chunk_size=4000, seed=0):
    work = ChunkWork(ratio.proposal, ratio, log_m, chunk_size, seed)
    done = [work(chunk) for chunk in range(chunks)]
    statistics = Statistics()
    for chunk in done:
        statistics = statistics.merge(chunk.statistics)
    return concat([chunk.rows for chunk in done]), statistics


def test_acceptance_is_one_over_m():
    """20,000 proposals at M = 2: binomial, standard error sqrt(1/4/20,000) = .0035. False-alarm rate 1e-3."""
    _, statistics = sample(TO_STANDARD, LOG_2)
    assert statistics.num_capped == 0
    assert abs(statistics.num_accepted / statistics.num_scored - 1 / 2) < Z * math.sqrt(0.25 / 20_000)


def test_acceptance_with_a_looser_bound():
    """M = 5: acceptance 1/5, standard error sqrt(.16/20,000). False-alarm rate 1e-3."""
    _, statistics = sample(TO_STANDARD, math.log(5))
    assert abs(statistics.num_accepted / statistics.num_scored - 1 / 5) < Z * math.sqrt(0.16 / 20_000)


@pytest.mark.parametrize("m", [2.0, 5.0])
def test_accepted_rows_follow_the_target(m):
    """KS against N(0, 1), at M = 2 and at a larger M, which changes the count, not the law. 1e-3 false alarms each."""
    rows, _ = sample(TO_STANDARD, math.log(m))
    assert stats.kstest(rows["x"], "norm").pvalue > 1e-3


def test_half_of_m_fails():
    """Negative control. At M = 1 rows with |x| < c, c^2 = 8 log(2)/3, are capped: sampled is min(p, q)/A.

    A = P_p(|x| > c) + P_q(|x| < c) = .17396 + .50337 = .6773. The distribution functions are farthest apart where
    r = 1/A, at x = -.8997: (P_p(x < -c) + P_q(-c < x < -.8997))/A - P_p(x < -.8997) = .2437 - .1841 = .0596. With some
    13,500 rows the 1e-3 critical value is 1.95/sqrt(13,500) = .0168, so that the test notices with near certainty.
    """
    c = math.sqrt(8 * LOG_2 / 3)
    wide = stats.norm(scale=2)
    acceptance = 2 * stats.norm.cdf(-c) + 1 - 2 * wide.cdf(-c)
    x = -math.sqrt(8 * math.log(2 * acceptance) / 3)
    distance = (stats.norm.cdf(-c) + wide.cdf(x) - wide.cdf(-c)) / acceptance - stats.norm.cdf(x)
    assert (acceptance, x, distance) == pytest.approx((0.6773, -0.8997, 0.0596), abs=1e-4)
    rows, statistics = sample(TO_STANDARD, 0.0)
    found = stats.kstest(rows["x"], "norm")
    assert found.pvalue < 1e-3
    assert abs(found.statistic - distance) < 1.95 / math.sqrt(num_rows(rows))
    assert abs(statistics.num_accepted / statistics.num_scored - acceptance) < Z * math.sqrt(0.25 / 20_000)


def test_total_variation_of_half_of_m_is_within_both_bounds():
    """At M = 1 the excess is eps = 1 - A = .3227 on both sides; the true TV is below it. False-alarm rate 1e-3 each.

    (r - M)+ lies in [0, 1], (1 - M/r)+ in [0, 1/2]: standard errors at most 1/2 and 1/4 over sqrt(20,000).
    """
    rows, statistics = sample(TO_STANDARD, 0.0)
    assert abs(statistics.tv_bound - 0.3227) < Z * 0.5 / math.sqrt(20_000)
    target = torch.from_numpy(np.random.default_rng(0).normal(size=20_000))
    estimate, upper = target_side_bound(TO_STANDARD.log_ratio({"x": target}).numpy(), 0.0)
    assert abs(estimate - 0.3227) < Z * 0.25 / math.sqrt(20_000)
    assert estimate < upper
    inside = (rows["x"].abs() < math.sqrt(8 * LOG_2 / 3)).double().mean().item()
    assert abs(inside - (1 - 0.1740)) < estimate


def test_ess_fraction_of_known_densities():
    """E_q r^2 = 4/sqrt(7) for N(0, 1) in N(0, 2), so ESS/n = sqrt(7)/4 = .6614.

    r has mean 1 and r <= 2; by the delta method the standard error is below 1/sqrt(20,000). False-alarm rate 1e-3.
    """
    _, statistics = sample(TO_STANDARD, LOG_2)
    assert abs(statistics.ess_fraction - math.sqrt(7) / 4) < Z / math.sqrt(20_000)


def test_weights_take_the_caps_bias_out():
    """At M = 1 the weighted E x^2 is 1, within 3.29 standard errors: false-alarm rate 1e-3.

    Negative control: unweighted, the excess in the tails makes it (E_p x^2 [|x| > c] + E_q x^2 [|x| < c])/A = 1.32.
    """
    rows, _ = sample(TO_STANDARD, 0.0)
    square, weight = rows["x"].double().numpy() ** 2, rows["weight"].double().numpy()

    def estimate(weights):
        mean = np.average(square, weights=weights)
        return mean, math.sqrt((weights**2 * (square - mean) ** 2).sum()) / weights.sum()

    weighted, error = estimate(weight)
    assert abs(weighted - 1) < Z * error
    plain, error = estimate(np.ones_like(weight))
    assert abs(plain - 1) > 2 * Z * error
    # the mean weight of accepted rows is E_q r / E_q min(r, 1) = 1/.6773, with weights in [1, 2]
    assert abs(weight.mean() - 1 / 0.6773) < Z * 0.5 / math.sqrt(len(weight))


def test_rows_above_a_larger_m_follow_the_target_too():
    """Capped at M = 1, then filtered by key at M = 2: exact again. KS, false-alarm rate 1e-3."""
    rows, _ = sample(TO_STANDARD, 0.0)
    kept = rows["x"][rows["accept_key"] > LOG_2]
    assert abs(len(kept) / 20_000 - 1 / 2) < Z * math.sqrt(0.25 / 20_000)
    assert stats.kstest(kept, "norm").pvalue > 1e-3


def test_known_answer_of_an_eighth_in_a_half():
    """N(0, 1/8) in N(0, 1/2): M = 4, acceptance 1/4. KS and the count, false-alarm rate 1e-3 each."""
    ratio = DensityRatio(Normal(0.0, 1 / 8), DistributionProposal(Normal(0.0, 1 / 2)))
    rows, statistics = sample(ratio, math.log(4))
    assert abs(statistics.num_accepted / 20_000 - 1 / 4) < Z * math.sqrt(0.1875 / 20_000)
    assert stats.kstest(rows["x"] * 8, "norm").pvalue > 1e-3


def discrete_pvalue(log_m):
    target = torch.tensor([0.1, 0.2, 0.3, 0.4])
    ratio = DensityRatio(Categorical(target), DistributionProposal(Categorical(torch.ones(4))))
    rows, _ = sample(ratio, log_m)
    counts = np.bincount(rows["x"], minlength=4)
    return stats.chisquare(counts, counts.sum() * target.double().numpy() / target.double().sum().item()).pvalue


def test_discrete_target():
    """p = .1 .2 .3 .4 in the uniform law: M = .4/.25 = 1.6. Chi-square, false-alarm rate 1e-3.

    Negative control at M = .8, where atoms 2 to 4 are capped and become equally frequent: it fails.
    """
    assert discrete_pvalue(math.log(1.6)) > 1e-3
    assert discrete_pvalue(math.log(0.8)) < 1e-3


def correlated_pvalues(log_m):
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    wide = DistributionProposal(MultivariateNormal(torch.zeros(2), 2 * torch.eye(2)))
    rows, statistics = sample(DensityRatio(MultivariateNormal(torch.zeros(2), covariance), wide), log_m)
    # Along (1, 1) the variance is 1.8, across it .2, and the two are independent.
    x = rows["x"].double().numpy()
    along, across = (x[:, 0] + x[:, 1]) / math.sqrt(2 * 1.8), (x[:, 0] - x[:, 1]) / math.sqrt(2 * 0.2)
    tests = [stats.kstest(along, "norm"), stats.kstest(across, "norm"), stats.pearsonr(along, across)]
    return [test.pvalue for test in tests], statistics


def test_correlated_target_in_two_dimensions():
    """N(0, [[1, .8], [.8, 1]]) in N(0, 2 I): M = sqrt(4/.36) = 10/3, acceptance .3. Four tests at 1e-3 each.

    Negative control at half of M: the law across the diagonal fails.
    """
    pvalues, statistics = correlated_pvalues(math.log(10 / 3))
    assert min(pvalues) > 1e-3
    assert abs(statistics.num_accepted / 20_000 - 0.3) < Z * math.sqrt(0.21 / 20_000)
    assert correlated_pvalues(math.log(5 / 3))[0][1] < 1e-3


def test_pvalues_of_many_seeds_are_uniform():
    """100 seeds of 1,000 proposals: KS of their KS p-values against the uniform law, false-alarm rate 1e-3.

    Negative control: at half of M they pile up near 0.
    """

    def pvalues(log_m):
        samples = (sample(TO_STANDARD, log_m, chunks=1, chunk_size=1000, seed=seed)[0]["x"] for seed in range(100))
        return [stats.kstest(x, "norm").pvalue for x in samples]

    assert stats.kstest(pvalues(LOG_2), "uniform").pvalue > 1e-3
    assert stats.kstest(pvalues(0.0), "uniform").pvalue < 1e-3


def test_chunks_are_independent_of_each_other():
    """Correlation of neighbouring chunks' proposals and of their keys' exponentials, 4,000 rows: 1e-3 each."""
    work = ChunkWork(WIDE, TO_STANDARD, -60.0, 4000, seed=0)  # M so small that everything is accepted
    first, second = work(0).rows, work(1).rows
    assert num_rows(first) == num_rows(second) == 4000
    assert stats.pearsonr(first["x"], second["x"]).pvalue > 1e-3
    draws = [rows["accept_key"] - rows["log_ratio"] for rows in (first, second)]
    assert stats.pearsonr(*draws).pvalue > 1e-3
    # the exponentials follow their law and know nothing of the rows
    assert stats.kstest(draws[0], "expon").pvalue > 1e-3
    assert stats.spearmanr(draws[0], first["x"].abs()).pvalue > 1e-3
