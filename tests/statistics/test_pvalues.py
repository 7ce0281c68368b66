"""Over many seeds the p-values of accepted rows are uniform: KS of the p-values, false-alarm rate 1e-3 each.

A sampler that is slightly wrong may pass a single test; 200 seeds (2,000 with --soak) show it. Negative controls fail.
"""

import math
from functools import partial

import numpy as np
import pytest
import torch
from distributions import (
    Distribution,
    chisquare_pvalue,
    energy_pvalue,
    randomised_binomial_pvalues,
    sample_chunks,
    wald_pvalue,
)
from scipy import stats
from torch.distributions import Categorical, MultivariateNormal, Normal, Uniform

from rsf_dist.data.batch import num_rows
from rsf_dist.proposals import DistributionProposal
from rsf_dist.ratios import DensityRatio, LabelShiftRatio, ProductRatio, RewardRatio, VerifierRatio
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.sampling.chunk import ChunkWork, propose_and_score
from rsf_dist.sampling.envelope import AdaptiveEnvelope, BudgetEnvelope, Pilot, PilotEnvelope

LOG_2 = math.log(2.0)
PROPOSALS = 1_000  # a seed
WIDE = DistributionProposal(Normal(0.0, 2.0))
UNIT = DistributionProposal(Uniform(0.0, 1.0))
CLASSES = DistributionProposal(Categorical(torch.tensor([0.5, 0.3, 0.2])), column="label")
TO_STANDARD = DensityRatio(Normal(0.0, 1.0), WIDE)
TILT = RewardRatio(lambda batch: batch["x"], beta=0.5)
TO_LABELS = LabelShiftRatio([0.1, 0.1, 0.8], [0.5, 0.3, 0.2])
DISTRIBUTION = Distribution.line(stats.norm(scale=2), stats.norm.logpdf, -14, 14, cells=20_000)
TILTED = Distribution.line(stats.uniform(), lambda x: 2 * x, 0, 1, cells=20_000)


@pytest.fixture(scope="module")
def seeds(soak):
    return range(2_000 if soak else 200)


def uniformity(pvalues):
    return stats.kstest(pvalues, "uniform").pvalue


def samples(proposal, ratio, envelope, seeds):
    return [sample_chunks(proposal, ratio, envelope, PROPOSALS, chunks=1, seed=seed) for seed in seeds]


def test_of_density_rows(seeds):
    """KS of N(0, 1) rows at M = 2. Control: at half of M the p-values pile up near 0."""

    def pvalues(log_m):
        found = samples(WIDE, TO_STANDARD, log_m, seeds)
        return [stats.kstest(sample.rows["x"], "norm").pvalue for sample in found]

    assert uniformity(pvalues(LOG_2)) > 1e-3
    assert uniformity(pvalues(0.0)) < 1e-3


def test_of_labels(seeds):
    """Chi-square of .1 .1 .8 among 250 rows at M = 4. Control: .13 .1 .77, a mean chi-square of 4, not 2."""
    found = samples(CLASSES, TO_LABELS, math.log(4), seeds)
    true, wrong = np.array([0.1, 0.1, 0.8]), np.array([0.13, 0.1, 0.77])
    assert uniformity([chisquare_pvalue(sample.rows["label"], true) for sample in found]) > 1e-3
    assert uniformity([chisquare_pvalue(sample.rows["label"], wrong) for sample in found]) < 1e-3


@pytest.mark.parametrize(
    ("proposal", "ratio", "log_m"),
    [
        (WIDE, TO_STANDARD, LOG_2),
        (CLASSES, TO_LABELS, math.log(4)),
        (UNIT, VerifierRatio(lambda batch: batch["x"] < 0.3), -math.log(0.3)),
    ],
    ids=["density", "label shift", "verifier above its bound"],
)
def test_of_the_count(seeds, proposal, ratio, log_m):
    """Accepted ~ Binomial(n, 1/M); its p-value is randomised, and so exactly uniform.

    The verifier accepts .3 of what passes, .09 in all, at M = 1/.3. Control: a probability that is 1.05 times as large;
    at n = 1,000 and 1/2 that is 1.6 standard errors, at .09 it is .5.
    """
    probability = math.exp(-log_m) * (0.3 if isinstance(ratio, VerifierRatio) else 1)
    counts = np.array([num_rows(sample.rows) for sample in samples(proposal, ratio, log_m, seeds)])
    uniforms = np.random.default_rng(0).random(len(counts))
    assert uniformity(randomised_binomial_pvalues(counts, PROPOSALS, probability, uniforms)) > 1e-3
    assert uniformity(randomised_binomial_pvalues(counts, PROPOSALS, 1.05 * probability, uniforms)) < 1e-3


def test_of_rows_at_an_estimated_m(seeds):
    """exp(2x) on [0, 1], M from the 100 keys of a pilot: rows follow q min(r, M) at their own seed's M. Control: p.

    P(key > M), the acceptance, is that of the 40th of 100 order statistics, Beta(61, 40), of mean .604.
    """
    found = samples(UNIT, TILT, BudgetEnvelope(0.6, 100), seeds)
    assert uniformity([TILTED.pvalue(one.rows["x"].numpy(), TILTED.accepted(one.log_m)) for one in found]) > 1e-3
    assert uniformity([TILTED.pvalue(one.rows["x"].numpy(), TILTED.p) for one in found]) < 1e-3
    acceptances = [TILTED.acceptance(one.log_m) for one in found]
    assert stats.kstest(acceptances, stats.beta(61, 40).cdf).pvalue > 1e-3
    assert stats.kstest(acceptances, stats.beta(40, 61).cdf).pvalue < 1e-3


def test_of_a_pilots_largest_ratio(seeds):
    """P_q(r > M) is that of the largest of 100, Beta(1, 100), of mean 1/101 (Caffo et al. 2002). Control: of 50."""
    envelope, shares = PilotEnvelope(100), []
    for seed in seeds:
        _, log_ratio, exponentials = propose_and_score(UNIT, TILT, Streams(seed, Stage.PILOT), 100)
        log_m = envelope.choose(Pilot(log_ratio, log_ratio + exponentials)).log_m
        shares.append(1 - log_m / 2)  # r = exp(2x) > M where x > log(M)/2
    assert stats.kstest(shares, stats.beta(1, 100).cdf).pvalue > 1e-3
    assert stats.kstest(shares, stats.beta(1, 50).cdf).pvalue < 1e-3


def test_of_weighted_rows(seeds):
    """Wald's chi-square of eight cells of equal p, rows of half of M with their weights. Control: without them."""
    found = samples(WIDE, TO_STANDARD, 0.0, seeds)

    def pvalue(rows, weight):
        cell = (8 * stats.norm.cdf(rows["x"])).astype(int)
        return wald_pvalue(weight[:, None] * (np.eye(8)[cell] - 1 / 8))

    assert uniformity([pvalue(one.rows, one.rows["weight"].double().numpy()) for one in found]) > 1e-3
    assert uniformity([pvalue(one.rows, np.ones(num_rows(one.rows))) for one in found]) < 1e-3


def test_of_adaptive_rows(seeds):
    """A pilot of 1, M grown to the largest of 1,000 ratios. Control: the rows that M accepted before it grew."""
    found = samples(WIDE, TO_STANDARD, AdaptiveEnvelope(num_pilot=1), seeds)
    assert uniformity([stats.kstest(one.rows["x"], "norm").pvalue for one in found]) > 1e-3
    before = [
        sample_chunks(WIDE, TO_STANDARD, one.choice.log_m, PROPOSALS, chunks=1, seed=seed).rows["x"]
        for seed, one in zip(seeds, found, strict=True)
    ]
    assert uniformity([stats.kstest(x, "norm").pvalue for x in before]) < 1e-3


def test_of_a_product_that_screens(seeds):
    """|N(0, 1)| by a verifier and a density. Rows left out early leave KS uniform. Control: N(0, 1.1)'s half."""
    ratio = ProductRatio([VerifierRatio(lambda batch: batch["x"] > 0), TO_STANDARD])
    found = samples(WIDE, ratio, LOG_2, seeds)
    assert min(one.statistics.num_screened_out for one in found) > PROPOSALS // 3
    assert uniformity([stats.kstest(one.rows["x"], "halfnorm").pvalue for one in found]) > 1e-3
    assert uniformity([stats.kstest(one.rows["x"] / 1.1, "halfnorm").pvalue for one in found]) < 1e-3


def test_of_rows_in_two_dimensions(seeds):
    """Energy distance to direct draws under 99 permutations, whose p-value is uniform on 1/100 to 1; made continuous.

    Correlation .8 in N(0, 2 I), 100 rows each. Control: direct draws of correlation .5.
    """
    covariance = [[1.0, 0.8], [0.8, 1.0]]
    wide = DistributionProposal(MultivariateNormal(torch.zeros(2), 2 * torch.eye(2)))
    ratio = DensityRatio(MultivariateNormal(torch.zeros(2), torch.tensor(covariance)), wide)
    rng = np.random.default_rng(0)

    def pvalues(correlation):
        other = [[1.0, correlation], [correlation, 1.0]]
        for seed in seeds[:200]:
            x = ChunkWork(wide, ratio, math.log(10 / 3), 600, seed)(0).rows["x"][:100]
            found = energy_pvalue(x.numpy(), rng.multivariate_normal(np.zeros(2), other, 100), 99, seed)
            yield found - rng.random() / 100

    assert uniformity(list(pvalues(0.8))) > 1e-3
    assert uniformity(list(pvalues(0.5))) < 1e-3


@pytest.mark.parametrize(
    ("chunk", "other"), [(1, {}), (0, {"seed": 1}), (0, {"round": 1}), (0, {"stage": Stage.PILOT})]
)
def test_chunks_seeds_rounds_and_stages_are_independent(chunk, other):
    """Proposals of two streams, and their keys' exponentials, 4,000 rows: 1e-3 each. Control: a chunk beside itself."""
    work = partial(ChunkWork, WIDE, TO_STANDARD, -60.0, 4_000)  # M so small that everything is accepted
    first, second = work(seed=0)(0).rows, work(**({"seed": 0} | other))(chunk).rows
    assert num_rows(first) == num_rows(second) == 4_000
    draws = [rows["accept_key"] - rows["log_ratio"] for rows in (first, second)]
    assert stats.pearsonr(first["x"], second["x"]).pvalue > 1e-3
    assert stats.pearsonr(*draws).pvalue > 1e-3
    assert stats.pearsonr(first["x"], work(seed=0)(0).rows["x"]).pvalue < 1e-3


def test_keys_know_nothing_of_the_rows():
    """Key less log ratio is Exp(1), without rank correlation with |x|: 1e-3 each. Control: the key itself has it."""
    rows = ChunkWork(WIDE, TO_STANDARD, -60.0, 4_000, seed=0)(0).rows
    exponentials = rows["accept_key"] - rows["log_ratio"]
    assert stats.kstest(exponentials, "expon").pvalue > 1e-3
    assert stats.spearmanr(exponentials, rows["x"].abs()).pvalue > 1e-3
    assert stats.spearmanr(rows["accept_key"], rows["x"].abs()).pvalue < 1e-3
