"""The decoding of one image file, by Pillow: upright, 8 bits a channel."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from rsf_dist.errors import InputError


def decode(path: Path, channels: int, data: bytes | None = None) -> Tensor:
    """Decode an image file.

    Args:
        path: the file; with `data`, its name for errors.
        channels: 1 (grey) or 3 (RGB).
        data: the file's bytes, where they are held elsewhere. None means that the file is read.

    Returns uint8 [channels, height, width]. Raises InputError, which names the file.
    """
    from torchvision.transforms.v2 import functional as F

    if data is None and not path.is_file():  # a broken link, or a pipe, which would block
        raise InputError(str(path), "(no file)", "is not a readable image", "fix or remove it", absolute=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path if data is None else io.BytesIO(data)) as image:
                _require_one_frame(path, image)
                upright = ImageOps.exif_transpose(_with_bytes(path, image))
                return F.pil_to_tensor(upright.convert("L" if channels == 1 else "RGB"))
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        rule = f"claims more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        raise InputError(
            str(path), _num_bytes(path, data), rule, "remove it, or cut it into tiles", absolute=True
        ) from err
    except Exception as err:  # each format has errors of its own, and the file is at fault for each
        raise InputError(
            str(path), _num_bytes(path, data), "is not a readable image", "fix or remove it", absolute=True
        ) from err


def _num_bytes(path: Path, data: bytes | None) -> int:
    return path.stat().st_size if data is None else len(data)


def _require_one_frame(path: Path, image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # an MPO is one photograph, followed by previews
        raise InputError(
            str(path), f"{frames} frames", "must be one image", "save the frame that you want by itself", absolute=True
        )


def _with_bytes(path: Path, image: Image.Image) -> Image.Image:
    """Return the image with 8 bits a channel. Pillow itself clips larger numbers at 255, which makes them all white."""
    if not image.mode.startswith(("I", "F")):
        return image
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() >= 2**16:
        rule = "has pixels that are not 8 or 16 bits, whose scale is not known"
        raise InputError(str(path), f"mode {image.mode}", rule, "convert it", absolute=True)
    return Image.fromarray(np.round(pixels / 257).astype(np.uint8))
