"""The facts that a ratio states, and what is assumed of a ratio that states none."""

from types import SimpleNamespace

import numpy as np
import torch
from torch.distributions import Normal

from rsf_dist.proposals import DistributionProposal
from rsf_dist.ratios import ConstantRatio, DensityRatio, LabelShiftRatio, ProductRatio, VerifierRatio
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.ratios.info import HeldOut, RatioInfo, info_of

ESTIMATE = ClassPrior(np.array([0.3, 0.7]), np.zeros(2), np.ones(2), "em")


class Plain:
    log_bound = None


def stating(**facts):
    return SimpleNamespace(log_bound=None, info=RatioInfo(**facts))


def test_a_ratio_that_states_nothing_may_look_at_anything_and_claims_nothing():
    assert info_of(Plain()) == RatioInfo()
    assert RatioInfo().columns is None
    assert not RatioInfo().normalised


def test_a_users_ratio_may_set_two_plain_attributes():
    simple = SimpleNamespace(normalised=True, columns=["x", "y"])
    assert info_of(simple) == RatioInfo(normalised=True, columns=("x", "y"))
    # an attribute that happens to be called info is no statement of facts
    assert info_of(SimpleNamespace(info={"author": "me"}, columns=["x"])) == RatioInfo(columns=("x",))


def test_what_a_ratio_states_goes_before_plain_attributes():
    assert info_of(SimpleNamespace(info=RatioInfo(columns=("x",)), columns=["y"])).columns == ("x",)


def test_the_facts_of_the_packages_own():
    assert info_of(ConstantRatio()) == RatioInfo(columns=())
    shift = LabelShiftRatio([0.3, 0.7], [0.5, 0.5], estimate=ESTIMATE)
    assert info_of(shift) == RatioInfo(normalised=True, columns=("label",), class_prior=ESTIMATE)
    proposal = DistributionProposal(Normal(0.0, 2.0), column="x")
    known = DensityRatio(Normal(0.0, 1.0), proposal, target_samples=torch.zeros(1))
    assert (info_of(known).normalised, info_of(known).columns) == (True, ("x",))
    assert np.exp(info_of(known).held_out.log_ratio).round(6).tolist() == [2.0]  # sd 1 in sd 2, at the mode


def test_a_product_looks_at_every_column_of_its_factors():
    first, second = stating(columns=("a", "b")), stating(columns=("b", "c"))
    assert ProductRatio([first, second]).info.columns == ("a", "b", "c")
    assert ProductRatio([first, Plain()]).info.columns is None  # a factor that does not say
    assert ProductRatio([ConstantRatio(), VerifierRatio(lambda batch: batch["a"], ["a"])]).info.columns == ("a",)


def test_a_products_held_out_rows_are_those_of_all_factors_and_its_figures_those_of_one():
    one = stating(held_out=HeldOut(np.zeros(3), np.array([1, 2, 3])), quality="good", class_prior=ESTIMATE)
    other = stating(held_out=HeldOut(np.zeros(2), np.array([3, 1])))
    info = ProductRatio([one, other, Plain()]).info
    assert info.held_out.index.tolist() == [1, 3]
    assert info.held_out.log_ratio is None
    assert (info.quality, info.class_prior) == ("good", ESTIMATE)
    assert not info.normalised
    assert ProductRatio([one, one]).info.quality is None  # of which factor would it be?
    assert ProductRatio([Plain(), Plain()]).info.held_out is None
