"""Every ratio under every envelope samples the distribution that it says: q min(r, M), which is p where M bounds r.

Distributions are SciPy's, not the library's own. Either test of a field of the grid has a false-alarm rate of 1e-4,
2.5 % in all.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from distributions import Distribution, N, Sample, energy_pvalue, sample_at, sample_chunks, total_variation
from scipy import stats
from torch import nn
from torch.distributions import Categorical, HalfNormal, Independent, MultivariateNormal, Normal, Uniform

from rsf_dist.config.ratio import ClassifierRatioConfig, RatioNetworkConfig, RatioOptimizerConfig
from rsf_dist.data.batch import num_rows
from rsf_dist.models.networks import Network
from rsf_dist.proposals import DistributionProposal, Proposal, TargetMixtureProposal
from rsf_dist.ratios import (
    ClassifierRatio,
    ConstantRatio,
    DensityRatio,
    LabelShiftRatio,
    ProductRatio,
    Ratio,
    RelativeRatio,
    RewardRatio,
    VerifierRatio,
)
from rsf_dist.ratios.calibration import AffineCalibration
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.envelope import AdaptiveEnvelope, BudgetEnvelope, CertifiedEnvelope, FixedEnvelope, PilotEnvelope

RATE = 1e-4
LOG_2 = math.log(2.0)
UNIT = DistributionProposal(Uniform(0.0, 1.0))
STANDARD = DistributionProposal(Normal(0.0, 1.0))
HALF = DistributionProposal(Normal(0.0, 1 / 2))
WIDE = DistributionProposal(Normal(0.0, 2.0))
CLASSES = DistributionProposal(Categorical(torch.tensor([0.5, 0.3, 0.2])), column="label")


@dataclass(frozen=True)
class Case:
    """A ratio, the distribution of its q and r, log sup r worked by hand, and a control whose rows must fail."""

    proposal: Proposal
    ratio: Ratio
    distribution: Distribution
    log_sup: float
    control: Ratio
    column: str = "x"

    def pvalues(self, sample: Sample) -> tuple[float, float]:
        """Return the p-value of the rows, by KS or chi-square, and that of their number, binomial."""
        x = sample.rows[self.column].numpy().ravel()
        expected = self.distribution.acceptance(sample.log_m)
        count = stats.binomtest(num_rows(sample.rows), sample.statistics.num_scored, expected)
        return self.distribution.pvalue(x, self.distribution.accepted(sample.log_m)), count.pvalue


class DoubleWell(nn.Module):
    """An energy of two minima, at -1 and 1; the constant of exp(-energy) is not known in closed form."""

    def __init__(self):
        super().__init__()
        self.depth = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return self.depth * (x**2 - 1) ** 2


class Quadratic(Network):
    """A network that has learned 2 log N(x; 1, 1)/N(x; 0, 2) + 3: the Bayes-optimal logit, badly calibrated."""

    def __init__(self):
        super().__init__(nn.Identity())

    def forward(self, x):
        return (2 * (LOG_2 - (x - 1) ** 2 / 2 + x**2 / 8) + 3)[:, None]


def wide(log_p):
    return Distribution.line(stats.norm(scale=2), log_p, -14, 14)


def unit(log_p):
    return Distribution.line(stats.uniform(), log_p, 0, 1)


def score(batch):
    return batch["x"]


def log_half(x):
    with np.errstate(divide="ignore"):
        return np.where(x >= 0, LOG_2 + stats.norm.logpdf(x), -np.inf)


def density_of_energy():
    energy, proposal = DoubleWell(), DistributionProposal(Normal(0.0, 1.5))
    ratio = DensityRatio.of_energy(energy, proposal, temperature=0.5)
    distribution = Distribution.line(stats.norm(scale=1.5), lambda x: -2 * (x**2 - 1) ** 2, -10, 10)
    # d/dx (-2(x^2 - 1)^2 + x^2/4.5) = 0 at x^2 = 1 + 1/18: -2/324 + (19/18)/4.5, and log(1.5 sqrt(2 pi)) of q
    log_sup = -2 / 324 + 19 / 81 + math.log(1.5) + math.log(2 * math.pi) / 2
    lop_sided = DensityRatio.of_energy(lambda x: energy(x) + 0.1 * x, proposal, temperature=0.5)
    return Case(proposal, ratio, distribution, log_sup, lop_sided)


class Mixed:
    """N(1, 1) and N(0, 1) in shares 1/4 and 3/4, as SciPy's distributions are called."""

    def logpdf(self, x):
        return np.log(stats.norm.pdf(x, 1) / 4 + 3 * stats.norm.pdf(x) / 4)


def relative():
    """N(1, 1) in N(0, 1): r = exp(x - 1/2) has no bound. With a = 1/4, on (p + 3 q)/4, r_a stays below 4."""
    rows = {"x": 1 + torch.randn(400_000, generator=torch.Generator().manual_seed(0))}
    proposal = TargetMixtureProposal(STANDARD, rows, alpha=0.25)
    ratio, control = (RelativeRatio(DensityRatio(Normal(mean, 1.0), STANDARD), proposal) for mean in (1.0, 0.6))
    return Case(proposal, ratio, Distribution.line(Mixed(), stats.norm(1).logpdf, -7, 8), 2 * LOG_2, control)


def product():
    """N(0, 1) in N(0, 2), tilted by exp(cos x): both factors are largest at 0, at 2 and e."""
    density = DensityRatio(Normal(0.0, 1.0), WIDE)
    ratio, control = (
        ProductRatio([RewardRatio(lambda batch: torch.cos(batch["x"]), beta, max_score=1.0), density])
        for beta in (1.0, 10.0)
    )
    return Case(WIDE, ratio, wide(lambda x: stats.norm.logpdf(x) + np.cos(x)), LOG_2 + 1, control)


def classifier(network, max_log_ratio=None):
    calibration = AffineCalibration(slope=0.5, intercept=-1.5, method="platt")
    return ClassifierRatio([network], None, calibration, None, np.empty(0), np.empty(0, np.int64), "x", max_log_ratio)


CASES = {
    # N(0, 1) in N(0, 2): r is largest at 0, 2
    "density": Case(
        WIDE, DensityRatio(Normal(0.0, 1.0), WIDE), wide(stats.norm.logpdf), LOG_2, DensityRatio(Normal(0.0, 1.3), WIDE)
    ),
    # the same without its constant, log sqrt(2 pi)
    "unnormalised": Case(
        WIDE,
        DensityRatio(lambda x: -(x**2) / 2, WIDE, log_bound=LOG_2 + math.log(2 * math.pi) / 2),
        wide(lambda x: -(x**2) / 2),
        LOG_2 + math.log(2 * math.pi) / 2,
        DensityRatio(lambda x: -(x**2) / 2 + 0.2 * x, WIDE),
    ),
    "energy": density_of_energy(),
    # |N(0, 1)| in N(0, 2): p = 0 on half of q's support, 4 at 0
    "half of the support": Case(
        WIDE, DensityRatio(HalfNormal(1.0), WIDE), wide(log_half), 2 * LOG_2, DensityRatio(HalfNormal(1.2), WIDE)
    ),
    # q exp(2 x) on [0, 1]: r up to e^2
    "reward, certified": Case(
        UNIT,
        RewardRatio(score, beta=0.5, max_score=1.0),
        unit(lambda x: 2 * x),
        2.0,
        RewardRatio(score, beta=0.8, max_score=1.0),
    ),
    "reward, estimated": Case(
        UNIT, RewardRatio(score, beta=0.5), unit(lambda x: 2 * x), 2.0, RewardRatio(score, beta=0.8)
    ),
    # N(0, 1) given x > 1
    "verifier": Case(
        STANDARD,
        VerifierRatio(lambda batch: batch["x"] > 1),
        Distribution.line(stats.norm, lambda x: np.where(x > 1, stats.norm.logpdf(x), -np.inf), -7, 7, cells=140_000),
        0.0,
        VerifierRatio(lambda batch: batch["x"] > 0.9),
    ),
    # .5 .3 .2 to .1 .1 .8: r up to 4
    "label shift": Case(
        CLASSES,
        LabelShiftRatio([0.1, 0.1, 0.8], [0.5, 0.3, 0.2]),
        Distribution.atoms([0.5, 0.3, 0.2], [0.1, 0.1, 0.8]),
        2 * LOG_2,
        LabelShiftRatio([0.15, 0.1, 0.75], [0.5, 0.3, 0.2]),
        column="label",
    ),
    "constant": Case(UNIT, ConstantRatio(), unit(np.zeros_like), 0.0, VerifierRatio(lambda batch: batch["x"] > 0.1)),
    # N(1, 1) in N(0, 2): log 2 - (x - 1)^2/2 + x^2/8 is largest at 4/3, log 2 + 1/6
    "classifier": Case(
        WIDE,
        classifier(Quadratic()),
        wide(stats.norm(1).logpdf),
        LOG_2 + 1 / 6,
        DensityRatio(Normal(0.8, 1.0), WIDE),
    ),
    # the same, cut off at r = 1.25: certified, for a target that is cut off as well
    "classifier, cut off": Case(
        WIDE,
        classifier(Quadratic(), max_log_ratio=math.log(1.25)),
        wide(lambda x: np.minimum(stats.norm(1).logpdf(x), math.log(1.25) + stats.norm(scale=2).logpdf(x))),
        math.log(1.25),
        DensityRatio(Normal(0.8, 1.0), WIDE),
    ),
    "product": product(),
    "relative": relative(),
    # N(0, 1/8) in N(0, 1/2): 4 at 0
    "an eighth in a half": Case(
        HALF,
        DensityRatio(Normal(0.0, 1 / 8), HALF),
        Distribution.line(stats.norm(scale=1 / 2), stats.norm(scale=1 / 8).logpdf, -3.5, 3.5),
        2 * LOG_2,
        DensityRatio(Normal(0.0, 1 / 6), HALF),
    ),
}

ENVELOPES = {
    "at the supremum": lambda log_sup: FixedEnvelope(log_sup, num_pilot=1),
    "above it": lambda log_sup: FixedEnvelope(log_sup + math.log(2.5), num_pilot=1),
    "half of it": lambda log_sup: FixedEnvelope(log_sup - LOG_2, num_pilot=1),
    "certified": lambda _: CertifiedEnvelope(num_pilot=1),
    "pilot": lambda _: PilotEnvelope(num_pilot=2_000),
    "pilot with a margin": lambda _: PilotEnvelope(num_pilot=500, margin=0.1),
    "adaptive": lambda _: AdaptiveEnvelope(num_pilot=20),
    "budget": lambda _: BudgetEnvelope(acceptance=0.1),
}
GRID = [
    pytest.param(case, envelope(case.log_sup), id=f"{name}-{how}")
    for name, case in CASES.items()
    for how, envelope in ENVELOPES.items()
    if how != "certified" or case.ratio.log_bound is not None
]


@pytest.mark.parametrize(("case", "envelope"), GRID)
def test_accepted_rows_follow_the_distribution(case, envelope):
    """KS or chi-square, and the count; rows of the near miss must fail. From the supremum on the distribution is p."""
    sample = sample_chunks(case.proposal, case.ratio, envelope)
    assert min(case.pvalues(sample)) > RATE
    if sample.log_m >= case.log_sup:
        assert sample.statistics.num_capped == 0
        assert total_variation(case.distribution.accepted(sample.log_m), case.distribution.p) < 1e-6
    assert case.pvalues(sample_at(case.proposal, case.control, sample.choice))[0] < RATE


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.ratio.log_bound is not None])
def test_certified_bounds_are_the_supremum(case):
    """The supremum is worked by hand; on the distribution's grid r comes near to it and never above."""
    assert case.ratio.log_bound == pytest.approx(case.log_sup, abs=1e-6)
    assert case.log_sup - 2e-3 < case.distribution.log_ratio.max() < case.log_sup + 1e-9


def test_a_mixture_has_its_share_of_target_rows():
    """Binomial: 1/4 of the proposals, and of the accepted rows E_p[p/(p + 3 q)] (the grid's sum), at 1e-3 each."""
    case = CASES["relative"]
    proposals = case.proposal.sample(N, Streams(seed=0))["component"]
    assert stats.binomtest(int(proposals.sum()), N, 1 / 4).pvalue > 1e-3
    share = (case.distribution.p * np.exp(case.distribution.log_ratio) / 4).sum()
    accepted = sample_chunks(case.proposal, case.ratio, case.log_sup).rows["component"]
    assert stats.binomtest(int(accepted.sum()), len(accepted), share).pvalue > 1e-3


def plane(covariance):
    return MultivariateNormal(torch.zeros(2), torch.tensor(covariance))


def five(variance):
    return MultivariateNormal(torch.zeros(5), variance * torch.eye(5))


def two_blobs(x):
    """N((2, 0), I/4) and N((-2, 0), I/4) alike, without a constant."""
    return torch.logsumexp(torch.stack([-2 * ((x - torch.tensor([at, 0.0])) ** 2).sum(1) for at in (2.0, -2.0)]), 0)


def draw_blobs(rng, n):
    return rng.normal(size=(n, 2)) / 2 + np.stack([rng.choice([2.0, -2.0], n), np.zeros(n)], 1)


def draw_correlated(rng, n):
    return rng.multivariate_normal(np.zeros(2), [[1, 0.8], [0.8, 1]], n)


def draw_five(rng, n):
    return rng.normal(size=(n, 5)) / 2


WIDE_PLANE = DistributionProposal(plane([[2.0, 0.0], [0.0, 2.0]]))
WIDER_PLANE = DistributionProposal(plane([[4.0, 0.0], [0.0, 1.0]]))
MULTIVARIATE = {
    # N(0, [[1, .8], [.8, 1]]) in N(0, 2 I): M = sqrt(4/.36) = 10/3
    "correlated": (DensityRatio(plane([[1.0, 0.8], [0.8, 1.0]]), WIDE_PLANE), math.log(10 / 3), draw_correlated),
    # half of either blob in N(0, diag(4, 1)), without constants: -2 (x - 2)^2 + x^2/8 is largest at x = 32/15, 8/15
    "two blobs": (DensityRatio(two_blobs, WIDER_PLANE), math.log(4 * math.pi) + 8 / 15, draw_blobs),
    # N(0, I/4) in N(0, I/2): 2^(5/2) at 0
    "five dimensions": (DensityRatio(five(1 / 4), DistributionProposal(five(1 / 2))), 2.5 * LOG_2, draw_five),
}


@pytest.mark.parametrize(("ratio", "log_m", "draw"), MULTIVARIATE.values(), ids=MULTIVARIATE)
def test_multivariate_rows_are_like_direct_draws(ratio, log_m, draw):
    """Energy distance of 600 accepted rows to 600 direct draws, under 999 permutations: false-alarm rate 1e-3.

    Negative control: the proposals themselves, accepted at M = e^-50, differ.
    """
    direct = draw(np.random.default_rng(1), 600)

    def pvalue(log_m):
        sample = sample_chunks(ratio.proposal, ratio, log_m)
        return energy_pvalue(sample.rows["x"][:600].numpy(), direct), sample

    found, sample = pvalue(log_m)
    assert sample.statistics.num_capped == 0
    assert found > 1e-3
    assert pvalue(-50.0)[0] == 1e-3


def correlated_pvalues(log_m):
    ratio, _, _ = MULTIVARIATE["correlated"]
    sample = sample_chunks(WIDE_PLANE, ratio, log_m)
    # Along (1, 1) the variance is 1.8, across it .2, and the two are independent.
    x = sample.rows["x"].double().numpy()
    along, across = (x[:, 0] + x[:, 1]) / math.sqrt(2 * 1.8), (x[:, 0] - x[:, 1]) / math.sqrt(2 * 0.2)
    tests = [stats.kstest(along, "norm"), stats.kstest(across, "norm"), stats.pearsonr(along, across)]
    return [test.pvalue for test in tests], sample


def test_correlated_target_along_its_axes():
    """M = 10/3, acceptance .3. Four tests at 1e-3 each. Negative control at half of M: across the diagonal it fails."""
    pvalues, sample = correlated_pvalues(math.log(10 / 3))
    assert min(pvalues) > 1e-3
    assert stats.binomtest(num_rows(sample.rows), N, 0.3).pvalue > 1e-3
    assert correlated_pvalues(math.log(5 / 3))[0][1] < 1e-3


@pytest.fixture(scope="module")
def fitted():
    """A network that has learned N(1, 1) over N(0, 2) from 4,000 rows of either."""
    rng = np.random.default_rng(0)
    target, proposals = (
        torch.from_numpy(rng.normal(*distribution, (4_000, 1)).astype("float32")) for distribution in [(1, 1), (0, 2)]
    )
    config = ClassifierRatioConfig(
        network=RatioNetworkConfig(name="mlp", width=32, depth=2, dropout=0.0),
        optimizer=RatioOptimizerConfig(steps=300, batch_size=256, learning_rate=1e-2),
    )
    return ClassifierRatio.fit(target, proposals, config, seed=0, column="x")


@pytest.mark.parametrize("envelope", [PilotEnvelope(2_000), BudgetEnvelope(0.2, 2_000)], ids=["pilot", "budget"])
def test_rows_follow_what_a_network_has_learned(fitted, envelope):
    """KS against q min(r, M), which is near p but not p, with the network's r on a grid, and the count: 1e-3 each.

    Negative control: the same rows fail the distribution of a logit half as steep.
    """
    line = DistributionProposal(Independent(Normal(torch.zeros(1), 2 * torch.ones(1)), 1))

    def learned(x):
        return fitted.log_ratio({"x": torch.from_numpy(x.astype("float32"))[:, None]}).numpy()

    distribution = wide(lambda x: learned(x) + stats.norm(scale=2).logpdf(x))
    case = Case(line, fitted, distribution, math.nan, fitted)
    sample = sample_chunks(line, fitted, envelope)
    assert min(case.pvalues(sample)) > 1e-3
    target, accepted = wide(stats.norm(1).logpdf).p, distribution.accepted(sample.log_m)
    assert total_variation(accepted, target) < 0.06 < 0.3 < total_variation(distribution.q, target)
    flat = Distribution(distribution.ends, distribution.q, distribution.log_ratio / 2)
    assert flat.pvalue(sample.rows["x"].numpy().ravel(), flat.accepted(sample.log_m / 2)) < 1e-3
