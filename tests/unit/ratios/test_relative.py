"""The relative ratio, and the mixture that its proposals come from."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Normal, Uniform

from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.proposals import AugmentProposal, DatasetProposal, DistributionProposal, Proposal, TargetMixtureProposal
from rsf_dist.ratios import DensityRatio, LabelShiftRatio, Ratio, RelativeRatio
from rsf_dist.ratios.info import HeldOut, RatioInfo
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.chunk import ChunkWork

WIDE = DistributionProposal(Normal(0.0, 2.0))
MARKED = {"x": torch.tensor([100.0, 200.0, 300.0])}


class Column:
    log_bound = None

    def log_ratio(self, batch):
        return batch["l"]


def relative(alpha, *log_ratio):
    batch = {"l": torch.tensor(log_ratio, dtype=torch.float64), "component": torch.zeros(len(log_ratio))}
    return RelativeRatio(Column(), TargetMixtureProposal(WIDE, MARKED, alpha)).log_ratio(batch)


def mixture_of(proposal, target, alpha=0.5):
    return TargetMixtureProposal(proposal, target, alpha)


def test_by_hand():
    # r/(a r + 1 - a) with a = 1/4: r = 1 gives 1; r = 3 gives 3/(3/4 + 3/4) = 2; r = 1/3 gives (1/3)/(1/12 + 3/4) = .4
    found = relative(0.25, 0.0, math.log(3), math.log(1 / 3))
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([0.0, math.log(2), math.log(0.4)], abs=1e-15)


@pytest.mark.parametrize("alpha", [1e-9, 0.1, 0.25, 0.999])
def test_the_ends(alpha):
    found = relative(alpha, math.inf, -math.inf, math.nan, 700.0, -700.0)
    assert found[0].item() == pytest.approx(-math.log(alpha), abs=1e-15)
    assert found[1].item() == -math.inf
    assert found[2].isnan()
    # r = e^700 is infinity to rounding; r = e^-700: r/(1 - a)
    assert found[3].item() == pytest.approx(-math.log(alpha))
    assert found[4].item() == pytest.approx(-700 - math.log1p(-alpha))


def test_bound_and_what_is_known_of_the_ratio():
    inner = SimpleNamespace(log_ratio=None, info=RatioInfo(quality="good", held_out=HeldOut(np.zeros(3), np.arange(3))))
    ratio = RelativeRatio(inner, mixture_of(WIDE, MARKED, 0.2))
    assert ratio.log_bound == pytest.approx(math.log(5))
    assert ratio.info.normalised
    assert ratio.info.bounded_by_construction
    assert (ratio.info.quality, ratio.info.held_out.index.tolist()) == ("good", [0, 1, 2])
    assert ratio.info.held_out.log_ratio.tolist() == pytest.approx([0, 0, 0])  # r = 1 gives r_a = 1
    assert isinstance(ratio, Ratio)
    assert RelativeRatio(Column(), mixture_of(WIDE, MARKED)).info.quality is None


def test_accepting_at_its_bound_gives_the_target_and_only_from_the_mixture():
    # Atoms with q = 1/2, 1/2 and p = .9, .1; a = .2: mixture .58, .42, r_a = .9/.58 and .1/.42.
    # Mixture times r_a is p again; q times r_a, normalised, is .867, .133.
    p, q, alpha = np.array([0.9, 0.1]), np.array([0.5, 0.5]), 0.2
    mixture = alpha * p + (1 - alpha) * q
    ratio = np.exp(relative(alpha, *np.log(p / q)).numpy())
    assert ratio == pytest.approx(p / mixture)
    assert ratio * mixture == pytest.approx(p)
    assert (ratio * mixture).sum() == pytest.approx(1)
    assert q * ratio / (q * ratio).sum() == pytest.approx([0.867, 0.133], abs=1e-3)


def test_a_share_alpha_of_the_mixture_is_accepted():
    """At M = 1/a the acceptance is a. 20,000 proposals: sd .0028, 3.29 of them, false-alarm rate 1e-3."""
    q, p = Categorical(torch.tensor([0.5, 0.5])), Categorical(torch.tensor([0.9, 0.1]))
    proposal = DistributionProposal(q, column="label")
    target = {"label": p.sample((4000,)) * 0}  # 3,600 of class 0 and 400 of class 1, as many as p says
    target["label"][3600:] = 1
    mixture = mixture_of(proposal, target, 0.2)
    ratio = RelativeRatio(DensityRatio(p, DistributionProposal(q, column="label")), mixture)
    chunk = ChunkWork(mixture, ratio, ratio.log_bound, 20_000, seed=0)(0)
    assert chunk.statistics.num_capped == 0
    assert abs(chunk.statistics.num_accepted / 20_000 - 0.2) < 3.29 * math.sqrt(0.2 * 0.8 / 20_000)
    ones = chunk.rows["label"].float().mean().item()
    assert abs(ones - 0.1) < 3.29 * math.sqrt(0.1 * 0.9 / chunk.statistics.num_accepted)


def test_rows_of_no_mixture_are_refused():
    ratio = RelativeRatio(DensityRatio(Normal(0.0, 1.0), WIDE), mixture_of(WIDE, MARKED))
    with pytest.raises(InputError, match=r"column=component: is missing: .*its share; propose from the TargetMixture"):
        ratio.log_ratio(WIDE.sample(5, Streams(0)))


def test_the_ratio_within_is_written(tmp_path):
    RelativeRatio(LabelShiftRatio([0.5, 0.5], [0.25, 0.75]), mixture_of(WIDE, MARKED)).save(tmp_path)
    assert json.loads((tmp_path / "ratio.json").read_text())["target_prior"] == [0.5, 0.5]
    RelativeRatio(Column(), mixture_of(WIDE, MARKED)).save(tmp_path / "absent")  # nothing to write, no error


@pytest.mark.parametrize("alpha", [0.05, 0.5, 0.9])
def test_the_targets_share_is_binomial(alpha):
    """20,000 rows; 3.29 standard deviations, false-alarm rate 1e-3 each. A share of alpha/2 would be far outside."""
    n = 20_000
    rows = mixture_of(WIDE, MARKED, alpha).sample(n, Streams(5))
    count, sd = int(rows["component"].sum()), math.sqrt(n * alpha * (1 - alpha))
    assert abs(count - n * alpha) < 3.29 * sd
    assert n * alpha / 2 > 3.29 * sd


def test_rows_are_what_their_component_says():
    rows = mixture_of(WIDE, MARKED, 0.3).sample(500, Streams(1))
    component = rows["component"]
    assert component.dtype == torch.int64
    assert rows["x"].dtype == torch.float32
    assert set(rows["x"][component == 1].tolist()) == {100.0, 200.0, 300.0}
    # the others are the proposal's own, in its order
    assert torch.equal(rows["x"][component == 0], WIDE.sample(int((component == 0).sum()), Streams(1))["x"])


def test_target_rows_are_drawn_uniformly_and_stay_whole():
    """Chi-square of about 3,000 draws from 3 rows, 2 degrees of freedom: above 13.8 with probability 1e-3."""
    target = {"x": torch.tensor([100.0, 200.0, 300.0]), "label": torch.tensor([1, 2, 3])}
    pool = DatasetProposal({"x": torch.zeros(4), "label": torch.zeros(4, dtype=torch.int64)})
    rows = mixture_of(pool, target).sample(6000, Streams(2))
    drawn = rows["component"] == 1
    assert torch.equal(rows["x"], 100.0 * rows["label"])
    counts = torch.bincount(rows["label"][drawn])[1:].numpy()
    assert ((counts - counts.sum() / 3) ** 2 / (counts.sum() / 3)).sum() < 13.8


def test_equal_streams_draw_equal_rows():
    mixture = mixture_of(WIDE, MARKED, 0.3)
    first, second, other = (mixture.sample(50, streams) for streams in (Streams(1), Streams(1), Streams(1, chunk=1)))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["x"], other["x"])
    assert isinstance(mixture, Proposal)


@pytest.mark.parametrize("purpose", range(8))
def test_the_share_is_not_tied_to_other_draws(purpose):
    """Not the uniforms that keys (purpose 0) or what else a chunk draws are made of: 64 coins agree by 2^-64."""
    streams = Streams(7)
    component = mixture_of(WIDE, MARKED).sample(64, streams)["component"].numpy()
    assert (component == (streams.numpy(purpose).random(64) < 0.5)).mean() < 1


def test_columns_of_the_proposal_alone_are_filled():
    pool = DatasetProposal(
        {
            "x": torch.zeros(4),
            "angle": torch.zeros(4),
            "base": torch.zeros(4, dtype=torch.int64),
            "box": torch.zeros(4, 2, dtype=torch.float64),
        }
    )
    rows = mixture_of(pool, MARKED).sample(100, Streams(0))
    of_target, drawn = (rows["component"] == component for component in (1, 0))
    assert rows["angle"][of_target].isnan().all()
    assert (rows["base"][of_target] == -1).all()
    assert rows["box"][of_target].isnan().all()
    assert rows["box"].dtype == torch.float64
    assert (rows["angle"][drawn] == 0).all()
    assert (rows["base"][drawn] == 0).all()


def test_columns_of_the_target_alone_are_left_out():
    rows = mixture_of(WIDE, MARKED | {"note": torch.zeros(3)}).sample(10, Streams(0))
    assert set(rows) == {"x", "component"}


LABELLED = DatasetProposal({"x": torch.zeros(4), "label": torch.zeros(4, dtype=torch.int64)})


def test_an_unlabelled_target_is_refused():
    with pytest.raises(InputError, match=r"target=\(no label\): target rows are unlabelled") as caught:
        mixture_of(LABELLED, MARKED).sample(20, Streams(0))
    assert "sample from the proposal without the mixture" in caught.value.remedy


def test_rows_of_another_shape_are_refused():
    with pytest.raises(
        InputError, match=r"target\.x=torch\.float32 \[2\]: must be like the proposal's torch\.float32 \[\]"
    ):
        mixture_of(WIDE, {"x": torch.zeros(3, 2)}).sample(20, Streams(0))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_a_share_that_is_none_is_refused(alpha):
    with pytest.raises(InputError, match=r"alpha=.*must be in \(0, 1\)"):
        TargetMixtureProposal(WIDE, MARKED, alpha)


@pytest.mark.parametrize("target", [{}, {"x": torch.zeros(0)}])
def test_a_target_without_rows_is_refused(target):
    with pytest.raises(InputError, match="target=no rows"):
        TargetMixtureProposal(WIDE, target, 0.5)


def test_a_chunk_of_target_rows_alone():
    images = ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ("a", "b"))
    proposal = AugmentProposal(images, {"rotation": Uniform(-1.0, 1.0)})
    mixture = mixture_of(proposal, {"image": images.images, "label": images.labels}, 0.999)
    assert mixture.sample(2, Streams(0))["component"].tolist() == [1, 1]


def test_a_target_of_ragged_columns_is_refused():
    with pytest.raises(InputError):
        TargetMixtureProposal(WIDE, {"x": torch.zeros(3), "label": torch.zeros(2)}, 0.5)


def test_rows_of_another_type_are_refused():
    pool = DatasetProposal({"image": torch.full((4, 1, 2, 2), 200, dtype=torch.uint8)})
    with pytest.raises(InputError, match=r"target\.image"):
        mixture_of(pool, {"image": torch.full((3, 1, 2, 2), 0.8)}).sample(20, Streams(0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_a_column_that_has_no_word_for_missing_is_refused(dtype):
    pool = DatasetProposal({"x": torch.zeros(4), "mask": torch.zeros(4, dtype=dtype)})
    with pytest.raises(InputError, match="mask"):
        mixture_of(pool, MARKED).sample(20, Streams(0))


def test_a_proposal_with_that_column_is_refused():
    pool = DatasetProposal({"x": torch.zeros(4), "component": torch.zeros(4, dtype=torch.int64)})
    with pytest.raises(InputError, match="component"):
        mixture_of(pool, MARKED).sample(20, Streams(0))
