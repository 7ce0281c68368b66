"""Properties over shapes, types and extreme log ratios. They hold for every input: no false alarms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.distributions import Normal

from rsf_dist.accept import accept, capped_weight, key_quantile
from rsf_dist.batch import from_table, num_rows, row_digests, to_table
from rsf_dist.diagnostics import Statistics, acceptance_interval, target_side_bound
from rsf_dist.errors import InputError
from rsf_dist.proposals import DistributionProposal
from rsf_dist.ratios import ConstantRatio, DensityRatio, LabelShiftRatio, RewardRatio, VerifierRatio

EXTREMES = st.sampled_from([-700.0, 700.0, -math.inf, math.inf, math.nan, 0.0, -1e308, 1e-308])
LOG_RATIOS = EXTREMES | st.floats(-800, 800)
REGULAR = st.floats(-700, 700) | st.just(-math.inf)
LOG_M = st.floats(-700, 700)


def arrays(elements, min_size=0):
    return st.lists(elements, min_size=min_size, max_size=30).map(lambda values: np.array(values, np.float64))


@st.composite
def scored(draw, elements=LOG_RATIOS):
    """Log ratios, exponentials of the same length, and a log M."""
    log_ratio = draw(arrays(elements))
    exponentials = np.array([draw(st.floats(0, 50)) for _ in log_ratio])
    return log_ratio, exponentials, draw(LOG_M)


def statistics_of(log_ratio, exponentials, log_m, labels=None):
    with np.errstate(over="ignore"):
        return Statistics.of(log_ratio, accept(log_ratio, exponentials, log_m).keep, log_m, labels)


@given(scored())
def test_accept_never_keeps_what_is_no_ratio(rows):
    log_ratio, exponentials, log_m = rows
    decision = accept(log_ratio, exponentials, log_m)
    assert decision.keep.shape == decision.key.shape == decision.weight.shape == log_ratio.shape
    assert not decision.keep[~(log_ratio < np.inf)].any()
    assert not decision.keep[log_ratio == -np.inf].any()
    assert np.isfinite(decision.weight).all()
    assert (decision.weight >= 1).all()
    assert (decision.weight[log_ratio <= log_m] == 1).all()


@given(scored(REGULAR), st.floats(0, 100))
def test_a_larger_m_keeps_a_subset_with_the_same_keys(rows, more):
    log_ratio, exponentials, log_m = rows
    before, after = (accept(log_ratio, exponentials, at) for at in (log_m, log_m + more))
    assert not (after.keep & ~before.keep).any()
    assert np.array_equal(before.key, after.key)
    assert (after.weight <= before.weight).all()


@given(scored())
def test_statistics_count_every_row_once(rows):
    log_ratio = rows[0]
    found = statistics_of(*rows)
    assert found.num_scored == len(log_ratio)
    assert found.num_nonfinite == int((np.isnan(log_ratio) | (log_ratio == np.inf)).sum())
    assert found.num_accepted + found.num_nonfinite <= found.num_scored
    assert not math.isnan(found.max_log_ratio)
    assert Statistics.from_json(found.to_json()) == found


@given(scored(REGULAR), st.integers(0, 30))
def test_statistics_of_parts_merge_to_those_of_the_whole(rows, cut):
    log_ratio, exponentials, log_m = rows
    labels = np.arange(len(log_ratio)) % 3
    whole = statistics_of(log_ratio, exponentials, log_m, labels)
    parts = [
        statistics_of(log_ratio[part], exponentials[part], log_m, labels[part])
        for part in (slice(None, cut), slice(cut, None))
    ]
    merged = parts[0].merge(parts[1])
    for name in ("num_scored", "num_accepted", "num_capped", "num_nonfinite", "max_log_ratio", "top", "by_label"):
        assert getattr(merged, name) == getattr(whole, name)
    for name in ("log_sum_ratio", "log_sum_ratio_squared", "log_sum_excess"):
        assert getattr(merged, name) == pytest.approx(getattr(whole, name), abs=1e-9)
    assert Statistics().merge(whole) == whole.merge(Statistics()) == whole


@given(scored(REGULAR))
def test_shares_are_shares(rows):
    found = statistics_of(*rows)
    assert 0 <= found.tv_bound <= 1 + 1e-9
    if found.num_scored:
        assert 0 <= found.ess_fraction <= 1 + 1e-9


@given(arrays(REGULAR, min_size=1), LOG_M, st.floats(0, 100))
def test_target_side_bound_is_a_share_that_falls_with_m(log_ratio, log_m, more):
    with np.errstate(over="ignore"):
        mean, upper = target_side_bound(log_ratio, log_m)
        lower_mean, _ = target_side_bound(log_ratio, log_m + more)
    assert 0 <= lower_mean <= mean <= upper <= 1


@given(arrays(REGULAR, min_size=1), st.floats(0.01, 0.99))
def test_key_quantile_keeps_no_more_than_was_asked_for(keys, acceptance):
    assert (keys > key_quantile(keys, acceptance)).sum() <= math.ceil(acceptance * len(keys))


@given(st.integers(1, 10**9), st.floats(0, 1), st.booleans())
def test_acceptance_interval_holds_the_estimate(num_proposed, share, stopped):
    num_accepted = max(int(stopped), round(share * num_proposed))
    low, high = acceptance_interval(num_proposed, num_accepted, stopped)
    assert 0 <= low <= num_accepted / num_proposed <= high <= 1


@given(arrays(LOG_RATIOS), LOG_M)
def test_weights_are_float32_numbers_of_one_and_more(log_ratio, log_m):
    weight = capped_weight(log_ratio[~np.isnan(log_ratio)], log_m)
    assert weight.dtype == np.float32
    assert np.isfinite(weight).all()
    assert (weight >= 1).all()


SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4).filter(lambda shape: 0 not in shape[1:])
DTYPES = st.sampled_from(["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool"])


@given(DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_arrow_keeps_every_tensor(array):
    batch = {"x": torch.from_numpy(array)}
    back = from_table(to_table(batch))
    assert back["x"].dtype == batch["x"].dtype
    assert back["x"].shape == batch["x"].shape
    assert back["x"].numpy().tobytes() == array.tobytes()
    assert row_digests(back) == row_digests(batch)
    assert len(row_digests(batch)) == 32 * num_rows(batch)


@given(hnp.arrays("float32", st.integers(0, 20)))
def test_ratios_give_one_number_a_row_or_refuse_the_input(x):
    batch = {"x": torch.from_numpy(x), "label": torch.zeros(len(x), dtype=torch.int64)}
    wide = DistributionProposal(Normal(0.0, 2.0, validate_args=False))
    ratios = [
        ConstantRatio(),
        DensityRatio(lambda x: -(x**2) / 2, wide),
        RewardRatio(lambda batch: batch["x"], beta=0.1),
        VerifierRatio(lambda batch: batch["x"] > 0),
        LabelShiftRatio([0.25, 0.75], [0.5, 0.5]),
    ]
    for ratio in ratios:
        try:
            found = ratio.log_ratio(batch)
        except InputError:
            assert not np.isfinite(x).all()
            continue
        assert found.dtype == torch.float64
        assert found.shape == (len(x),)
