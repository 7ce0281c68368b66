"""Log densities as other libraries give them: taken, or refused with what to wrap."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal

from rsf_dist.errors import InputError
from rsf_dist.proposals import DistributionProposal
from rsf_dist.ratios import DensityRatio

WIDE = DistributionProposal(Normal(0.0, 2.0))
X = {"x": torch.tensor([0.0, 2.0])}
BY_HAND = [math.log(2), math.log(2) - 1.5]
"""N(0, 1) over N(0, 2): log 2 - x^2/2 + x^2/8."""


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ">f8", np.longdouble])
def test_a_numpy_array_is_taken(dtype):
    ratio = DensityRatio(lambda x: stats.norm.logpdf(x.numpy()).astype(dtype), WIDE)
    found = ratio.log_ratio(X)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(BY_HAND, abs=1e-6)


def test_a_numpy_array_is_taken_in_whatever_order_it_lies():
    backwards = DensityRatio(lambda x: stats.norm.logpdf(x.numpy()[::-1])[::-1], WIDE)
    assert backwards.log_ratio(X).tolist() == pytest.approx(BY_HAND, abs=1e-6)


def test_an_energy_may_be_a_numpy_array():
    ratio = DensityRatio.of_energy(lambda x: (x**2 / 2).numpy(), WIDE)
    constant = 0.5 * math.log(2 * math.pi)
    assert ratio.log_ratio(X).tolist() == pytest.approx([number + constant for number in BY_HAND], abs=1e-6)


@pytest.mark.parametrize(
    ("density", "wrapping"),
    [
        (stats.norm(0, 1), "p.logpdf(x.numpy())"),
        (stats.norm, "p.logpdf(x.numpy())"),
        (stats.multivariate_normal([0], [[1]]), "p.logpdf(x.numpy())"),
        (stats.poisson(3), "p.logpmf(x.numpy())"),
        (stats.gaussian_kde([0.0, 1.0, 3.0]), "p.logpdf(x.numpy())"),
    ],
)
def test_a_density_of_scipy_is_refused_with_how_to_wrap_it(density, wrapping):
    with pytest.raises(InputError) as caught:
        DensityRatio(density, WIDE)
    assert (caught.value.field, caught.value.rule) == ("target", "has no log_prob")
    assert caught.value.remedy == f"wrap it, lambda x: {wrapping}"


def test_the_wrapping_that_is_told_works():
    p = stats.norm(0, 1)
    assert DensityRatio(lambda x: p.logpdf(x.numpy()), WIDE).log_ratio(X).tolist() == pytest.approx(BY_HAND, abs=1e-6)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda x: -x[:, None], r"target=\[2, 1\]: .*return it without the last axis, \.squeeze\(1\)"),
        (lambda x: x.numpy()[:, None], r"target=\[2, 1\]: .*\.squeeze\(1\)"),
        (lambda x: torch.zeros(2, 3), r"target=\[2, 3\]: .*sum it over the event's axes"),
        (lambda x: torch.zeros(()), r"target=\[\]: "),
        (lambda x: x + 1j, r"target=\[2\]: .*one real number a row"),
        (lambda x: [0.0, 1.0], "target=a list: gives no tensor"),
        (lambda x: 0.0, "target=a float: gives no tensor"),
        (lambda x: None, "target=a NoneType: gives no tensor"),
        (lambda x: np.array(["a", "b"]), "target=a ndarray of <U1: gives no tensor"),
        (lambda x: np.array([None, 1]), "target=a ndarray of object: gives no tensor"),
    ],
)
def test_what_is_no_number_a_row_is_refused(returned, told):
    with pytest.raises(InputError, match=told):
        DensityRatio(returned, WIDE).log_ratio(X)


@pytest.mark.parametrize("distribution", [stats.norm(0, 1), stats.norm, 3.0, len])
def test_a_proposal_from_what_is_no_distribution_of_torch_is_refused(distribution):
    with pytest.raises(InputError, match=r"distribution=.*: is no distribution of torch; use a class of torch"):
        DistributionProposal(distribution)
