import math

import pytest
import torch
from torch.nn.functional import affine_grid
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from rsf_dist.proposals.rendering import NEUTRAL, _grid, render


def generator():
    return torch.Generator().manual_seed(0)


def smooth(height, width, channels=1):
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    bump = torch.exp(-2 * (x - 0.2) ** 2 - 3 * (y + 0.1) ** 2)
    image = torch.stack([bump * (200 + 20 * c) for c in range(channels)])
    return image.round().to(torch.uint8)[None]


def row(**values):
    return {name: torch.tensor([float(value)]) for name, value in values.items()}


@pytest.mark.parametrize(("height", "width", "channels"), [(28, 28, 1), (24, 40, 3), (33, 20, 1)])
@pytest.mark.parametrize(
    "values",
    [
        {"rotation": 0.5},
        {"rotation": -2.0},
        {"scale": 1.4},
        {"scale": 0.6},
        {"translate_x": 0.3},
        {"translate_y": -0.25},
        {"rotation": 0.7, "scale": 0.8, "translate_x": -0.2, "translate_y": 0.1},
    ],
)
def test_geometry_is_torchvisions(height, width, channels, values):
    image = smooth(height, width, channels)
    both = NEUTRAL | values
    # torchvision takes degrees and pixels; translate_x is a fraction of half the width
    expected = F.affine(
        image,
        angle=math.degrees(both["rotation"]),
        translate=[both["translate_x"] * width / 2, both["translate_y"] * height / 2],
        scale=both["scale"],
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    assert (expected != image).float().mean() > 0.1
    difference = render(image, row(**values), generator()).int() - expected.int()
    assert difference.abs().max() <= 1


@pytest.mark.parametrize(("height", "width"), [(28, 28), (24, 40), (33, 20), (17, 1)])
def test_the_grid_is_that_of_affine_grid_to_the_last_bit(height, width):
    maps = torch.randn(50, 2, 3, generator=generator())
    expected = affine_grid(maps, [50, 1, height, width], align_corners=False)
    across, down, offset = maps.unbind(2)
    assert torch.equal(_grid(across, down, offset, height, width), expected)
    for i in range(50):
        one = slice(i, i + 1)
        assert torch.equal(_grid(across[one], down[one], offset[one], height, width), expected[one])


def test_translation_by_whole_pixels():
    # 8 wide: .5 of half the width is 2 pixels to the right; 4 high: -.5 of half the height is 1 pixel up
    image = torch.zeros(1, 1, 4, 8, dtype=torch.uint8)
    image[0, 0, 2, 3] = 200
    moved = render(image, row(translate_x=0.5, translate_y=-0.5), generator())
    assert moved[0, 0, 1, 5] == 200
    assert moved.sum() == 200


def test_rotation_is_clockwise_on_the_screen():
    # a quarter turn brings the top to the right
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 0, 2] = 200
    turned = render(image, row(rotation=math.pi / 2), generator())
    assert turned[0, 0].argmax() == 2 * 5 + 4


@pytest.mark.parametrize("names", [[name] for name in NEUTRAL] + [list(NEUTRAL), []])
def test_neutral_parameters_change_nothing(names):
    image = torch.randint(256, (4, 3, 7, 9), dtype=torch.uint8, generator=generator())
    neutral = {name: torch.full((4,), NEUTRAL[name]) for name in names}
    assert torch.equal(render(image, neutral, generator()), image)


def test_brightness_and_contrast_by_hand():
    # 40 and 120, mean 80. Brightness 1/2: 20, 60. Contrast 1/2: 60, 100. Both, brightness first: 30, 50.
    # Brightness 3: 120 and 360, cut at 255. Contrast 4 : 80 - 160 and 80 + 160, cut at 0.
    image = torch.tensor([40, 120], dtype=torch.uint8).reshape(1, 1, 1, 2)
    cases = [
        ({"brightness": 0.5}, [20, 60]),
        ({"contrast": 0.5}, [60, 100]),
        ({"brightness": 0.5, "contrast": 0.5}, [30, 50]),
        ({"brightness": 3.0}, [120, 255]),
        ({"contrast": 4.0}, [0, 240]),
    ]
    for values, expected in cases:
        assert render(image, row(**values), generator()).flatten().tolist() == expected


def test_noise_has_its_standard_deviation():
    """Mid-grey with noise .05: sd .05 * 255 = 12.75 levels; false-alarm rate 1e-3 for mean and for sd.

    40,000 pixels: standard error 12.75/200 of the mean, 12.75/sqrt(80,000) of the sd; rounding adds 1/12 to the
    variance.
    """
    image = torch.full((1, 1, 200, 200), 128, dtype=torch.uint8)
    pixels = render(image, row(noise=0.05), generator()).double()
    assert abs(pixels.mean() - 128) < 3.29 * 12.75 / 200
    assert abs(pixels.std() - math.sqrt(12.75**2 + 1 / 12)) < 3.29 * 12.75 / math.sqrt(80_000)


def test_noise_follows_from_the_generator():
    image = torch.full((1, 1, 8, 8), 128, dtype=torch.uint8)
    first, second = (render(image, row(noise=0.1), generator()) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, render(image, row(noise=0.1), torch.Generator().manual_seed(1)))


def test_each_row_has_its_own_parameters():
    image = smooth(16, 16).expand(3, -1, -1, -1)
    values = {"rotation": torch.tensor([0.0, 1.0, 0.0]), "brightness": torch.tensor([1.0, 1.0, 0.5])}
    together = render(image, values, generator())
    for i in range(3):
        alone = render(image[i : i + 1], {name: value[i : i + 1] for name, value in values.items()}, generator())
        assert torch.equal(together[i : i + 1], alone)
    assert torch.equal(together[0], image[0])


def test_noise_has_to_come_from_somewhere():
    with pytest.raises(ValueError, match="say where it comes from"):
        render(smooth(8, 8), row(noise=0.1))
    assert render(smooth(8, 8), row(brightness=0.5)).shape == (1, 1, 8, 8)
