import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Distribution,
    Independent,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
    Uniform,
)

from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.proposals import AugmentProposal, DensityProposal, DistributionProposal, Proposal
from rsf_dist.proposals.distribution import log_density
from rsf_dist.proposals.rendering import render
from rsf_dist.runtime.rng import Streams

DISTRIBUTIONS = {
    "normal": Normal(1.0, 2.0),
    "multivariate": MultivariateNormal(torch.zeros(3), torch.eye(3)),
    "independent": Independent(Uniform(torch.zeros(2, 2), torch.ones(2, 2)), 2),
    "categorical": Categorical(torch.tensor([0.2, 0.8])),
    "poisson": Poisson(3.0),
    "double": Normal(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)),
}
LABELS = torch.tensor([0, 1, 2, 1, 2, 1, 2, 0])


def same_rows(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def base_images(labels=LABELS, size=8):
    """Each image differs from the others."""
    shape = (len(labels), 1, size, size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return ImageSet(images, labels, ("a", "b", "c"))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_distribution_draws_rows_and_scores_them(distribution):
    proposal = DistributionProposal(distribution, column="y")
    batch = proposal.sample(50, Streams(1))
    assert list(batch) == ["y"]
    assert batch["y"].shape == (50, *distribution.event_shape)
    assert torch.equal(proposal.log_prob(batch), distribution.log_prob(batch["y"]))
    assert isinstance(proposal, Proposal)
    assert isinstance(proposal, DensityProposal)


def test_equal_streams_draw_equal_rows():
    for proposal in (
        DistributionProposal(Normal(0.0, 1.0)),
        AugmentProposal(base_images(), {"noise": Normal(0.1, 0.01)}),
    ):
        first = proposal.sample(20, Streams(1, chunk=4))
        torch.manual_seed(99)
        assert same_rows(first, proposal.sample(20, Streams(1, chunk=4)))
        assert not same_rows(first, proposal.sample(20, Streams(1, chunk=5)))


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    undisturbed = torch.rand(2)
    torch.manual_seed(1)
    DistributionProposal(Normal(0.0, 1.0)).sample(5, Streams(0))
    AugmentProposal(base_images(), {"rotation": Uniform(-1.0, 1.0)}).sample(5, Streams(0))
    assert torch.equal(torch.rand(2), undisturbed)


def test_a_batch_of_distributions_is_refused():
    with pytest.raises(InputError, match=r"Normal of batch_shape \[3\]: one draw must be one row"):
        DistributionProposal(Normal(torch.zeros(3), torch.ones(3)))


@pytest.mark.parametrize(
    ("distribution", "values", "expected"),
    [
        (Uniform(0.0, 2.0), [1.0, -1.0, 3.0, math.nan], [-math.log(2), -math.inf, -math.inf, math.nan]),
        (Uniform(0.5, 1.3), [1.3, 0.5], [-math.log(0.8), -math.log(0.8)]),  # rounding draws the upper end, too
        (Beta(1.0, 1.0), [0.5, 1.5, -0.5], [0.0, -math.inf, -math.inf]),
        (LogNormal(0.0, 1.0), [1.0, -1.0], [-0.5 * math.log(2 * math.pi), -math.inf]),
        (Normal(0.0, 1.0), [0.0, math.nan], [-0.5 * math.log(2 * math.pi), math.nan]),
        (Bernoulli(0.25), [1.0, 0.0, 2.0, 0.5], [math.log(0.25), math.log(0.75), -math.inf, -math.inf]),
    ],
)
def test_density_outside_of_the_support(distribution, values, expected):
    found = DistributionProposal(distribution).log_prob({"x": torch.tensor(values)})
    assert torch.allclose(found, torch.tensor(expected), equal_nan=True)


def test_discrete_and_multivariate_density_outside_of_the_support():
    categorical = DistributionProposal(Categorical(torch.tensor([0.25, 0.75])))
    found = categorical.log_prob({"x": torch.tensor([0, 1, 2, -1])})
    assert found.tolist() == pytest.approx([math.log(0.25), math.log(0.75), -math.inf, -math.inf])
    square = DistributionProposal(Independent(Uniform(torch.zeros(2), torch.ones(2)), 1))
    points = torch.tensor([[0.5, 0.5], [0.5, 1.5], [0.5, math.nan]])
    assert torch.equal(square.log_prob({"x": points}).nan_to_num(7.0, neginf=-7.0), torch.tensor([0.0, -7.0, 7.0]))
    assert square.log_prob({"x": points[1:2]}).tolist() == [-math.inf]


def test_augmented_rows_hold_label_base_and_parameters():
    images = base_images()
    distributions = {"rotation": Uniform(-1.0, 1.0), "scale": Uniform(0.5, 1.5), "noise": Uniform(0.0, 0.1)}
    batch = AugmentProposal(images, distributions).sample(200, Streams(0))
    assert batch.keys() == {"image", "label", "base_index", *distributions}
    assert batch["image"].shape == (200, 1, 8, 8)
    assert batch["image"].dtype == torch.uint8
    assert torch.equal(images.labels[batch["base_index"]], batch["label"])
    for name, distribution in distributions.items():
        assert batch[name].dtype == torch.float32
        assert distribution.low <= batch[name].min() < batch[name].max() <= distribution.high


def test_the_parameters_of_a_row_are_those_that_were_applied():
    images = base_images()
    distributions = {
        "rotation": Uniform(-1.0, 1.0),
        "scale": Uniform(0.5, 1.5),
        "translate_x": Normal(0.0, 0.2),
        "translate_y": Normal(0.0, 0.2),
        "brightness": Uniform(0.5, 1.0),
        "contrast": Uniform(0.5, 1.0),
    }
    batch = AugmentProposal(images, distributions).sample(50, Streams(0))
    parameters = {name: batch[name] for name in distributions}
    again = render(images.images[batch["base_index"]], parameters, torch.Generator())
    assert torch.equal(batch["image"], again)


def test_without_parameters_the_base_images_themselves_are_drawn():
    images = base_images()
    batch = AugmentProposal(images, {}).sample(50, Streams(0))
    assert torch.equal(batch["image"], images.images[batch["base_index"]])


@pytest.mark.parametrize("prior", [None, [0.2, 0.7, 0.1], [3.0, 0.0, 1.0]])
def test_class_and_base_frequencies(prior):
    """Chi-square over the eight base images, which holds the class prior and uniformity within; false-alarm rate 1e-3.

    Classes a, b, c have 2, 3, 3 images; without a prior every image is as likely as any other.
    """
    proposal = AugmentProposal(base_images(), {}, None if prior is None else torch.tensor(prior))
    weights = np.array([2.0, 3.0, 3.0] if prior is None else prior)
    expected = 20_000 * (weights / weights.sum() / [2, 3, 3])[LABELS.numpy()]
    counts = np.bincount(proposal.sample(20_000, Streams(0))["base_index"], minlength=8)
    assert not counts[expected == 0].any()
    assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_parameters_follow_their_distributions_and_do_not_depend_on_each_other():
    """Two KS tests and a correlation, each at a false-alarm rate of 1e-3."""
    distributions = {"rotation": Normal(0.2, 0.5), "scale": Uniform(0.8, 1.2)}
    batch = AugmentProposal(base_images(), distributions).sample(5000, Streams(0))
    assert stats.kstest(batch["rotation"], stats.norm(0.2, 0.5).cdf).pvalue > 1e-3
    assert stats.kstest(batch["scale"], stats.uniform(0.8, 0.4).cdf).pvalue > 1e-3
    assert stats.pearsonr(batch["rotation"], batch["scale"]).pvalue > 1e-3


def test_log_prob_by_hand():
    # class b (prior .7, three images), rotation .5 under N(0, 1), scale 1 under U(.5, 1.5), whose density is 1:
    # log .7 - log 3 - .5^2/2 - log(2 pi)/2
    distributions = {"rotation": Normal(0.0, 1.0), "scale": Uniform(0.5, 1.5)}
    proposal = AugmentProposal(base_images(), distributions, torch.tensor([0.2, 0.7, 0.1]))
    row = {"label": torch.tensor([1, 1]), "rotation": torch.tensor([0.5, 0.5]), "scale": torch.tensor([1.0, 2.0])}
    inside, outside = proposal.log_prob(row).tolist()
    assert inside == pytest.approx(math.log(0.7) - math.log(3) - 0.125 - 0.5 * math.log(2 * math.pi))
    assert outside == -math.inf


def test_log_prob_of_a_class_that_is_never_drawn():
    # class c has no image and no mass
    images = base_images(torch.tensor([0, 1, 1]))
    found = AugmentProposal(images, {}).log_prob({"label": torch.tensor([0, 2])})
    assert found.tolist() == pytest.approx([math.log(1 / 3), -math.inf])


def test_a_prior_need_not_be_normalised():
    # 1 to 2 to 5, so class a has probability 1/8, shared by two images
    proposal = AugmentProposal(base_images(), {}, torch.tensor([1, 2, 5]))
    assert proposal.log_prob({"label": torch.tensor([0])}).item() == pytest.approx(math.log(1 / 16))


@pytest.mark.parametrize(
    ("prior", "rule"),
    [
        ([0.5, 0.5], "must be 3 probabilities"),
        ([0.5, 0.7, -0.2], "must be 3 probabilities"),
        ([0.0, 0.0, 0.0], "must be 3 probabilities"),
        ([math.nan, 0.5, 0.5], "must be 3 probabilities"),
        ([math.inf, 0.5, 0.5], "must be 3 probabilities"),
    ],
)
def test_a_prior_that_is_none(prior, rule):
    with pytest.raises(InputError, match=rule) as caught:
        AugmentProposal(base_images(), {}, torch.tensor(prior))
    assert caught.value.field == "class_prior"


def test_other_refusals():
    with pytest.raises(InputError, match="needs labels"):
        AugmentProposal(ImageSet(base_images().images), {})
    with pytest.raises(InputError, match="parameters=rotaton: must be one of rotation, scale"):
        AugmentProposal(base_images(), {"rotaton": Normal(0.0, 1.0)})
    with pytest.raises(InputError, match="class_prior=2: this class has no base image"):
        AugmentProposal(base_images(torch.tensor([0, 1, 1])), {}, torch.tensor([0.4, 0.4, 0.2]))


@pytest.mark.parametrize(
    "distribution", [Normal(torch.zeros(2), torch.ones(2)), MultivariateNormal(torch.zeros(2), torch.eye(2))]
)
def test_a_distribution_of_several_numbers_is_refused(distribution):
    with pytest.raises(InputError, match="rotation"):
        AugmentProposal(base_images(), {"rotation": distribution})


def test_a_transform_of_ones_own_is_applied_and_seeded():
    from torchvision.transforms import v2

    transform = v2.Compose([v2.RandomHorizontalFlip(0.5), v2.Resize([4, 4])])
    images = base_images()
    proposal = AugmentProposal(images, {}, transform=transform)
    batch = proposal.sample(64, Streams(0))
    assert batch["image"].shape == (64, 1, 4, 4)
    assert same_rows(batch, proposal.sample(64, Streams(0)))
    plain = v2.functional.resize(images.images[batch["base_index"]], [4, 4])
    flipped = (batch["image"] != plain).flatten(1).any(1)
    assert 0 < flipped.sum() < 64
    assert torch.equal(batch["image"][flipped], plain[flipped].flip(-1))


def test_the_order_in_which_parameters_are_named_decides_nothing():
    distributions = {"noise": Uniform(0.0, 0.1), "rotation": Uniform(-1.0, 1.0), "brightness": Uniform(0.5, 1.0)}
    turned = dict(reversed(distributions.items()))
    first, second = (AugmentProposal(base_images(), given).sample(20, Streams(1)) for given in (distributions, turned))
    assert same_rows(first, second)
    assert list(first) == list(second)


class OwnDistribution(Distribution):
    """A user's own distribution without a support, which refuses an invalid scale when asked for a density."""

    def __init__(self, scale=1.0):
        self.scale = scale
        super().__init__(validate_args=False)

    def log_prob(self, value):
        return Normal(0.0, self.scale).log_prob(value)


def test_a_distribution_of_ones_own_without_a_support():
    x = torch.tensor([0.0, 1.0])
    assert torch.equal(log_density(OwnDistribution(), x), Normal(0.0, 1.0).log_prob(x))
    with pytest.raises(ValueError, match="scale"):
        log_density(OwnDistribution(-1.0), x)


def mixture_of(dimensions):
    parts = Independent(Normal(torch.zeros(2, dimensions), torch.ones(2, dimensions)), 1)
    return MixtureSameFamily(Categorical(torch.ones(2)), parts)


@pytest.mark.parametrize(
    "distribution",
    [Normal(0.0, 1.0), mixture_of(3), MultivariateNormal(torch.zeros(3), torch.eye(3)), Uniform(0.0, 1.0)],
)
def test_densities_are_torchs_though_it_is_not_asked_to_check_again(distribution):
    x = distribution.sample(torch.Size([20]))
    assert torch.equal(log_density(distribution, x), distribution.log_prob(x))
    spoilt = x.clone()
    spoilt[3] = torch.nan
    found = log_density(distribution, spoilt)
    assert found.isnan().tolist() == [number == 3 for number in range(20)]
    with pytest.raises(ValueError, match="support"):  # the distribution itself checks as before
        distribution.log_prob(spoilt)


def test_rows_of_another_width_are_refused_rather_than_broadcast():
    for distribution in (mixture_of(3), Independent(Normal(torch.zeros(3), torch.ones(3), validate_args=False), 1)):
        with pytest.raises(ValueError, match=r"rows of size \[1\], where the distribution's are \[3\]"):
            log_density(distribution, torch.zeros(4, 1))


def test_a_distribution_of_ones_own_keeps_what_it_learns_from_a_call():
    class Learning(OwnDistribution):
        support = Normal.support
        calls = 0

        def log_prob(self, value):
            self.calls += 1
            return super().log_prob(value)

    distribution = Learning()
    log_density(distribution, torch.zeros(3))
    log_density(distribution, torch.zeros(3))
    assert distribution.calls == 2
