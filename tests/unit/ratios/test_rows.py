"""Rows that a ratio can be learned from, and the refusal of all others by set, row and column."""

import numpy as np
import pytest
import torch

from rsf_dist.config.ratio import ClassifierRatioConfig, RatioNetworkConfig, RatioOptimizerConfig
from rsf_dist.errors import InputError, StatisticalRefusal
from rsf_dist.ratios import ClassifierRatio
from rsf_dist.ratios.classifier import network_spec, split_samples


def quick(**changes):
    network = RatioNetworkConfig(name="mlp", width=4, depth=1)
    return ClassifierRatioConfig(network=network, optimizer=RatioOptimizerConfig(steps=3), **changes)


def rows(n=60, columns=3, seed=0):
    return torch.randn(n, columns, generator=torch.Generator().manual_seed(seed))


def with_value(value, row=7, column=2):
    changed = rows().double()
    changed[row, column] = value
    return changed


def refused(target, proposals):
    with pytest.raises(InputError) as caught:
        ClassifierRatio.fit(target, proposals, quick(), column="v")
    assert caught.value.absolute
    return caught.value


@pytest.mark.parametrize("side", ["target", "proposals"])
@pytest.mark.parametrize(
    ("value", "told", "rule"),
    [
        (float("nan"), "nan in row 7, column 2", "must be finite"),
        (float("inf"), "inf in row 7, column 2", "must be finite"),
        (float("-inf"), "-inf in row 7, column 2", "must be finite"),
        (1e300, "1e+300 in row 7, column 2", "must not exceed 2e+19, or float32 overflows"),
        (-1e38, "-1e+38 in row 7, column 2", "must not exceed 2e+19, or float32 overflows"),
    ],
)
def test_a_number_that_no_network_takes_is_named_by_its_row_and_column(side, value, told, rule):
    sets = {"target": rows(), "proposals": rows()} | {side: with_value(value)}
    error = refused(**sets)
    assert (error.field, error.value, error.rule) == (side, told, rule)


def test_further_such_numbers_are_counted():
    target = with_value(float("nan"))
    target[20] = float("inf")
    assert refused(target, rows()).value == "nan in row 7, column 2 (and 3 numbers more)"


def test_a_pixel_is_named_by_its_place():
    images = torch.zeros(40, 1, 4, 4)
    images[3, 0, 1, 2] = float("nan")
    with pytest.raises(InputError, match=r"target=nan in row 3, at \[0, 1, 2\]: must be finite"):
        split_samples(images, torch.zeros(40, 1, 4, 4), ClassifierRatioConfig(), 0)


def test_large_numbers_are_taken():
    ClassifierRatio.fit(with_value(1e15), rows(), quick())


@pytest.mark.parametrize("side", ["target", "proposals"])
@pytest.mark.parametrize(
    ("wrong", "told", "remedy"),
    [
        (rows()[:, 0], "rows of shape [60]", "give each row its columns, e.g. rows[:, None]"),
        (rows()[:, :, None], "rows of shape [60, 3, 1]", "flatten each row, rows.flatten(1)"),
        (torch.tensor(1.0), "rows of shape []", "flatten each row, rows.flatten(1)"),
        (rows()[:29], "29 rows", "more"),
        (rows()[:0], "0 rows", "more"),
        (rows().to(torch.complex64), "torch.complex64", "give the parts as columns"),
        (rows().numpy(), "a ndarray", "wrap it, torch.as_tensor(rows, dtype=torch.float32)"),
    ],
)
def test_rows_of_another_form_are_refused(side, wrong, told, remedy):
    error = refused(**{"target": rows(), "proposals": rows()} | {side: wrong})
    assert (error.field, error.value) == (side, told)
    assert remedy in error.remedy


def test_one_dimension_is_refused_where_both_sets_have_it():
    assert refused(rows()[:, 0], rows()[:, 0]).value == "rows of shape [60]"


def test_other_columns_than_the_proposals_are_refused():
    error = refused(rows(columns=2), rows())
    assert (error.value, error.rule) == ([2], "rows must be like the proposals [3]")
    assert error.remedy == "give both the same columns"


@pytest.mark.parametrize("calibration", ["none", "temperature", "platt", "isotonic"])
@pytest.mark.parametrize(
    ("target", "proposals"),
    [(torch.ones(60, 3), torch.ones(60, 3)), (rows(), rows()), (torch.ones(60, 3), rows()), (rows() - 50, rows() + 50)],
    ids=["constant", "equal", "constant target", "disjoint"],
)
def test_sets_with_nothing_or_all_to_tell_apart_give_a_finite_ratio(target, proposals, calibration):
    ratio = ClassifierRatio.fit(target, proposals, quick(calibration=calibration), column="v")
    assert ratio.log_ratio({"v": proposals}).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_every_real_type_of_numbers_is_taken(dtype):
    ClassifierRatio.fit((rows() * 5).abs().to(dtype), (rows(seed=1) * 5).abs().to(dtype), quick())


def test_a_network_that_came_out_of_its_fit_without_finite_logits_is_refused():
    """The last step's weights are in no loss that could be looked at."""
    config = quick()
    spec = network_spec(config, channels=3)
    network = spec.build(0)
    splits = split_samples(rows(), rows(seed=1), config, 0)
    ClassifierRatio.calibrated([network], spec, splits, config)
    with torch.no_grad():
        network.head.weight.fill_(float("nan"))
    with pytest.raises(StatisticalRefusal, match=r"logits are not finite; lower optimizer\.learning_rate"):
        ClassifierRatio.calibrated([network], spec, splits, config)


@pytest.mark.parametrize(
    ("scored", "told"),
    [
        (torch.zeros(4), r"v=rows of shape \[4\]: must be images"),
        (torch.zeros(4, 3, 1), r"v=rows of shape \[4, 3, 1\]: must be images"),
        (torch.zeros(4, 2), "v=rows of 2 numbers: the ratio was learned from rows of 3 numbers"),
    ],
)
def test_scored_rows_must_be_like_those_of_the_fit(scored, told):
    ratio = ClassifierRatio.fit(rows(), rows(seed=1), quick(), column="v")
    with pytest.raises(InputError, match=told):
        ratio.log_ratio({"v": scored})
    assert ratio.log_ratio({"v": torch.zeros(0, 3)}).shape == (0,)
    assert np.isnan(ratio.log_ratio({"v": torch.full((2, 3), float("nan"))})).all()  # the sampler counts and refuses
