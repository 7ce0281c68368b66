"""A target domain made for an experiment: photographs augmented by distributions that a configuration names.

A row is drawn as class ~ prior, photograph ~ uniform in the class, parameter_j ~ its distribution, and rendered as
`AugmentProposal` renders proposals. Blur and gamma, which no proposal has, stand for a camera's lens and film. They
come before the noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from rsf_dist.config.shifted_images import ParameterShiftConfig, ShiftConfig
from rsf_dist.data.batch import to_cpu
from rsf_dist.data.images import ImageSet
from rsf_dist.proposals import AugmentProposal
from rsf_dist.proposals.rendering import NEUTRAL, render
from rsf_dist.runtime.rng import Purpose, Streams

_LEAST_BLUR = 0.1  # pixels: the next pixel's weight is exp(-50), which changes no grey level


def make_shifted_images(base: ImageSet, shift: ShiftConfig, count: int, streams: Streams) -> ImageSet:
    """Make labelled images of the target domain, which follow from these arguments alone.

    Args:
        base: the photographs, labelled, uint8 [n, channels, height, width].
        shift: how the images differ from the photographs.
        count: number of images to make.
        streams: the random streams that they are drawn from.

    Returns:
        The images, uint8 [count, channels, height, width], with labels and the photographs' classes.

    Raises:
        InputError: `base` has no labels, or `shift.prior` does not fit its classes.
    """
    prior = None if shift.prior is None else torch.tensor(shift.prior, dtype=torch.float64)
    parameters = shift_distributions(shift)
    has_camera = shift.blur >= _LEAST_BLUR or shift.gamma != 1
    noise = parameters.pop("noise", None) if has_camera else None
    rows = to_cpu(AugmentProposal(base, parameters, prior).sample(count, streams))
    images = with_gamma(blurred(rows["image"], shift.blur), shift.gamma)
    if noise is not None:
        with streams.torch_global(Purpose.SHIFT_PARAMETERS):  # torch's distributions take no generator
            drawn = noise.sample(torch.Size([count]))
        images = render(images, {"noise": drawn}, streams.torch(Purpose.PIXEL_NOISE))
    return ImageSet(images, rows["label"], base.classes)


def shift_distributions(shift: ShiftConfig) -> dict[str, Distribution]:
    """Return a scalar distribution, to draw from, for each parameter that is not neutral."""
    configured = {name: getattr(shift, name) for name in NEUTRAL}
    return {name: _shift_distribution(config) for name, config in configured.items() if config is not None}


def _shift_distribution(config: ParameterShiftConfig) -> Distribution:
    # A standard deviation of 0 has no density, so that torch refuses it unless validation is off. Drawing works.
    if not isinstance(config.mean, tuple):
        return Normal(config.mean, config.sd, validate_args=False)
    means = torch.tensor(config.mean)
    modes = Normal(means, torch.full_like(means, config.sd), validate_args=False)
    return MixtureSameFamily(Categorical(torch.ones_like(means)), modes, validate_args=False)


def blurred(images: Tensor, sd: float) -> Tensor:
    """Blur uint8 images [n, c, h, w] by a Gaussian of `sd` pixels, cut off at 3 sd and at the image's size."""
    if sd < _LEAST_BLUR:
        return images
    from torchvision.transforms.v2 import functional as F  # slow to import, and rarely needed

    height, width = images.shape[-2:]
    sizes = [2 * min(math.ceil(3 * sd), length - 1) + 1 for length in (width, height)]
    return F.gaussian_blur(images, sizes, [sd, sd])


def with_gamma(images: Tensor, gamma: float) -> Tensor:
    """Replace each intensity v on the scale 0 to 1 by v**gamma, in uint8 images of any shape."""
    if gamma == 1:
        return images
    curve = ((torch.arange(256, dtype=torch.float64) / 255) ** gamma * 255).round().to(torch.uint8)
    return curve[images.int()]
