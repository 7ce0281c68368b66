import numpy as np
import pytest

from rsf_dist.sampling.accept import accept, key_quantile, top_k

LN2 = np.log(2.0)


def test_half_of_the_uniforms_accept_a_half():
    # q = .5, p = .25, M = 1: l = log(.25/.5) = -log 2, so u < p/(M q) = 1/2 accepts.
    # E = -log u: u = .25 -> E = log 4, k = log 2 > 0 accepted; u = .75 -> E = .288, k = -.405, rejected.
    log_ratio = np.full(2, np.log(0.25 / 0.5))
    decision = accept(log_ratio, -np.log(np.array([0.25, 0.75])), log_m=0.0)
    assert decision.keep.tolist() == [True, False]
    assert decision.key == pytest.approx([np.log(2), np.log(2 / 3)])
    assert decision.weight.tolist() == [1.0, 1.0]


def test_accept_all_and_reject_all():
    # l between log .1 and log .9 at M = 1: E = 3 > -log .1 = 2.30 accepts all, E = 0.1 < -log .9 = .105 rejects all.
    log_ratio = np.log(np.linspace(0.1, 0.9, 9))
    assert accept(log_ratio, np.full(9, 3.0), 0.0).keep.all()
    assert not accept(log_ratio, np.full(9, 0.1), 0.0).keep.any()


def test_boundary_is_rejected_and_the_next_float_accepted():
    # k > log M strictly: l = -2, E = 2 gives k = 0 = log M. u < p/(M q) is strict in the same way.
    exponentials = np.array([2.0, np.nextafter(2.0, 3.0), np.nextafter(2.0, 1.0)])
    assert accept(np.full(3, -2.0), exponentials, 0.0).keep.tolist() == [False, True, False]


def test_minus_infinity_is_a_plain_rejection_and_nan_and_infinity_are_never_accepted():
    log_ratio = np.array([-np.inf, np.nan, np.inf, 0.0])
    decision = accept(log_ratio, np.full(4, 50.0), 0.0)
    assert decision.keep.tolist() == [False, False, False, True]
    assert decision.key[0] == -np.inf
    assert np.isnan(decision.key[1])
    assert decision.weight.tolist() == [1.0, 1.0, 1.0, 1.0]


def test_weights_are_the_ratio_over_m_where_that_exceeds_one():
    # M = 2, r = 1, 2, 6: max(1, r/M) = 1, 1, 3. With E = 1 keys are 1, 1.69, 2.79, all above log 2 = .69.
    decision = accept(np.log([1.0, 2.0, 6.0]), np.ones(3), LN2)
    assert decision.keep.all()
    assert decision.weight == pytest.approx([1.0, 1.0, 3.0])
    assert decision.weight.dtype == np.float32


def test_capped_rows_are_accepted_whatever_the_draw():
    assert accept(np.array([0.5]), np.array([0.0]), 0.4).keep.all()


def test_key_rule_is_von_neumanns():
    rng = np.random.default_rng(0)
    log_ratio, uniforms, log_m = rng.normal(-1, 2, 10_000), rng.random(10_000), 0.3
    by_key = accept(log_ratio, -np.log(uniforms), log_m).keep
    by_uniform = uniforms < np.exp(log_ratio) / np.exp(log_m)
    assert np.array_equal(by_key, by_uniform)
    assert 0.1 < by_key.mean() < 0.9


def test_a_larger_m_keeps_the_rows_whose_key_exceeds_it():
    rng = np.random.default_rng(1)
    log_ratio, exponentials = rng.normal(size=1000), rng.exponential(size=1000)
    small, large = (accept(log_ratio, exponentials, log_m) for log_m in (0.0, 1.0))
    assert np.array_equal(large.keep, small.keep & (small.key > 1.0))
    assert 0 < large.keep.sum() < small.keep.sum()


@pytest.mark.parametrize("log_m", [np.nan, np.inf, -np.inf])
def test_envelope_must_be_finite(log_m):
    with pytest.raises(ValueError, match="finite"):
        accept(np.zeros(1), np.zeros(1), log_m)


@pytest.mark.parametrize("shapes", [((2,), (3,)), ((2, 1), (2, 1)), ((), ())])
def test_shapes_must_be_alike(shapes):
    with pytest.raises(ValueError, match="alike"):
        accept(np.zeros(shapes[0]), np.zeros(shapes[1]), 0.0)


def test_no_rows():
    assert accept(np.empty(0), np.empty(0), 0.0).keep.shape == (0,)


def test_share_of_keys_above_t_is_the_mean_acceptance():
    """P(k > t) = E[min(1, r/e^t)]. False-alarm rate 1e-3 for each of the four t: 3.29 standard errors."""
    rng = np.random.default_rng(2)
    log_ratio = rng.normal(-0.5, 1.0, 200_000)
    keys = log_ratio + rng.exponential(size=len(log_ratio))
    for t in (-1.0, 0.0, 1.0, 2.0):
        probability = np.minimum(1, np.exp(log_ratio - t))
        error = np.sqrt((probability * (1 - probability)).mean() / len(keys))
        assert abs((keys > t).mean() - probability.mean()) < 3.29 * error


# Keys 1 to 8. Acceptance 1/4: two keys must lie above, so log M = 6. Acceptance 1/2: four above, log M = 4.
@pytest.mark.parametrize(("acceptance", "log_m"), [(0.25, 6.0), (0.5, 4.0), (0.125, 7.0)])
def test_key_quantile_by_hand(acceptance, log_m):
    keys = np.array([3.0, 8.0, 1.0, 6.0, 5.0, 2.0, 7.0, 4.0])
    assert key_quantile(keys, acceptance) == log_m
    assert (keys > log_m).mean() == acceptance


def test_key_quantile_solves_the_budget():
    """All r = 1/2: acceptance min(1, 1/(2M)) = 0.1 at M = 5. False-alarm rate 1e-3.

    P(k > t) has slope -0.1 at the solution, so the quantile's standard error is sqrt(.1 .9/n)/.1 = 3/sqrt(n).
    """
    n = 100_000
    keys = np.log(0.5) + np.random.default_rng(3).exponential(size=n)
    assert abs(key_quantile(keys, 0.1) - np.log(5)) < 3.29 * 3 / np.sqrt(n)


def test_key_quantile_is_minus_infinite_where_too_few_can_be_kept():
    keys = np.array([-np.inf] * 9 + [1.0])
    assert key_quantile(keys, 0.5) == -np.inf


def test_the_highest_keys_in_order_of_position():
    keys = np.array([3.0, 8.0, 1.0, 6.0, 5.0])
    positions, log_m = top_k(keys, 2)
    assert (positions.tolist(), log_m) == ([1, 3], 5.0)
    positions, log_m = top_k(keys, 4)
    assert (positions.tolist(), log_m) == ([0, 1, 3, 4], 1.0)
    assert np.flatnonzero(keys > log_m).tolist() == positions.tolist()


def test_rows_of_ratio_zero_are_the_last_to_be_taken():
    positions, log_m = top_k(np.array([-np.inf, 2.0, -np.inf, 1.0]), 2)
    assert (positions.tolist(), log_m) == ([1, 3], -np.inf)


@pytest.mark.parametrize("k", [0, -1, 3, 4])
def test_not_more_than_there_are(k):
    with pytest.raises(ValueError, match=rf"k={k}: must be in \(0, 3\)"):
        top_k(np.arange(3.0), k)
