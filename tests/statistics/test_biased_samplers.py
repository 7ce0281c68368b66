"""Controls of the method: each shortcut is biased, by the amount worked out here, and the library's way is not.

False-alarm rate 1e-3 each, unless said otherwise.
"""

import heapq
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from distributions import Distribution, N, Z, sample_chunks, total_variation, wald_pvalue
from scipy import stats
from torch.distributions import Categorical, Normal, Uniform

from rsf_dist.data.batch import num_rows
from rsf_dist.proposals import DistributionProposal, TargetMixtureProposal
from rsf_dist.ratios import DensityRatio, LabelShiftRatio, RelativeRatio, RewardRatio
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.accept import top_k
from rsf_dist.sampling.chunk import ChunkWork, propose_and_score
from rsf_dist.sampling.envelope import AdaptiveEnvelope

LOG_2 = math.log(2.0)
UNIT = DistributionProposal(Uniform(0.0, 1.0))
STANDARD = DistributionProposal(Normal(0.0, 1.0))
WIDE = DistributionProposal(Normal(0.0, 2.0))
TO_STANDARD = DensityRatio(Normal(0.0, 1.0), WIDE)
DISTRIBUTION = Distribution.line(stats.norm(scale=2), stats.norm.logpdf, -14, 14)
TILT = RewardRatio(lambda batch: batch["x"], beta=0.5, max_score=1.0)
TILTED = Distribution.line(stats.uniform(), lambda x: 2 * x, 0, 1)


def largest_gap(left, right):
    return np.abs(np.cumsum(left - right)).max()


# N(0, 1) in N(0, 2), M = 1: rows with |x| < c, c^2 = 8 log(2)/3, are capped. A = P_p(|x| > c) + P_q(|x| < c) = .17396
#     + .50337 = .6773; the distribution functions are farthest apart where r = 1/A, at x = -.8997:
#     (P_p(x < -c) + P_q(-c < x < -.8997))/A - P_p(x < -.8997) = .2437 - .1841 = .0596; TV is twice that, by symmetry.
# exp(2x) on [0, 1], M = e^2/2: rows above 1 - log(2)/2 = .6534 are capped. eps = ((e^2 - e^2/2)/2 - .3466 e^2/2)/3.1945
#     = .17745; farthest where r = M/(1 - eps) = 4.4915, at .7511: 1.7083/2.6277 - 3.4915/6.3891 = .1036, which is TV
#     as well, since the densities cross once.
@pytest.mark.parametrize(
    ("ratio", "proposal", "distribution", "log_m", "eps", "gap", "variation"),
    [
        (TO_STANDARD, WIDE, DISTRIBUTION, 0.0, 0.3227, 0.0596, 0.1191),
        (TILT, UNIT, TILTED, 2 - LOG_2, 0.1775, 0.1036, 0.1036),
    ],
    ids=["density", "reward"],
)
def test_half_of_m_is_off_by_the_formula(ratio, proposal, distribution, log_m, eps, gap, variation):
    """At half of M, KS against p fails, by the gap of q min(r, M)/(1 - eps); at M it passes.

    With 8,000 rows and more the critical value is below 1.95/sqrt(8,000) = .022.
    """
    biased = distribution.accepted(log_m)
    assert distribution.eps(log_m) == pytest.approx(eps, abs=1e-4)
    assert largest_gap(biased, distribution.p) == pytest.approx(gap, abs=1e-4)
    assert total_variation(biased, distribution.p) == pytest.approx(variation, abs=1e-4)
    sample = sample_chunks(proposal, ratio, log_m)
    found = distribution.kolmogorov(sample.rows["x"], distribution.p)
    assert found.pvalue < 1e-3
    assert abs(found.statistic - gap) < 1.95 / math.sqrt(num_rows(sample.rows))
    assert distribution.pvalue(sample_chunks(proposal, ratio, log_m + LOG_2).rows["x"], distribution.p) > 1e-3


def test_half_of_m_on_labels_is_off_by_the_formula():
    """.5 .3 .2 to .1 .1 .8 at M = 2: q min(r, 2) = .1 .1 .4, so 1/6 1/6 2/3 are sampled; TV = .8 - 2/3 = .133.

    The share of label 2 among 6,000 rows has standard error sqrt(2/9/6,000) = .006.
    """
    proposal = DistributionProposal(Categorical(torch.tensor([0.5, 0.3, 0.2])), column="label")
    labels = sample_chunks(proposal, LabelShiftRatio([0.1, 0.1, 0.8], [0.5, 0.3, 0.2]), LOG_2).rows["label"]
    distribution = Distribution.atoms([0.5, 0.3, 0.2], [0.1, 0.1, 0.8])
    assert distribution.accepted(LOG_2) == pytest.approx([1 / 6, 1 / 6, 2 / 3])
    assert (
        distribution.pvalue(labels, distribution.p) < 1e-3 < distribution.pvalue(labels, distribution.accepted(LOG_2))
    )
    shares = np.bincount(labels, minlength=3) / len(labels)
    assert abs(total_variation(shares, distribution.p) - 2 / 15) < Z * math.sqrt(2 / 9 / len(labels))


def naive_distribution(distribution, pool):
    """The distribution of rows accepted at the largest ratio so far, over the draws of a pool: exact.

    Draw i is atom j with q_j and accepted with r_j E[1/max(r_j, largest of i)], where P(largest of i <= r_k) = Q_k^i.
    """
    order = np.argsort(distribution.log_ratio)
    q, r = distribution.q[order], np.exp(distribution.log_ratio[order])
    share = np.zeros(len(q))
    for i in range(pool):
        largest = np.diff(np.append(0.0, np.cumsum(q) ** i))
        share += q * r * (largest / np.maximum.outer(r, r)).sum(axis=1)
    return (share / share.sum())[np.argsort(order)]


def test_rows_accepted_while_m_grew_must_be_thinned():
    """50 atoms, p_j ~ .9^j in the uniform distribution, pools of 400 of which each begins to learn M anew.

    Accepting at the running maximum and keeping what was accepted is off by TV = .0163, exactly; held against the last
    maximum by the same keys, the rows follow p (off by 3e-6, where a pool misses the top atom). Rows within a pool
    depend on each other through M, so pools are the independent units of the test.
    """
    target = 0.9 ** np.arange(50)
    distribution = Distribution.atoms([1 / 50] * 50, target / target.sum())
    ratio = DensityRatio(Categorical(torch.from_numpy(target)), DistributionProposal(Categorical(torch.ones(50))))
    rows = ChunkWork(ratio.proposal, ratio, -60.0, 2_000 * 400, seed=0)(0).rows  # everything, with its key
    x, log_ratio, key = (rows[name].numpy().reshape(2_000, 400) for name in ("x", "log_ratio", "accept_key"))
    naive = key > np.maximum.accumulate(log_ratio, axis=1)
    thinned = key > log_ratio.max(axis=1, keepdims=True)

    def pvalue(keep, mass):
        counts = np.stack([np.bincount(pool[kept], minlength=50) for pool, kept in zip(x, keep, strict=True)])
        return wald_pvalue(counts - mass * keep.sum(axis=1, keepdims=True))

    biased = naive_distribution(distribution, 400)
    assert total_variation(biased, distribution.p) == pytest.approx(0.01628, abs=1e-5)
    assert pvalue(naive, distribution.p) < 1e-3
    assert pvalue(naive, biased) > 1e-3
    assert pvalue(thinned, distribution.p) > 1e-3


def test_the_adaptive_envelope_thins_what_a_poor_pilot_let_through():
    """A pilot of 1: its M is too small, and the rows drawn at it fail KS; held against the last M they pass."""
    sample = sample_chunks(WIDE, TO_STANDARD, AdaptiveEnvelope(num_pilot=1), seed=5)
    assert sample.choice.log_m < 0 < sample.log_m
    assert DISTRIBUTION.pvalue(sample.rows["x"], DISTRIBUTION.p) > 1e-3
    before = sample_chunks(WIDE, TO_STANDARD, sample.choice.log_m, seed=5)
    assert DISTRIBUTION.pvalue(before.rows["x"], DISTRIBUTION.p) < 1e-3


def ends_of_tasks(costs, workers):
    """Return the end of each task, where the next task goes to the first free worker."""
    free, ends = [0.0] * workers, []
    for cost in costs:
        ends.append(heapq.heapreplace(free, free[0] + cost) + cost)
    return np.array(ends)


@pytest.mark.parametrize(
    ("wanted", "cost_power", "bias", "allowance"),
    [(320, 0.5, -0.1, 0.003), (64, 1.0, -0.656, 0.003)],
    ids=["five rounds", "one round"],
)
def test_the_first_to_finish_are_not_the_target(wanted, cost_power, bias, allowance):
    """64 workers, N(0, 1) as target, a row that costs exp(c x). The mean of the first N finished; in start order 0.

    The rows started have mean 0 (Wald), and the 64 in progress are not among the finished. Those are found there in
    proportion to their cost (inspection paradox), exp(c x) N(0, 1) ~ N(c, 1): so the mean is -64 c/N once there were
    some rounds, -.1 for c = 1/2 and N = 320 (1,500 runs on NumPy draws: -.0983, standard error .0014). With N = 64 and
    c = 1 it is not there yet: -.656 in 1,500 such runs, standard error .003.
    """
    x = sample_chunks(WIDE, TO_STANDARD, LOG_2, n=80_000, chunks=20).rows["x"].double().numpy()
    started = wanted + 64  # whatever has begun when the last of the wanted ends
    runs = x[: len(x) // started * started].reshape(-1, started)
    first = np.concatenate([run[np.argsort(ends_of_tasks(np.exp(cost_power * run), 64))[:wanted]] for run in runs])
    in_order = runs[:, :wanted].ravel()
    error = 1 / math.sqrt(len(first))
    assert abs(first.mean() - bias) < Z * error + allowance
    assert stats.kstest(first, "norm").pvalue < 1e-3
    assert abs(in_order.mean()) < Z * error
    assert stats.kstest(in_order, "norm").pvalue > 1e-3


class Unmixed:
    """Proposals of q alone, under the name of a mixture."""

    def sample(self, n, rng):
        return STANDARD.sample(n, rng) | {"component": torch.zeros(n, dtype=torch.int64)}


def test_a_relative_ratio_needs_proposals_of_its_mixture():
    """N(1, 1) in N(0, 1), a = 1/4, M = 4. Proposals of q alone make it p q/(p/4 + 3 q/4), of mean .685.

    KS against p fails by the gap, .133; the mixture's rows, at the same M, pass.
    """
    p, q = (stats.norm(mean).logpdf for mean in (1, 0))
    distribution = Distribution.line(
        stats.norm, lambda x: q(x) + p(x) - np.log(np.exp(p(x)) / 4 + 3 * np.exp(q(x)) / 4), -7, 8
    )
    target = Distribution.line(stats.norm(1), p, -7, 8).p
    gap = largest_gap(distribution.p, target)
    assert gap == pytest.approx(0.1328, abs=1e-4)
    rows = {"x": 1 + torch.randn(400_000, generator=torch.Generator().manual_seed(0))}
    mixture = TargetMixtureProposal(STANDARD, rows, alpha=0.25)
    ratio = RelativeRatio(DensityRatio(Normal(1.0, 1.0), STANDARD), mixture)
    wrong = sample_chunks(Unmixed(), ratio, 2 * LOG_2).rows["x"]
    assert abs(distribution.kolmogorov(wrong, target).statistic - gap) < 1.95 / math.sqrt(len(wrong))
    assert distribution.pvalue(wrong, target) < 1e-3 < distribution.pvalue(wrong, distribution.p)
    assert distribution.pvalue(sample_chunks(mixture, ratio, 2 * LOG_2).rows["x"], target) > 1e-3


def test_a_gamma_shift_is_not_the_target_though_m_bounds_r(gaussians25):
    """DRS at gamma = 1 and M = 2 accepts .3797 in place of 1/2, and is off by a gap of .0546, TV .1092, where M = 2.633
    would accept as many and follow p. KS fails by the gap, and passes the distribution s/(s + (1 - s) e).
    """
    sample = sample_chunks(WIDE, gaussians25.GammaShiftRatio(TO_STANDARD, LOG_2, gamma=1.0), LOG_2)
    s = DISTRIBUTION.probability(LOG_2)
    distribution = replace(DISTRIBUTION, log_ratio=np.log(s / (s + (1 - s) * np.e)))
    shifted = distribution.accepted(0.0)
    assert (largest_gap(shifted, DISTRIBUTION.p), total_variation(shifted, DISTRIBUTION.p)) == pytest.approx(
        (0.0546, 0.1092), abs=1e-4
    )
    assert distribution.acceptance(0.0) == pytest.approx(0.3797, abs=1e-4)
    assert stats.binomtest(num_rows(sample.rows), N, 0.37974).pvalue > 1e-3
    found = DISTRIBUTION.kolmogorov(sample.rows["x"], DISTRIBUTION.p)
    assert abs(found.statistic - 0.0546) < 1.95 / math.sqrt(num_rows(sample.rows))
    assert found.pvalue < 1e-3 < DISTRIBUTION.pvalue(sample.rows["x"], shifted)
    equally_many = sample_chunks(WIDE, TO_STANDARD, -math.log(0.37974))
    assert DISTRIBUTION.pvalue(equally_many.rows["x"], DISTRIBUTION.p) > 1e-3


def test_the_highest_keys_of_a_pool_are_the_target_and_gumbels_are_not():
    """exp(2x) on [0, 1]: of 40,000 rows the 12,000 with the highest keys. .3 is below the acceptance at sup r, .432, so
    the next key is above it and the rows follow p; of 24,000, q min(r, M) at M = the next key.

    With Gumbel noise in place of E a row is in with probability 1 - exp(-r/c), c = e^2.1345 for 12,000: a gap of .0434.
    """
    batch, log_ratio, exponentials = propose_and_score(UNIT, TILT, Streams(seed=0), 40_000)
    x, keys = batch["x"].numpy(), log_ratio + exponentials
    rows, log_m = top_k(keys, 12_000)
    assert log_m > 2
    assert TILTED.pvalue(x[rows], TILTED.p) > 1e-3
    more, log_m = top_k(keys, 24_000)
    assert TILTED.pvalue(x[more], TILTED.accepted(log_m)) > 1e-3
    assert TILTED.pvalue(x[more], TILTED.p) < 1e-3
    shares = TILTED.q * -np.expm1(-np.exp(TILTED.log_ratio - 2.1345))
    assert shares.sum() == pytest.approx(0.3, abs=1e-4)
    assert largest_gap(shares / shares.sum(), TILTED.p) == pytest.approx(0.0434, abs=1e-4)
    gumbel, _ = top_k(log_ratio + np.random.default_rng(0).gumbel(size=40_000), 12_000)
    found = TILTED.kolmogorov(x[gumbel], TILTED.p)
    assert found.pvalue < 1e-3
    assert abs(found.statistic - 0.0434) < 1.95 / math.sqrt(12_000)
