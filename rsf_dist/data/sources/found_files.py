"""The image files of a folder, at any depth and through links, without what systems and programs leave behind."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from PIL import Image

from rsf_dist.data.sources.base import PassedOver, printable
from rsf_dist.errors import InputError

_LEFT_BEHIND = {
    "__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "lost+found",
    "system volume information", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "__pycache__",
}  # fmt: skip
"""Names in small letters, besides hidden ones, that macOS, Windows, storage boxes and Python leave in folders."""
_NO_PICTURES = {"BUFR", "GRIB", "HDF5", "IPTC", "EPS", "WMF", "MPEG", "FLI"}
"""Formats that Pillow registers, but reads not at all, not everywhere, or as something else than one picture."""
_RAW = "a camera's raw files"
_KNOWN = {
    ".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC", ".avif": "AVIF", ".jxl": "JPEG XL", ".svg": "drawings",
    ".pdf": "documents", ".dcm": "DICOM", ".dicom": "DICOM", ".nii": "NIfTI", ".exr": "OpenEXR", ".hdr": "Radiance",
    ".npy": "NumPy arrays", ".dng": _RAW, ".cr2": _RAW, ".cr3": _RAW, ".nef": _RAW, ".arw": _RAW, ".raf": _RAW,
    ".orf": _RAW, ".rw2": _RAW, ".mp4": "videos", ".mov": "videos", ".avi": "videos", ".mkv": "videos",
    ".webm": "videos", ".zip": "archives", ".tar": "archives", ".gz": "archives", ".tgz": "archives", ".7z": "archives",
}  # fmt: skip
"""Suffixes of pictures, or of what holds pictures, that are not read."""
RUN_FILES = {"config.yaml", "manifest.json"}
"""Files by which the directory of a run is known."""
_EXAMPLES, _SUFFIXES_SHOWN = 3, 6


@dataclass
class FoundFiles:
    """The files below a root.

    Args:
        root: the folder.
        images: those with the suffix of an image, in order of their paths.
        passed_over: the others, by their suffix in small letters.
    """

    root: Path
    images: list[Path] = field(default_factory=list)
    passed_over: dict[str, PassedOver] = field(default_factory=dict)

    def pass_over(self, file: Path) -> None:
        """Count a file that is no image."""
        name = name_below(self.root, file)
        suffix = PurePosixPath(name).suffix.lower()
        seen = self.passed_over.get(suffix, PassedOver(0, ()))
        examples = (*seen.examples, name)[:_EXAMPLES]
        self.passed_over[suffix] = PassedOver(seen.count + 1, examples)


def find_files(root: Path) -> FoundFiles:
    """Find the files below a root. Raises InputError for folders that cannot be listed or that lead back."""
    found, suffixes = FoundFiles(root), image_suffixes()
    for file in files_below(root):
        if file.suffix.lower() in suffixes:
            found.images.append(file)
        else:
            found.pass_over(file)
    found.images.sort()
    return found


def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the files that Pillow opens as pictures, in small letters."""
    registered = {
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and kind not in _NO_PICTURES
    }
    return frozenset(registered - {".avifs"} | {".mpo"})  # a film; and photographs that are read as JPEG


def folders_of(root: Path) -> list[Path]:
    """Return the folders in a folder, in order of their names, without those that systems leave behind."""
    return [entry for entry in _entries(root) if os.path.isdir(entry)]


def files_in(folder: Path, ends: tuple[str, ...]) -> list[Path]:
    """Return the files in a folder, not below it, whose names end so in small letters; none if it is no folder."""
    if not os.path.isdir(folder):
        return []
    return [entry for entry in _entries(folder) if entry.name.lower().endswith(ends) and entry.is_file()]


def name_below(root: Path, file: Path) -> str:
    """Return a file's path below the root, in letters that can be stored even where the name is no UTF-8."""
    return os.fsencode(file.relative_to(root).as_posix()).decode(errors="backslashreplace")


def sentence_of(passed_over: Mapping[str, PassedOver]) -> str:
    """Return the files that were passed over in words, known kinds of pictures first."""
    order = sorted(passed_over, key=lambda suffix: (suffix not in _KNOWN, -passed_over[suffix].count, suffix))
    parts = [_of_suffix(suffix, passed_over[suffix]) for suffix in order[:_SUFFIXES_SHOWN]]
    return ", ".join(parts) + (f" and {len(order) - _SUFFIXES_SHOWN} more suffixes" if len(order) > len(parts) else "")


def passed_over_notes(passed_over: Mapping[str, PassedOver]) -> tuple[str, ...]:
    """Return a line about the files that were passed over, if there are any."""
    return (f"passed over {sentence_of(passed_over)}",) if passed_over else ()


def has_pictures(passed_over: Mapping[str, PassedOver]) -> bool:
    """Return True if pictures in formats that are not read were passed over."""
    return any(suffix in _KNOWN for suffix in passed_over)


def kind_of_suffix(suffix: str) -> str:
    """Return in brackets what files of a suffix hold; nothing where that is not known."""
    return f" ({_KNOWN[suffix]})" if suffix in _KNOWN else ""


def _of_suffix(suffix: str, files: PassedOver) -> str:
    return printable(
        f"{files.count:,} {suffix or 'without a suffix'}{kind_of_suffix(suffix)}, e.g. {files.examples[0]}"
    )


def files_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the files of a folder and of those below it. Links to nothing are among them if named like an image."""
    real = os.path.realpath(folder)
    if real in above:
        raise InputError("root", folder, "is a link to a folder that it lies in", "remove the link")
    entries = _entries(folder)
    if above and RUN_FILES.issubset(entry.name for entry in entries):
        rule = "is the directory of a run, whose figures are no images to learn from"
        raise InputError("root", folder, rule, "move it elsewhere, or name a folder below as root")
    for entry in entries:
        if os.path.isdir(entry):
            yield from files_below(entry, (*above, real))
        elif not entry.suffix and entry.is_symlink() and not os.path.exists(entry):
            raise InputError(
                "root", entry, f"is a link to nothing ({os.readlink(entry)})", "correct or remove the link"
            )
        else:
            yield entry


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not is_left_behind(entry.name))
    except OSError as err:
        raise InputError("root", folder, f"cannot be listed ({err})", "check its permissions") from err


def is_left_behind(name: str) -> bool:
    """Return True for the name of a hidden file or folder, or of one that systems and programs leave behind."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND
