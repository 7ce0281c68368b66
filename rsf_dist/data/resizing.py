"""The placement of images of any size in images of one size: covering it, fitting into it, or stretched to it.

x' = scale_x x + left,  y' = scale_y y + top        (x, y) in pixels of the image, (x', y') in pixels of the result
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rsf_dist.config.images import Resize


@dataclass(frozen=True)
class Placement:
    """The place of an image in the result: scaled to height x width, with its upper left corner at (top, left).

    Args:
        height, width: of the scaled image, in pixels.
        top, left: of its corner in the result, in pixels. Negative numbers crop.
    """

    height: int
    width: int
    top: int
    left: int


def placement(height: int, width: int, size: tuple[int, int], resize: Resize) -> Placement:
    """Return where an image of height x width comes to lie in one of `size`, its middle in the middle."""
    if resize == "stretch":
        return Placement(*size, 0, 0)
    factors = size[0] / height, size[1] / width
    scale, at_least = (max(factors), max) if resize == "cover" else (min(factors), min)
    scaled_height = max(1, at_least(size[0], round(height * scale)))
    scaled_width = max(1, at_least(size[1], round(width * scale)))
    top, left = -round((scaled_height - size[0]) / 2), -round((scaled_width - size[1]) / 2)
    return Placement(scaled_height, scaled_width, top, left)


def resized(images: Tensor, size: tuple[int, int], resize: Resize) -> Tensor:
    """Return images brought to one size, with smoothing against aliasing; what an image does not fill is black.

    Args:
        images: uint8 [..., c, h, w].
        size: height and width of the result, in pixels.
        resize: `cover` crops what lies outside, `fit` leaves bars, `stretch` changes the aspect ratio.
    """
    from torchvision.transforms.v2 import functional as F

    height, width = images.shape[-2:]
    if (height, width) == tuple(size):
        return images
    place = placement(height, width, size, resize)
    return placed(F.resize(images, [place.height, place.width], antialias=True), place, size)


def placed(scaled: Tensor, place: Placement, size: tuple[int, int], fill: int = 0) -> Tensor:
    """Return scaled images [..., h, w] put in their place in a result of `size`: cropped, and padded with `fill`."""
    from torchvision.transforms.v2 import functional as F

    cropped = F.crop(scaled, max(0, -place.top), max(0, -place.left), *map(min, size, scaled.shape[-2:]))
    below, right = size[0] - cropped.shape[-2] - max(0, place.top), size[1] - cropped.shape[-1] - max(0, place.left)
    return F.pad(cropped, [max(0, place.left), max(0, place.top), right, below], fill=fill)


def with_channels(images: Tensor, channels: int | None) -> Tensor:
    """Return images with 1 (grey) or 3 (RGB) channels; None leaves them as they are.

    Grey is 0.2989 R + 0.587 G + 0.114 B, as torchvision computes it. RGB of a grey image repeats it.

    Args:
        images: uint8 [..., c, h, w] with c = 1 or 3.
        channels: the number of channels wanted.
    """
    from torchvision.transforms.v2 import functional as F

    if channels is None or images.shape[-3] == channels:
        return images
    if channels == 1:
        return F.rgb_to_grayscale(images, num_output_channels=1)
    return images.expand(*images.shape[:-3], 3, -1, -1).contiguous()
