"""Target domains made from photographs: their distributions and streams, blur and gamma."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats

from rsf_dist.builders.inputs import load_inputs
from rsf_dist.builders.shifted_target import blurred, make_shifted_images, shift_distributions, with_gamma
from rsf_dist.config.images import DigitsConfig
from rsf_dist.config.load import parse_config
from rsf_dist.config.shifted_images import ShiftConfig
from rsf_dist.data.images import ImageSet, load_images
from rsf_dist.errors import InputError
from rsf_dist.proposals import AugmentProposal
from rsf_dist.runtime.rng import Stage, Streams

DIGITS = load_images(DigitsConfig())
PRIOR = [0.02, 0.2, 0.02, 0.02, 0.2, 0.02, 0.2, 0.02, 0.1, 0.2]
SHIFT = {"rotation": {"mean": 0.6, "sd": 0.2}, "noise": {"mean": 0.1}, "prior": PRIOR}
RAW = {
    "output": "runs/one",
    "data": {"kind": "digits"},
    "source": {"limit": 1000},
    "target": {"kind": "shifted", "base": {"start": 1000}, "num_images": 300, "shift": SHIFT},
    "sampling": {"num_accepted": 100},
    "evaluation": {
        "test": {"kind": "shifted", "base": {"start": 1000}, "num_images": 300},
        "oracle": {"kind": "shifted", "base": {"start": 1000}, "num_images": 300},
        "arms": ["one_shot", "oracle"],
    },
}


def inputs_of(**changes):
    return load_inputs(parse_config(copy.deepcopy(RAW) | changes))


def drawn(count, **distribution):
    """Draws of one parameter, as a proposal makes them."""
    proposal = AugmentProposal(DIGITS, shift_distributions(ShiftConfig(rotation=distribution)))
    return proposal.sample(count, Streams(0, Stage.TARGET))["rotation"].double().numpy()


def made(count=50, seed=0, **shift):
    return make_shifted_images(DIGITS, ShiftConfig(**shift), count, Streams(seed, Stage.TARGET))


def test_one_mean_is_a_normal_distribution():
    """Kolmogorov-Smirnov on a fixed seed, false-alarm rate 1e-3; twice the standard deviation must fail."""
    values = drawn(2000, mean=0.6, sd=0.2)
    assert stats.kstest(values, "norm", args=(0.6, 0.2)).pvalue > 1e-3
    assert stats.kstest(values, "norm", args=(0.6, 0.4)).pvalue < 1e-6


def test_several_means_are_equally_likely_modes():
    """Two modes 15 standard deviations apart: each has half of 2,000 draws, and is normal; false-alarm rate 1e-3 each.

    The share's standard error is sqrt(1/4/2000) = .0112.
    """
    values = drawn(2000, mean=[-0.9, 0.6], sd=0.1)
    left = values[values < -0.15]
    assert abs(len(left) / 2000 - 0.5) < 3.29 * 0.0112
    assert stats.kstest(left, "norm", args=(-0.9, 0.1)).pvalue > 1e-3
    assert stats.kstest(values[values > -0.15], "norm", args=(0.6, 0.1)).pvalue > 1e-3


def test_no_standard_deviation_is_a_constant():
    assert np.unique(drawn(100, mean=0.5)).tolist() == [0.5]
    assert np.unique(drawn(100, mean=[-0.5, 0.25, 1.0])).tolist() == [-0.5, 0.25, 1.0]


def test_what_is_not_named_stays_neutral():
    assert shift_distributions(ShiftConfig()) == {}
    assert list(shift_distributions(ShiftConfig(noise={"mean": 0.1}, rotation={"mean": 0.1}))) == ["rotation", "noise"]
    place = made()
    rows = AugmentProposal(DIGITS, {}).sample(50, Streams(0, Stage.TARGET))
    assert torch.equal(place.images, DIGITS.images[rows["base_index"]])
    assert torch.equal(place.labels, DIGITS.labels[rows["base_index"]])
    assert place.classes == DIGITS.classes


def test_the_prior_is_respected():
    """Chi-square on a fixed seed, false-alarm rate 1e-3; the photographs' own shares must fail, and are the default."""
    own = np.bincount(DIGITS.labels) / len(DIGITS)
    given = np.bincount(made(5000, prior=PRIOR).labels, minlength=10)
    assert stats.chisquare(given, 5000 * np.array(PRIOR)).pvalue > 1e-3
    assert stats.chisquare(given, 5000 * own).pvalue < 1e-6
    assert stats.chisquare(np.bincount(made(5000).labels, minlength=10), 5000 * own).pvalue > 1e-3
    assert made(200, prior=[0, 3, 0, 0, 0, 0, 0, 1, 0, 0]).labels.unique().tolist() == [1, 7]


def test_a_prior_that_fits_no_classes_is_named():
    target = RAW["target"] | {"shift": {"prior": [0.5, 0.5]}}
    with pytest.raises(InputError) as caught:
        inputs_of(target=target)
    assert caught.value.field == "target.shift.prior"
    assert caught.value.rule == "must be 10 probabilities, one a class (target.base)"


def test_one_seed_makes_one_target_domain():
    first, again, other = inputs_of(), inputs_of(), inputs_of(seed=1)
    assert first.digests() == again.digests()
    assert all(first.digests()[name] != other.digests()[name] for name in ("target", "test", "oracle"))
    assert first.digests()["source"] == other.digests()["source"]


def test_each_set_has_a_stream_of_its_own():
    """That of its number, so that an old run's images can be made again."""
    inputs = inputs_of(seed=5)
    for chunk, images in enumerate([inputs.target, inputs.oracle, inputs.test]):
        wanted = make_shifted_images(
            DIGITS.subset(slice(1000, None)), ShiftConfig(**SHIFT), 300, Streams(5, Stage.TARGET, chunk=chunk)
        )
        assert torch.equal(images.images, wanted.images)
        assert chunk == 0 or torch.equal(images.labels, wanted.labels)
    assert len({images.digest() for images in (inputs.target, inputs.oracle, inputs.test)}) == 3


def test_the_target_has_no_labels():
    assert inputs_of().target.labels is None


def test_gamma_by_hand():
    # 255 (51/255)^2 = 255/25 = 10.2; 255 (51/255)^.5 = 255/sqrt(5) = 114.04; black and white stay
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    assert with_gamma(image, 2.0).flatten().tolist() == [0, 10, 255]
    assert with_gamma(image, 0.5).flatten().tolist() == [0, 114, 255]


def test_blur_by_hand():
    # sd 1: the middle of three has weight 1/(1 + 2 e^-.5 + 2 e^-2 + 2 e^-4.5) = .3991, its neighbour e^-.5 of that
    image = torch.zeros(1, 1, 15, 15, dtype=torch.uint8)
    image[..., 7, 7] = 255
    found = blurred(image, 1.0)[0, 0]
    assert found[7, 7] == round(255 * 0.3991**2)
    assert found[7, 8] == found[8, 7] == round(255 * 0.3991**2 * math.exp(-0.5))
    assert found[7, 11] == 0  # cut off at three standard deviations


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (9, 2)])
@pytest.mark.parametrize("sd", [1e-300, 0.05, 0.8, 50.0, 1e300])
def test_any_blur_leaves_a_plain_image_plain(size, sd):
    image = torch.full((2, 3, *size), 77, dtype=torch.uint8)
    assert torch.equal(blurred(image, sd), image)


def test_blur_and_gamma_come_after_the_parameters():
    plain, both = made(rotation={"mean": 0.4}), made(rotation={"mean": 0.4}, blur=0.8, gamma=0.6)
    assert torch.equal(both.images, with_gamma(blurred(plain.images, 0.8), 0.6))
    assert torch.equal(both.labels, plain.labels)
    assert torch.equal(made(rotation={"mean": 0.4}, blur=0.0, gamma=1.0).images, plain.images)
    for other in ({"blur": 0.8}, {"gamma": 0.6}):
        assert not torch.equal(made(rotation={"mean": 0.4}, **other).images, plain.images)


@pytest.mark.parametrize("seen_through", [{}, {"blur": 2.0}, {"gamma": 0.5}])
def test_noise_is_neither_blurred_nor_brightened(seen_through):
    """At sd .2 on black, clamped at 0, its sd is .2 sqrt(1/2 - 1/(2 pi)) = .117 and its mean .2/sqrt(2 pi) = .080."""
    images = made(brightness={"mean": 0.0}, noise={"mean": 0.2}, **seen_through).images / 255
    assert float(images.std()) == pytest.approx(0.117, rel=0.05)
    assert float(images.mean()) == pytest.approx(0.080, rel=0.05)


@pytest.mark.parametrize("blur", [0.0, 0.1])
def test_the_least_blur_and_no_gamma_change_no_grey_level(blur):
    image = torch.randint(256, (4, 3, 7, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(with_gamma(blurred(image, blur), 1.0), image)


def test_photographs_of_colour_keep_their_size():
    images = torch.randint(256, (6, 3, 5, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    base = ImageSet(images, torch.arange(6) % 2, ("a", "b"))
    shift = ShiftConfig(scale={"mean": 0.8, "sd": 0.1}, contrast={"mean": 0.5}, blur=2.0, gamma=1.5)
    assert make_shifted_images(base, shift, 11, Streams(0)).images.shape == (11, 3, 5, 9)
