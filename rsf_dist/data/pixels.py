"""The one type and layout of images in this package: uint8 [n, channels, height, width].

Floats could be on the scale 0 to 1, on 0 to 255 or normalised, and nothing in them says which. So they are refused
rather than guessed at; scaled twice, they would make every image black without an error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rsf_dist.errors import InputError


def require_images(images: Tensor, field: str = "image") -> None:
    """Raise InputError, which names `field`, unless these are uint8 images [n, channels, height, width]."""
    if images.dtype != torch.uint8:
        remedy = "convert them to 0 to 255; from 0 to 1: (images * 255).round().to(torch.uint8)"
        raise InputError(field, images.dtype, "must be uint8 [n, channels, height, width]", remedy, absolute=True)
    if images.ndim != 4:
        remedy = "give a batch, of a single image: images[None]"
        raise InputError(field, list(images.shape), "must be [n, channels, height, width]", remedy, absolute=True)
