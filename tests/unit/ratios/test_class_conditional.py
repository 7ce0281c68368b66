"""The last round's ratio of images and classes, and what is estimated for it."""

import json
import math
import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from rsf_dist.builders import prior_estimation
from rsf_dist.ratios import ClassConditionalRatio, ConstantRatio, LabelShiftRatio, ProductRatio, Ratio, VerifierRatio
from rsf_dist.ratios.class_conditional import class_log_means
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.ratios.info import HeldOut, RatioInfo
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.envelope import Choice
from rsf_dist.sampling.plan import SamplingPlan

Q, P = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
LOOKS = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.9, 0.1, 0.0]])
"""Each class's distribution of looks 0, 1 and 2. The first two look alike, and the last is rarely anything but 0."""
G = np.array([0.5, 1.0, 4.0])
"""The learned ratio of a look in any class: E_q[g | y] is .3 + .3 + .4 = 1; .1 + .3 + 2 = 2.4; .45 + .1 = .55."""
LOG_MEANS = np.log([1.0, 2.4, 0.55])


class Looks:
    """Rows of a class and a look."""

    def sample(self, n, rng):
        generator = rng.numpy(purpose=1)
        label = generator.choice(3, n, p=Q)
        look = (generator.random(n)[:, None] > LOOKS.cumsum(axis=1)[label]).sum(axis=1)
        return {"look": torch.from_numpy(look), "label": torch.from_numpy(label)}


class OfLooks:
    """g, of looks alone."""

    log_bound = math.log(4)

    def log_ratio(self, batch):
        return torch.from_numpy(np.log(G)[batch["look"].numpy()])


CLASSES = LabelShiftRatio(P, Q)
JOINT = ClassConditionalRatio(OfLooks(), CLASSES, LOG_MEANS)


def accepted(ratio, n=20_000):
    return ChunkWork(Looks(), ratio, ratio.log_bound, n, seed=0)(0)


def class_prior_pvalue(rows, expected):
    counts = rows["label"].bincount(minlength=3).numpy()
    return stats.chisquare(counts, counts.sum() * expected).pvalue


# ClassConditionalRatio


def test_a_row_by_hand():
    # class 0 seen as 2: (.2/.5) 4/1; class 1 as 0: (.2/.3) .5/2.4; class 2 as 1: (.6/.2) 1/.55
    found = JOINT.log_ratio({"look": torch.tensor([2, 0, 1]), "label": torch.tensor([0, 1, 2])})
    assert found.exp().tolist() == pytest.approx([1.6, 1 / 7.2, 3 / 0.55])
    assert found.dtype == torch.float64
    assert isinstance(JOINT, Ratio)
    assert not JOINT.info.normalised  # means that are cut at a quantile are too low


def test_its_mean_over_proposals_is_one():
    # sum of q(y) P(look | y) r(y, look) over all nine
    rows = {"look": torch.arange(9) % 3, "label": torch.arange(9) // 3}
    mass = (Q[:, None] * LOOKS).reshape(-1)
    assert (mass * JOINT.log_ratio(rows).exp().numpy()).sum() == pytest.approx(1.0)


def test_accepted_rows_have_the_class_prior_of_the_target():
    """Chi-square at a false-alarm rate of 1e-3. With g alone, or the classes' factor times g, it must fail."""
    chunk = accepted(JOINT)
    assert chunk.statistics.num_capped == 0
    assert class_prior_pvalue(chunk.rows, P) > 1e-3
    for wrong in (OfLooks(), ProductRatio([CLASSES, OfLooks()])):
        assert class_prior_pvalue(accepted(wrong).rows, P) < 1e-6


def test_within_a_class_accepted_rows_are_those_of_g():
    """P(look | y) g/E[g | y] of each class, chi-square at 1e-3 each. The proposals' own looks must fail in each."""
    rows = accepted(JOINT).rows
    for label, means in enumerate(np.exp(LOG_MEANS)):
        seen = LOOKS[label] > 0
        counts = rows["look"][rows["label"] == label].bincount(minlength=3).numpy()[seen]
        wanted = (LOOKS[label] * G / means)[seen]
        assert wanted.sum() == pytest.approx(1.0)
        assert stats.chisquare(counts, counts.sum() * wanted).pvalue > 1e-3
        assert stats.chisquare(counts, counts.sum() * LOOKS[label][seen]).pvalue < 1e-3


def test_estimated_means_are_as_good():
    """Means of 200,000 rows, at least 40,000 a class, of a spread below 1.7: four standard errors are below .034.

    Nothing is cut, as the largest ratio is that of a quarter of the rows. Chi-square at a false-alarm rate of 1e-4.
    """
    rows = Looks().sample(200_000, Streams(1))
    means = class_log_means(OfLooks().log_ratio(rows).numpy(), rows["label"].numpy(), 3)
    assert np.exp(means) == pytest.approx(np.exp(LOG_MEANS), abs=0.034)
    assert class_prior_pvalue(accepted(ClassConditionalRatio(OfLooks(), CLASSES, means)).rows, P) > 1e-4


def test_the_bound_holds_for_every_row():
    # log 4 of g, and the largest p(y)/q(y)/E[g | y]: .4, .667/2.4 = .278 and 3/.55
    assert JOINT.log_bound == pytest.approx(math.log(4 * 3 / 0.55))
    everything = {"look": torch.arange(9) % 3, "label": torch.arange(9) // 3}
    assert JOINT.log_ratio(everything).max().item() == pytest.approx(JOINT.log_bound)
    assert JOINT.log_ratio(Looks().sample(20_000, Streams(0))).max() <= JOINT.log_bound
    endless = ClassConditionalRatio(SimpleNamespace(log_bound=None), CLASSES, LOG_MEANS)
    assert endless.log_bound is None


def test_where_only_the_class_prior_differs_it_is_the_classes_ratio():
    joint = ClassConditionalRatio(ConstantRatio(), CLASSES, np.zeros(3))
    rows = Looks().sample(100, Streams(0))
    assert torch.equal(joint.log_ratio(rows), CLASSES.log_ratio(rows))
    assert joint.log_bound == pytest.approx(CLASSES.log_bound)


def test_a_class_that_the_target_lacks_and_a_row_that_g_rejects_are_rejected():
    gone = LabelShiftRatio([0.0, 0.4, 0.6], Q)
    joint = ClassConditionalRatio(OfLooks(), gone, LOG_MEANS)
    assert joint.log_ratio({"look": torch.tensor([2]), "label": torch.tensor([0])}).tolist() == [-math.inf]
    assert math.isfinite(joint.log_bound)
    checked = ClassConditionalRatio(VerifierRatio(lambda batch: batch["look"] == 1), CLASSES, LOG_MEANS)
    found = checked.log_ratio({"look": torch.tensor([1, 2]), "label": torch.tensor([0, 0])})
    assert found.tolist() == pytest.approx([math.log(0.4), -math.inf])


def test_what_is_known_of_g_is_known_of_it():
    quality, index = object(), np.array([3, 1])
    learned = SimpleNamespace(log_bound=None, info=RatioInfo(quality=quality, held_out=HeldOut(index=index)))
    info = ClassConditionalRatio(learned, CLASSES, LOG_MEANS).info
    assert (info.quality, info.held_out.index, info.held_out.log_ratio) == (quality, index, None)
    assert (JOINT.info.quality, JOINT.info.held_out) == (None, None)
    again = pickle.loads(pickle.dumps(JOINT))
    rows = Looks().sample(50, Streams(0))
    assert torch.equal(again.log_ratio(rows), JOINT.log_ratio(rows))


def test_a_report_takes_what_target_rows_tell_as_upper_bounds():
    learned = SimpleNamespace(log_bound=None, info=RatioInfo(held_out=HeldOut(np.log([1.0, 2.0]))))
    work = ChunkWork(None, ClassConditionalRatio(learned, CLASSES, LOG_MEANS), 0.0, chunk_size=10, seed=0)
    pilot = SimpleNamespace(rows=SimpleNamespace(log_ratio=np.zeros(4)))
    assert SamplingPlan(Choice(0.0, "given"), work, pilot).setting(0.0).target_at_most
    assert not SamplingPlan(Choice(0.0, "given"), replace(work, ratio=learned), pilot).setting(0.0).target_at_most


def test_target_rows_are_of_the_class_that_capping_costs_most():
    # .4, .667/2.4 = .278 and 3/.55: of a target row's g, none of its classes makes more than 3/.55 times as much
    learned = SimpleNamespace(log_bound=None, info=RatioInfo(held_out=HeldOut(np.log([1.0, 2.0]))))
    joint = ClassConditionalRatio(learned, CLASSES, LOG_MEANS)
    assert np.exp(joint.info.held_out.log_ratio) == pytest.approx([3 / 0.55, 6 / 0.55])
    assert np.exp(learned.info.held_out.log_ratio) == pytest.approx([1.0, 2.0])
    gone = ClassConditionalRatio(learned, LabelShiftRatio([0.0, 0.4, 0.6], Q), LOG_MEANS)
    assert np.isfinite(gone.info.held_out.log_ratio).all()


def test_the_estimate_of_the_class_prior_goes_with_it():
    found = estimate(0.2, 0.2, 0.6)
    assert ClassConditionalRatio(OfLooks(), LabelShiftRatio(P, Q, estimate=found), LOG_MEANS).info.class_prior is found
    assert JOINT.info.class_prior is None


# class_log_means


def test_means_by_hand():
    # class 0: 1 and 3 in turn; class 1: all 5
    log_ratio = np.log(np.concatenate([np.tile([1.0, 3.0], 20), np.full(40, 5.0)]))
    assert np.exp(class_log_means(log_ratio, np.repeat([0, 1], 40), 2)) == pytest.approx([2.0, 5.0])


@pytest.mark.parametrize(("rows", "own"), [(20, True), (19, False)])
def test_a_class_of_few_rows_has_the_mean_of_all(rows, own):
    # 60 rows of 1, and 20 or 19 of 9; class 2 has none at all
    log_ratio = np.log(np.concatenate([np.ones(60), np.full(rows, 9.0)]))
    found = np.exp(class_log_means(log_ratio, np.repeat([0, 1], [60, rows]), 3))
    of_all = (60 + 9 * rows) / (60 + rows)
    assert found == pytest.approx([1.0, 9.0 if own else of_all, of_all])


def test_few_large_ratios_are_cut():
    # of 200 rows the 99 % quantile lies at place .99 199 = 197.01, counted from 0: between zeros, if one row is large
    log_ratio = np.zeros(200)
    log_ratio[3] = 50.0
    label = np.repeat([0, 1], 100)
    assert class_log_means(log_ratio, label, 2).tolist() == pytest.approx([0.0, 0.0])
    # if three are, among these: 2 of class 0's 100 rows have a ratio of e, and one of class 1's
    log_ratio[[3, 4, 150]] = 1.0
    assert np.exp(class_log_means(log_ratio, label, 2)) == pytest.approx([0.98 + 0.02 * math.e, 0.99 + 0.01 * math.e])


def test_rows_that_are_rejected_count_and_do_not_cut():
    # one in 200 passes, half of these in each class of 1,000: E[g | y] = 1/200
    passes = np.arange(2_000) % 200 == 0
    label = np.repeat([0, 1], 1_000)
    found = class_log_means(np.where(passes, 0.0, -np.inf), label, 2)
    assert np.exp(found) == pytest.approx([1 / 200, 1 / 200])


def test_a_class_that_is_always_rejected_stays_rejected():
    """Its ratio is 0 throughout, and that mean would make 0/0 of each row."""
    label = np.repeat([0, 1], 100)
    means = class_log_means(np.where(label == 0, 0.0, -np.inf), label, 2)
    assert np.exp(means) == pytest.approx([1.0, 0.5])
    joint = ClassConditionalRatio(
        VerifierRatio(lambda batch: batch["label"] == 0), LabelShiftRatio([0.5, 0.5], [0.5, 0.5]), means
    )
    assert joint.log_ratio({"label": torch.tensor([0, 1])}).tolist() == [0.0, -math.inf]


def test_means_are_of_fresh_proposals_in_chunks():
    """8,192 of them, whatever the chunk; 1,600 of the rarest class have standard errors below .04: four are .16."""
    sizes, drawn_from = [], []

    class Counted(Looks):
        def sample(self, n, rng):
            sizes.append(n)
            drawn_from.append(rng.chunk)
            return super().sample(n, rng)

    means = prior_estimation._class_log_mean_ratios(OfLooks(), Counted(), 3, seed=0, chunk_size=5_000)
    assert sizes == [5_000, 3_192]
    assert drawn_from == [2, 3]  # 0 is the fit's, 1 the class prior estimate's
    assert np.exp(means) == pytest.approx(np.exp(LOG_MEANS), abs=0.16)


# ClassPrior


def estimate(*prior):
    shares = np.array(prior)
    return ClassPrior(shares, shares * 0.9, shares * 1.1, "em")


@pytest.mark.parametrize(
    ("prior", "effective"),
    [
        ((0.25, 0.25, 0.25, 0.25), 4.0),
        ((1.0, 0.0, 0.0), 1.0),
        ((0.5, 0.5, 0.0), 2.0),
        ((0.5, 0.25, 0.25), 2**1.5),  # entropy: (1/2 + 2 (1/4) 2) log 2
    ],
)
def test_effective_classes(prior, effective):
    assert estimate(*prior).effective_classes == pytest.approx(effective)


def test_a_prior_reads_back_to_the_last_bit():
    first = estimate(1 / 3, 0.1, 1 - 1 / 3 - 0.1)
    again = ClassPrior.from_json(json.loads(json.dumps(first.to_json())))
    assert again.method == "em"
    for name in ("prior", "low", "high"):
        assert getattr(again, name).dtype == np.float64
        assert np.array_equal(getattr(again, name), getattr(first, name))
    assert set(first.to_json()) == {"prior", "low", "high", "method"}
