"""Figures of the report that claim a confidence or a known value: they keep it on the sampler's own rows.

Coverage of 95 % over many samples: the misses are at most the 1 - 1e-3 quantile of Binomial(samples, .05). A limit at a
lower confidence, or an estimate without its correction, must fail the same assertion.
"""

import math

import numpy as np
import pytest
import torch
from distributions import Distribution, N, Z, sample_chunks
from scipy import stats
from torch.distributions import Categorical, Normal, Uniform

from rsf_dist.proposals import DistributionProposal
from rsf_dist.ratios import ConstantRatio, DensityRatio, LabelShiftRatio, ProductRatio, RewardRatio, VerifierRatio
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.chunk import ChunkWork, propose_and_score
from rsf_dist.sampling.diagnostics import acceptance_interval, target_side_bound

LOG_2 = math.log(2.0)
UNIT = DistributionProposal(Uniform(0.0, 1.0))
WIDE = DistributionProposal(Normal(0.0, 2.0))
CLASSES = DistributionProposal(Categorical(torch.tensor([0.5, 0.3, 0.2])), column="label")
TO_STANDARD = DensityRatio(Normal(0.0, 1.0), WIDE)


@pytest.fixture(scope="module")
def samples(soak):
    return 4_000 if soak else 400


def accepted(samples, n, log_m):
    """bool [samples, n]: which proposals were accepted. N(0, 1) in N(0, 2), acceptance 1/M."""
    rows = ChunkWork(WIDE, TO_STANDARD, -60.0, samples * n, seed=0)(0).rows  # everything, with its key
    return rows["accept_key"].numpy().reshape(samples, n) > log_m


def most_misses(samples):
    return stats.binom(samples, 0.05).ppf(1 - 1e-3)


@pytest.mark.parametrize("log_m", [LOG_2, math.log(12.0)], ids=["a half", "a twelfth"])
def test_binomial_intervals_cover(samples, log_m):
    """200 proposals a sample. Control: intervals of 80 % miss about 17 %."""
    counts, truth = accepted(samples, 200, log_m).sum(axis=1), math.exp(-log_m)

    def misses(confidence):
        limits = [acceptance_interval(200, int(count), stopped=False, confidence=confidence) for count in counts]
        return sum(not low <= truth <= high for low, high in limits)

    assert misses(0.95) <= most_misses(samples) < misses(0.8)


@pytest.mark.parametrize(("log_m", "n"), [(LOG_2, 120), (math.log(12.0), 800)], ids=["a half", "a twelfth"])
def test_intervals_cover_where_sampling_stops_at_n_rows(samples, log_m, n):
    """Stopping at the 30th row: negative binomial. Control: intervals of 80 %."""
    draws, truth = draws_to(accepted(samples, n, log_m), 30), math.exp(-log_m)

    def misses(confidence):
        limits = [acceptance_interval(int(one), 30, stopped=True, confidence=confidence) for one in draws]
        return sum(not low <= truth <= high for low, high in limits)

    assert misses(0.95) <= most_misses(samples) < misses(0.8)


def draws_to(keep, k):
    """The number of the proposal that was accepted as the k-th, in each sample."""
    assert keep.sum(axis=1).min() >= k
    return (np.cumsum(keep, axis=1) >= k).argmax(axis=1) + 1


def test_acceptance_after_stopping_is_biased_unless_one_is_taken_off(samples):
    """Stopping at the 5th row at a = 1/2: E[5/n] is .5491 and E[4/(n - 1)] is 1/2.

    The first figure is summed over the negative binomial distribution. Either mean is within 3.29 standard errors of
    its figure; the first is not 1/2 to that accuracy.
    """
    failures = np.arange(400)
    assert (5 / (5 + failures) * stats.nbinom.pmf(failures, 5, 0.5)).sum() == pytest.approx(0.5491, abs=1e-4)
    draws = draws_to(accepted(samples, 60, LOG_2), 5)
    plain, corrected = 5 / draws, 4 / (draws - 1)
    error = Z / math.sqrt(samples)
    assert abs(plain.mean() - 0.5491) < error * plain.std() < abs(plain.mean() - 0.5)
    assert abs(corrected.mean() - 0.5) < error * corrected.std()


def ess(distribution):
    """E_q[r]^2/E_q[r^2], and the standard error of its estimate from N proposals by the delta method."""
    r = np.exp(distribution.log_ratio)
    mean, square = (distribution.q * r).sum(), (distribution.q * r**2).sum()
    influence = 2 * mean / square * r - (mean / square) ** 2 * r**2
    spread = (distribution.q * influence**2).sum() - (distribution.q * influence).sum() ** 2
    return mean**2 / square, math.sqrt(max(spread, 0) / N)


# N(0, 1) in N(0, 2): sqrt(7)/4. exp(2x): ((e^2 - 1)/2)^2/((e^4 - 1)/4) = .7616. A check that .3 pass: .3. Labels:
# 1/(.2^2 .5 + (1/3)^2 .3 + 4^2 .2) = .3074.
KNOWN = {
    "density": (
        WIDE,
        TO_STANDARD,
        Distribution.line(stats.norm(scale=2), stats.norm.logpdf, -14, 14),
        math.sqrt(7) / 4,
    ),
    "reward": (
        UNIT,
        RewardRatio(lambda batch: batch["x"], beta=0.5, max_score=1.0),
        Distribution.line(stats.uniform(), lambda x: 2 * x, 0, 1),
        0.7616,
    ),
    "verifier": (
        UNIT,
        VerifierRatio(lambda batch: batch["x"] < 0.3),
        Distribution.line(stats.uniform(), lambda x: np.where(x < 0.3, 0.0, -np.inf), 0, 1),
        0.3,
    ),
    "labels": (
        CLASSES,
        LabelShiftRatio([0.1, 0.1, 0.8], [0.5, 0.3, 0.2]),
        Distribution.atoms([0.5, 0.3, 0.2], [0.1, 0.1, 0.8]),
        0.3074,
    ),
}


@pytest.mark.parametrize(("proposal", "ratio", "distribution", "known"), KNOWN.values(), ids=KNOWN)
def test_ess_of_known_distributions(proposal, ratio, distribution, known):
    """Within 3.29 standard errors; at least the acceptance at M. Control: 1.1 times the known value is outside."""
    truth, error = ess(distribution)
    assert truth == pytest.approx(known, abs=1e-4)
    sample = sample_chunks(proposal, ratio, ratio.log_bound)
    found = sample.statistics.ess_fraction
    assert abs(found - truth) < Z * error < abs(found - 1.1 * truth)
    assert distribution.acceptance(ratio.log_bound) <= truth + 1e-9


def test_the_mean_ratio_is_as_exact_as_it_says(samples):
    """(mean r - 1)/(its error) is standard normal: KS, 1e-3. Control: half of the error."""
    found = [sample_chunks(WIDE, TO_STANDARD, 0.0, 1_000, 1, seed).statistics for seed in range(samples)]
    scores = np.array([math.expm1(one.log_mean_ratio) / one.mean_ratio_error for one in found])
    assert stats.kstest(scores, "norm").pvalue > 1e-3
    assert stats.kstest(2 * scores, "norm").pvalue < 1e-3


def test_screening_leaves_sums_without_bias():
    """|N(0, 1)| exp(cos x) in N(0, 2), a loose M: rows left out are made up for by 1/inclusion (Horvitz & Thompson).

    Means of r and r^2 within 3.29 standard errors of the exact ones. Control: without 1/inclusion the mean of r is low.
    """
    ratio = ProductRatio([RewardRatio(lambda batch: torch.cos(batch["x"]), max_score=1.0), TO_STANDARD])
    distribution = Distribution.line(stats.norm(scale=2), lambda x: stats.norm.logpdf(x) + np.cos(x), -14, 14)
    batch, _, exponentials = propose_and_score(WIDE, ConstantRatio(), Streams(seed=0), 200_000)
    found = ratio.screened(batch, torch.from_numpy(exponentials), ratio.log_bound)
    assert 0.2 < (~found.scored).double().mean() < 0.9
    r, inclusion = found.log_ratio.exp().numpy(), found.log_inclusion.exp().numpy()

    def excess(values, truth):
        return (values.mean() - truth) / (values.std() / math.sqrt(len(values)))

    first, second = ((distribution.q * np.exp(power * distribution.log_ratio)).sum() for power in (1, 2))
    assert abs(excess(r / inclusion, first)) < Z
    assert abs(excess(r**2 / inclusion, second)) < Z
    assert excess(r, first) < -Z
    statistics = ChunkWork(WIDE, ratio, ratio.log_bound, 200_000, seed=0)(0).statistics
    assert statistics.num_screened_out == int((~found.scored).sum())
    assert statistics.log_mean_ratio == pytest.approx(math.log((r / inclusion).mean()))
    assert statistics.ess_fraction == pytest.approx((r / inclusion).mean() ** 2 / (r**2 / inclusion).mean())


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_tail_index_of_a_pareto_ratio(shape):
    """r = u^-shape for a uniform u: exceedances are generalised Pareto of that shape, the 256 largest are fitted.

    Standard error (1 + shape)/16 (Smith 1987); 3.29 of them. Control: shape + .5 is outside.
    """
    ratio = RewardRatio(lambda batch: -shape * torch.log(batch["x"]))
    found = sample_chunks(UNIT, ratio, 30.0).statistics.tail_index
    assert abs(found - shape) < Z * (1 + shape) / 16 < abs(found - shape - 0.5)


@pytest.mark.parametrize(("proposal", "ratio"), [KNOWN["density"][:2], KNOWN["reward"][:2]], ids=["density", "reward"])
def test_tail_index_of_a_bounded_ratio_is_negative(proposal, ratio):
    """P(r > sup r - e) ~ e^(1/2) for the Gaussians, shape -2, and ~ e for exp(2x), shape -1: there is an end."""
    assert sample_chunks(proposal, ratio, ratio.log_bound).statistics.tail_index < 0


LIMITS = {
    "M = 1/2": (TO_STANDARD, Distribution.line(stats.norm(scale=2), stats.norm.logpdf, -14, 14), -LOG_2),
    "M = 1": (TO_STANDARD, Distribution.line(stats.norm(scale=2), stats.norm.logpdf, -14, 14), 0.0),
    # losses 0 and .99991 in shares .9 and .1: as wide as losses of that mean can be, where the limit is sharpest
    "a mode": (
        LabelShiftRatio([0.9, 0.1], [1 - 1e-5, 1e-5], column="x"),
        Distribution.atoms([1 - 1e-5, 1e-5], [0.9, 0.1]),
        math.log(0.9),
    ),
}


@pytest.mark.parametrize(("ratio", "distribution", "log_m"), LIMITS.values(), ids=LIMITS)
def test_target_side_limits_cover(samples, ratio, distribution, log_m):
    """100 target rows a sample. Control: the estimate itself, which is below eps in about half of the samples."""
    rng, eps = np.random.default_rng(0), distribution.eps(log_m)
    x = rng.random(samples * 100) < 0.1 if distribution.ends is None else rng.normal(size=samples * 100)
    target = torch.from_numpy(x.astype("int64" if distribution.ends is None else "float32"))
    log_ratio = ratio.log_ratio({"x": target}).numpy().reshape(samples, 100)
    found = np.array([target_side_bound(one, log_m) for one in log_ratio])
    misses = (found < eps).sum(axis=0)
    assert misses[1] <= most_misses(samples) < misses[0]
