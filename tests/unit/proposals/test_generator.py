"""Rows that a generator makes of latents and classes."""

import math
import pickle

import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal, Uniform

from rsf_dist.errors import InputError
from rsf_dist.proposals import DefensiveProposal, DensityProposal, GeneratorProposal, Proposal, Refittable
from rsf_dist.ratios import VerifierRatio
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.chunk import ChunkWork, propose

LATENT = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
PRIOR = torch.tensor([0.2, 0.5, 0.3])


class Painter(nn.Module):
    """z -> grey images of 4 x 4, some of their pixels dropped in training; remembers how many latents it was given."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(2, 16), nn.Sigmoid(), nn.Dropout(0.5))
        self.given = []

    def forward(self, z):
        self.given.append(len(z))
        return self.layers(z).reshape(-1, 1, 4, 4)


class ClassPainter(Painter):
    """(z, y) -> images whose first pixel is the class."""

    def forward(self, z, y):
        image = (super().forward(z) * 255).to(torch.uint8)
        image[:, 0, 0, 0] = y
        return image


class Noisy(Painter):
    def forward(self, z):
        return super().forward(z) + 0.1 * torch.randn(len(z), 1, 4, 4)


class Gives(nn.Module):
    """Whatever a function makes of the latents."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *made_from):
        return self.function(*made_from)


def same_rows(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def painted(prior=PRIOR):
    return GeneratorProposal(ClassPainter(), LATENT, prior)


def test_rows_without_classes():
    painter = Painter()
    proposal = GeneratorProposal(painter, LATENT)
    rows = proposal.sample(50, Streams(0))
    assert list(rows) == ["image", "latent"]
    assert (rows["image"].dtype, rows["image"].shape) == (torch.uint8, (50, 1, 4, 4))
    assert (rows["latent"].dtype, rows["latent"].shape) == (torch.float32, (50, 2))
    with torch.no_grad():  # without dropout
        expected = (painter.layers[:2](rows["latent"]) * 255).round().to(torch.uint8).reshape(50, 1, 4, 4)
    assert torch.equal(rows["image"], expected)
    for protocol in (Proposal, DensityProposal, Refittable):
        assert isinstance(proposal, protocol)


def test_rows_with_classes():
    """Chi-square of the classes at a false-alarm rate of 1e-3, and KS of the latents."""
    rows = propose(painted(), Streams(0), 10_000)
    assert list(rows) == ["image", "latent", "label"]
    assert rows["label"].dtype == torch.int64
    assert torch.equal(rows["image"][:, 0, 0, 0].long(), rows["label"])
    assert stats.chisquare(rows["label"].bincount(), 10_000 * PRIOR).pvalue > 1e-3
    assert stats.kstest(rows["latent"].flatten(), stats.norm.cdf).pvalue > 1e-3


def test_floats_on_the_scale_0_to_1_become_pixels():
    # 0.5 * 255 = 127.5, which rounds to the even 128
    values = torch.tensor([-0.5, 0.0, 0.5, 1.0, 2.0])
    for dtype in (torch.float16, torch.float32, torch.float64):
        generator = Gives(lambda z, dtype=dtype: values.to(dtype).expand(len(z), 1, 1, 5))
        image = GeneratorProposal(generator, LATENT).sample(2, Streams(0))["image"]
        assert image.tolist() == [[[[0, 0, 128, 255, 255]]]] * 2
        assert image.dtype == torch.uint8


def test_other_columns_are_what_the_generator_gives_and_can_be_learned_from():
    rows = GeneratorProposal(nn.Linear(2, 3), LATENT, column="x").sample(5, Streams(0))
    assert list(rows) == ["x", "latent"]
    assert (rows["x"].dtype, rows["x"].shape) == (torch.float32, (5, 3))
    layer = nn.Linear(3, 1)
    layer(rows["x"]).sum().backward()  # which what was made in inference mode does not allow
    assert torch.allclose(layer.weight.grad, rows["x"].sum(0))
    assert not any(column.is_inference() or column.requires_grad for column in rows.values())


@pytest.mark.parametrize("proposal", [painted(), GeneratorProposal(Noisy(), LATENT)], ids=["classes", "noise"])
def test_equal_streams_draw_equal_rows(proposal):
    first = proposal.sample(200, Streams(1, chunk=4))
    torch.manual_seed(1)
    undisturbed = torch.rand(2)
    torch.manual_seed(1)
    assert same_rows(first, proposal.sample(200, Streams(1, chunk=4)))
    assert torch.equal(torch.rand(2), undisturbed)
    other = proposal.sample(200, Streams(1, chunk=5))
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert same_rows(first, pickle.loads(pickle.dumps(proposal)).sample(200, Streams(1, chunk=4)))


def test_rows_are_generated_in_pieces():
    painter = Painter()
    rows = GeneratorProposal(painter, LATENT).sample(300, Streams(0))
    assert painter.given == [128, 128, 44]
    assert len(rows["image"]) == 300
    assert len(GeneratorProposal(painter, LATENT).sample(0, Streams(0))["image"]) == 0


def test_log_prob_by_hand():
    # class b (prior .5) at z = (1, 2): log .5 - (1 + 4)/2 - log(2 pi)
    row = {"label": torch.tensor([1]), "latent": torch.tensor([[1.0, 2.0]])}
    latent = -2.5 - math.log(2 * math.pi)
    assert painted().log_prob(row).item() == pytest.approx(math.log(0.5) + latent)
    assert GeneratorProposal(Painter(), LATENT).log_prob(row).item() == pytest.approx(latent)
    assert painted(torch.tensor([1.0, 0.0, 1.0])).log_prob(row).item() == -math.inf
    assert painted().log_prob(row).dtype == torch.float64


@pytest.mark.parametrize("distribution", [LATENT, MultivariateNormal(torch.zeros(2), torch.eye(2))])
def test_a_refit_moves_the_latents_alone(distribution):
    """Means within four standard errors of the accepted rows'; classes by chi-square at a false-alarm rate of 1e-3."""
    broad = GeneratorProposal(ClassPainter(), distribution, PRIOR)
    rows = broad.sample(8_000, Streams(0))
    kept = rows["latent"][:, 0] > 1.5
    accepted = {name: column[kept] for name, column in rows.items()}
    moved = broad.refit(accepted, seed=0)
    drawn = moved.sample(4_000, Streams(1))
    assert drawn.keys() == rows.keys()
    assert drawn["latent"].dtype == torch.float32
    errors = accepted["latent"].std(0) / math.sqrt(int(kept.sum())) + drawn["latent"].std(0) / math.sqrt(4_000)
    assert ((drawn["latent"].mean(0) - accepted["latent"].mean(0)).abs() < 4 * errors).all()
    assert (drawn["latent"][:, 0] > 1.5).double().mean() > 10 * kept.double().mean()
    assert stats.chisquare(drawn["label"].bincount(), 4_000 * PRIOR).pvalue > 1e-3
    assert moved.generator is broad.generator
    assert broad.latent is distribution
    assert torch.isfinite(moved.log_prob(rows)).all()
    assert torch.isfinite(broad.log_prob(drawn)).all()


def test_a_refit_stays_within_the_latents_range():
    distribution = Independent(Uniform(-torch.ones(2), torch.ones(2)), 1)
    broad = GeneratorProposal(Painter(), distribution)
    rows = broad.sample(500, Streams(0))
    moved = broad.refit({name: column[rows["latent"][:, 0] > 0.8] for name, column in rows.items()}, seed=0)
    latent = moved.sample(2_000, Streams(0))["latent"]
    assert latent.abs().max() <= 1
    assert latent[:, 0].mean() > 0.8


def test_what_cannot_be_refitted():
    with pytest.raises(InputError, match="too few"):
        painted().refit(painted().sample(29, Streams(0)), seed=0)
    codes = Independent(Categorical(torch.ones(2, 4)), 1)
    broad = GeneratorProposal(Painter(), codes)
    assert set(broad.sample(50, Streams(0))["latent"].flatten().tolist()) == {0.0, 1.0, 2.0, 3.0}
    with pytest.raises(InputError, match="cannot be refitted"):
        broad.refit(broad.sample(100, Streams(0)), seed=0)


def test_classes_move_apart_from_the_latents():
    other = painted().with_class_prior(torch.tensor([0.0, 1.0, 3.0]))
    assert other.class_prior.tolist() == [0.0, 0.25, 0.75]
    assert other.sample(100, Streams(0))["label"].unique().tolist() == [1, 2]
    assert torch.equal(other.sample(100, Streams(0))["latent"], painted().sample(100, Streams(0))["latent"])
    with pytest.raises(InputError, match="must be 3 probabilities"):
        painted().with_class_prior(torch.ones(2))
    with pytest.raises(InputError, match="takes no classes"):
        GeneratorProposal(Painter(), LATENT).with_class_prior(PRIOR)


def test_a_generator_within_a_defensive_mixture():
    """E_q[q0/q] = 1 within 5 standard errors; the module travels once."""
    broad = painted()
    rows = broad.sample(2_000, Streams(0))
    right = rows["latent"][:, 0] > 1
    moved = broad.refit({name: column[right] for name, column in rows.items()}, seed=0)
    q = DefensiveProposal(broad, moved, 0.2).with_class_prior(torch.tensor([1.0, 1.0, 2.0]))
    drawn = q.sample(4_000, Streams(1))
    terms = (q.broad.log_prob(drawn) - q.log_prob(drawn)).exp()
    assert (terms.mean() - 1).abs() < 5 * terms.std() / math.sqrt(4_000)
    assert terms.max() <= 5 + 1e-6
    assert torch.equal(drawn["image"][:, 0, 0, 0].long(), drawn["label"])
    travelled = pickle.loads(pickle.dumps(q))
    assert travelled.broad.generator is travelled.moved.generator
    assert same_rows(travelled.sample(4_000, Streams(1)), drawn)


def test_a_chunk_of_generated_rows():
    work = ChunkWork(painted(), VerifierRatio(lambda batch: batch["latent"][:, 0] > 0), 0.0, 400, seed=0)
    chunk = work(3)
    assert same_rows(chunk.rows, work(3).rows)
    assert chunk.rows["latent"][:, 0].min() > 0
    assert stats.binomtest(chunk.statistics.num_accepted, 400, 0.5).pvalue > 1e-3
    assert sum(scored for scored, _ in chunk.statistics.by_label.values()) == 400


@pytest.mark.parametrize(
    ("distribution", "found"),
    [
        (Normal(0.0, 1.0), r"batch_shape \[\], event_shape \[\]"),
        (Normal(torch.zeros(3), torch.ones(3)), r"batch_shape \[3\], event_shape \[\]"),
        (Independent(Normal(torch.zeros(3, 2), torch.ones(3, 2)), 2), r"batch_shape \[\], event_shape \[3, 2\]"),
        (Independent(Normal(torch.zeros(3, 2), torch.ones(3, 2)), 1), r"batch_shape \[3\], event_shape \[2\]"),
    ],
)
def test_a_distribution_that_draws_no_vectors_is_refused(distribution, found):
    with pytest.raises(InputError, match=f"latent={found}: must be one distribution of vectors"):
        GeneratorProposal(Painter(), distribution)


@pytest.mark.parametrize("prior", [[0.5, -0.5], [0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], [[0.5, 0.5]], [], 1.0])
def test_a_prior_that_is_none(prior):
    with pytest.raises(InputError, match="probabilities, one a class") as caught:
        GeneratorProposal(ClassPainter(), LATENT, torch.tensor(prior))
    assert caught.value.field == "class_prior"


def test_other_arguments_that_are_refused():
    with pytest.raises(InputError, match="generator=function: is no torch module"):
        GeneratorProposal(lambda z: z, LATENT)
    for name in ("latent", "label"):
        with pytest.raises(InputError, match=f"column={name}: this column's name is taken"):
            GeneratorProposal(Painter(), LATENT, column=name)


@pytest.mark.parametrize(
    ("column", "function", "rule"),
    [
        ("image", lambda z: torch.rand(len(z) - 1, 1, 2, 2), r"gives \[2, 1, 2, 2\] for 3 latents"),
        ("image", lambda z: torch.rand(1, 2, 2), r"gives \[1, 2, 2\] for 3 latents"),
        ("image", lambda z: torch.tensor(0.5), r"gives \[\] for 3 latents"),
        ("image", lambda z: [z], "gives a list for 3 latents"),
        ("image", lambda z: z.numpy(), "gives a ndarray for 3 latents"),
        ("image", lambda z: None, "gives a NoneType for 3 latents"),
        ("image", lambda z: torch.full((3, 1, 2, 2), math.nan), "NaN or infinite"),
        ("image", lambda z: torch.full((3, 1, 2, 2), math.inf), "NaN or infinite"),
        ("x", lambda z: z / 0, "NaN or infinite"),
        ("image", lambda z: torch.rand(3, 2, 2), r"gives torch.float32 \[3, 2, 2\] as images"),
        ("image", lambda z: torch.ones(3, 1, 2, 2, dtype=torch.int64), "gives torch.int64"),
        ("image", lambda z, y: z, "fails to give 3 rows"),
    ],
)
def test_what_a_generator_must_not_give(column, function, rule):
    proposal = GeneratorProposal(Gives(function), LATENT, column=column)
    with pytest.raises(InputError, match=rule) as caught:
        propose(proposal, Streams(0), 3)
    assert caught.value.field == "proposal"
