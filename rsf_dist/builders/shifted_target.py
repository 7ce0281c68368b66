"""A place made for an experiment: photographs turned, dimmed, mixed by laws that a configuration names.

A row is drawn as class ~ prior, photograph ~ uniform in the class, parameter_j ~ its law, and rendered as proposals are
(`AugmentProposal`). Blur and gamma, which no proposal has, are the lens's and the film's: they come before the noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from rsf_dist.config.images import ParameterShiftConfig, ShiftConfig
from rsf_dist.data.batch import to_cpu
from rsf_dist.data.images import ImageSet
from rsf_dist.proposals import AugmentProposal
from rsf_dist.proposals.rendering import NEUTRAL, render
from rsf_dist.runtime.rng import Streams

_LEAST_BLUR = 0.1  # pixels: the next pixel's weight is exp(-50), which changes no grey level


def make_shifted_images(base: ImageSet, shift: ShiftConfig, count: int, streams: Streams) -> ImageSet:
    """`count` labelled images of the place, uint8 [count, channels, height, width] like `base`'s.

    They follow from the base, the shift and the streams alone. Raises InputError: `base` has no labels, or not the
    classes that `shift.prior` wants.
    """
    prior = None if shift.prior is None else torch.tensor(shift.prior, dtype=torch.float64)
    parameters = shift_distributions(shift)
    seen_through = shift.blur >= _LEAST_BLUR or shift.gamma != 1
    noise = parameters.pop("noise", None) if seen_through else None
    rows = to_cpu(AugmentProposal(base, parameters, prior).sample(count, streams))
    images = with_gamma(blurred(rows["image"], shift.blur), shift.gamma)
    if noise is not None:
        with streams.torch_global(purpose=7):  # torch's distributions take no generator
            drawn = noise.sample(torch.Size([count]))
        images = render(images, {"noise": drawn}, streams.torch(purpose=8))
    return ImageSet(images, rows["label"], base.classes)


def shift_distributions(shift: ShiftConfig) -> dict[str, Distribution]:
    """A scalar law, to draw from, for each parameter that is not neutral."""
    given = {name: getattr(shift, name) for name in NEUTRAL}
    return {name: _shift_distribution(law) for name, law in given.items() if law is not None}


def _shift_distribution(config: ParameterShiftConfig) -> Distribution:
    # A standard deviation of 0 has no density, which torch refuses unless told not to look; drawing is well defined.
    if not isinstance(config.mean, tuple):
        return Normal(config.mean, config.sd, validate_args=False)
    means = torch.tensor(config.mean)
    modes = Normal(means, torch.full_like(means, config.sd), validate_args=False)
    return MixtureSameFamily(Categorical(torch.ones_like(means)), modes, validate_args=False)


def blurred(images: Tensor, sd: float) -> Tensor:
    """uint8 [n, c, h, w] under a Gaussian of `sd` pixels, cut off at three of them and where the image ends."""
    if sd < _LEAST_BLUR:
        return images
    from torchvision.transforms.v2 import functional as F  # here: it takes long to import, and few places are blurred

    height, width = images.shape[-2:]
    sizes = [2 * min(math.ceil(3 * sd), length - 1) + 1 for length in (width, height)]
    return F.gaussian_blur(images, sizes, [sd, sd])


def with_gamma(images: Tensor, gamma: float) -> Tensor:
    """uint8 images of any shape, each intensity v on the scale 0 to 1 replaced by v**gamma."""
    if gamma == 1:
        return images
    curve = ((torch.arange(256, dtype=torch.float64) / 255) ** gamma * 255).round().to(torch.uint8)
    return curve[images.int()]
