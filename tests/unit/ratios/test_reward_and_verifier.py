"""Rewards, verdicts and class priors as targets keep their contracts; tests/statistics has their distributions."""

import math

import numpy as np
import pytest
import torch

from rsf_dist.errors import InputError
from rsf_dist.ratios import LabelShiftRatio, Ratio, RewardRatio, VerifierRatio
from rsf_dist.sampling.envelope import Pilot, PilotEnvelope


def identity(batch):
    return batch["x"]


def test_reward_is_the_score_over_beta():
    found = RewardRatio(identity, beta=0.5).log_ratio({"x": torch.tensor([0.25, -1.0, -math.inf])})
    assert found.dtype == torch.float64
    assert found.tolist() == [0.5, -2.0, -math.inf]
    assert isinstance(RewardRatio(identity), Ratio)


def test_reward_tells_a_certified_bound_from_an_estimate():
    pilot = np.array([0.2, 0.9])
    certified, estimated = RewardRatio(identity, 0.5, max_score=1.0), RewardRatio(identity, 0.5)
    assert (certified.log_bound, estimated.log_bound) == (2.0, None)
    sources = [PilotEnvelope().choose(Pilot(pilot, pilot, one.log_bound)).source for one in (certified, estimated)]
    assert sources == ["bound of the ratio", "estimate: largest of 2 pilot ratios + 0"]


def test_a_score_above_its_certified_maximum_is_refused():
    ratio = RewardRatio(identity, max_score=1.0)
    assert ratio.log_ratio({"x": torch.tensor([1.0])}).tolist() == [1.0]
    with pytest.raises(InputError, match=r"^max_score=1\.0: is no bound: a row scores 1\.5"):
        ratio.log_ratio({"x": torch.tensor([0.5, 1.5, math.nan])})


def test_rounding_above_the_maximum_is_the_maximum():
    above = torch.tensor(1.0).nextafter(torch.tensor(2.0))  # by 1.2e-7
    assert RewardRatio(identity, max_score=1.0).log_ratio({"x": above[None]}).tolist() == [1.0]
    with pytest.raises(InputError, match="is no bound"):  # in float64 it is no rounding
        RewardRatio(identity, max_score=1.0).log_ratio({"x": above[None].double()})


def test_scores_and_verdicts_may_be_arrays():
    batch = {"x": torch.tensor([1, 2])}
    assert RewardRatio(lambda batch: batch["x"].numpy(), max_score=2).log_ratio(batch).tolist() == [1.0, 2.0]
    assert VerifierRatio(lambda batch: batch["x"].numpy() > 1).log_ratio(batch).tolist() == [-math.inf, 0.0]


def test_a_score_that_is_nan_reaches_the_sampler():
    found = RewardRatio(identity, max_score=1.0).log_ratio({"x": torch.tensor([math.nan, math.inf])})
    assert found.isnan().tolist() == [True, False]
    assert found[1] == math.inf


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, math.inf])
def test_beta_must_be_positive(beta):
    with pytest.raises(InputError, match=r"^beta=.*must be positive and finite"):
        RewardRatio(identity, beta)


def test_reward_refusals():
    with pytest.raises(InputError, match=r"^max_score=nan: max_score/beta must be finite"):
        RewardRatio(identity, max_score=math.nan)
    with pytest.raises(InputError, match=r"^max_score=1\.0: max_score/beta must be finite"):
        RewardRatio(identity, beta=1e-320, max_score=1.0)
    with pytest.raises(InputError, match=r"^score=\[3, 1\]: must be \[3\]"):
        RewardRatio(lambda batch: batch["x"][:, None]).log_ratio({"x": torch.zeros(3)})


def test_verifier_keeps_what_passes():
    ratio = VerifierRatio(lambda batch: batch["x"] > 1)
    found = ratio.log_ratio({"x": torch.tensor([0.0, 2.0, math.nan])})
    assert (found.dtype, found.tolist()) == (torch.float64, [-math.inf, 0.0, -math.inf])
    assert ratio.log_bound == 0.0
    assert isinstance(ratio, Ratio)


@pytest.mark.parametrize("passes", [lambda batch: batch["x"], lambda batch: batch["x"][:, None] > 0])
def test_verdicts_must_be_booleans(passes):
    with pytest.raises(InputError, match=r"^passes=torch\..*must be torch\.bool \[3\]"):
        VerifierRatio(passes).log_ratio({"x": torch.zeros(3)})


def test_label_shift_by_hand():
    ratio = LabelShiftRatio([0.1, 0.0, 0.9], [0.5, 0.3, 0.2])
    found = ratio.log_ratio({"label": torch.tensor([2, 0, 1])})
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([math.log(4.5), math.log(0.2), -math.inf])
    assert ratio.log_bound == pytest.approx(math.log(4.5))
    assert ratio.log_ratio({"label": torch.tensor([], dtype=torch.int64)}).shape == (0,)


def test_a_class_that_neither_has_is_no_problem():
    ratio = LabelShiftRatio([0.5, 0.5, 0.0], [0.25, 0.75, 0.0])
    assert ratio.log_bound == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("target", "proposal", "message"),
    [
        ([0.5, 0.6], [0.5, 0.5], r"^target_prior=\[0\.5, 0\.6\]: must be a list of probabilities"),
        ([0.5, 0.5], [1.5, -0.5], r"^proposal_prior=.*must be a list of probabilities"),
        ([math.nan, 1.0], [0.5, 0.5], r"^target_prior=.*must be a list of probabilities"),
        ([], [], r"^target_prior=\[\]"),
        ([0.5, 0.5], [0.2, 0.3, 0.5], "must have the 3 classes of the proposals"),
        ([0.5, 0.5], [1.0, 0.0], "the target has class 1, which proposals never show"),
    ],
)
def test_priors_that_are_refused(target, proposal, message):
    with pytest.raises(InputError, match=message):
        LabelShiftRatio(target, proposal)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"label": torch.tensor([0, 2])}, "label=2: is outside the 2 classes"),
        ({"label": torch.tensor([-1])}, "label=-1: is outside the 2 classes"),
        ({"label": torch.tensor([0.5])}, r"label=torch\.float32 \[1\]: must be integers"),
        ({"image": torch.zeros(1)}, r"column=label: is not among the rows' \['image'\]"),
    ],
)
def test_labels_that_are_refused(batch, message):
    with pytest.raises(InputError, match=message):
        LabelShiftRatio([0.5, 0.5], [0.5, 0.5]).log_ratio(batch)
