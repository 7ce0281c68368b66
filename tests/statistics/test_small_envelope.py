"""An M that is too small samples q min(r, M), whose distance from p is known; and weights take the bias out.

    eps = E_p[(1 - M/r)+] = E_q[(r - M)+]/E_q[r]          acceptance = E_q[r] (1 - eps)/M
    TV(p, sampled) <= eps <= P_p(r > M)                   KL(p || sampled) = log(1 - eps) + E_p[(log(r/M))+]

False-alarm rate 1e-3 for each test of rows or of an estimate.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from distributions import Distribution, N, Sample, Z, sample_chunks, total_variation, wald_pvalue
from scipy import stats
from torch.distributions import Categorical, MixtureSameFamily, Normal, Uniform

from rsf_dist.data.batch import num_rows
from rsf_dist.proposals import DistributionProposal, Proposal
from rsf_dist.ratios import DensityRatio, LabelShiftRatio, Ratio, RewardRatio
from rsf_dist.sampling.diagnostics import target_side_bound
from rsf_dist.sampling.envelope import Choice, PilotEnvelope

LOG_2 = math.log(2.0)
UNIT = DistributionProposal(Uniform(0.0, 1.0))
STANDARD = DistributionProposal(Normal(0.0, 1.0))
WIDE = DistributionProposal(Normal(0.0, 2.0))
CLASSES = DistributionProposal(Categorical(torch.tensor([0.5, 0.3, 0.2])))


@dataclass(frozen=True)
class Capped:
    """A ratio at an M below its supremum, the distribution, draws of the target itself, and sup r/M (inf: no bound)."""

    proposal: Proposal
    ratio: Ratio
    distribution: Distribution
    log_m: float
    draw_target: object
    largest_weight: float

    def sample(self) -> Sample:
        return sample_chunks(self.proposal, self.ratio, self.log_m)


CASES = {
    # N(0, 1) in N(0, 2): r <= 2
    "density": Capped(
        WIDE,
        DensityRatio(Normal(0.0, 1.0), WIDE),
        Distribution.line(stats.norm(scale=2), stats.norm.logpdf, -14, 14),
        0.0,
        lambda rng: rng.normal(size=N).astype("float32"),
        2.0,
    ),
    # N(1, 1) in N(0, 1): r = exp(x - 1/2) has no bound, every M is too small
    "unbounded": Capped(
        STANDARD,
        DensityRatio(Normal(1.0, 1.0), STANDARD),
        Distribution.line(stats.norm(), stats.norm(1).logpdf, -7, 8),
        LOG_2,
        lambda rng: rng.normal(1, size=N).astype("float32"),
        math.inf,
    ),
    # exp(2x) on [0, 1], E_q r = (e^2 - 1)/2: r <= e^2
    "reward": Capped(
        UNIT,
        RewardRatio(lambda batch: batch["x"], beta=0.5),
        Distribution.line(stats.uniform(), lambda x: 2 * x, 0, 1),
        1.0,
        lambda rng: np.log1p(rng.random(N) * math.expm1(2)) / 2,
        math.e,
    ),
    # .5 .3 .2 to .1 .1 .8: r <= 4
    "labels": Capped(
        CLASSES,
        LabelShiftRatio([0.1, 0.1, 0.8], [0.5, 0.3, 0.2], column="x"),
        Distribution.atoms([0.5, 0.3, 0.2], [0.1, 0.1, 0.8]),
        0.0,
        lambda rng: rng.choice(3, N, p=[0.1, 0.1, 0.8]),
        4.0,
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@each_case
def test_the_sampled_distribution_is_the_capped_one(case):
    """KS or chi-square of rows against q min(r, M) and the count against E_q r (1 - eps)/M. Control: p itself fails."""
    sample, distribution, log_m = case.sample(), case.distribution, case.log_m
    x, eps = sample.rows["x"].numpy(), distribution.eps(log_m)
    acceptance = math.exp(distribution.log_constant - log_m) * (1 - eps)
    assert distribution.acceptance(log_m) == pytest.approx(acceptance)
    assert distribution.pvalue(x, distribution.accepted(log_m)) > 1e-3
    assert stats.binomtest(num_rows(sample.rows), N, acceptance).pvalue > 1e-3
    assert distribution.pvalue(x, distribution.p) < 1e-3


@each_case
@pytest.mark.parametrize("more", [-2.0, -0.5, 0.0, 0.3])
def test_distances_are_those_of_the_formula(case, more):
    """No sampling: TV and KL of q min(r, M) from p, as sums over cells."""
    distribution, log_m = case.distribution, case.log_m + more
    p, sampled, eps = distribution.p, distribution.accepted(log_m), distribution.eps(log_m)
    assert 0 < total_variation(p, sampled) <= eps <= p[distribution.log_ratio > log_m].sum()
    divergence = (p * np.log(p / sampled)).sum()
    assert divergence == pytest.approx(
        math.log1p(-eps) + (p * np.maximum(distribution.log_ratio - log_m, 0)).sum(), abs=1e-9
    )


@each_case
def test_both_estimates_of_eps_are_right(case):
    """q-side: a ratio of means of (r - M)+ and r; p-side: a mean of (1 - M/r)+. 3.29 standard errors of either, exact.

    Controls: eps at 1.3 M lies outside, and is below the p-side's estimate by more than its error.
    """
    distribution, log_m = case.distribution, case.log_m
    eps, other = distribution.eps(log_m), distribution.eps(log_m + math.log(1.3))
    r, m, mean = np.exp(distribution.log_ratio), math.exp(log_m), math.exp(distribution.log_constant)
    error = math.sqrt((distribution.q * (np.maximum(r - m, 0) - eps * r) ** 2).sum() / N) / mean
    found = case.sample().statistics.tv_bound
    assert abs(found - eps) < Z * error < abs(found - other)
    losses = np.maximum(1 - m / r, 0)
    error = math.sqrt((distribution.p * (losses - eps) ** 2).sum() / N)
    target = torch.from_numpy(case.draw_target(np.random.default_rng(0)))
    estimate, upper = target_side_bound(case.ratio.log_ratio({"x": target}).numpy(), log_m)
    assert abs(estimate - eps) < Z * error < abs(estimate - other)
    assert eps < upper < eps + 5 * Z * error


def mixture(share, far):
    """N(0, 1), and N(12, 1) with the given share."""
    shares = torch.tensor([1 - share, share], dtype=torch.float64)
    means = torch.tensor([0.0, far], dtype=torch.float64)
    return MixtureSameFamily(Categorical(shares), Normal(means, torch.ones(2, dtype=torch.float64)))


def test_only_the_target_side_sees_a_mode_that_proposals_miss():
    """q = N(0, 1) but for 1e-5 in N(12, 1), where p has .1: r = .9 and 10^4, eps = .1 (1 - .9/10^4) = .09999 at M = .9.

    Of 10^4 proposals none is there with probability .905: the pilot's M is .9 and the q-side eps 0. Over 200 seeds the
    number that see it is Binomial(200, .095). The p-side's mean of 10^4 losses has standard error .003.
    """
    proposal = DistributionProposal(mixture(1e-5, 12.0))
    ratio = DensityRatio(mixture(0.1, 12.0), proposal)
    sample = sample_chunks(proposal, ratio, PilotEnvelope(10_000), n=10_000)
    assert sample.log_m == pytest.approx(math.log(0.9), abs=1e-4)
    assert sample.statistics.tv_bound < 1e-4
    rng = np.random.default_rng(0)
    target = torch.from_numpy(rng.normal(size=10_000) + 12 * (rng.random(10_000) < 0.1))
    estimate, upper = target_side_bound(ratio.log_ratio({"x": target}).numpy(), sample.log_m)
    assert abs(estimate - 0.09999) < Z * 0.003
    assert upper > 0.09999
    seeing = sum((sample_x(proposal, seed) > 6).any() for seed in range(200))
    assert stats.binomtest(seeing, 200, 1 - (1 - 1e-5) ** 10_000).pvalue > 1e-3


def sample_x(proposal, seed):
    return sample_chunks(proposal, DensityRatio(proposal.distribution, proposal), -1.0, 10_000, 1, seed).rows["x"]


MOMENTS = {"x": lambda x: x, "x^2": lambda x: x**2, "|x|": np.abs, "cos": np.cos}


@each_case
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_weighted_moments_are_the_targets(case, moment):
    """sum w f/sum w within 3.29 standard errors of E_p f, w = max(1, r/M); without weights, of f under q min(r, M)."""
    rows, distribution = case.sample().rows, case.distribution
    at = (
        np.arange(len(distribution.q))
        if distribution.ends is None
        else (distribution.ends[1:] + distribution.ends[:-1]) / 2
    )
    f, weight = moment(rows["x"].double().numpy()), rows["weight"].double().numpy()
    for mass, weights in ((distribution.p, weight), (distribution.accepted(case.log_m), np.ones_like(weight))):
        expected = (mass * moment(at)).sum()
        error = math.sqrt((weights**2 * (f - expected) ** 2).sum()) / weights.sum()
        assert abs(np.average(f, weights=weights) - expected) < Z * error


def test_the_second_moment_by_hand():
    """N(0, 1) in N(0, 2) at M = 1: E x^2 is 1 with weights, and (E_p x^2 [|x| > c] + E_q x^2 [|x| < c])/.6773 = 1.3227
    without, c^2 = 8 log(2)/3; some 20 standard errors away.
    """
    case = CASES["density"]
    middles = (case.distribution.ends[1:] + case.distribution.ends[:-1]) / 2
    assert (case.distribution.accepted(0.0) * middles**2).sum() == pytest.approx(1.3227, abs=1e-4)
    rows = case.sample().rows
    square, weight = rows["x"].double().numpy() ** 2, rows["weight"].double().numpy()
    error = square.std() / math.sqrt(len(square))
    assert abs(square.mean() - 1.3227) < Z * error
    assert square.mean() - 1 > 10 * error
    assert abs(np.average(square, weights=weight) - 1) < 2 * Z * error


@each_case
def test_weighted_rows_follow_the_target(case):
    """Wald's chi-square of weighted shares of eight cells; and, where r/M has a largest value W, KS of rows that are
    kept again with probability w/W. Both are of p. Control: without weights both fail.
    """
    rows, distribution = case.sample().rows, case.distribution
    x, weight = rows["x"].numpy(), rows["weight"].double().numpy()
    if distribution.ends is None:
        cell, mass = x, distribution.p
    else:
        mass = np.full(8, 1 / 8)
        cell = np.searchsorted(
            np.interp(np.arange(1, 8) / 8, np.append(0, np.cumsum(distribution.p)), distribution.ends), x
        )
    scores = np.eye(len(mass))[cell] - mass
    assert wald_pvalue(weight[:, None] * scores) > 1e-3
    assert wald_pvalue(scores) < 1e-3
    if case.largest_weight < math.inf:
        again = np.random.default_rng(0).random(len(x)) < weight / case.largest_weight
        assert distribution.pvalue(x[again], distribution.p) > 1e-3
    assert distribution.pvalue(x, distribution.p) < 1e-3


@each_case
def test_the_mean_weight_gives_back_what_the_cap_took(case):
    """E[w | accepted] = E_q r/E_q min(r, M) = 1/(1 - eps), within 3.29 of the weights' own standard errors."""
    weight, eps = case.sample().rows["weight"].double().numpy(), case.distribution.eps(case.log_m)
    assert abs(weight.mean() - 1 / (1 - eps)) < Z * weight.std() / math.sqrt(len(weight))
    assert weight.min() == 1


def test_rows_of_a_small_m_can_be_thinned_to_a_larger_one():
    """Capped at M = 1, then held against M = 2 by their keys: N(0, 1), a half of the proposals. Control: before."""
    rows = CASES["density"].sample().rows
    kept = rows["x"][rows["accept_key"] > LOG_2]
    assert stats.binomtest(len(kept), N, 1 / 2).pvalue > 1e-3
    assert stats.kstest(kept, "norm").pvalue > 1e-3
    assert stats.kstest(rows["x"], "norm").pvalue < 1e-3


class Timid:
    """Follows the largest log ratio a nat below it, so that rows are capped while M grows."""

    num_pilot = 1

    def choose(self, pilot):
        return Choice(float(pilot.log_ratio.max()) - 1.0, "a nat below the largest", margin=-1.0)


def test_statistics_after_m_grew_are_those_of_the_larger_m():
    """`Statistics.at` against a fresh sample at the M that the adaptive envelope ended with: the same proposals."""
    case = CASES["unbounded"]
    grown = sample_chunks(case.proposal, case.ratio, Timid())
    fresh = sample_chunks(case.proposal, case.ratio, grown.log_m)
    assert grown.log_m > grown.choice.log_m
    assert torch.equal(grown.rows["x"], fresh.rows["x"])
    assert grown.statistics.num_capped == fresh.statistics.num_capped > 0
    assert grown.statistics.tv_bound == pytest.approx(fresh.statistics.tv_bound)
