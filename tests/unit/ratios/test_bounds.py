import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal, Uniform

from rsf_dist.proposals import DistributionProposal
from rsf_dist.ratios import DensityRatio
from rsf_dist.ratios.bounds import gaussian_log_supremum, log_supremum
from rsf_dist.runtime.rng import Streams


def gaussian(mean, covariance):
    return MultivariateNormal(torch.tensor(mean).double(), torch.tensor(covariance).double())


def test_one_dimension_by_hand():
    # sd 1/8 in sd 1/2: the densities at 0 stand as 4 to 1.
    assert log_supremum(Normal(0.0, 1 / 8), Normal(0.0, 1 / 2)) == pytest.approx(math.log(4))
    # N(1, 1) over N(0, 2): (log 4 + 1/(4 - 1))/2 = log 2 + 1/6, at x = 4/3:
    # log 2 - (4/3 - 1)^2/2 + (4/3)^2/8 = log 2 - 1/18 + 2/9
    assert log_supremum(Normal(1.0, 1.0), Normal(0.0, 2.0)) == pytest.approx(math.log(2) + 1 / 6)


def test_two_dimensions_by_hand():
    # I over 4 I, three apart on one axis: (log 16 + 9/3)/2 = log 4 + 3/2
    found = log_supremum(gaussian([3.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]), gaussian([0.0, 0.0], [[4.0, 0.0], [0.0, 4.0]]))
    assert found == pytest.approx(math.log(4) + 1.5)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (gaussian([0.3, -0.2], [[0.5, 0.3], [0.3, 0.7]]), gaussian([0.0, 0.0], [[2.0, -0.4], [-0.4, 1.5]])),
        (gaussian([0.5, 0.5], [[0.2, 0.0], [0.0, 0.9]]), gaussian([0.0, 0.1], [[1.0, 0.2], [0.2, 1.1]])),
    ],
)
def test_grid_search_finds_the_same(p, q):
    axis = torch.linspace(-8, 8, 801).double()
    x = torch.cartesian_prod(axis, axis)
    highest = float((p.log_prob(x) - q.log_prob(x)).max())
    # The grid misses the maximum by half a step of .02 in either coordinate, in a quadratic of curvature below 10.
    assert highest <= log_supremum(p, q) <= highest + 10 * 0.01**2


def test_scalar_independent_and_multivariate_distributions_agree():
    flat = Independent(Normal(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 0.5])), 1)
    full = MultivariateNormal(torch.tensor([0.5, 0.0]), torch.tensor([[1.0, 0.0], [0.0, 0.25]]))
    wide = MultivariateNormal(torch.zeros(2), 4 * torch.eye(2))
    assert log_supremum(flat, wide) == pytest.approx(log_supremum(full, wide))
    # axes apart: (log 4 + .25/3)/2, and (log 16)/2
    assert log_supremum(flat, wide) == pytest.approx((math.log(4) + 0.25 / 3 + math.log(16)) / 2)


def test_a_distribution_over_itself():
    p = gaussian([1.0, 2.0], [[1.0, 0.5], [0.5, 2.0]])
    assert log_supremum(p, p) == 0.0


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (Normal(0.0, 2.0), Normal(0.0, 1.0)),
        (Normal(0.1, 1.0), Normal(0.0, 1.0)),
        (Normal(0.0, 1.0), Normal(0.0, 1.0 + 1e-7)),
        (gaussian([0.0, 0.0], [[0.1, 0.0], [0.0, 2.0]]), gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])),
        # each axis alone is narrower, yet along the diagonal 1.8 exceeds 1.5
        (gaussian([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]]), gaussian([0.0, 0.0], [[1.5, 0.0], [0.0, 1.5]])),
    ],
    ids=["wider", "shifted", "nearly equal", "wider on one axis", "wider on the diagonal"],
)
def test_where_no_bound_is_certain_there_is_none(p, q):
    assert log_supremum(p, q) is None


def test_a_bound_is_above_the_divergence():
    # KL(N(1, 1) || N(0, 2)) = log 2 + (1 + 1)/8 - 1/2
    divergence = math.log(2) + 2 / 8 - 1 / 2
    one, two = np.ones((1, 1)), np.full((1, 1), 4.0)
    assert gaussian_log_supremum(np.ones(1), one, np.zeros(1), two) > divergence


def test_finite_sets_by_hand():
    # .5/.25 = 2 and .5/.75 = 2/3
    assert log_supremum(Categorical(torch.tensor([0.5, 0.5])), Categorical(torch.tensor([0.25, 0.75]))) == (
        pytest.approx(math.log(2))
    )
    # a class that the target lacks does not count; one that proposals lack has no bound
    some, all_three = Categorical(torch.tensor([0.5, 0.5, 0.0])), Categorical(torch.tensor([0.4, 0.2, 0.4]))
    assert log_supremum(some, all_three) == pytest.approx(math.log(0.5 / 0.2))
    assert log_supremum(all_three, some) is None
    assert log_supremum(some, Categorical(torch.tensor([0.5, 0.5]))) is None


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (Uniform(0.0, 1.0), Uniform(0.0, 2.0)),
        (lambda x: -(x**2) / 2, Normal(0.0, 2.0)),
        (Normal(0.0, 1.0), Uniform(-1.0, 1.0)),
        (Normal(torch.zeros(3), torch.ones(3)), Normal(0.0, 2.0)),
        (Categorical(torch.full((2, 2), 0.5)), Categorical(torch.full((2, 2), 0.5))),
    ],
    ids=["uniform", "callable", "mixed", "batch of Gaussians", "batch of Categoricals"],
)
def test_other_distributions_have_no_known_bound(p, q):
    assert log_supremum(p, q) is None


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (Normal(0.5, 1.0), Normal(0.0, 2.0)),
        (gaussian([0.3, -0.2], [[0.5, 0.3], [0.3, 0.7]]), gaussian([0.0, 0.0], [[2.0, -0.4], [-0.4, 1.5]])),
        (Categorical(torch.tensor([0.5, 0.3, 0.2])), Categorical(torch.tensor([0.2, 0.2, 0.6]))),
    ],
)
def test_a_density_ratio_knows_its_bound_and_stays_below(p, q):
    proposal = DistributionProposal(q)
    ratio = DensityRatio(p, proposal)
    highest = float(ratio.log_ratio(proposal.sample(20_000, Streams(0))).max())
    assert highest <= ratio.log_bound + 1e-6
    assert highest > ratio.log_bound - 0.01
    assert ratio.info.normalised


def test_a_bound_that_was_given_is_kept():
    assert DensityRatio(Normal(0.0, 1.0), DistributionProposal(Normal(0.0, 2.0)), log_bound=3.0).log_bound == 3.0
