"""Each test under chance states its false-alarm rate; negative controls must fail."""

import math
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from rsf_dist.errors import InputError
from rsf_dist.evaluation import two_sample
from rsf_dist.evaluation.two_sample import (
    MAX_MMD_ROWS,
    MIN_ROWS,
    auc_interval,
    auc_null_sd,
    compare,
    describe,
    held_out_auc,
    image_statistics,
    mmd_test,
)

Z = 3.29  # two-sided normal quantile of 1e-3


def gaussians(seed, n1, n2, d, shift=0.0, spread=1.0):
    """[n1, d] from N(0, I), and [n2, d] whose first coordinate is N(shift, spread^2)."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(n1, d)), rng.normal(size=(n2, d))
    second[:, 0] = shift + spread * second[:, 0]
    return first, second


def images(seed, n=200, noise=20.0, level=100.0, roll=0):
    """A bright square on grey with Gaussian noise: uint8 [n, 1, 16, 16]."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.full((n, 1, 16, 16), level)
    clean[:, :, 4:8, 4:8] += 60
    noisy = clean.roll(roll, dims=3) + noise * torch.randn(n, 1, 16, 16, generator=generator)
    return noisy.round().clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("d", [1, 5])
def test_auc_of_a_shift(d):
    """N(0, 1) and N(1, 1): the best rule ranks by x, its AUC is P(y > x) = Phi(1/sqrt 2) = .7602.

    4,000 rows of either are held out; the AUC's distribution has `auc_interval`'s variance. False-alarm rate 1e-3 each.
    """
    auc, rows = held_out_auc(*gaussians(0, 8000, 8000, d, shift=1.0), seed=0)
    assert rows == (4000, 4000)
    low, high = auc_interval(auc, *rows, confidence=0.999)
    assert low < stats.norm.cdf(1 / math.sqrt(2)) < high
    assert high - low < 0.04


def test_auc_of_a_spread():
    """N(0, 1) and N(0, 4): the best rule ranks by |x|, P(2 |Z'| > |Z|) = (2/pi) atan(2) = .7048. Rate 1e-3."""
    auc, rows = held_out_auc(*gaussians(0, 8000, 8000, 3, spread=2.0), seed=0)
    low, high = auc_interval(auc, *rows, confidence=0.999)
    assert low < 2 / math.pi * math.atan(2) < high


def test_samples_that_never_overlap():
    found = compare(*gaussians(0, 40, 40, 2, shift=50.0), seed=0)
    assert found.auc == 1.0
    assert found.auc_interval[1] == 1.0
    assert 0.7 < found.auc_interval[0] < 0.95
    assert found.mmd_pvalue == 1 / 500


@cache
def under(shift, n1=40, n2=40, seeds=120):
    found = [compare(*gaussians(seed, n1, n2, 3, shift), seed) for seed in range(seeds)]
    return np.array([one.auc_z for one in found]), np.array([one.mmd_pvalue for one in found])


@pytest.mark.parametrize(("n1", "n2", "seeds"), [(40, 40, 120), (40, 120, 60)])
def test_one_distribution(n1, n2, seeds):
    """z is N(0, 1) and the MMD's p-value uniform: KS, and chi-square of the sum of z^2, false-alarm rate 1e-3 each."""
    z, pvalue = under(0.0, n1, n2, seeds)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert 5e-4 < stats.chi2.cdf((z**2).sum(), seeds) < 1 - 5e-4
    assert stats.kstest(pvalue, "uniform").pvalue > 1e-3


def test_two_distributions():
    """Negative control: a shift of half a standard deviation in one of three coordinates, 40 rows of either.

    Half of the seeds show it: at 60 the p-values of KS are 9e-7 and 4e-14.
    """
    z, pvalue = under(0.5, seeds=60)
    assert stats.kstest(z, "norm").pvalue < 1e-3
    assert stats.kstest(pvalue, "uniform").pvalue < 1e-3
    assert (pvalue <= 0.05).mean() > 0.2


def test_power_grows_with_rows():
    """The same shift from 400 rows of either: an AUC of Phi(.5/sqrt 2) = .638 is 4.8 null deviations from 1/2."""
    found = compare(*gaussians(1, 400, 400, 3, shift=0.5), seed=1)
    assert found.auc_z > 3
    assert found.mmd_pvalue == 1 / 500


def test_cross_validation_would_not_keep_the_null():
    """One split is needed: the mean AUC of five folds varies more than the Mann-Whitney null, at a rate of 1e-3.

    Each fold is ranked along the difference of the other folds' means, 100 seeds of 40 + 40 rows in three dimensions.
    """

    def folds(seed):
        first, second = (rows.reshape(5, 8, 3) for rows in gaussians(seed, 40, 40, 3))
        for fold in range(5):
            others = np.arange(5) != fold
            axis = second[others].mean((0, 1)) - first[others].mean((0, 1))
            yield (first[fold] @ axis < (second[fold] @ axis)[:, None]).mean()

    z = (np.array([np.mean(list(folds(seed))) for seed in range(100)]) - 0.5) / auc_null_sd(40, 40)
    assert stats.chi2.sf((z**2).sum(), len(z)) < 1e-3


def test_null_deviation_by_hand():
    # one row each: the AUC is 0 or 1, standard deviation 1/2 = sqrt(3/12). Two and one: 0, 1/2 or 1, sqrt(4/24).
    assert auc_null_sd(1, 1) == pytest.approx(1 / 2)
    assert auc_null_sd(2, 1) == pytest.approx(math.sqrt(1 / 6))


@pytest.mark.parametrize(("n1", "n2"), [(20, 20), (15, 400)])
def test_interval_and_null_agree(n1, n2):
    # V(1/2) = (1/4)(1 + (N - 1)(2/3)) / (n1 n2) = (n1 + n2 + 1)/(12 n1 n2) with N = (n1 + n2)/2
    edge = 0.5 + stats.norm.ppf(0.975) * auc_null_sd(n1, n2)
    assert auc_interval(edge, n1, n2)[0] == pytest.approx(0.5)
    assert auc_interval(1 - edge, n1, n2)[1] == pytest.approx(0.5)


def test_interval_at_the_ends():
    low, high = auc_interval(1.0, 10, 12)
    assert high == 1.0
    # (1 - t)^2 = z^2 t (1 - t) (1 + 10 (1 - t)/(2 - t) + 10 t/(1 + t)) / 120
    spread = 1 + 10 * (1 - low) / (2 - low) + 10 * low / (1 + low)
    assert (1 - low) ** 2 == pytest.approx(stats.norm.ppf(0.975) ** 2 * low * (1 - low) * spread / 120)
    assert auc_interval(0.0, 12, 10) == pytest.approx((0.0, 1 - low))


def test_intervals_cover():
    """Binormal scores with AUC .8, 30 and 60 rows, 400 seeds: 95 % covered, binomial, false-alarm rate 1e-3.

    Negative control: intervals of 85 % do not reach it.
    """

    def covered(confidence):
        hits = 0
        for seed in range(400):
            first, second = gaussians(seed, 30, 60, 1, shift=stats.norm.ppf(0.8) * math.sqrt(2))
            low, high = auc_interval((first < second.T).mean(), 30, 60, confidence)
            hits += low <= 0.8 <= high
        return stats.binomtest(hits, 400, 0.95, alternative="less").pvalue

    assert covered(0.95) > 1e-3
    assert covered(0.85) < 1e-3


def test_mmd_by_hand():
    # within the first .5, within the second .25, across .1 .2 .3 .4: .5 + .25 - 2 (1/4) = .25
    kernel = np.array([[0, 0.5, 0.1, 0.2], [0.5, 0, 0.3, 0.4], [0.1, 0.3, 0, 0.25], [0.2, 0.4, 0.25, 0]])
    # rows 0 and 2 as the first: .1 + .4 - 2 (.5 + .2 + .3 + .25)/4 = -.125
    membership = np.array([[True, True, False, False], [True, False, True, False]])
    assert two_sample._mmd2(kernel, membership) == pytest.approx([0.25, -0.125])


def test_kernel_by_hand():
    # 0, 1, 3: distances 1, 2, 3, their median 2: exp(-1/8), exp(-4/8), exp(-9/8). Equal rows do not move the median.
    near, middle, far = np.exp([-1 / 8, -4 / 8, -9 / 8])
    rows = np.array([[0.0], [1.0], [3.0]])
    expected = [[0, near, far], [near, 0, middle], [far, middle, 0]]
    assert two_sample._gaussian_kernel(rows) == pytest.approx(np.array(expected))
    assert two_sample._gaussian_kernel(np.array([[0.0], [0.0], [0.0], [2.0]]))[0] == pytest.approx(
        [0, 1, 1, np.exp(-0.5)]
    )


def expected_mmd2(shift):
    """Return the MMD^2 of N(0, 1) and N(shift, 1), standardised when pooled, at the pooled median distance s.

    Standardised, both have variance v = 1/(1 + shift^2/4) and their means lie a = shift sqrt(v) apart. E k of a
    difference N(m, 2 v) is s/sqrt(s^2 + 2 v) exp(-m^2/(2 (s^2 + 2 v))).
    """
    v = 1 / (1 + shift**2 / 4)
    apart, spread = shift * math.sqrt(v), math.sqrt(2 * v)

    def below(distance):
        alike, unlike = stats.norm(0, spread), stats.norm(apart, spread)
        return sum(one.cdf(distance) - one.cdf(-distance) for one in (alike, unlike)) / 2 - 0.5

    total = optimize.brentq(below, 0, 10) ** 2 + 2 * v
    return 2 * math.sqrt(1 - 2 * v / total) * -math.expm1(-(apart**2) / (2 * total))


def test_mmd_of_a_shift():
    """N(0, 1) and N(1, 1), or twice N(0, 1): the mean over 100 seeds of 60 + 60 rows is as expected. Rate 1e-3 each.

    Negative control: the biased estimate would be larger by 2 (1 - E k)/60 = .0147, the diagonals being ones.
    """
    assert expected_mmd2(1.0) == pytest.approx(0.17737, abs=1e-5)
    for shift in (0.0, 1.0):
        found = np.array([mmd_test(*gaussians(seed, 60, 60, 1, shift), seed)[0] for seed in range(100)])
        assert stats.ttest_1samp(found, expected_mmd2(shift)).pvalue > 1e-3
        if shift == 0:
            assert stats.ttest_1samp(found + 0.0147, 0.0).pvalue < 1e-3


def test_rows_are_capped_for_the_mmd_alone():
    samples = gaussians(0, MAX_MMD_ROWS + 201, 50, 2)
    found = compare(*samples, seed=0)
    assert (found.num_first, found.num_second) == (1201, 50)
    assert found.mmd_rows == (MAX_MMD_ROWS, 50)
    assert found.auc_rows == (601, 25)
    assert found.auc_null_sd == auc_null_sd(601, 25)
    assert found.auc_interval == auc_interval(found.auc, 601, 25)
    assert found.features == "rows"
    assert mmd_test(*samples, seed=1)[0] != found.mmd2  # the seed chooses which


def test_the_seed_decides():
    first, second = gaussians(0, 60, 60, 3)
    assert compare(first, second, seed=4) == compare(first, second, seed=4)
    one, other = compare(first, second, seed=4), compare(first, second, seed=5)
    assert one.auc != other.auc
    assert one.mmd2 == pytest.approx(other.mmd2, abs=1e-12)  # all rows are in it; only the permutations differ
    assert one.mmd_pvalue != other.mmd_pvalue


def test_symmetry():
    """Swapped samples: the same halves, so the same AUC; the MMD's permutations differ."""
    first, second = gaussians(0, 70, 50, 3, shift=0.3)
    one, other = compare(first, second, seed=0), compare(second, first, seed=0)
    assert other.auc == pytest.approx(one.auc, abs=2e-3)
    assert other.auc_rows == one.auc_rows[::-1]
    assert other.mmd2 == pytest.approx(one.mmd2, abs=1e-12)
    assert abs(other.mmd_pvalue - one.mmd_pvalue) < Z * math.sqrt(2 * 0.25 / 499)


def test_units_do_not_matter():
    first, second = gaussians(0, 60, 60, 3, shift=0.3)
    units = np.array([1e-4, 1.0, 1e6])
    one, other = compare(first, second, seed=0), compare(first * units + 7, second * units + 7, seed=0)
    assert other.auc == pytest.approx(one.auc, abs=2e-3)
    assert other.mmd2 == pytest.approx(one.mmd2, abs=1e-6)


def test_features_that_never_vary():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(np.full((20, 3), 0.1), np.full((30, 3), 0.1), seed=0)
    assert (found.auc, found.mmd2, found.mmd_pvalue) == (0.5, 0.0, 1.0)
    assert found.auc_interval[0] < 0.5 < found.auc_interval[1]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (np.zeros((MIN_ROWS - 1, 2)), r"second=9 rows: must be at least 10"),
        (np.zeros((20, 3)), r"second=\[20, 3\]: must have as many features as first: 2"),
        (np.zeros(20), r"second=\[20\]: must be features \[n, d\]"),
        (np.zeros((20, 0)), r"second=\[20, 0\]: must be features"),
        (np.where(np.arange(40).reshape(20, 2) < 3, np.nan, 0.0), r"second=2 of 20 rows: hold NaN or infinite"),
        (np.full((20, 2), np.inf), r"second=20 of 20 rows: hold NaN or infinite"),
    ],
)
def test_features_that_cannot_be_compared(second, message):
    with pytest.raises(InputError, match=message):
        compare(np.zeros((20, 2)), second, seed=0)


def test_the_smallest_samples():
    found = compare(*gaussians(0, MIN_ROWS, MIN_ROWS + 1, 2), seed=0)
    assert found.auc_rows == (5, 6)
    assert found.mmd_rows == (10, 11)


def test_the_first_sample_is_checked_too():
    with pytest.raises(InputError, match=r"first=9 rows: must be at least 10"):
        compare(np.zeros((9, 2)), np.zeros((20, 2)), seed=0)


def test_statistics_of_a_constant_image():
    # 128 of 255 everywhere: 2 x 64 averages and their mean, deviation 0, all in bin 128/32 = 4, no difference
    found = image_statistics(torch.full((3, 2, 28, 20), 128, dtype=torch.uint8))
    expected = [128 / 255] * 129 + [0] + [0, 0, 0, 0, 1, 0, 0, 0] + [0] * 4
    assert found.dtype == np.float64
    assert found == pytest.approx(np.tile(expected, (3, 1)), abs=1e-6)


def test_statistics_of_a_small_image_by_hand():
    # [[0, 51, 153]] is 0, .2, .6: mean .8/3, variance .4/3 - (.8/3)^2 = .56/9; bins 0, 1, 4; differences .2 and .4
    found = image_statistics(torch.tensor([[[[0, 51, 153]]]], dtype=torch.uint8))[0]
    expected = [0, 0.2, 0.6, 0.8 / 3, math.sqrt(0.56) / 3, 1 / 3, 1 / 3, 0, 0, 1 / 3, 0, 0, 0, 0.3, 1, 1, 0.5]
    assert found == pytest.approx(expected, abs=1e-6)


def test_statistics_average_blocks():
    # 16 x 16 to 8 x 8: means of 2 x 2 blocks; here of 0, 0, 0, 204 (.2), and once of 204, 204, 0, 204 (.6)
    image = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    image[..., 1::2, 1::2] = 204
    image[..., 0, 6:8] = 204
    expected = np.full(64, 0.2)
    expected[3] = 0.6
    assert image_statistics(image)[0, :64] == pytest.approx(expected, abs=1e-6)


def test_statistics_of_an_image_do_not_depend_on_its_company():
    several = images(0, n=21)
    alone = np.vstack([image_statistics(one[None]) for one in several])
    assert image_statistics(several) == pytest.approx(alone, abs=1e-7)


@pytest.mark.parametrize("change", [{"noise": 26.0}, {"level": 106.0}, {"roll": 2}])
def test_statistics_see_noise_brightness_and_place(change):
    """200 images of either, changed by 30 % of the noise, 6 of 255 levels, 2 of 16 pixels; unchanged, |z| < 3.29."""
    place = image_statistics(images(0))
    assert compare(place, image_statistics(images(1, **change)), seed=0).auc_z > 5
    assert abs(compare(place, image_statistics(images(1)), seed=0).auc_z) < Z


def test_which_statistics_move():
    base, mean, rough = image_statistics(images(0)).mean(0), 64, 74

    def moved(**change):
        return image_statistics(images(0, **change)).mean(0) - base

    assert moved(level=106.0)[mean] == pytest.approx(6 / 255, abs=1e-3)
    assert abs(moved(level=106.0)[rough]) < 1e-3
    # the mean absolute difference of two N(0, s^2) is 2 s/sqrt(pi); the square's edges add little
    assert moved(noise=26.0)[rough] == pytest.approx(2 * 6 / math.sqrt(math.pi) / 255, rel=0.1)
    assert abs(moved(roll=2)[mean]) < 1e-3
    assert abs(moved(roll=2)[:mean]).max() > 50 / 255


@pytest.mark.parametrize(
    "rows",
    [torch.zeros(4, 1, 8, 8), torch.zeros(4, 8, 8, dtype=torch.uint8), torch.zeros(4, 3, 1, 1, dtype=torch.uint8)],
)
def test_what_is_not_an_image_has_no_statistics(rows):
    with pytest.raises(InputError, match=r"images=.*must be uint8 \[n, channels, height, width\] of at least 2 pixels"):
        image_statistics(rows)


def test_rows_are_described_by_their_kind():
    found, name = describe(images(0, n=3))
    assert name == "image statistics"
    assert found.shape == (3, 78)
    for rows in (torch.arange(12.0).reshape(3, 2, 2), torch.arange(12).reshape(3, 4)):
        found, name = describe(rows)
        assert name == "rows"
        assert found.dtype == np.float64
        assert (found == np.arange(12).reshape(3, 4)).all()
    assert describe(torch.arange(3.0))[0].tolist() == [[0], [1], [2]]
