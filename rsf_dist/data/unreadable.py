"""The reasons for which an image file cannot be read, with what to do, told from how the file begins."""

from __future__ import annotations

import os
import re
from pathlib import Path

from PIL import UnidentifiedImageError

_CONVERT = "convert it to PNG or JPEG"
_FIX = "fix or remove it"
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (rb"$", "it is empty", "copy it again, or remove it"),
    (rb"version https://git-lfs", "it is a pointer of Git LFS, not the image itself", "fetch it by `git lfs pull`"),
    (rb"[./]*(git)?/annex/objects/", "it is a pointer of git-annex, not the image itself", "run `git annex get .`"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype svg[^>]*>\s*)?<svg", "it is an SVG drawing", _CONVERT),
    (rb"\s*(<\?xml[^>]*>\s*)?<(!doctype html|html|head|body)", "it is a web page", "download the image again"),
    (rb"....ftyp(hei|hev|mif1|msf1)", "it is HEIC, which Pillow does not read", _CONVERT),
    (rb"....ftypcrx |FUJIFILMCCD-RAW|II\x2a\x00....CR", "it is a camera's raw file", _CONVERT),
    (rb"....ftyp(?!avi)|\x1aE\xdf\xa3|RIFF....AVI ", "it is a video", "extract the frames that you want"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "it is JPEG XL, which Pillow does not read", _CONVERT),
    (rb".{128}DICM", "it is DICOM, which Pillow does not read", _CONVERT),
    (rb"v/1\x01|#\?R", "it has a high dynamic range, which Pillow does not read", _CONVERT),
    (rb"\x93NUMPY", "it is a NumPy array", _CONVERT),
    (rb"%PDF|%!PS", "it is a document", _CONVERT),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "it is an archive", "unpack it"),
    (rb"\x00{64}", "it begins with zeros, as a copy that was broken off", "copy it again, or remove it"),
    (rb"[\t\n\r\x20-\x7e]{8,}$", "it is text", "replace it by the image, or remove it"),
)  # fmt: skip
_MATTERS = 300  # bytes from the beginning


def reason_and_remedy(path: Path, err: Exception, data: bytes | None = None) -> tuple[str, str]:
    """Return why a file is not read, as a half sentence, and what to do.

    Args:
        path: the file.
        err: the error that its decoding raised.
        data: the file's bytes, where they are held elsewhere.
    """
    if isinstance(err, PermissionError):
        return "it may not be opened", "check its permissions"
    if "MAX_TEXT" in str(err) or "Too much memory used in text chunks" in str(err):
        return "its texts or its colour profile are too large", "save it again without them"
    try:
        head = data[:_MATTERS] if data is not None else _beginning(path)
    except OSError as failure:
        return f"it cannot be read ({failure.strerror})", "check its disk, or copy it again"
    for beginning, what, remedy in _BEGINNINGS:
        if re.match(beginning, head, re.DOTALL | re.IGNORECASE):
            return what, remedy
    if isinstance(err, UnidentifiedImageError):
        return "its format is none that Pillow knows, or its header is damaged", _FIX
    if not str(err):
        return "it is damaged", _FIX
    return f"it is damaged or cut short ({err})", "copy or download it again, or remove it"


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MATTERS)


def reason_of_no_file(path: Path) -> tuple[str, str]:
    """Return why a path without a file behind it is not read, and what to do."""
    if not path.is_symlink():
        return "it is no file", "remove it"
    target = os.readlink(path)
    if "annex/objects" in target:
        return "its content is not there (git-annex)", "run `git annex get .`"
    return f"it is a link to nothing ({target})", "correct or remove the link"


def out_of_memory(err: BaseException) -> bool:
    """Return True if memory ran out, which Python, torch's allocator and Pillow's decoders say differently."""
    words = ("out of memory", "not enough memory", "allocate memory")
    return isinstance(err, MemoryError) or any(word in str(err) for word in words)
