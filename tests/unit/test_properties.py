"""Properties over shapes, types and extreme log ratios. They hold for every input: no false alarms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.distributions import Normal

from rsf_dist.data.arrow import from_table, to_table
from rsf_dist.data.batch import num_rows, row_digests
from rsf_dist.errors import InputError
from rsf_dist.proposals import DistributionProposal, TargetMixtureProposal
from rsf_dist.ratios import (
    ConstantRatio,
    DensityRatio,
    LabelShiftRatio,
    ProductRatio,
    RelativeRatio,
    RewardRatio,
    VerifierRatio,
)
from rsf_dist.ratios.bounds import gaussian_log_supremum
from rsf_dist.ratios.calibration import calibrate, from_json, to_json
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.accept import accept, capped_weight, key_quantile, top_k
from rsf_dist.sampling.diagnostics import Statistics, acceptance_interval, target_side_bound
from rsf_dist.sampling.report import curve

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


class Column:
    """Log ratios from a column, cut off at the bound where it has one."""

    def __init__(self, name, log_bound=None):
        self.name, self.log_bound = name, log_bound

    def log_ratio(self, batch):
        return batch[self.name] if self.log_bound is None else batch[self.name].clamp(max=self.log_bound)


@st.composite
def products(draw):
    """Two or three factors with bounds or without, their columns, exponentials and a log M. Perhaps no rows at all."""
    number, n = draw(st.integers(2, 3)), draw(st.integers(0, 20))
    columns = {str(j): torch.tensor([draw(LOG_RATIOS) for _ in range(n)], dtype=torch.float64) for j in range(number)}
    factors = [Column(name, draw(st.none() | st.floats(-700, 700))) for name in columns]
    exponentials = torch.tensor([draw(st.floats(0, 50)) for _ in range(n)], dtype=torch.float64)
    return ProductRatio(factors), columns, exponentials, draw(LOG_M)


@given(products())
def test_screening_changes_no_accepted_row_and_no_key(given_):
    product, batch, exponentials, log_m = given_
    whole, found = product.log_ratio(batch), product.screened(batch, exponentials, log_m)
    with np.errstate(over="ignore"):
        one, other = (accept(one.numpy(), exponentials.numpy(), log_m) for one in (whole, found.log_ratio))
    assert np.array_equal(one.keep, other.keep)
    assert one.key[one.keep].tobytes() == other.key[one.keep].tobytes()
    assert np.array_equal(one.weight, other.weight)
    # what was scored has its own log ratio, what was not has none, and a chance in either case
    assert torch.equal(found.log_ratio[found.scored].nan_to_num(), whole[found.scored].nan_to_num())
    assert (found.log_ratio[~found.scored] == -torch.inf).all()
    assert (found.log_inclusion[found.log_ratio.isfinite()] <= 0).all()
    assert (found.log_inclusion[~found.scored] == 0).all()
    over = whole.isfinite() & (whole > log_m + 1e-5)
    assert found.scored[over].all()
    assert (found.log_inclusion[over] == 0).all()


@given(products(), st.integers(0, 20))
def test_statistics_of_screened_parts_merge(given_, cut):
    product, batch, exponentials, log_m = given_
    found = product.screened(batch, exponentials, log_m)

    def of(rows):
        log_ratio, scored = found.log_ratio[rows].numpy(), found.scored[rows]
        keep = accept(log_ratio, exponentials[rows].numpy(), log_m).keep
        return Statistics.of(log_ratio, keep, log_m, None, found.log_inclusion[rows].numpy(), int((~scored).sum()))

    with np.errstate(over="ignore"):
        whole, merged = of(slice(None)), of(slice(None, cut)).merge(of(slice(cut, None)))
    for name in (
        "num_scored",
        "num_accepted",
        "num_capped",
        "num_nonfinite",
        "num_screened_out",
        "max_log_ratio",
        "top",
    ):
        assert getattr(merged, name) == getattr(whole, name)
    for name in ("log_sum_ratio", "log_sum_ratio_squared", "log_sum_excess"):
        assert getattr(merged, name) == pytest.approx(getattr(whole, name), abs=1e-9)
        assert not math.isnan(getattr(whole, name))
    assert whole.num_screened_out + whole.num_nonfinite <= whole.num_scored


@given(arrays(LOG_RATIOS), st.floats(1e-12, 1 - 1e-12))
def test_a_relative_ratio_is_bounded_and_rises_with_the_ratio(log_ratio, alpha):
    wide = DistributionProposal(Normal(0.0, 2.0))
    ratio = RelativeRatio(Column("l"), TargetMixtureProposal(wide, {"x": torch.zeros(1)}, alpha))
    given_ = torch.from_numpy(np.sort(log_ratio))
    found = ratio.log_ratio({"l": given_, "component": torch.zeros(len(given_))})
    assert torch.equal(found.isnan(), given_.isnan())
    known, at = found[~found.isnan()], given_[~given_.isnan()]
    assert (known <= ratio.log_bound + 1e-12).all()
    assert (known.diff().nan_to_num(0.0) >= -1e-12).all()
    assert ((known[at == torch.inf] - ratio.log_bound).abs() <= 1e-12).all()
    assert (found[given_ == -torch.inf] == -torch.inf).all()


LOGITS = st.floats(-50, 50)


@settings(max_examples=50)  # each fits a model
@given(
    arrays(LOGITS, min_size=1),
    arrays(LOGITS, min_size=1),
    st.sampled_from(["none", "temperature", "platt", "isotonic"]),
    st.floats(1e-3, 1e3),
)
def test_calibrations_are_monotone_and_finite(target, proposals, method, scale):
    found = calibrate(scale * target, scale * proposals, method)
    at = np.sort(np.concatenate([scale * target, scale * proposals, [-1e6, 0.0, 1e6]]))
    given_ = found(at)
    assert np.isfinite(given_).all()
    assert (np.diff(given_) >= -1e-9).all()
    if found.log_bound is not None:
        assert given_.max() <= found.log_bound + 1e-12
        assert found.log_bound <= np.log(min(len(target), len(proposals)) + 1) + 1e-9
        assert given_.min() >= -np.log(min(len(target), len(proposals)) + 1) - 1e-9
    assert from_json(to_json(found)) == found


@given(st.lists(REGULAR, min_size=2, max_size=40, unique=True), st.data())
def test_top_k_are_exactly_the_rows_above_log_m(values, data):
    keys = np.array(values)
    k = data.draw(st.integers(1, len(keys) - 1))
    positions, log_m = top_k(keys, k)
    assert len(positions) == k
    assert positions.tolist() == np.flatnonzero(keys > log_m).tolist()
    assert log_m in keys


@given(st.floats(-5, 5), st.floats(0.01, 3), st.floats(-5, 5), st.floats(0.01, 3), st.floats(-20, 20))
def test_no_point_exceeds_a_gaussian_bound(mean_p, sd_p, mean_q, sd_q, x):
    one = np.ones(1)
    bound = gaussian_log_supremum(mean_p * one, sd_p**2 * np.eye(1), mean_q * one, sd_q**2 * np.eye(1))
    if bound is None:
        assert sd_p**2 >= sd_q**2 * (1 - 2e-6)
        return
    log_ratio = np.log(sd_q / sd_p) - ((x - mean_p) / sd_p) ** 2 / 2 + ((x - mean_q) / sd_q) ** 2 / 2
    assert log_ratio <= bound + 1e-9 * max(1, abs(bound), ((x - mean_p) / sd_p) ** 2)


@given(scored(REGULAR))
def test_a_curve_falls(rows):
    log_ratio, exponentials, log_m = rows
    with np.errstate(over="ignore", divide="ignore"):
        keep = accept(log_ratio, exponentials, log_m).keep
        statistics = Statistics.of(log_ratio, keep, log_m)
        if not keep.any():
            return
        found = curve(
            log_ratio[keep], (log_ratio + exponentials)[keep], len(log_ratio), statistics.log_mean_ratio, log_m
        )
    acceptance, bias = (
        np.array([getattr(point, name) for point in found]) for name in ("acceptance", "bias_proposals")
    )
    assert acceptance[0] == keep.mean()
    assert (np.diff(acceptance) <= 0).all()
    assert (np.diff(bias) <= 1e-12).all()
    assert bias[0] == pytest.approx(statistics.tv_bound, abs=1e-5)
    assert ((bias >= 0) & (bias <= 1)).all()


@given(st.integers(0, 40), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_a_mixture_gives_as_many_rows_as_were_asked_for(n, alpha, seed):
    mixture = TargetMixtureProposal(DistributionProposal(Normal(0.0, 1.0)), {"x": torch.full((3,), 99.0)}, alpha)
    rows = mixture.sample(n, Streams(seed))
    assert num_rows(rows) == n
    assert torch.equal(rows["component"] == 1, rows["x"] == 99)
