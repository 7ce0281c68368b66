import json
import math

import numpy as np
import pytest

from rsf_dist.ratios.calibration import (
    AffineCalibration,
    IsotonicCalibration,
    calibrate,
    from_json,
    to_json,
    truth_and_weights,
)

LN3 = math.log(3)


def logits(mean, n, seed=0, scale=1.0, shift=0.0):
    """Return scale z + shift for true log ratios z: N(1/2, 1) for target rows, N(-1/2, 1) for proposals."""
    return scale * np.random.default_rng(seed).normal(mean, 1, n) + shift


def test_either_class_has_half_of_the_mass():
    truth, weights = truth_and_weights(np.zeros(1), np.zeros(4))
    assert truth.tolist() == [1, 0, 0, 0, 0]
    assert weights.tolist() == [0.5, 0.125, 0.125, 0.125, 0.125]


def test_none_is_the_logit_itself():
    found = calibrate(np.array([5.0]), np.array([-5.0]), "none")
    assert found([-2.0, 0.5] * np.ones(2)).tolist() == [-2.0, 0.5]
    assert found.log_bound is None
    assert str(found) == "none: slope 1, intercept 0"


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
def test_temperature_has_a_slope_and_no_shift(scale):
    """Slope 1/scale; the standard error of slope * scale is below .04 with 2,000 rows of either, 3.29 of them: 1e-3."""
    found = calibrate(logits(0.5, 2000, 0, scale), logits(-0.5, 2000, 1, scale), "temperature")
    assert found.slope * scale == pytest.approx(1, abs=0.13)
    assert found.intercept == 0.0
    assert found(np.zeros(1)).tolist() == [0.0]
    assert str(found).startswith("temperature: slope")


def test_only_platt_undoes_a_shift():
    shifted = logits(0.5, 2000, 0, shift=3.0), logits(-0.5, 2000, 1, shift=3.0)
    platt, temperature = (calibrate(*shifted, method) for method in ("platt", "temperature"))
    assert platt(np.array([3.0])) == pytest.approx([0.0], abs=0.2)
    # Logits near 3 for both classes: the best factor without a shift is nearly 0, and cannot give 0 at logit 3.
    assert temperature.intercept == 0.0
    assert temperature.slope < 0.4


def test_a_class_with_more_rows_counts_no_more():
    """Intercept 0 for 400 target rows and 4,000 proposals; without balance it would be -log 10 = -2.3."""
    found = calibrate(logits(0.5, 400, 0), logits(-0.5, 4000, 1))
    assert abs(found.intercept) < 0.3


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_a_slope_below_zero_is_none(method):
    found = calibrate(logits(-0.5, 500, 0), logits(0.5, 500, 1), method)
    assert (found.slope, found.intercept, found.method) == (0.0, 0.0, method)


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_logits_that_are_all_alike_tell_nothing(method):
    found = calibrate(np.full(40, 7.0), np.full(90, 7.0), method)
    assert found(np.array([-1.0, 7.0, 9.0])) == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)


@pytest.mark.parametrize(("num_target", "num_proposals"), [(2, 2), (2, 10), (10, 2)])
def test_isotonic_is_clipped_by_the_smaller_class(num_target, num_proposals):
    # Classes that a logit separates: D would be 0 and 1. Two rows in the smaller one: d = 1/(2 + 2), r at most 3.
    found = calibrate(1 + np.arange(num_target), -1.0 - np.arange(num_proposals), "isotonic")
    assert found(np.array([-99.0, 99.0])) == pytest.approx([-LN3, LN3])
    assert found.log_bound == pytest.approx(LN3)


@pytest.mark.parametrize("n", [1, 8, 498])
def test_isotonic_bound_by_hand(n):
    # log((1 - d)/d) with d = 1/(n + 2) is log(n + 1)
    assert calibrate(1.0 + np.arange(n), -1.0 - np.arange(n), "isotonic").log_bound == pytest.approx(math.log(n + 1))


def test_isotonic_pools_rows_that_are_out_of_order():
    # Proposal, target, proposal, target at -1, 0, 1, 2: the middle two are pooled to D = 1/2; ends at d = 1/4.
    found = calibrate(np.array([0.0, 2.0]), np.array([1.0, -1.0]), "isotonic")
    at = np.array([-5.0, -1.0, -0.5, 0.0, 0.7, 1.0, 1.5, 2.0, 5.0])
    assert found(at) == pytest.approx([-LN3, -LN3, -LN3 / 2, 0, 0, 0, LN3 / 2, LN3, LN3])
    assert str(found) == "isotonic: 4 knots, log ratio -1.1 to 1.1"


def test_isotonic_weighs_classes_alike():
    # At logit 0, one of 2 target rows and two of 3 proposals: r = (1/2)/(2/3) = 3/4.
    found = calibrate(np.array([0.0, 1.0]), np.array([0.0, 0.0, -1.0]), "isotonic")
    assert found(np.array([-1.0, 0.0, 1.0])) == pytest.approx([-LN3, math.log(3 / 4), LN3])


def test_isotonic_of_reversed_logits_is_flat():
    found = calibrate(np.array([-2.0, -1.0]), np.array([1.0, 2.0]), "isotonic")
    assert found(np.array([-9.0, 0.0, 9.0])) == pytest.approx([0.0, 0.0, 0.0])
    assert found.log_bound == pytest.approx(0.0)


def test_isotonic_bound_is_the_largest_value():
    found = calibrate(logits(0.5, 300, 0), logits(-0.5, 700, 1), "isotonic")
    given = found(np.linspace(-20, 20, 4001))
    assert given.max() == found.log_bound
    assert found.log_bound <= math.log(301) + 1e-12
    assert (np.diff(given) >= 0).all()
    assert np.isnan(found(np.array([np.nan, 0.0]))).tolist() == [True, False]


def test_isotonic_follows_a_curve_that_platt_cannot():
    """Logit z^3 for the true log ratio z: z comes back within .5 where rows are dense; Platt's line misses it by 1."""
    target, proposals = logits(0.5, 4000, 0) ** 3, logits(-0.5, 4000, 1) ** 3
    true = np.linspace(-1.8, 1.8, 13)
    isotonic, platt = (calibrate(target, proposals, method)(true**3) for method in ("isotonic", "platt"))
    assert np.abs(isotonic - true).max() < 0.5
    assert np.abs(platt - true).max() > 0.5


@pytest.mark.parametrize("method", ["none", "temperature", "platt", "isotonic"])
def test_through_json(method):
    found = calibrate(logits(0.5, 50, 0), logits(-0.5, 80, 1), method)
    loaded = from_json(json.loads(json.dumps(to_json(found))))
    assert loaded == found
    assert loaded.log_bound == found.log_bound
    assert isinstance(loaded, IsotonicCalibration if method == "isotonic" else AffineCalibration)
    at = np.linspace(-9, 9, 50)
    assert loaded(at).tolist() == found(at).tolist()
