"""A ratio known against the proposal as configured, used with rows of the mixture that it was moved to."""

import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal, Uniform

from rsf_dist.data.batch import to_cpu
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.proposals import AugmentProposal, DefensiveProposal, DistributionProposal
from rsf_dist.ratios import DensityRatio, LabelShiftRatio, Ratio, RewardRatio, ReweightedRatio
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.report import report_json
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.chunk import ChunkWork

BROAD = DistributionProposal(Uniform(-4.0, 4.0))
ASIDE = DistributionProposal(Normal(-3.0, 0.1))
TARGET = Normal(1.5, 0.4)
LOG_SUP = math.log(8 / (0.4 * math.sqrt(2 * math.pi)))
"""The log of the target's density over 1/8, at its peak."""


class NoDensity:
    """Rows without a log_prob."""

    def sample(self, n, rng):
        return {"x": torch.zeros(n)}


def mixture(moved=ASIDE, share=0.2):
    return DefensiveProposal(BROAD, moved, share)


def at(*x):
    return {"x": torch.tensor(x)}


def test_a_row_by_hand():
    # At 1: p = N(1; 1.5, .4); of q .2/8 from the broad part and .8 N(1; 1, .3) from the other. q0 = 1/8 cancels.
    moved = DistributionProposal(Normal(1.0, 0.3))
    ratio = ReweightedRatio(DensityRatio(TARGET, BROAD), mixture(moved))
    found = ratio.log_ratio(at(1.0, 2.0))
    for x, one in zip((1.0, 2.0), found.tolist(), strict=True):
        q = 0.2 / 8 + 0.8 * stats.norm(1.0, 0.3).pdf(x)
        assert one == pytest.approx(stats.norm(1.5, 0.4).logpdf(x) - math.log(q), abs=1e-5)
    assert found.dtype == torch.float64
    assert isinstance(ratio, Ratio)


def test_a_step_by_hand():
    # p = U(0, 2), q0 = U(-4, 4): p/q0 = 4. Where the other part has nothing, q0/q = 1/.2, and p/q = 20.
    ratio = ReweightedRatio(DensityRatio(Uniform(0.0, 2.0), BROAD, log_bound=math.log(4)), mixture())
    assert ratio.log_ratio(at(0.5, 1.5)).tolist() == pytest.approx([math.log(20)] * 2, abs=1e-6)
    assert ratio.log_bound == pytest.approx(math.log(20))


def test_where_the_target_has_nothing_a_row_stays_rejected():
    """Also where neither part has any density, which alone would be 0/0; and a NaN stays one, to be refused."""
    ratio = ReweightedRatio(
        DensityRatio(Uniform(0.0, 2.0), BROAD), mixture(DistributionProposal(Uniform(-3.0, -1.0)), share=0.5)
    )
    assert ratio.log_ratio(at(-2.0, 3.0, 7.0)).tolist() == [-math.inf] * 3
    assert ratio.log_ratio(at(math.nan)).isnan().all()


def test_a_row_that_only_the_other_part_gives_is_no_row_of_a_tilted_broad_one():
    # p = q0 exp(x) has nothing where q0 has nothing
    ratio = ReweightedRatio(RewardRatio(lambda batch: batch["x"]), mixture(DistributionProposal(Uniform(5.0, 6.0))))
    assert ratio.log_ratio(at(5.5)).tolist() == [-math.inf]
    assert ratio.log_ratio(at(9.0)).isnan().all()  # a row that neither gives is refused
    assert ratio.log_ratio(at(1.0)).tolist() == pytest.approx([1.0 - math.log(0.2)], abs=1e-6)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_the_bound_is_that_of_the_share_and_no_row_exceeds_it(share):
    # q0/q <= 1/share; of rows of the mixture itself, and of a grid that holds the target's peak
    q = mixture(DistributionProposal(Normal(-1.0, 0.5)), share)
    ratio = ReweightedRatio(DensityRatio(TARGET, BROAD, log_bound=LOG_SUP), q)
    assert ratio.log_bound == pytest.approx(LOG_SUP - math.log(share))
    for rows in (q.sample(5_000, Streams(0)), {"x": torch.linspace(-3.99, 3.99, 4_001)}):
        assert ratio.log_ratio(rows).max() <= ratio.log_bound + 1e-6
    peak = ratio.log_ratio(at(1.5)).item()  # five standard deviations from the other part
    assert peak == pytest.approx(ratio.log_bound, abs=1e-3)


def test_a_ratio_without_a_bound_has_none_and_the_constant_is_minded():
    known = DensityRatio(TARGET, BROAD)
    assert known.log_bound is None
    assert ReweightedRatio(known, mixture()).log_bound is None
    assert ReweightedRatio(known, mixture()).info.normalised is True
    tilted = RewardRatio(lambda batch: -batch["x"].abs(), max_score=0.0)
    assert ReweightedRatio(tilted, mixture()).info.normalised is False
    assert ReweightedRatio(tilted, mixture()).log_bound == pytest.approx(-math.log(0.2))


@pytest.mark.parametrize(("broad", "moved"), [(NoDensity(), BROAD), (BROAD, NoDensity()), (NoDensity(), NoDensity())])
def test_a_proposal_without_a_density_is_refused(broad, moved):
    with pytest.raises(InputError, match=r"proposal=NoDensity: has no log_prob, by which .*set rounds=1"):
        ReweightedRatio(DensityRatio(TARGET, BROAD), DefensiveProposal(broad, moved, 0.5))


def test_an_estimated_class_prior_is_told_as_before():
    found = ClassPrior(np.array([0.8, 0.2]), np.array([0.7, 0.1]), np.array([0.9, 0.3]), "em")
    known = LabelShiftRatio(found.prior, [0.5, 0.5], estimate=found)
    told = report_json.describe_ratio(ReweightedRatio(known, mixture()))
    assert told.estimate.model_dump(exclude={"effective_classes"}) == found.to_json()
    assert told.log_bound == pytest.approx(math.log(1.6) - math.log(0.2))
    assert report_json.describe_ratio(ReweightedRatio(DensityRatio(TARGET, BROAD), mixture())).estimate is None


def test_it_travels():
    ratio = ReweightedRatio(DensityRatio(TARGET, BROAD, log_bound=LOG_SUP), mixture())
    again = pickle.loads(pickle.dumps(ratio))
    rows = ratio.moved.sample(100, Streams(0))
    assert torch.equal(again.log_ratio(rows), ratio.log_ratio(rows))
    assert again.log_bound == ratio.log_bound


def test_accepted_rows_follow_the_target_after_the_proposal_moved():
    """KS at a false-alarm rate of 1e-3. The ratio of the proposal as configured, not corrected, must fail.

    The acceptance is 1/M before and after, M = 7.98 and 7.98/.2 = 39.9: the bound holds whatever was missed.
    """
    known = DensityRatio(TARGET, BROAD, log_bound=LOG_SUP)
    before = ChunkWork(BROAD, known, known.log_bound, 4_000, seed=0)(0)
    q = mixture(BROAD.refit(before.rows, seed=0))

    def accepted(ratio):
        return ChunkWork(q, ratio, ratio.log_bound, 40_000, seed=0, round=1)(0)

    def pvalue(chunk):
        return stats.kstest(chunk.rows["x"].numpy(), stats.norm(1.5, 0.4).cdf).pvalue

    chunk = accepted(ReweightedRatio(known, q))
    assert chunk.statistics.num_capped == chunk.statistics.num_nonfinite == 0
    assert stats.binomtest(chunk.statistics.num_accepted, 40_000, 0.2 / math.exp(LOG_SUP)).pvalue > 1e-3
    assert pvalue(chunk) > 1e-3
    assert pvalue(accepted(known)) < 1e-6


def test_a_known_class_prior_is_kept_and_the_poses_are_those_of_the_broad_proposal():
    """p = q0(x|y) p(y): the classes by chi-square, the turns by KS, each at a false-alarm rate of 1e-3.

    Without the correction turns are those of the mixture, and the test must fail.
    """
    images = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    broad = AugmentProposal(
        ImageSet(images, torch.arange(6) % 2, ("a", "b")),
        {"rotation": Uniform(-1.5, 1.5)},
        torch.tensor([0.5, 0.5]),
    )
    elite = to_cpu(broad.sample(1_000, Streams(1)))
    elite["rotation"] = 0.7 + 0.2 * torch.randn(1_000, generator=torch.Generator().manual_seed(4))
    q = DefensiveProposal(broad, broad.refit(elite, seed=0), 0.4)
    known = LabelShiftRatio([0.8, 0.2], [0.5, 0.5])

    def accepted(ratio):
        return ChunkWork(q, ratio, ratio.log_bound, 8_000, seed=0)(0).rows

    def turns(rows):
        return stats.kstest(rows["rotation"].numpy(), stats.uniform(-1.5, 3).cdf).pvalue

    rows = accepted(ReweightedRatio(known, q))
    counts = rows["label"].bincount(minlength=2).numpy()
    assert stats.chisquare(counts, counts.sum() * torch.tensor([0.8, 0.2]).numpy()).pvalue > 1e-3
    assert turns(rows) > 1e-3
    assert turns(accepted(known)) < 1e-6
