"""Image sets that are broken, and unusual ones that are not."""

from __future__ import annotations

import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bad_input.case import Case, Changes, noise


def pixels(height: int = 8, width: int = 8, channels: int = 3) -> np.ndarray:
    """An image's bytes."""
    return np.random.default_rng(1).integers(256, size=(height, width, channels), dtype=np.uint8).squeeze()


def image_bytes(kind: str = "PNG", mode: str = "RGB", size: int = 8, **options: Any) -> bytes:
    """An image file's bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels(size, size)).convert(mode).save(file, kind, **options)
    return file.getvalue()


def animation(kind: str) -> bytes:
    """An image file of three frames."""
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (0, 100, 200)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG that claims side × side pixels, and has none."""

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\x00")) + part(b"IEND", b"")


def float_image() -> bytes:
    """A TIFF of 32-bit floats."""
    file = io.BytesIO()
    Image.fromarray(pixels(channels=1).astype(np.float32) / 255).save(file, "TIFF")
    return file.getvalue()


def sixteen_bits(pixel: int) -> bytes:
    """A grey PNG of 16 bits."""
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), pixel, np.uint16)).save(file, "PNG")
    return file.getvalue()


PNG = image_bytes()
JPEG = image_bytes("JPEG")
BROKEN_FILES: dict[str, tuple[str, bytes]] = {
    "an empty PNG": ("x.png", b""),
    "an empty JPEG": ("x.jpg", b""),
    "a PNG's signature": ("x.png", PNG[:8]),
    "a PNG cut in its header": ("x.png", PNG[:20]),
    "a PNG cut in its pixels": ("x.png", image_bytes(size=64)[:2000]),
    "a PNG with another byte": ("x.png", PNG[:60] + bytes([PNG[60] ^ 0xFF]) + PNG[61:]),
    "a JPEG cut in its header": ("x.jpg", JPEG[:40]),
    "a JPEG cut in its pixels": ("x.jpg", image_bytes("JPEG", size=64)[:-600]),
    "a GIF cut short": ("x.gif", image_bytes("GIF", "P")[:30]),
    "a WebP cut short": ("x.webp", image_bytes("WEBP")[:30]),
    "a TIFF cut short": ("x.tif", image_bytes("TIFF")[:60]),
    "a BMP cut short": ("x.bmp", image_bytes("BMP")[:60]),
    "text named PNG": ("x.png", b"this is not an image\n"),
    "a web page named JPEG": ("x.jpeg", b"<html><body>404</body></html>"),
    "noise": ("x.png", noise(512)),
    "zeros": ("x.jpg", bytes(512)),
    "a link to Git's large files": ("x.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    "a claim of 900 million pixels": ("x.png", bomb(30_000)),
    "a claim of 100 million pixels": ("x.png", bomb(10_000)),
    "a claim of more than there are numbers": ("x.png", bomb(2**31 - 1)),
    "an animated GIF": ("x.gif", animation("GIF")),
    "an animated PNG": ("x.png", animation("PNG")),
    "an animated WebP": ("x.webp", animation("WEBP")),
    "a TIFF of pages": ("x.tiff", animation("TIFF")),
    "pixels that are floats": ("x.tiff", float_image()),
    "HEIC named JPEG": ("x.jpg", b"\0\0\0\x18ftypheic" + bytes(400)),
    "a drawing named PNG": ("x.png", b"<svg/>"),
    "an archive named JFIF": ("x.jfif", b"PK\x03\x04" + bytes(90)),
    "a JPEG 2000 cut short": ("x.jp2", image_bytes("JPEG2000", size=64)[:200]),
    "a PPM cut short": ("x.ppm", image_bytes("PPM")[:60]),
    "a TGA cut short": ("x.tga", image_bytes("TGA")[:60]),
}

SOUND_FILES: dict[str, tuple[str, bytes]] = {
    "16 bits": ("x.png", sixteen_bits(65535)),
    "CMYK": ("x.jpg", image_bytes("JPEG", "CMYK")),
    "a palette": ("x.png", image_bytes(mode="P")),
    "a palette in a GIF": ("x.gif", image_bytes("GIF", "P")),
    "transparency": ("x.png", image_bytes(mode="RGBA")),
    "grey and transparency": ("x.png", image_bytes(mode="LA")),
    "black and white": ("x.png", image_bytes(mode="1")),
    "grey": ("x.png", image_bytes(mode="L")),
    "a progressive JPEG": ("x.jpg", image_bytes("JPEG", progressive=True)),
    "a capital suffix": ("X.PNG", PNG),
    "another suffix than its kind": ("x.jpg", PNG),
    "a JPEG named JFIF": ("x.jfif", JPEG),
    "a PPM": ("x.ppm", image_bytes("PPM")),
    "a grey PGM": ("x.pgm", image_bytes("PPM", "L")),
    "a JPEG 2000": ("x.jp2", image_bytes("JPEG2000")),
    "a TGA with transparency": ("x.tga", image_bytes("TGA", "RGBA")),
}
"""Unusual, and read."""


def _idx(magic: bytes, shape: tuple[int, ...], data: bytes) -> bytes:
    return magic + b"".join(struct.pack(">i", length) for length in shape) + data


IMAGES = _idx(b"\x00\x00\x08\x03", (40, 8, 8), bytes(40 * 64))
LABELS = _idx(b"\x00\x00\x08\x01", (40,), bytes([0, 1] * 20))
IMAGE_FILE, LABEL_FILE = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
IDX: dict[str, tuple[str, dict[str, bytes]]] = {
    "an empty file": (IMAGE_FILE, {IMAGE_FILE: b""}),
    "another magic number": (IMAGE_FILE, {IMAGE_FILE: b"\x00\x00\x0d\x03" + IMAGES[4:]}),
    "labels in place of images": (IMAGE_FILE, {IMAGE_FILE: LABELS}),
    "images in place of labels": (LABEL_FILE, {LABEL_FILE: IMAGES}),
    "half a header": (IMAGE_FILE, {IMAGE_FILE: IMAGES[:9]}),
    "a byte too few": (IMAGE_FILE, {IMAGE_FILE: IMAGES[:-1]}),
    "a byte too many": (IMAGE_FILE, {IMAGE_FILE: IMAGES + b"\x00"}),
    "counts that wrap around": (IMAGE_FILE, {IMAGE_FILE: _idx(b"\x00\x00\x08\x03", (2**31 - 1, 2**31 - 1, 4), b"")}),
    "counts below zero": (IMAGE_FILE, {IMAGE_FILE: _idx(b"\x00\x00\x08\x03", (-40, 8, -8), bytes(40 * 64))}),
    "no image": ("source.root", {IMAGE_FILE: _idx(b"\x00\x00\x08\x03", (0, 8, 8), b""),
                                 LABEL_FILE: _idx(b"\x00\x00\x08\x01", (0,), b"")}),
    "images of no pixel": ("source.root", {IMAGE_FILE: _idx(b"\x00\x00\x08\x03", (40, 0, 8), b"")}),
    "a label too few": ("source.labels", {LABEL_FILE: _idx(b"\x00\x00\x08\x01", (39,), bytes(39))}),
    "noise": (IMAGE_FILE, {IMAGE_FILE: noise(600)}),
    "an archive of noise": (f"{IMAGE_FILE}.gz", {IMAGE_FILE: b"", f"{IMAGE_FILE}.gz": noise(600)}),
    "an archive cut short": (f"{IMAGE_FILE}.gz", {IMAGE_FILE: b"", f"{IMAGE_FILE}.gz": gzip.compress(IMAGES)[:-9]}),
    "an archive of text": (f"{IMAGE_FILE}.gz", {IMAGE_FILE: b"", f"{IMAGE_FILE}.gz": gzip.compress(b"hello")}),
    "no labels": ("source.root", {LABEL_FILE: b""}),
}  # fmt: skip


def _idx_source(files: dict[str, bytes], name: str) -> Callable[[Path], Changes]:
    def changes(folder: Path) -> Changes:
        for file, data in ({IMAGE_FILE: IMAGES, LABEL_FILE: LABELS} | files).items():
            (folder / file).write_bytes(data)
        if f"{IMAGE_FILE}.gz" in files:
            (folder / IMAGE_FILE).unlink()
        if name == "no labels":
            (folder / LABEL_FILE).unlink()
        return {"source": {"kind": "idx", "root": str(folder)}}

    return changes


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


GREY = pixels(40 * 8, 8, 1).reshape(40, 8, 8)
CLASS = np.arange(40) % 2
NPZ: dict[str, tuple[str, dict[str, Any]]] = {
    "no images": ("source.root", {"pictures": GREY, "labels": CLASS}),
    "no array at all": ("source.root", {}),
    "images of floats": ("source.root", {"images": GREY / 255, "labels": CLASS}),
    "images of NaN": ("source.root", {"images": np.full((40, 8, 8), np.nan), "labels": CLASS}),
    "images of 16 bits": ("source.root", {"images": GREY.astype(np.uint16), "labels": CLASS}),
    "images that are words": ("source.root", {"images": np.array(["a"] * 40), "labels": CLASS}),
    "images with the channel last": ("source.root", {"images": GREY[..., None], "labels": CLASS}),
    "images of four channels": ("source.root", {"images": np.stack([GREY] * 4, 1), "labels": CLASS}),
    "one image": ("source.root", {"images": GREY[0], "labels": CLASS}),
    "images of five dimensions": ("source.root", {"images": GREY[None, None], "labels": CLASS}),
    "a number for images": ("source.root", {"images": np.uint8(3), "labels": CLASS}),
    "images of no pixel": ("source.root", {"images": GREY[:, :0], "labels": CLASS}),
    "none of any image": ("source.root", {"images": GREY[:0], "labels": CLASS[:0]}),
    "no labels": ("source", {"images": GREY}),
    "a label too few": ("source.labels", {"images": GREY, "labels": CLASS[1:]}),
    "labels in a table": ("source.labels", {"images": GREY, "labels": CLASS[:, None]}),
    "labels that are floats": ("source.labels", {"images": GREY, "labels": CLASS.astype(float)}),
    "labels that are NaN": ("source.labels", {"images": GREY, "labels": CLASS * np.nan}),
    "labels that are words": ("source.labels", {"images": GREY, "labels": np.array(["a", "b"] * 20)}),
    "labels below zero": ("source.labels", {"images": GREY, "labels": CLASS - 1}),
    "a label of billions": ("source.labels", {"images": GREY, "labels": CLASS * 2**40}),
    "a label of all bits": ("source.labels", {"images": GREY, "labels": np.full(40, 2**64 - 1, np.uint64)}),
    "a class without a name": ("source.labels", {"images": GREY, "labels": CLASS, "classes": np.array(["a"])}),
    "a class's name twice": ("source.classes", {"images": GREY, "labels": CLASS, "classes": np.array(["a", "a"])}),
    "a word for classes": ("source.classes", {"images": GREY, "labels": CLASS, "classes": np.array("ab")}),
    "pickled images": ("source.root", {"images": "a trap", "labels": CLASS}),
    "pickled labels": ("source.root", {"images": GREY, "labels": "a trap"}),
    "pickled classes": ("source.root", {"images": GREY, "labels": CLASS, "classes": "a trap"}),
}  # fmt: skip
"""`a trap` stands for an array of objects that leaves the folder `trapped` behind where it is unpickled."""


def _npz_source(arrays: dict[str, Any]) -> Callable[[Path], Changes]:
    def changes(folder: Path) -> Changes:
        trap = np.array([Trap(folder / "trapped")], dtype=object)
        given = {name: trap if isinstance(array, str) else array for name, array in arrays.items()}
        np.savez(folder / "arrays.npz", **given)
        return {"source": {"kind": "npz", "root": str(folder / "arrays.npz")}}

    return changes


def _of_bytes(data: bytes) -> Callable[[Path], Changes]:
    def changes(folder: Path) -> Changes:
        (folder / "arrays.npz").write_bytes(data)
        return {"source": {"kind": "npz", "root": str(folder / "arrays.npz")}}

    return changes


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, GREY)
    return file.getvalue()


def _whole_npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, images=GREY, labels=CLASS)
    return file.getvalue()


def _huge_header() -> bytes:
    """An archive whose array claims 10^15 bytes."""
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1000, 1000)})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    return file.getvalue()


NPZ_BYTES: dict[str, bytes] = {
    "empty": b"",
    "text": b"images, labels",
    "noise": noise(700),
    "an .npy file": _npy(),
    "cut short": _whole_npz()[:900],
    "changed in the middle": _whole_npz()[:300] + noise(40) + _whole_npz()[340:],
    "an empty archive": b"PK\x05\x06" + bytes(18),
    "a claim of a petabyte": _huge_header(),
    "a pickle": b"cos\nmkdir\n(S'trapped'\ntR.",
}

PATHS: dict[str, str] = {
    "nowhere": "/no/such/place",
    "with a zero byte": "a\0b",
    "too long": "x" * 5000,
    "of nobody's home": "~no_such_user_at_all/x",
    "on the web": "https://example.com/images",
}


def cases() -> Iterator[Case]:
    """All of them, each once."""
    for name, (field, files) in IDX.items():
        place = field if field.startswith("source") else f"{{folder}}/{field}"
        yield Case(f"IDX files with {name}", place, _idx_source(files, name))
    for name, (field, arrays) in NPZ.items():
        yield Case(f"an npz file with {name}", field, _npz_source(arrays))
    for name, data in NPZ_BYTES.items():
        yield Case(f"an npz file that is {name}", "source.root", _of_bytes(data))
    for name, path in PATHS.items():
        for kind in ("npz", "idx", "image_folder"):
            changes = {"target": {"kind": kind, "root": path}}
            yield Case(f"{kind} images from a place {name}", "target.root", lambda folder, changes=changes: changes)
    yield Case("a file for a folder", "target.root", lambda folder: {"target.kind": "image_folder"})
    yield Case("a folder for a file", "target.root", lambda folder: {"target.root": str(folder)})
    yield Case("too few target images", "target", lambda folder: {"target.limit": 5})
    yield Case("a start beyond the end", "target.start", lambda folder: {"target.start": 40})
    for name, (field, changes) in SHIFTED_TARGETS.items():
        yield Case(f"a made target domain {name}", field, _shifted_target(changes))


SHIFTED_TARGETS: dict[str, tuple[str, Changes]] = {
    "of three classes": ("target.shift.prior", {"target.shift.prior": [1, 1, 1]}),
    "of no class": ("target.shift.prior", {"target.shift.prior": []}),
    "of classes that all have probability 0": ("target.shift.prior", {"target.shift.prior": [0, 0]}),
    "of too few images": ("target", {"target.num_images": 5}),
    "from nowhere": ("target.base.root", {"target.base.root": "/no/such/place"}),
    "from a start beyond the end": ("target.base.start", {"target.base.start": 40}),
    "from photographs without labels": ("target.base", {"target.base.root": "target.npz"}),
    "from photographs of another size": ("target.base", {"target.base": {"kind": "digits"}}),
    "from photographs of other classes": ("target.base", {"target.base.classes": ["a", "b"]}),
    "of a class that the test has not": (
        "target.shift.prior", {"evaluation.test": {"kind": "shifted", "base": {"kind": "npz", "limit": 1}},
                               "target.shift.prior": [1, 1]}),
    "with a test from nowhere": (
        "evaluation.test.base.root", {"evaluation.test": {"kind": "shifted", "base": {"kind": "npz", "root": "no"}}}),
}  # fmt: skip
"""Changes of a target made from the source's images."""


def _shifted_target(changes: Changes) -> Callable[[Path], Changes]:
    def changed(folder: Path) -> Changes:
        base = {"target": {"kind": "shifted", "base": {"kind": "npz"}}, "data.root": str(folder / "source.npz")}
        return base | changes

    return changed
