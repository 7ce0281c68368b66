"""Columns that are made only of the rows that somebody must see."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, Uniform

from rsf_dist.data.arrow import to_table
from rsf_dist.data.batch import LazyBatch, num_rows, row_digests, select, to_cpu
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.proposals import AugmentProposal, DefensiveProposal, DistributionProposal
from rsf_dist.proposals import augment as augments
from rsf_dist.ratios import DensityRatio, LabelShiftRatio, ProductRatio, RewardRatio, VerifierRatio
from rsf_dist.ratios.base import Screened, log_ratios
from rsf_dist.ratios.constant import ConstantRatio
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling import pilot
from rsf_dist.sampling.chunk import ChunkWork, propose
from rsf_dist.sampling.envelope import Choice, Pilot
from rsf_dist.sampling.pilot import PilotRun, Probe
from rsf_dist.sampling.plan import SamplingPlan

DISTRIBUTIONS = {
    "rotation": Uniform(-1.0, 1.0),
    "scale": Uniform(0.5, 1.5),
    "brightness": Uniform(0.5, 1.0),
    "contrast": Uniform(0.5, 1.0),
    "translate_x": Normal(0.0, 0.2),
    "noise": Uniform(0.0, 0.2),
}
N = 200


def photographs(size=9):
    shape = (30, 1, size, size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return ImageSet(images, torch.arange(30) % 3, ("a", "b", "c"))


class Whole:
    """An AugmentProposal that renders every row that it draws: lazy batches are compared with it."""

    def __init__(self, proposal):
        self.proposal = proposal

    def sample(self, n, rng):
        return to_cpu(self.proposal.sample(n, rng))


class Counting(AugmentProposal):
    """Counts the rows that it renders."""

    rendered = 0

    def _images(self, made_from, generator):
        at = super()._images(made_from, generator)

        def counted(rows):
            images = at(rows)
            Counting.rendered += len(images)
            return images

        return counted


@pytest.fixture
def augment():
    Counting.rendered = 0
    return Counting(photographs(), DISTRIBUTIONS, class_prior=torch.tensor([0.2, 0.3, 0.5]))


def brightness_of_images(batch):
    return batch["image"].double().mean(dim=(1, 2, 3)) / 255


def turned_right(batch):
    return batch["rotation"] > 0.9


@pytest.mark.parametrize(
    "index", [slice(3, 9), torch.tensor([7]), torch.tensor([7, 3, 190]), torch.arange(N) % 17 == 0, slice(0, 0)]
)
@pytest.mark.parametrize("without", [set(), {"noise"}, {"rotation", "scale", "translate_x"}])
def test_selected_rows_of_a_lazy_batch_are_those_of_the_whole_to_the_last_bit(index, without):
    distributions = {name: one for name, one in DISTRIBUTIONS.items() if name not in without}
    proposal = AugmentProposal(photographs(), distributions)
    whole, drawn = to_cpu(proposal.sample(N, Streams(1))), proposal.sample(N, Streams(1))
    assert list(drawn) == list(whole)
    for _ in range(2):  # asking twice, or of other rows before, changes nothing
        some = select(drawn, index)
        assert num_rows(some) == len(whole["label"][index])
        assert all(torch.equal(some[name], whole[name][index]) for name in whole)
    again = select(select(drawn, slice(0, 150)), torch.tensor([4, 140]))
    assert torch.equal(again["image"], whole["image"][[4, 140]])


def test_a_lazy_batch_is_read_as_any_batch():
    proposal = AugmentProposal(photographs(), DISTRIBUTIONS)
    whole, drawn = to_cpu(proposal.sample(20, Streams(1))), proposal.sample(20, Streams(1))
    assert isinstance(drawn, LazyBatch)
    assert (num_rows(drawn), len(drawn), "image" in drawn, "pixels" in drawn) == (20, len(whole), True, False)
    assert row_digests(drawn) == row_digests(whole)
    assert to_table(drawn).equals(to_table(whole))
    with pytest.raises(KeyError, match="pixels"):
        drawn["pixels"]


def test_columns_are_added_and_replaced_without_computing_any(augment):
    drawn = select(augment.sample(N, Streams(1)), torch.tensor([7, 3]))
    tinted = drawn | {"tint": torch.tensor([1.0, 2.0]), "scale": torch.zeros(2)}
    assert isinstance(tinted, LazyBatch)
    assert Counting.rendered == 0
    assert {*tinted} == {*drawn, "tint"}
    assert (tinted["tint"].tolist(), tinted["scale"].tolist()) == ([1.0, 2.0], [0.0, 0.0])
    assert tinted.select(slice(1, 2))["tint"].tolist() == [2.0]
    assert torch.equal(tinted["image"], drawn["image"])
    black = drawn | {"image": torch.zeros(2, 1, 9, 9)}
    assert (int(black["image"].sum()), list(black.producers)) == (0, [])


def test_a_column_that_was_computed_is_not_computed_again_beside_a_new_one(augment):
    drawn = augment.sample(20, Streams(1))
    image = drawn["image"]
    assert (drawn | {"tint": torch.ones(20)})["image"] is image
    assert Counting.rendered == 20


def test_an_image_is_made_once(augment):
    drawn = augment.sample(N, Streams(1))
    assert drawn["image"] is drawn["image"]
    assert Counting.rendered == N
    assert torch.equal(select(drawn, slice(0, 5))["image"], drawn["image"][:5])
    assert Counting.rendered == N


@pytest.mark.parametrize(("size", "sizes"), [(9, [2500]), (64, [64] * 39 + [4]), (300, [32] * 78 + [4])])
def test_images_are_rendered_in_pieces_that_fit_into_caches(size, sizes, monkeypatch):
    """2^18 numbers at once, but 32 rows at least."""
    seen = []
    monkeypatch.setattr(augments, "render", lambda images, *_: seen.append(len(images)) or images[:, :, :1, :1])
    drawn = AugmentProposal(photographs(size), {"brightness": Uniform(0.5, 1.0)}).sample(2500, Streams(1))
    assert len(drawn["image"]) == 2500
    assert seen == sizes


def test_a_transform_of_ones_own_draws_its_numbers_in_order():
    """Its randomness is the global generator's, image by image, so that all are made."""

    def jitter(image):
        return (image.float() * torch.rand(())).to(torch.uint8)

    proposal = AugmentProposal(photographs(), DISTRIBUTIONS, transform=jitter)
    assert isinstance(proposal.sample(N, Streams(1)), dict)


RATIOS = {
    "label": (LabelShiftRatio([0.5, 0.3, 0.2], [0.2, 0.3, 0.5]), 0.9),
    "parameter": (DensityRatio(Normal(0.5, 0.1), DistributionProposal(DISTRIBUTIONS["rotation"], "rotation")), 2.0),
    "verdict": (VerifierRatio(turned_right, columns=["rotation"]), 0.0),
    "reward": (RewardRatio(lambda batch: batch["scale"], 0.05, 1.5, columns=["scale"]), 30.0),
    "product": (
        ProductRatio([VerifierRatio(turned_right, columns=["rotation"]), RewardRatio(brightness_of_images, 0.1, 1.0)]),
        3.5,
    ),
    "image": (RewardRatio(brightness_of_images, 0.1, 1.0), 4.0),
    "constant": (ConstantRatio(), 3.0),
}


@pytest.mark.parametrize("name", RATIOS)
def test_a_chunk_has_the_rows_that_it_has_when_all_are_rendered(name, augment):
    ratio, log_m = RATIOS[name]
    work = ChunkWork(augment, ratio, log_m, N, seed=5)
    lean, whole = work(2), replace(work, proposal=Whole(augment))(2)
    assert lean.statistics == whole.statistics
    assert list(lean.rows) == list(whole.rows)
    assert all(torch.equal(lean.rows[column], whole.rows[column]) for column in whole.rows)
    assert 0 < num_rows(lean.rows) < N / 2


@pytest.mark.parametrize("name", ["label", "parameter", "verdict", "reward", "constant"])
def test_only_accepted_rows_are_rendered_where_the_ratio_looks_at_none(name, augment):
    ratio, log_m = RATIOS[name]
    accepted = num_rows(ChunkWork(augment, ratio, log_m, N, seed=5)(2).rows)
    assert Counting.rendered == accepted
    assert 0 < accepted < N / 2


def test_a_product_renders_what_its_cheap_factor_leaves(augment):
    ratio, log_m = RATIOS["product"]
    accepted = num_rows(ChunkWork(augment, ratio, log_m, N, seed=5)(2).rows)
    passed = int((augment.sample(N, Streams(5, chunk=2))["rotation"] > 0.9).sum())
    Counting.rendered = 0
    ChunkWork(augment, ratio, log_m, N, seed=5)(2)
    assert 0 < accepted < passed < N / 5
    assert Counting.rendered == passed + accepted


def test_a_ratio_that_does_not_name_its_columns_is_shown_all_in_a_plain_dict(augment):
    shown = []

    def score(batch):
        shown.append((type(batch), sorted(batch)))
        return torch.zeros(num_rows(batch))

    log_ratios(RewardRatio(score), propose(augment, Streams(0), 10))
    log_ratios(RewardRatio(score, columns=["image"]), propose(augment, Streams(0), 10))
    log_ratios(RewardRatio(score, columns=["label"]), propose(augment, Streams(0), 10))
    everything = sorted(["image", "label", "base_index", *DISTRIBUTIONS])
    assert shown == [(dict, everything), (dict, everything), (dict, sorted({*everything} - {"image"}))]


def test_a_product_looks_at_what_its_factors_look_at():
    label, rotation = RATIOS["label"][0], RATIOS["verdict"][0]
    assert ProductRatio([label, rotation]).info.columns == ("label", "rotation")
    assert ProductRatio([label, RATIOS["image"][0]]).info.columns is None


class Tinted(AugmentProposal):
    """A user's subclass that takes the inherited rows for a dict."""

    def sample(self, n, rng):
        rows = super().sample(n, rng)
        return rows | {"image": 255 - rows["image"], "tint": torch.ones(n)}


class PlainlyTinted(AugmentProposal):
    """A user's subclass that gives a dict."""

    def sample(self, n, rng):
        return to_cpu(super().sample(n, rng)) | {"tint": torch.ones(n)}


class Backwards:
    """Gives a selection of a lazy batch of twice as many rows."""

    def __init__(self):
        self.inner = AugmentProposal(photographs(), DISTRIBUTIONS)

    def sample(self, n, rng):
        return select(self.inner.sample(2 * n, rng), torch.arange(2 * n - 1, -1, -2))


def test_a_selection_of_a_lazy_batch_stays_lazy():
    drawn, sampled = propose(Backwards(), Streams(4), 20), to_cpu(Backwards().sample(20, Streams(4)))
    assert isinstance(drawn, LazyBatch)
    assert all(torch.equal(drawn[name], sampled[name]) for name in sampled)
    few = select(propose(Backwards(), Streams(4), 20), torch.tensor([3, 1]))
    assert torch.equal(few["image"], sampled["image"][[3, 1]])


def test_where_nothing_is_accepted_nothing_is_made(augment, monkeypatch):
    monkeypatch.setattr(torch, "randn", None)  # nor is the noise of all rows drawn
    rows = ChunkWork(augment, RATIOS["label"][0], 500.0, N, seed=5)(2).rows
    assert rows["image"].shape == (0, 1, 9, 9)
    assert Counting.rendered == 0


@pytest.mark.parametrize("kind", [Tinted, PlainlyTinted])
def test_a_subclass_that_samples_otherwise_is_drawn_from_as_it_samples(kind):
    proposal = kind(photographs(), DISTRIBUTIONS)
    drawn, sampled = propose(proposal, Streams(4), 20), proposal.sample(20, Streams(4))
    assert drawn.keys() == sampled.keys()
    assert all(torch.equal(drawn[name], sampled[name]) for name in sampled)


class Faulty:
    """Lazy batches whose image is what `make` gives."""

    def __init__(self, make):
        self.make = make

    def sample(self, n, rng):
        return LazyBatch({"label": torch.zeros(n, dtype=torch.int64)}, {"image": self.make})


def broken(rows):
    raise RuntimeError("out of paint")


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (broken, r"fails to make the image of 8 rows \(RuntimeError: out of paint\)"),
        (lambda rows: torch.zeros(3, 1, 2, 2), r"makes \[3, 1, 2, 2\] as the image of 8 rows"),
        (lambda rows: None, "makes NoneType as the image of 8 rows"),
        (lambda rows: torch.zeros(8, dtype=torch.bfloat16), "has no column in Arrow"),
    ],
)
@pytest.mark.parametrize("ratio", [ConstantRatio(), RewardRatio(brightness_of_images)])
def test_a_column_that_cannot_be_made_is_the_proposals_fault(make, rule, ratio):
    with pytest.raises(InputError, match=rule) as caught:
        ChunkWork(Faulty(make), ratio, 0.0, 8, seed=0)(0)
    assert caught.value.field == "proposal"


def test_columns_must_be_a_list_of_names_that_rows_have(augment):
    with pytest.raises(InputError, match=r'^columns=image: must be a list of names; write \["image"\]'):
        RewardRatio(brightness_of_images, columns="image")
    with pytest.raises(InputError, match=r"^columns"):
        VerifierRatio(turned_right, columns="rotation")
    with pytest.raises(InputError, match=r"ratio.columns=imgae: is not among the rows' \['base_index'.*'image'"):
        ChunkWork(augment, RewardRatio(brightness_of_images, columns=["imgae"]), 0.0, 8, seed=0)(0)


def test_images_are_asked_for_by_several_factors_and_rendered_once_for_each_selection(augment):
    """The second factor's rows are the first one's, less those that it rejects; the third's are some of these."""
    bright = RewardRatio(brightness_of_images, 0.1, 1.0)
    product = ProductRatio([VerifierRatio(turned_right, columns=["rotation"]), bright, bright])
    rows = propose(augment, Streams(5, chunk=2), N)
    passed = select(dict(rows), rows["rotation"] > 0.9)
    Counting.rendered = 0
    # After two factors l = 10 b of a row of brightness b; it goes on where l + 10 + 1 > log M: half of them do.
    log_m = 11 + 10 * float(brightness_of_images(passed).median())
    found = product.screened(propose(augment, Streams(5, chunk=2), N), torch.ones(N, dtype=torch.float64), log_m)
    assert 0 < int(found.scored.sum()) < num_rows(passed)
    assert Counting.rendered == num_rows(passed)


def test_what_a_screen_of_ones_own_has_seen_is_not_made_again(augment):
    class Screening(RewardRatio):
        def screened(self, batch, exponentials, log_m):
            log_ratio = self.log_ratio(dict(batch))
            return Screened(log_ratio, torch.ones(N, dtype=torch.bool), torch.zeros_like(log_ratio))

    rows = ChunkWork(augment, Screening(brightness_of_images), 0.5, N, seed=5)(2).rows
    assert num_rows(rows) > 0
    assert Counting.rendered == N


def test_a_pilot_prices_what_is_made_late(monkeypatch):
    """A chunk's first row costs 5 s, every row 1/4 s: of a clock that only stands still else."""
    clock = [0.0]
    asked = []

    def make(rows):
        clock[0] += 0.25 * len(rows) + (0 if asked else 5)
        asked.append(len(rows))
        return torch.zeros(len(rows), 1)

    monkeypatch.setattr(pilot.time, "monotonic", lambda: clock[0])
    drawn = LazyBatch({"label": torch.zeros(100, dtype=torch.int64)}, {"image": make})
    a_chunk, a_row = pilot._production_seconds(drawn, chunk_size=400)
    assert asked == [1, 1, 100]
    assert (a_chunk, a_row) == (4 * 5.25, 0.25)  # the chunk has four times the rows of this piece
    assert pilot._production_seconds({"label": torch.zeros(3)}, 400) == (0.0, 0.0)


def test_a_chunk_takes_what_its_accepted_rows_take_to_make():
    # 1,000 rows at 1 ms, a quarter of them accepted and made at 4 ms, and half a second a chunk: 1 + 1 + 0.5 s
    work = ChunkWork(AugmentProposal(photographs(), DISTRIBUTIONS), ConstantRatio(), math.log(4), 1_000, seed=0)
    run = PilotRun(Pilot(np.zeros(3), np.ones(3)), 0.001, Probe("", ()), making=(0.5, 0.004))
    assert SamplingPlan(Choice(math.log(4), "fixed"), work, run).seconds_per_chunk == pytest.approx(2.5)


@pytest.mark.parametrize("share", [1e-6, 0.3, 1 - 1e-6])
def test_a_mixture_makes_of_either_part_what_is_asked_for(augment, share):
    """Also where all rows are of one part."""
    turned = AugmentProposal(photographs(), DISTRIBUTIONS | {"rotation": Uniform(2.0, 3.0)})
    mixture = DefensiveProposal(augment, turned, share)
    drawn = mixture.sample(N, Streams(1))
    assert "image" in drawn
    assert Counting.rendered == 0
    whole = to_cpu(mixture.sample(N, Streams(1)))
    broad, index = whole["rotation"] < 1, torch.arange(0, N, 7)
    assert {1e-6: not broad.any(), 0.3: 0.2 < broad.double().mean() < 0.4}.get(share, bool(broad.all()))
    Counting.rendered = 0
    some = select(drawn, index)
    assert all(torch.equal(some[name], whole[name][index]) for name in whole)
    assert Counting.rendered == int(broad[index].sum())
    assert select(drawn, slice(0, 0))["image"].shape == (0, 1, 9, 9)


@pytest.mark.parametrize("block", [32, 64, 1_000])
def test_a_row_has_its_own_noise_where_it_is_drawn_in_blocks(block, monkeypatch):
    """Noise is drawn in blocks on a GPU, which is faked here."""
    monkeypatch.setattr(augments, "device", lambda: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(augments, "scaled_for_gpu", lambda number: block if number == augments._PIECE_ROWS else 1)
    drawn = AugmentProposal(photographs(), DISTRIBUTIONS).sample(N, Streams(1))
    whole, some = drawn["image"], torch.tensor([199, 3, 31, 32, 150])
    assert torch.equal(
        AugmentProposal(photographs(), DISTRIBUTIONS).sample(N, Streams(1)).select(some)["image"], whole[some]
    )
    monkeypatch.undo()
    otherwise = AugmentProposal(photographs(), DISTRIBUTIONS).sample(N, Streams(1))
    assert torch.equal(otherwise["base_index"], drawn["base_index"])
    assert not torch.equal(otherwise["image"], whole)  # other noise, of the same size
    assert (otherwise["image"].float() - whole.float()).abs().mean() < 0.2 * 255
