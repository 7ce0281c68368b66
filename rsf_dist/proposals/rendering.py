"""Render a batch of images under a batch of continuous augmentation parameters: turned, shifted, dimmed.

Each row has its own parameters, applied to the whole batch at once, and comes out the same to the last bit whatever
else is in the batch. Geometry is one inverse affine map per row, sampled bilinearly with zeros outside (torch's
`grid_sample`); equal up to rounding to torchvision's per-image `v2.functional.affine`, which a test checks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

NEUTRAL = {
    "rotation": 0.0,  # radians, clockwise on the screen as torchvision's angle
    "scale": 1.0,  # factor; below 0.01 is taken as that
    "brightness": 1.0,  # factor on the intensities, >= 0
    "contrast": 1.0,  # factor on the distance from the image's mean, >= 0
    "translate_x": 0.0,  # fraction of half the width, to the right
    "translate_y": 0.0,  # fraction of half the height, downwards
    "noise": 0.0,  # standard deviation of Gaussian noise, fraction of full range, >= 0
}
"""The augmentation parameters, in the order in which they are drawn, each with the value that changes nothing."""

_SMALLEST_SCALE = 0.01


def render(images: Tensor, parameters: Mapping[str, Tensor], noise: torch.Generator | Tensor | None = None) -> Tensor:
    """Render each image under its own parameters.

    Args:
        images: uint8 [n, channels, height, width].
        parameters: any of `NEUTRAL`'s names, each float [n], on the device of the images; others stay neutral.
        noise: the source of the pixel noise, if there is any: a generator, or standard normal numbers shaped like
            `images`.

    Returns:
        uint8 [n, channels, height, width].
    """
    if len(images) == 0:  # torch has no grid of no image
        return images
    if noise is None and "noise" in parameters:
        raise ValueError("noise among the parameters: say where it comes from")
    x = images.float().div_(255)
    if {"rotation", "scale", "translate_x", "translate_y"} & parameters.keys():
        x = _affine(x, parameters)
    if "brightness" in parameters:
        x *= _per_row(parameters["brightness"])
    if "contrast" in parameters:
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = x.sub_(mean).mul_(_per_row(parameters["contrast"])).add_(mean)
    if "noise" in parameters:
        normal = noise if isinstance(noise, Tensor) else torch.randn(x.shape, generator=noise)
        x += normal * _per_row(parameters["noise"])
    return x.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _per_row(values: Tensor) -> Tensor:
    return values.float().reshape(-1, 1, 1, 1)


def _affine(x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    n, _, height, width = x.shape
    rotation, scale, shift_x, shift_y = (
        parameters[name].float() if name in parameters else torch.full((n,), NEUTRAL[name], device=x.device)
        for name in ("rotation", "scale", "translate_x", "translate_y")
    )
    # Forward: pixel -> scale * R(rotation) pixel + shift. grid_sample wants the inverse, in coordinates that run over
    # [-1, 1] in both directions; `aspect` keeps the rotation rigid where height and width differ.
    scale = scale.clamp(min=_SMALLEST_SCALE)
    cos, sin, aspect = torch.cos(rotation) / scale, torch.sin(rotation) / scale, height / width
    across, down = torch.stack([cos, -sin / aspect], 1), torch.stack([sin * aspect, cos], 1)  # the inverse's columns
    offset = -(across * shift_x[:, None] + down * shift_y[:, None])
    grid = _grid(across, down, offset, height, width)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _grid(across: Tensor, down: Tensor, offset: Tensor, height: int, width: int) -> Tensor:
    """Return the place that each pixel is taken from: x across + y down + offset, float [n, height, width, 2].

    The columns and the offset are [n, 2]. The numbers are those of torch's `affine_grid` with align_corners=False, in a
    tenth of its time on a CPU, which goes into many small matrix products. Unlike there, a row's numbers do not depend
    on the number of rows.
    """
    x, y = (torch.linspace(-1, 1, size, device=across.device) * (size - 1) / size for size in (width, height))
    grid = across[:, :, None, None] * x + down[:, :, None, None] * y[:, None]
    return grid.add_(offset[:, :, None, None]).permute(0, 2, 3, 1)
