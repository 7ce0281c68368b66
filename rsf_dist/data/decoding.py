"""The decoding of one image file, by Pillow: upright, 8 bits a channel, on black where it is transparent.

`header_of` tells an image's size and mode without decoding it.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, PngImagePlugin
from torch import Tensor

from rsf_dist.data.unreadable import out_of_memory, reason_and_remedy, reason_of_no_file
from rsf_dist.errors import InputError

# Pillow refuses a PNG for one text or colour profile above 1 MiB. Its limit on all texts together protects as well.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
_NARROW = (8, 10, 12, 14)  # bits that cameras and programs write into 16
_HAS_LAYERS = ("MPO", "PSD")  # their first frame is the whole image; previews or layers follow
_DEEP = re.compile(r";16[BLN]")  # 16 bits a channel, in Pillow's words; BGR;16 are 16 bits a pixel
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> the operation that undoes it."""
_ON_THEIR_SIDE = tuple(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))


class Header(NamedTuple):
    """The part of an image that its file tells before it is decoded.

    Args:
        height, width: in pixels, of the upright image.
        mode: in Pillow's words, e.g. RGB, with ;16 where there are 16 bits a channel.
        has_alpha: True where pixels can be transparent.
    """

    height: int
    width: int
    mode: str
    has_alpha: bool = False


@dataclass(frozen=True)
class Brightest:
    """The brightest pixel of an image with 16 bits a channel.

    Args:
        level: in [0, 65535], before it was scaled to 8 bits; for colours the largest that it can have been.
        has_colours: True where Pillow read the upper 8 bits of each channel alone.
    """

    level: int
    has_colours: bool = False


def decode(path: Path, channels: int, data: bytes | None = None) -> Tensor:
    """Decode an image file. `decode_deep` says more about images of 16 bits.

    Args:
        path: the file; with `data`, its name for errors.
        channels: 1 (grey) or 3 (RGB).
        data: the file's bytes, where they are held elsewhere. None means that the file is read.

    Returns uint8 [channels, height, width]. Raises InputError, which names the file; MemoryError.
    """
    return decode_deep(path, channels, data=data)[0]


def decode_deep(
    path: Path, channels: int, bits: int | None = None, data: bytes | None = None
) -> tuple[Tensor, Brightest | None]:
    """Decode an image file, and return its brightest pixel where the file has 16 bits a channel.

    Args:
        path: the file; with `data`, its name for errors.
        channels: 1 (grey) or 3 (RGB).
        bits: number of the 16 bits that are used. None means all.
        data: the file's bytes, where they are held elsewhere. None means that the file is read.

    Returns:
        uint8 [channels, height, width], and the brightest pixel of a file with 16 bits a channel; None for others.

    Raises:
        InputError: names the file.
        MemoryError: memory ran out.
    """
    from torchvision.transforms.v2 import functional as F

    with _opened(path, data) as image:
        _require_one_frame(path, image)
        raw_modes = _raw_modes(image)  # loading empties the list of tiles
        image.load()
        eight, brightest = _with_bytes(path, image, raw_modes, bits)
        upright = _upright(eight, image)
        return F.pil_to_tensor(_opaque(upright, "L" if channels == 1 else "RGB")), brightest


def header_of(path: Path, data: bytes | None = None) -> Header:
    """Return what an image file tells before it is decoded. Raises InputError, which names the file."""
    with _opened(path, data) as image:
        height, width = image.height, image.width
        if _turn(image, is_loaded=False) in _ON_THEIR_SIDE:
            height, width = width, height
        deep = ";16" if _DEEP.search(_raw_modes(image)) and not image.mode.startswith("I") else ""
        return Header(height, width, image.mode + deep, bool(image.has_transparency_data))


@contextmanager
def _opened(path: Path, data: bytes | None) -> Iterator[ImageFile.ImageFile]:
    """Open an image for a block. Raises InputError with the reason where the file, or the block, fails."""
    if data is None and not os.path.isfile(path):  # a broken link, or a pipe, which would block
        raise _unreadable(path, "(no file)", *reason_of_no_file(path))
    try:
        with _bombs_are_errors(), Image.open(path if data is None else io.BytesIO(data)) as image:
            yield image
    except (InputError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        rule = f"claims more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        raise InputError(str(path), _size(path, data), rule, "remove it, or cut it into tiles", absolute=True) from err
    except Exception as err:  # each format has errors of its own, and the file is at fault for each
        if out_of_memory(err):
            raise MemoryError(str(err)) from err
        raise _unreadable(path, _size(path, data), *reason_and_remedy(path, err, data)) from err


@dataclass(frozen=True)
class DeepImages:
    """The images with 16 bits a channel among those of a part of a source, as sums that add up.

    Args:
        count: how many there are.
        level: the level of their brightest pixel, as in `Brightest`.
        has_colours: True where one of them is in colours.
    """

    count: int = 0
    level: int = 0
    has_colours: bool = False

    @classmethod
    def of(cls, brightest: Sequence[Brightest]) -> DeepImages:
        """Return the sums of images with these brightest pixels."""
        level = max((pixel.level for pixel in brightest), default=0)
        return cls(len(brightest), level, any(pixel.has_colours for pixel in brightest))

    def __add__(self, other: DeepImages) -> DeepImages:
        has_colours = self.has_colours or other.has_colours
        return DeepImages(self.count + other.count, max(self.level, other.level), has_colours)

    def require_full_range(self, bits: int | None) -> None:
        """Raise InputError if all images are so dark that they hold fewer bits. One dark image proves nothing.

        Args:
            bits: the number of bits that is given, which lets any image pass. None means that none is.
        """
        narrow = next((few for few in _NARROW if self.level < 2**few), None)
        if bits is not None or self.count < 2 or self.level == 0 or narrow is None:
            return
        found, remedy = str(self.level), f"set `bits: {narrow}`"
        if self.has_colours:  # fewer bits do not apply to them
            found, remedy = f"at most {self.level}", "save them as 8 bits a channel"
        rule = f"the brightest pixel of all {self.count:,} images with 16 bits is {found}, of 65535 that there could be"
        raise InputError("bits", "null", rule, f"{remedy}, or set `bits: 16` if they are as dark as that")


_of_a_part: ContextVar[list[DeepImages] | None] = ContextVar("deep images of a part", default=None)


@contextmanager
def deep_images_collected() -> Iterator[list[DeepImages]]:
    """Collect, over a block that reads a part of a source, what `require_full_range` can only tell of the whole."""
    found: list[DeepImages] = []
    token = _of_a_part.set(found)
    try:
        yield found
    finally:
        _of_a_part.reset(token)


def require_full_range(brightest: Sequence[Brightest], bits: int | None) -> None:
    """Raise InputError if all images of 16 bits are so dark that they hold fewer bits; see DeepImages.

    Args:
        brightest: the brightest pixel of each image of 16 bits.
        bits: the number of bits that is given, which lets any image pass. None means that none is.
    """
    found, part = DeepImages.of(brightest), _of_a_part.get()
    if part is None:
        found.require_full_range(bits)
    else:
        part.append(found)


def _raw_modes(image: ImageFile.ImageFile) -> str:
    return " ".join(str(tile[3]) for tile in image.tile)


@contextmanager
def _bombs_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata that do not matter
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _size(path: Path, data: bytes | None) -> str:
    return f"{os.path.getsize(path) if data is None else len(data):,} bytes"


def _unreadable(path: Path, value: str, reason: str, remedy: str) -> InputError:
    return InputError(str(path), value, f"is not a readable image: {reason}", remedy, absolute=True)


def _require_one_frame(path: Path, image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in _HAS_LAYERS:
        raise InputError(
            str(path), f"{frames} frames", "must be one image", "save the frame that you want by itself", absolute=True
        )


def _upright(image: Image.Image, file: Image.Image) -> Image.Image:
    """Return the image turned as its file's EXIF wants it. `ImageOps.exif_transpose` fails where the EXIF is broken."""
    operation = _turn(file)
    return image if operation is None else image.transpose(operation)


def _turn(file: Image.Image, is_loaded: bool = True) -> Image.Transpose | None:
    """Return what brings a file's image upright; None means that it is, or that the EXIF is broken."""
    try:
        # The method of a PNG file decodes the pixels first, in search of EXIF behind them.
        exif = file.getexif() if is_loaded else Image.Image.getexif(file)
        return _UPRIGHT.get(exif.get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:  # the pixels are sound
        return None


def _opaque(image: Image.Image, mode: str) -> Image.Image:
    """Return the image in a mode without transparency, on black. Pillow shows what transparent pixels hide."""
    if image.has_transparency_data:
        visible = image.convert("RGBA")
        if visible.getchannel("A").getextrema() != (255, 255):
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), visible)
    return image.convert(mode)


def _with_bytes(
    path: Path, image: Image.Image, raw_modes: str, bits: int | None
) -> tuple[Image.Image, Brightest | None]:
    """Return the image with 8 bits a channel, and its brightest pixel. Pillow itself clips larger numbers at 255."""
    if not image.mode.startswith(("I", "F")):
        return image, _brightest_of_colours(path, image, bits) if _DEEP.search(raw_modes) else None
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() >= 2**16:
        rule = (
            f"has pixels from {pixels.min():g} to {pixels.max():g} that are not 8 or 16 bits, whose scale is not known"
        )
        remedy = (
            "save it as 8 bits, as by np.uint8(255 * (x - low) / (high - low)) with one low and high for all images"
        )
        raise InputError(str(path), f"mode {image.mode}", rule, remedy, absolute=True)
    brightest, has_twelve = int(pixels.max()), "I;12" in raw_modes
    depth = bits or (12 if has_twelve else 16)
    if brightest >= 2**depth:
        rule = f"is brighter than {2**depth - 1}, the largest number of `bits: {depth}`"
        raise InputError(
            str(path), f"pixel {brightest}", rule, "set the `bits` of the camera that took it", absolute=True
        )
    scaled = Image.fromarray(np.round(pixels / ((2**depth - 1) / 255)).astype(np.uint8))
    return scaled, None if has_twelve else Brightest(brightest)


def _brightest_of_colours(path: Path, image: Image.Image, bits: int | None) -> Brightest:
    """Return the largest number that the channels of 16 bits can have held: Pillow leaves out the lower 8 of them."""
    if bits not in (None, 16):
        rule = f"has 16 bits a channel, of which Pillow reads the upper 8 in colours: `bits: {bits}` does not apply"
        raise InputError(
            str(path), f"mode {image.mode}", rule, "save it as 8 bits a channel, or set `bits: 16`", absolute=True
        )
    extrema = image.getextrema()
    ranges = extrema if isinstance(extrema[0], tuple) else (extrema,)
    seen = [high for band, (_, high) in zip(image.getbands(), ranges, strict=True) if band != "A"]
    return Brightest(int(max(seen)) * 256 + 255, has_colours=True)
