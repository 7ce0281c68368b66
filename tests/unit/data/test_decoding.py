"""The decoding of one image file: bits, transparency, EXIF, and why a file cannot be read."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from rsf_dist.data import decoding
from rsf_dist.data.decoding import Brightest, decode, decode_deep
from rsf_dist.errors import InputError


@pytest.fixture
def file(tmp_path):
    """Write bytes, an image or an array to a file, and return its path."""

    def write(content, name="x.png", **options):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            image = content if isinstance(content, Image.Image) else Image.fromarray(content)
            image.save(path, **options)
        return path

    return write


def refusal(path, bits=None):
    with pytest.raises(InputError) as caught:
        decode_deep(path, 3, bits)
    assert caught.value.field == str(path)
    assert "\n" not in str(caught.value)
    return caught.value


def part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(*chunks: bytes) -> bytes:
    """A grey PNG of 2 x 2 pixels of level 77, with chunks before its pixels."""
    header = part(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0))
    pixels = part(b"IDAT", zlib.compress(bytes([0, 77, 77]) * 2))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + part(b"IEND", b"")


RAMP = np.linspace(0, 4095, 6).astype(np.uint16).reshape(2, 3)  # 0 819 1638 2457 3276 4095


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_twelve_bits_in_sixteen_are_scaled_by_their_own_range(file, name):
    path = file(RAMP, name)
    # 255 k / 5 = 51 k for the ramp's steps; by the file's own 16 bits, 4095 / 257 = 15.9
    assert decode_deep(path, 1, 12)[0].flatten().tolist() == [0, 51, 102, 153, 204, 255]
    image, brightest = decode_deep(path, 1)
    assert (image.max().item(), brightest) == (16, Brightest(4095))


@pytest.mark.parametrize(("bits", "largest"), [(8, 255), (10, 1023), (12, 4095), (14, 16383), (16, 65535)])
def test_the_largest_number_of_any_bits_is_white(file, bits, largest):
    path = file(np.array([[0, largest]], np.uint16))
    assert decode_deep(path, 1, bits)[0].flatten().tolist() == [0, 255]
    if bits < 16:
        above = file(np.array([[0, largest + 1]], np.uint16))
        assert refusal(above, bits).rule == f"is brighter than {largest}, the largest number of `bits: {bits}`"


def test_bits_change_no_image_of_eight_bits(file):
    path = file(np.array([[0, 100, 200]], np.uint8))
    assert decode_deep(path, 1, 12)[0].flatten().tolist() == [0, 100, 200]
    assert decode_deep(path, 1)[1] is None


def png_of_deep_colours(level: int, size: int = 1) -> bytes:
    """A red PNG, `size` pixels high and wide, with 16 bits in each of three channels."""
    header = part(b"IHDR", struct.pack(">IIBBBBB", size, size, 16, 2, 0, 0, 0))
    row = b"\0" + struct.pack(">HHH", level, 0, 0) * size
    pixels = part(b"IDAT", zlib.compress(row * size))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + part(b"IEND", b"")


def test_colours_of_sixteen_bits_are_read_by_their_upper_eight_and_no_fewer_bits_apply(file):
    image, brightest = decode_deep(file(png_of_deep_colours(65535)), 3)
    assert image.flatten().tolist() == [255, 0, 0]
    assert brightest == Brightest(65535, has_colours=True)
    assert decode_deep(file(png_of_deep_colours(4000)), 3)[1].level == 4095  # the lower 8 bits of 4000 = 15 * 256 + 160
    error = refusal(file(png_of_deep_colours(4000)), 12)
    assert "`bits: 12` does not apply" in error.rule
    assert error.remedy == "save it as 8 bits a channel, or set `bits: 16`"


def test_a_tiff_that_says_twelve_bits_is_scaled_by_them_without_a_word_of_the_user(file):
    entries = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    tags = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in entries)
    pixels = b"\x80\x0f\xff\0"  # 0x800 = 2048 and 0xfff = 4095, in three bytes
    data = b"II*\0" + struct.pack("<I", 12) + pixels + struct.pack("<H", len(entries)) + tags + bytes(4)
    image, brightest = decode_deep(file(data, "x.tif"), 1)
    assert (image.flatten().tolist(), brightest) == ([128, 255], None)  # 2048 / 4095 * 255 = 127.5, to the even 128


def test_sixteen_bits_a_pixel_are_not_sixteen_bits_a_channel(file):
    masks, pixels = struct.pack("<III", 0xF800, 0x07E0, 0x001F), struct.pack("<HH", 0xF800, 0x001F)
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 70, 0, 0, 66) + header + masks + pixels
    image, brightest = decode_deep(file(data, "x.bmp"), 3, 12)
    assert (image[:, 0].T.tolist(), brightest) == ([[255, 0, 0], [0, 0, 255]], None)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.float32([[0, 1]]), "from 0 to 1 that are not 8 or 16 bits"),
        (np.int32([[0, 70_000]]), "from 0 to 70000 that are not"),
        (np.int32([[-1, 5]]), "from -1 to 5 that are not"),
    ],
)
def test_pixels_of_unknown_scale_are_refused_with_what_to_type(file, pixels, said):
    error = refusal(file(pixels, "x.tif"))
    assert said in error.rule
    assert "np.uint8(255 * (x - low) / (high - low))" in error.remedy


def with_alpha(mode, hidden, alpha):
    return Image.merge(mode, [Image.new("L", (1, 1), level) for level in (*hidden, alpha)])


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (with_alpha("RGBA", (250, 120, 10), 0), {}, [0, 0, 0]),
        (with_alpha("RGBA", (250, 120, 10), 255), {}, [250, 120, 10]),
        (with_alpha("RGBA", (250, 120, 10), 51), {}, [50, 24, 2]),  # a fifth of each
        (with_alpha("LA", (200,), 0), {}, [0, 0, 0]),
        (with_alpha("LA", (200,), 255), {}, [200, 200, 200]),
        (Image.new("RGB", (1, 1), (9, 8, 7)), {"transparency": (9, 8, 7)}, [0, 0, 0]),
        (Image.new("RGB", (1, 1), (9, 8, 7)), {"transparency": (1, 1, 1)}, [9, 8, 7]),
        (Image.new("L", (1, 1), 200), {"transparency": 200}, [0, 0, 0]),
        (Image.new("RGB", (1, 1), (9, 8, 7)).quantize(2), {"transparency": 0}, [0, 0, 0]),
        (Image.new("RGB", (1, 1), (9, 8, 7)).quantize(2), {}, [9, 8, 7]),
    ],
)
def test_what_is_transparent_is_black_and_what_is_not_stays(file, image, options, expected):
    assert decode(file(image, **options), 3).flatten().tolist() == expected


def test_an_opaque_image_with_an_alpha_channel_is_grey_like_one_without(file):
    pixels = np.random.default_rng(0).integers(256, size=(5, 7, 3), dtype=np.uint8)
    opaque = np.dstack([pixels, np.full((5, 7), 255, np.uint8)])
    plain = decode(file(pixels, "plain.png"), 1)
    assert torch.equal(decode(file(opaque, "opaque.png"), 1), plain)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_images_are_upright_also_with_sixteen_bits(file, orientation, deep):
    levels = np.arange(6, dtype=np.uint16).reshape(2, 3)
    pixels = levels * 257 if deep else levels.astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = file(pixels, exif=exif)
    with Image.open(file(levels.astype(np.uint8), "eight.png", exif=exif)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert decode(path, 1)[0].tolist() == expected.tolist()


def test_broken_exif_is_ignored(file):
    assert decode(file(png_with(part(b"eXIf", b"no TIFF at all"))), 1).unique().tolist() == [77]
    assert decode(file(png_with(part(b"eXIf", b"MM\0*\0\0\xff\xff"))), 1).unique().tolist() == [77]
    # ImageWidth as the float +inf, beside a sound orientation of 6: a quarter turn
    entries = struct.pack(">HHIfHHIHH", 0x0100, 11, 1, np.inf, 0x0112, 3, 1, 6, 0)
    exif = b"MM\0*" + struct.pack(">IH", 8, 2) + entries + struct.pack(">I", 0)
    buffer = io.BytesIO()
    Image.new("L", (8, 16), 77).save(buffer, "JPEG", exif=b"Exif\0\0" + exif)
    assert decode(file(buffer.getvalue(), "x.jpg"), 1).shape == (1, 8, 16)


@pytest.mark.parametrize(
    "chunk",
    [
        part(b"zTXt", b"note\0\0" + zlib.compress(bytes(2**21))),
        part(b"iTXt", b"note\0\1\0\0\0" + zlib.compress(bytes(2**21))),
        part(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2**21))),
        part(b"tEXt", b"note\0" + b"x" * 2**21),
    ],
    ids=["zTXt", "iTXt", "iCCP", "tEXt"],
)
def test_texts_of_two_mebibytes_are_no_hindrance(file, chunk):
    assert decode(file(png_with(chunk)), 1).unique().tolist() == [77]


def test_texts_beyond_all_measure_are_refused_as_such(file):
    error = refusal(file(png_with(part(b"zTXt", b"note\0\0" + zlib.compress(bytes(65 * 2**20))))))
    assert error.rule == "is not a readable image: its texts or its colour profile are too large"


HEIC = b"\0\0\0\x18ftypheic" + bytes(400)
UNREADABLE = {
    "empty": (b"", "it is empty"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
    "a pointer of git-annex": (b"/annex/objects/SHA256E-s9--0.png\n", "git-annex"),
    "HEIC": (HEIC, "it is HEIC, which Pillow does not read"),
    "a web page": (b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>", "it is a web page"),
    "an XHTML page": (b'<?xml version="1.0"?>\n<html xmlns="x">', "it is a web page"),
    "a drawing": (b'<?xml version="1.0"?><svg width="1"/>', "it is an SVG drawing"),
    "an archive": (b"PK\x03\x04" + bytes(90), "it is an archive"),
    "a document": (b"%PDF-1.7\n", "it is a document"),
    "DICOM": (bytes(128) + b"DICM" + bytes(90), "it is DICOM"),
    "zeros": (bytes(5000), "it begins with zeros"),
    "text": (b"404: Not Found", "it is text"),
    "a header alone": (png_with()[:20], "it is damaged or cut short"),
    "cut short": (png_with()[:-30], "it is damaged or cut short"),
    "noise": (bytes(range(200, 256)), "its format is none that Pillow knows"),
}


@pytest.mark.parametrize(("data", "reason"), UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_the_reason_of_an_unreadable_file_is_told(file, data, reason, name):
    error = refusal(file(data, name))
    assert error.rule.startswith("is not a readable image: it")
    assert reason in error.rule
    assert error.remedy


def test_bytes_are_decoded_and_refused_like_the_file_that_they_are_from(tmp_path):
    assert decode(tmp_path / "row 3", 1, png_with()).unique().tolist() == [77]
    for data, reason in UNREADABLE.values():
        with pytest.raises(InputError) as caught:
            decode(tmp_path / "row 3", 1, data)
        assert reason in caught.value.rule
        assert (caught.value.field, caught.value.value) == (str(tmp_path / "row 3"), f"{len(data):,} bytes")


def test_the_reason_of_a_file_that_is_not_there_is_told(tmp_path):
    link = tmp_path / "x.png"
    link.symlink_to("elsewhere/x.png")
    assert "it is a link to nothing (elsewhere/x.png)" in refusal(link).rule
    link.unlink()
    link.symlink_to("../.git/annex/objects/aa/SHA256E-s9--0.png")
    assert refusal(link).remedy == "run `git annex get .`"


def fails_with(error):
    def fail(*arguments, **options):
        raise error

    return fail


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading image file")])
def test_lack_of_memory_is_no_fault_of_the_file(file, error, monkeypatch):
    path = file(png_with())
    monkeypatch.setattr(decoding, "_with_bytes", fails_with(error))
    with pytest.raises(MemoryError):
        decode(path, 3)
    monkeypatch.setattr(decoding, "_with_bytes", fails_with(OSError("broken data stream")))
    refusal(path)
