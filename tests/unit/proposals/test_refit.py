"""Distributions fitted to accepted rows, proposals moved to them, and mixtures with the proposal that was moved."""

import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import (
    Beta,
    Categorical,
    Dirichlet,
    Gamma,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
    Uniform,
)

from rsf_dist.data.batch import concat, num_rows, select, to_cpu
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.proposals import (
    AugmentProposal,
    DefensiveProposal,
    DensityProposal,
    DistributionProposal,
    Refittable,
    TargetMixtureProposal,
)
from rsf_dist.proposals.base import has_settable_class_prior
from rsf_dist.proposals.distribution import log_density
from rsf_dist.proposals.refit import fit_distribution, support_bounds
from rsf_dist.proposals.rendering import render
from rsf_dist.ratios import ConstantRatio
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.accept import key_quantile
from rsf_dist.sampling.chunk import ChunkWork, propose_and_score

INF = torch.inf


def ends(low, high, d=None):
    shape = () if d is None else (d,)
    return torch.full(shape, low), torch.full(shape, high)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def normals(n, d, seed=0):
    return torch.randn(n, d, generator=random(seed), dtype=torch.float64)


def gaussians(distribution):
    """Return weights [k], means [k, d] and covariances [k, d, d] in x of a distribution of vectors without ends."""
    mixture, (to_x,) = distribution.base_dist, distribution.transforms
    z = mixture.component_distribution
    scale = to_x(torch.ones(distribution.event_shape)) - to_x(torch.zeros(distribution.event_shape))
    return mixture.mixture_distribution.probs, to_x(z.mean), z.covariance_matrix * scale * scale[:, None]


def same_rows(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# fit_distribution


def test_one_gaussian_is_recovered():
    """Standard errors, of 20,000 rows: sd/sqrt(n) of a mean, sqrt((S_ii S_jj + S_ij^2)/n) of a covariance.

    Seven numbers (one twice) within four of them: a false-alarm rate of 4e-4.
    """
    mean, covariance = torch.tensor([1.0, -2.0]), torch.tensor([[0.5, -0.3], [-0.3, 0.4]])
    torch.manual_seed(1)
    x = MultivariateNormal(mean, covariance).sample((20_000,))
    weights, means, covariances = gaussians(fit_distribution(x, *ends(-INF, INF, 2), seed=0))
    assert weights.tolist() == [1.0]
    variances = covariance.diagonal()
    assert ((means[0] - mean).abs() < 4 * (variances / 20_000).sqrt()).all()
    errors = ((variances[:, None] * variances + covariance**2) / 20_000).sqrt()
    assert ((covariances[0] - covariance).abs() < 4 * errors).all()


def test_one_gaussians_density_is_scipys():
    x = 3 + normals(500, 2) @ torch.tensor([[2.0, 0.0], [0.7, 0.1]], dtype=torch.float64)
    distribution = fit_distribution(x, *ends(-INF, INF, 2), seed=0, max_components=1)
    # the ridge is 1e-3 where each number has variance 9
    covariance = np.cov(x.T, bias=True) + np.diag(np.var(x.numpy(), axis=0)) / 9_000
    expected = stats.multivariate_normal(x.mean(0), covariance).logpdf(x)
    assert np.allclose(distribution.log_prob(x), expected, rtol=0, atol=1e-9)


def test_two_separated_modes_are_two_components():
    """Means within four standard errors of 0.1/sqrt(1,000), the component's own spread included."""
    centres = torch.tensor([[-5.0, 0.0], [5.0, 1.0]], dtype=torch.float64)
    x = torch.cat([centre + 0.1 * normals(1_000, 2, seed) for seed, centre in enumerate(centres)])
    weights, means, covariances = gaussians(fit_distribution(x, *ends(-INF, INF, 2), seed=0))
    order = means[:, 0].argsort()
    assert weights.tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    assert ((means[order] - centres).abs() < 4 * 0.1 / math.sqrt(1_000)).all()
    # of a spread of 5 in the first number, the ridge is (5/3)^2 1e-3 = 0.0028 beside 0.01
    assert torch.allclose(
        covariances.diagonal(dim1=1, dim2=2).sqrt(), torch.tensor(0.1, dtype=torch.float64), atol=0.02
    )


def test_modes_of_a_number_with_ends():
    x = torch.cat([centre + 0.02 * normals(500, 1, seed)[:, 0] for seed, centre in enumerate((-0.7, 0.4))])
    distribution = fit_distribution(x, *ends(-1.0, 1.0), seed=0)
    assert distribution.base_dist.mixture_distribution.probs.tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    torch.manual_seed(0)
    drawn = distribution.sample((2_000,))
    assert ((drawn + 0.7).abs() < 0.1).double().mean() == pytest.approx(0.5, abs=0.05)
    assert ((drawn - 0.4).abs() < 0.1).double().mean() == pytest.approx(0.5, abs=0.05)


def test_no_draw_leaves_the_range():
    """Values that crowd at the ends, some of them at the very end, are fitted without a draw beyond an end."""
    torch.manual_seed(0)
    x = 0.1 + 0.2 * Beta(0.2, 0.2).sample((1_000, 2))
    x[:10], x[10:20] = 0.1, 0.3
    low, high = ends(0.1, 0.3, 2)
    drawn = fit_distribution(x, low, high, seed=0).sample((100_000,))
    assert (drawn >= low.double()).all()
    assert (drawn <= high.double()).all()
    assert drawn.std() > 0.05


@pytest.mark.parametrize("ends_of", [(-1.0, 2.0), (-INF, INF), (-1.0, INF)])
def test_a_density_of_one_number_integrates_to_one(ends_of):
    """The midpoint rule has 200,000 cells of [-1, 2], or of 20 standard deviations where there are no two ends."""
    x = torch.cat([0.15 * normals(300, 1)[:, 0] - 0.2, 0.1 * normals(300, 1, 1)[:, 0] + 1.2])
    distribution = fit_distribution(x, *ends(*ends_of), seed=0)
    assert len(distribution.base_dist.mixture_distribution.probs) == 2
    low, high = ends_of if math.isfinite(ends_of[1]) else (-10.0, 10.0)
    cell = (high - low) / 200_000
    middles = low + cell * (torch.arange(200_000, dtype=torch.float64) + 0.5)
    assert distribution.log_prob(middles).exp().sum().item() * cell == pytest.approx(1.0, abs=1e-4)


def test_a_density_of_two_numbers_integrates_to_one():
    """Importance sampling against the uniform distribution of [0, 2] x [-1, 1], area 4, within 5 standard errors.

    The negative control is the density in z, without the change of variables.
    """
    x = torch.tensor([0.8, 0.1]) + 0.2 * normals(500, 2) @ torch.tensor([[1.0, 0.8], [0, 0.6]], dtype=torch.float64)
    low, high = torch.tensor([0.0, -1.0]), torch.tensor([2.0, 1.0])
    distribution = fit_distribution(x, low, high, seed=0)
    points = low + (high - low) * torch.rand(200_000, 2, generator=random(), dtype=torch.float64)
    (to_x,) = distribution.transforms
    for log_prob, sound in (
        (distribution.log_prob(points), True),
        (distribution.base_dist.log_prob(to_x.inv(points)), False),
    ):
        terms = 4 * log_prob.exp()
        assert ((terms.mean() - 1).abs() < 5 * terms.std() / math.sqrt(len(terms))) == sound


def test_the_density_is_that_of_the_draws():
    """KS of draws against the density's own integral; false-alarm rate 1e-3, and near misses that must fail."""
    x = torch.cat([0.05 * normals(300, 1)[:, 0] + 0.2, 0.1 * normals(300, 1, 1)[:, 0] + 0.6]).clamp(0, 1)
    distribution = fit_distribution(x, *ends(0.0, 1.0), seed=0)
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)[1:-1]
    below = distribution.log_prob(grid).exp().cumsum(0) / 20_000
    torch.manual_seed(0)
    drawn = distribution.sample((20_000,)).numpy()
    assert stats.kstest(drawn, lambda at: np.interp(at, grid, below)).pvalue > 1e-3
    assert stats.kstest(drawn, lambda at: np.interp(at, grid + 0.01, below)).pvalue < 1e-6


def test_the_density_outside_of_the_range_is_zero():
    distribution = fit_distribution(torch.rand(100, 2, generator=random()), *ends(0.0, 1.0, 2), seed=0)
    points = torch.tensor([[0.5, 0.5], [0.5, 1.5], [-0.1, 0.5], [math.nan, 0.5]])
    inside, beyond, before, missing = log_density(distribution, points).tolist()
    assert math.isfinite(inside)
    assert beyond == before == -math.inf
    assert math.isnan(missing)
    assert log_density(distribution, torch.tensor([[0.0, 1.0]])).isfinite().all()  # the ends themselves belong to it


def test_the_unit_of_a_number_without_ends_decides_nothing():
    """x -> 1e-3 x + 7 changes the log density by -2 log 1e-3 alone, also of a distribution much narrower than 1."""
    x = torch.cat([normals(300, 2), 6 + normals(300, 2, 1)])
    distributions = [fit_distribution(values, *ends(-INF, INF, 2), seed=0) for values in (x, 1e-3 * x + 7)]
    shift = distributions[1].log_prob(1e-3 * x + 7) - distributions[0].log_prob(x)
    assert torch.allclose(shift, torch.full_like(shift, -2 * math.log(1e-3)), atol=1e-6)


def test_a_single_end_counts_as_none_and_mixed_ends_are_minded():
    x = torch.rand(200, 3, generator=random(), dtype=torch.float64)
    distribution = fit_distribution(
        x, torch.tensor([0.0, 0.0, -INF]), torch.tensor([1.0, INF, INF]), seed=0, max_components=1
    )
    torch.manual_seed(0)
    first, second, third = distribution.sample((10_000,)).T
    assert 0 <= first.min() < first.max() <= 1
    assert second.min() < 0 < 1 < second.max()
    assert third.min() < 0 < 1 < third.max()


def test_equal_rows_give_bitwise_equal_distributions_of_float64():
    x = torch.rand(400, 2, generator=random())
    distributions = [fit_distribution(x.clone(), *ends(0.0, 1.0, 2), seed=2**40 + 5) for _ in range(2)]
    assert torch.equal(*(distribution.log_prob(x.double()) for distribution in distributions))
    torch.manual_seed(0)
    first = distributions[0].sample((10,))
    torch.manual_seed(0)
    assert torch.equal(first, distributions[1].sample((10,)))
    assert first.dtype == distributions[0].log_prob(first).dtype == torch.float64
    travelled = pickle.loads(pickle.dumps(distributions[0]))
    assert torch.equal(travelled.log_prob(first), distributions[0].log_prob(first))


def test_values_that_are_all_the_same_give_a_narrow_distribution():
    distribution = fit_distribution(torch.full((100,), 3.0), *ends(-INF, INF), seed=0)
    torch.manual_seed(0)
    drawn = distribution.sample((100,))
    assert drawn.mean().item() == pytest.approx(3.0, abs=0.01)
    assert drawn.std() < 0.1


def test_few_rows_give_few_components():
    # a Gaussian of one number has three numbers with its weight; 15 rows are enough for one, 30 for two
    x = torch.cat([torch.linspace(-5, -4, 15), torch.linspace(4, 5, 14)])
    assert len(fit_distribution(x, *ends(-INF, INF), seed=0).base_dist.mixture_distribution.probs) == 1
    x = torch.cat([x, torch.tensor([4.5])])
    assert len(fit_distribution(x, *ends(-INF, INF), seed=0).base_dist.mixture_distribution.probs) == 2


def test_what_cannot_be_fitted():
    # two numbers: (3 * 4)/2 = 6 a Gaussian, five rows for each of them
    x = torch.rand(30, 2, generator=random())
    fit_distribution(x, *ends(0.0, 1.0, 2), seed=0)
    with pytest.raises(InputError, match="29 accepted rows are too few to refit a Gaussian of 2 dimensions: 30"):
        fit_distribution(x[:29], *ends(0.0, 1.0, 2), seed=0)
    for wrong in (math.nan, math.inf):
        x[3, 1] = wrong
        with pytest.raises(InputError, match="not finite"):
            fit_distribution(x, *ends(0.0, 1.0, 2), seed=0)


# support_ends


@pytest.mark.parametrize(
    ("distribution", "low", "high"),
    [
        (Uniform(-1.0, 2.0), -1.0, 2.0),
        (Beta(2.0, 3.0), 0.0, 1.0),
        (Normal(0.0, 1.0), -INF, INF),
        (Gamma(2.0, 1.0), 0.0, INF),
        (Independent(Uniform(torch.tensor([0.0, -1.0]), torch.ones(2)), 1), [0.0, -1.0], [1.0, 1.0]),
        (MultivariateNormal(torch.zeros(2), torch.eye(2)), [-INF, -INF], [INF, INF]),
        (
            MixtureSameFamily(Categorical(torch.ones(2)), Uniform(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0]))),
            0.0,
            3.0,
        ),
        (
            MixtureSameFamily(Categorical(torch.ones(2)), MultivariateNormal(torch.zeros(2, 3), torch.eye(3))),
            [-INF] * 3,
            [INF] * 3,
        ),
    ],
)
def test_the_ends_of_a_distribution(distribution, low, high):
    found = support_bounds(distribution)
    assert [end.tolist() for end in found] == [low, high]
    assert {end.dtype for end in found} == {torch.float64}


def test_the_ends_of_a_refitted_distribution_are_those_before():
    low, high = torch.tensor([0.0, -INF]), torch.tensor([0.25, INF])
    distribution = fit_distribution(torch.rand(100, 2, generator=random()) / 4, low, high, seed=0)
    assert [end.tolist() for end in support_bounds(distribution)] == [low.tolist(), high.tolist()]


class NamesNoSupport(torch.distributions.Distribution):
    arg_constraints = {}  # noqa: RUF012

    def sample(self, shape):
        return torch.zeros(shape)


@pytest.mark.parametrize(
    "distribution",
    [
        Poisson(3.0),
        Categorical(torch.ones(2)),
        Dirichlet(torch.ones(3)),
        Independent(Normal(torch.zeros(2, 2), torch.ones(2, 2)), 2),
        NamesNoSupport(validate_args=False),
    ],
    ids=lambda distribution: type(distribution).__name__,
)
def test_distributions_whose_values_are_no_real_vectors_are_refused(distribution):
    with pytest.raises(InputError, match="cannot be refitted") as caught:
        DistributionProposal(distribution).refit({"x": torch.zeros(100, *distribution.event_shape)}, seed=0)
    assert caught.value.value == type(distribution).__name__


# DistributionProposal.refit


def test_a_refitted_distribution_is_where_the_rows_were():
    broad = DistributionProposal(Independent(Uniform(torch.zeros(2), torch.ones(2)), 1), column="y")
    assert isinstance(broad, Refittable)
    rows = {"y": (torch.tensor([0.2, 0.7]) + 0.05 * normals(300, 2)).float(), "label": torch.zeros(300)}
    moved = broad.refit(rows, seed=0)
    assert isinstance(moved, Refittable)
    drawn = moved.sample(2_000, Streams(0))
    assert list(drawn) == ["y"]
    # of 300 rows of sd 0.05: 4 standard errors of the mean, those of the 2,000 draws included, are below 0.013
    assert drawn["y"].mean(0).tolist() == pytest.approx([0.2, 0.7], abs=0.013)
    assert 0 <= drawn["y"].min() <= drawn["y"].max() <= 1
    assert torch.equal(moved.log_prob(drawn), moved.distribution.log_prob(drawn["y"]))
    assert same_rows(drawn, pickle.loads(pickle.dumps(moved)).sample(2_000, Streams(0)))
    assert isinstance(broad.distribution.base_dist, Uniform)


# AugmentProposal.refit, with_class_prior


DISTRIBUTIONS = {"rotation": Uniform(-1.5, 1.5), "brightness": Uniform(0.2, 1.0), "noise": Uniform(0.0, 0.1)}
PRIOR = torch.tensor([0.2, 0.5, 0.3])


def augmented(distributions=DISTRIBUTIONS, prior=PRIOR):
    images = torch.randint(256, (9, 1, 6, 6), dtype=torch.uint8, generator=random(3))
    return AugmentProposal(ImageSet(images, torch.arange(9) % 3, ("a", "b", "c")), distributions, prior)


def two_poses(n=800):
    """Rows of the proposal turned by -0.8 or 0.8, the bright ones to the right."""
    rows = to_cpu(augmented().sample(n, Streams(7)))
    right = torch.arange(n) % 2 == 1
    rows["rotation"] = torch.where(right, 0.8, -0.8) + 0.05 * normals(n, 1)[:, 0].float()
    rows["brightness"] = torch.where(right, 0.8, 0.4) + 0.02 * normals(n, 1, 1)[:, 0].float()
    return rows


def test_a_refit_keeps_two_poses_apart_and_what_goes_with_them():
    """Each pose within five standard deviations of 0.05 or a little more; their shares binomial at 1e-3."""
    drawn = augmented().refit(two_poses(), seed=0).sample(2_000, Streams(0))
    right, left = drawn["rotation"] > 0.5, drawn["rotation"] < -0.5
    assert (right | left).double().mean() > 0.995
    assert (drawn["rotation"].abs() - 0.8).abs().quantile(0.95) < 0.15
    assert stats.binomtest(int(right.sum()), 2_000, 0.5).pvalue > 1e-3
    assert ((drawn["brightness"] > 0.6) == right).double().mean() > 0.99
    # one mode would have to reach over both
    (single,) = augmented().refit(two_poses(), 0, 1).sample(2_000, Streams(0))["rotation"][None]
    assert (single.abs() < 0.5).double().mean() > 0.2


def test_a_refit_stays_within_each_parameters_range_and_leaves_the_classes_alone():
    """Class frequencies by chi-square at a false-alarm rate of 1e-3."""
    broad = augmented()
    moved = broad.refit(two_poses(), seed=0)
    drawn = moved.sample(20_000, Streams(0))
    for name, distribution in DISTRIBUTIONS.items():
        assert distribution.low <= drawn[name].min() < drawn[name].max() <= distribution.high
        assert drawn[name].dtype == torch.float32
    assert torch.equal(moved.class_prior, broad.class_prior)
    assert stats.chisquare(drawn["label"].bincount(), 20_000 * PRIOR).pvalue > 1e-3
    assert torch.equal(broad.images.labels[drawn["base_index"]], drawn["label"])
    assert broad.joint is None


def test_a_refitted_row_is_rendered_from_its_parameters():
    distributions = {name: distribution for name, distribution in DISTRIBUTIONS.items() if name != "noise"}
    moved = augmented(distributions).refit(two_poses(), seed=0)
    drawn = moved.sample(50, Streams(0))
    parameters = {name: drawn[name] for name in distributions}
    assert torch.equal(drawn["image"], render(moved.images.images[drawn["base_index"]], parameters, random()))
    for made in (moved, pickle.loads(pickle.dumps(moved)), augmented(distributions).refit(two_poses(), seed=0)):
        assert same_rows(made.sample(50, Streams(0)), drawn)
    assert not same_rows(moved.sample(50, Streams(1)), drawn)


def test_the_density_of_a_refitted_row_by_hand():
    # class b (prior .5, three images) with the joint distribution of its parameters
    moved = augmented().refit(two_poses(), seed=0)
    row = {"label": torch.tensor([1]), "rotation": torch.tensor([0.8]), "brightness": torch.tensor([0.8])}
    row["noise"] = torch.tensor([0.05])
    joint = moved.joint.log_prob(torch.tensor([[0.8, 0.8, 0.05]])).item()
    assert moved.log_prob(row).item() == pytest.approx(math.log(0.5 / 3) + joint, abs=1e-5)
    assert moved.log_prob(row | {"noise": torch.tensor([0.11])}).item() == -math.inf


def test_classes_move_apart_from_all_else():
    """Chi-square at a false-alarm rate of 1e-3."""
    moved = augmented().refit(two_poses(), seed=0)
    other = moved.with_class_prior(torch.tensor([0.0, 1.0, 3.0]))
    drawn = other.sample(20_000, Streams(0))
    counts = drawn["label"].bincount(minlength=3)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:], [5_000, 15_000]).pvalue > 1e-3
    before = moved.sample(20_000, Streams(0))
    assert all(torch.equal(drawn[name], before[name]) for name in DISTRIBUTIONS)
    assert torch.equal(moved.class_prior, PRIOR.double() / PRIOR.double().sum())
    with pytest.raises(InputError, match="must be 3 probabilities"):
        moved.with_class_prior(torch.tensor([0.5, 0.5]))


def test_what_cannot_be_refitted():
    with pytest.raises(InputError, match="has no parameter to refit"):
        augmented({}).refit(two_poses(), seed=0)
    with pytest.raises(InputError, match="too few"):
        augmented().refit(select(two_poses(), slice(20)), seed=0)
    joint = MultivariateNormal(torch.zeros(2), torch.eye(2))
    with pytest.raises(InputError, match="must draw the 3 parameters"):
        AugmentProposal(augmented().images, DISTRIBUTIONS, joint=joint)


# DefensiveProposal


class Constant:
    """Rows of one number, in the column x."""

    def __init__(self, value):
        self.value = value

    def sample(self, n, rng):
        return {"x": torch.full((n,), self.value)}


BROAD = DistributionProposal(Uniform(-4.0, 4.0))
MOVED = DistributionProposal(Normal(1.0, 0.3))


def test_the_share_of_broad_rows():
    """Binomial at a false-alarm rate of 1e-3; a share of 0.1 taken for 0.11 must fail at 20,000 rows."""
    x = DefensiveProposal(Constant(1.0), Constant(0.0), 0.1).sample(20_000, Streams(0))["x"]
    count = int(x.sum())
    assert len(x) == 20_000
    assert stats.binomtest(count, 20_000, 0.1).pvalue > 1e-3
    assert stats.binomtest(count, 20_000, 0.11).pvalue < 1e-3


def test_no_row_is_lost_by_moving():
    q = DefensiveProposal(BROAD, MOVED, 0.2)
    assert isinstance(q, DensityProposal)
    rows = concat([q.sample(5_000, Streams(0)), BROAD.sample(5_000, Streams(1)), {"x": torch.linspace(-4, 4, 999)}])
    assert (BROAD.log_prob(rows) - q.log_prob(rows)).max() <= -math.log(0.2) + 1e-6


def test_the_density_is_that_of_the_rows():
    """E_q[q0/q] = 1 within 5 standard errors; with the density of another share it is not."""
    rows = DefensiveProposal(BROAD, MOVED, 0.2).sample(20_000, Streams(0))
    for share, sound in ((0.2, True), (0.3, False)):
        terms = (BROAD.log_prob(rows) - DefensiveProposal(BROAD, MOVED, share).log_prob(rows)).exp()
        assert ((terms.mean() - 1).abs() < 5 * terms.std() / math.sqrt(20_000)) == sound


def test_the_density_by_hand():
    # 0.2 / 8 + 0.8 N(1; 1, 0.3^2) at 1; 0.2 * 0 + 0.8 N(4.6; 1, 0.3^2) at 4.6, 12 standard deviations away
    found = DefensiveProposal(BROAD, MOVED, 0.2).log_prob({"x": torch.tensor([1.0, 4.6])})
    peak = 1 / (0.3 * math.sqrt(2 * math.pi))
    assert found[0].item() == pytest.approx(math.log(0.025 + 0.8 * peak), abs=1e-5)
    assert found[1].item() == pytest.approx(math.log(0.8 * peak) - 72, abs=1e-4)


def test_equal_streams_draw_equal_rows_and_others_others():
    q = DefensiveProposal(BROAD, MOVED, 0.5)
    first = q.sample(100, Streams(1, chunk=4))
    torch.manual_seed(99)
    assert same_rows(first, q.sample(100, Streams(1, chunk=4)))
    assert same_rows(first, pickle.loads(pickle.dumps(q)).sample(100, Streams(1, chunk=4)))
    for other in (Streams(1, chunk=5), Streams(2, chunk=4), Streams(1, round=1, chunk=4)):
        assert not set(first["x"].tolist()) & set(q.sample(100, other)["x"].tolist())


def test_both_parts_draw_numbers_of_their_own():
    """Two equal parts draw no number twice, and no number that their distribution draws by itself."""
    distribution = DistributionProposal(
        Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    )
    x = DefensiveProposal(distribution, distribution, 0.5).sample(2_000, Streams(0))["x"].tolist()
    assert len(set(x)) == 2_000
    assert not set(x) & set(distribution.sample(2_000, Streams(0))["x"].tolist())


@pytest.mark.parametrize("outer", ["target", "defensive"])
def test_a_mixture_within_a_mixture_chooses_by_itself(outer):
    """Among single rows of the inner mixture half are its broad ones; binomial at a false-alarm rate of 1e-3."""
    inner = DefensiveProposal(Constant(1.0), Constant(0.0), 0.5)
    made = {
        "target": TargetMixtureProposal(inner, {"x": torch.tensor([-1.0])}, 0.5),
        "defensive": DefensiveProposal(Constant(-1.0), inner, 0.5),
    }[outer]
    x = torch.cat([made.sample(1, Streams(0, chunk=chunk))["x"] for chunk in range(600)])
    assert stats.binomtest(int((x == -1).sum()), 600, 0.5).pvalue > 1e-3
    assert stats.binomtest(int((x == 1).sum()), int((x >= 0).sum()), 0.5).pvalue > 1e-3


def test_columns_come_from_both_in_the_broad_ones_types():
    broad = augmented()
    q = DefensiveProposal(broad, broad.refit(two_poses(), seed=0), 0.3)
    rows, like = q.sample(400, Streams(0)), broad.sample(1, Streams(0))
    assert {name: column.dtype for name, column in rows.items()} == {name: like[name].dtype for name in like}
    assert rows["image"].shape == (400, 1, 6, 6)
    assert torch.equal(broad.images.labels[rows["base_index"]], rows["label"])
    # a row in the middle is of the broad part: with probability 0.3 a third of the range
    assert stats.binomtest(int((rows["rotation"].abs() < 0.5).sum()), 400, 0.1).pvalue > 1e-3
    double = DistributionProposal(Normal(torch.zeros((), dtype=torch.float64), 1.0))
    assert DefensiveProposal(BROAD, double, 0.5).sample(10, Streams(0))["x"].dtype == torch.float32


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows_and_none(n):
    assert DefensiveProposal(BROAD, MOVED, 0.5).sample(n, Streams(0))["x"].shape == (n,)


def test_the_mixtures_classes_and_how_they_move():
    broad = augmented()
    moved = broad.refit(two_poses(), seed=0).with_class_prior(torch.tensor([1.0, 0.0, 0.0]))
    q = DefensiveProposal(broad, moved, 0.25)
    # a quarter of (.2, .5, .3) and three quarters of (1, 0, 0)
    assert q.class_prior.tolist() == pytest.approx([0.8, 0.125, 0.075])
    other = q.with_class_prior(torch.tensor([0.0, 0.0, 1.0]))
    assert other.class_prior.tolist() == [0.0, 0.0, 1.0]
    assert other.share == 0.25
    assert other.sample(50, Streams(0))["label"].unique().tolist() == [2]
    assert q.sample(50, Streams(0))["label"].unique().tolist() == [0, 1, 2]


def test_a_mixture_has_the_classes_that_both_of_its_parts_have():
    assert has_settable_class_prior(DefensiveProposal(augmented(), augmented(), 0.5))
    for parts in ((BROAD, MOVED), (augmented(), BROAD)):
        mixture = DefensiveProposal(*parts, 0.5)
        assert not has_settable_class_prior(mixture)
        assert not hasattr(mixture, "class_prior")
        with pytest.raises(InputError, match=r"proposal=DistributionProposal: has no class prior that could be set"):
            mixture.with_class_prior(torch.ones(3))


def test_a_class_prior_that_one_part_cannot_set_is_read_and_not_set():
    fixed = SimpleNamespace(class_prior=torch.tensor([0.5, 0.5, 0.0]))
    mixture = DefensiveProposal(augmented(), fixed, 0.5)
    assert mixture.class_prior.tolist() == pytest.approx([0.35, 0.5, 0.15])  # half of (.2, .5, .3) and of (.5, .5, 0)
    assert not has_settable_class_prior(mixture)
    with pytest.raises(InputError, match="SimpleNamespace: has no class prior"):
        mixture.with_class_prior(torch.ones(3))


def test_mixtures_that_cannot_be():
    for share in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(InputError, match="share"):
            DefensiveProposal(BROAD, MOVED, share)
    other = DistributionProposal(Normal(0.0, 1.0), column="y")
    with pytest.raises(InputError, match=r"the broad proposal has \['x'\]"):
        DefensiveProposal(BROAD, other, 0.5).sample(5, Streams(0))


# Accepting, moving, accepting


class ExactRatio:
    """log p/q of two known densities."""

    log_bound = None

    def __init__(self, target, proposal):
        self.target, self.proposal = target, proposal

    def log_ratio(self, batch):
        return log_density(self.target, batch["x"]).double() - self.proposal.log_prob(batch).double()


def largest(ratio, column):
    return ratio.log_ratio({"x": column}).max().item()


def test_a_chunk_of_a_mixture():
    broad = augmented()
    q = DefensiveProposal(broad, broad.refit(two_poses(), seed=0), 0.3)
    chunks = [ChunkWork(q, ConstantRatio(), math.log(2), 500, seed=1)(chunk) for chunk in (0, 1, 0)]
    assert same_rows(chunks[0].rows, chunks[2].rows)
    assert chunks[0].statistics == chunks[2].statistics
    statistics = chunks[0].statistics.merge(chunks[1].statistics)
    rows = concat([chunk.rows for chunk in chunks[:2]])
    assert (statistics.num_scored, statistics.num_nonfinite, statistics.num_capped) == (1_000, 0, 0)
    assert statistics.num_accepted == num_rows(rows)
    assert stats.binomtest(num_rows(rows), 1_000, 0.5).pvalue > 1e-3
    for label, (scored, accepted) in statistics.by_label.items():
        assert accepted == int((rows["label"] == label).sum()) <= scored


def test_what_a_moved_proposal_has_accepted_follows_the_target():
    """KS at a false-alarm rate of 1e-3. Scored against the moved part alone, or the broad one, it must fail."""
    target = Normal(1.5, 0.4)
    start = ExactRatio(target, BROAD)
    grid = torch.linspace(-1, 3.9, 4_001)  # where the target is; beyond, the broad part alone is
    log_m = largest(start, grid)
    before = ChunkWork(BROAD, start, log_m, 4_000, seed=0)(0)
    moved = BROAD.refit(before.rows, seed=0)
    q = DefensiveProposal(BROAD, moved, 0.2)

    def accepted(scored_against):
        ratio = ExactRatio(target, scored_against)
        return ChunkWork(q, ratio, largest(ratio, grid), 8_000, seed=0, round=1)(0)

    def pvalue(chunk):
        return stats.kstest(chunk.rows["x"].numpy(), stats.norm(1.5, 0.4).cdf).pvalue

    chunk = accepted(q)
    assert pvalue(chunk) > 1e-3
    for wrong in (moved, BROAD):
        assert pvalue(accepted(wrong)) < 1e-6
    # acceptance: 1/M, M = 8 N(0)/0.4 = 8 before
    rates = [done.statistics.num_accepted / done.statistics.num_scored for done in (before, chunk)]
    assert rates[0] == pytest.approx(1 / 8, rel=0.15)
    assert rates[1] > 4 * rates[0]


def test_four_rounds_find_a_rare_event():
    """The cross-entropy method: of 4,000 proposals the best twentieth, refitted; acceptance is 1/M throughout.

    At first M = 100 N(0)^2/0.1^2 = 1,592; the last proposal accepts 20 times as often, and more.
    """
    broad = DistributionProposal(Independent(Uniform(torch.full((2,), -5.0), torch.full((2,), 5.0)), 1))
    target = Independent(Normal(torch.tensor([3.0, -3.5]), torch.full((2,), 0.1)), 1)
    torch.manual_seed(0)
    of_target = target.sample((5_000,))
    q, rates = broad, []
    for number in range(5):
        ratio = ExactRatio(target, q)
        rates.append(math.exp(-largest(ratio, of_target)))
        batch, log_ratio, exponentials = propose_and_score(q, ratio, Streams(0, round=number), 4_000)
        keys = log_ratio + exponentials
        elite = select(batch, torch.from_numpy(keys > key_quantile(keys, 0.05)))
        q = DefensiveProposal(broad, broad.refit(elite, seed=number), 0.1)
    assert rates[0] == pytest.approx(1 / 1_592, rel=0.01)
    assert rates[4] > 20 * rates[0]
    assert rates[4] > 0.3
