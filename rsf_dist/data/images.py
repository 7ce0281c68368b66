"""Image sets on disk, decoded into memory: labelled sources, unlabelled target images, labelled test images.

Four formats are read, each by the library that defines it: `digits` (scikit-learn's 1,797 scans), `idx` (MNIST's and
Fashion-MNIST's files, as torchvision and Debian's dataset-fashion-mnist keep them), `image_folder` (a folder of images,
or of one sub-folder a class) and `npz` (arrays `images` and, where labelled, `labels`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from rsf_dist.config.images import ImagesConfig
from rsf_dist.data.batch import take_rows
from rsf_dist.errors import InputError

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

_MAX_CLASSES = 100_000  # larger labels are no class numbers, and naming all classes below them would not end
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, with or without labels.

    Args:
        images: uint8 [n, channels, height, width].
        labels: int64 [n] in [0, len(classes)). None means unlabelled.
        classes: the classes' names, in the order of their labels; empty without labels.
    """

    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, index: Tensor | slice) -> ImageSet:
        """Return the images (and labels) at `index`."""
        return ImageSet(
            take_rows(self.images, index), None if self.labels is None else self.labels[index], self.classes
        )

    def digest(self) -> str:
        """Return the SHA-256, in hexadecimal, of shape, images, labels and classes."""
        head = json.dumps({"shape": list(self.images.shape), "classes": self.classes})
        digest = hashlib.sha256(head.encode())
        for column in (self.images, self.labels):
            if column is not None:
                digest.update(column.contiguous().numpy().data)
        return digest.hexdigest()

    def require_labels(self) -> Tensor:
        """Return the labels. Raises InputError if there are none."""
        if self.labels is None:
            raise InputError("", "unlabelled images", "needs labels", "use one sub-folder a class, or add `labels`")
        return self.labels

    def require_like(self, other: ImageSet) -> None:
        """Raise InputError unless shapes, and classes if labelled, are those of `other`."""
        ours, theirs = tuple(self.images.shape[1:]), tuple(other.images.shape[1:])
        if ours != theirs:
            raise InputError(
                "", ours, f"images must be [channels, height, width] = {theirs} like the source's", "set its `size`"
            )
        if self.labels is not None and self.classes != other.classes:
            rule = f"classes must be the source's {list(other.classes)}"
            raise InputError("", list(self.classes), rule, "name them alike, by `classes`")


def load_images(config: ImagesConfig) -> ImageSet:
    """Read the images that `config` describes. Raises InputError, which names a key of `config` or a file."""
    images = _LOADERS[config.kind](config)
    if images.images.numel() == 0:
        raise InputError("root", config.root, "holds no images", "point it to a folder that does")
    if config.limit is not None:
        images = images.subset(slice(config.start, config.start + config.limit))
    elif config.start:
        images = images.subset(slice(config.start, None))
    if len(images) == 0:
        raise InputError("start", config.start, "leaves no images", "lower it")
    return images


def _load_digits(config: ImagesConfig) -> ImageSet:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    return ImageSet(images, torch.from_numpy(digits.target.astype(np.int64)), tuple("0123456789"))


def _load_idx(config: ImagesConfig) -> ImageSet:
    root = _existing(config)
    images, labels = (
        _read_idx(_find_idx(root, name), num_dims)
        for name, num_dims in zip(_IDX_FILES[config.split], (3, 1), strict=True)
    )
    classes = config.classes or _numbered(labels)
    return _labelled(torch.from_numpy(images).unsqueeze(1), labels, classes)


def _find_idx(root: Path, name: str) -> Path:
    for folder in [root, root / "FashionMNIST" / "raw", root / "MNIST" / "raw"]:
        for path in [folder / name, folder / f"{name}.gz"]:
            if path.is_file():
                return path
    raise InputError("root", root, f"holds no {name}[.gz]", "point it to a folder with the IDX files")


def _read_idx(path: Path, num_dims: int) -> np.ndarray:
    """Read an IDX file of bytes: 0, 0, 8, the number of dimensions, each dimension as a big-endian int32, the bytes."""
    size = 4 + 4 * num_dims
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(size)
            shape = np.frombuffer(header, ">i4", offset=4).tolist() if len(header) == size else []
            data = file.read(1 + math.prod(shape)) if shape and min(shape) >= 0 else b""
    except Exception as err:  # of the disk, the archive or memory: the file is at fault for each
        raise InputError(str(path), "(a file)", f"cannot be read ({err})", "download it again", absolute=True) from err
    if not shape or header[:4] != bytes([0, 0, 8, num_dims]):
        rule = f"is not an IDX file of unsigned bytes with {num_dims} dimension(s)"
        raise InputError(str(path), header[:4].hex(), rule, "download it again", absolute=True)
    if len(data) != math.prod(shape):
        rule = f"is cut short or goes on: {shape} expected"
        raise InputError(str(path), f"{len(data)} bytes", rule, "download it again", absolute=True)
    return np.frombuffer(data, np.uint8).reshape(shape).copy()


def _load_npz(config: ImagesConfig) -> ImageSet:
    path = _existing(config)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("images", "labels", "classes") if name in file.files}
            names = sorted(file.files)
    except Exception as err:  # of the archive, the arrays or memory: the file is at fault for each
        rule = f"is not an npz file of plain arrays ({err})"
        raise InputError("root", path, rule, "write it again, without objects") from err
    if "images" not in arrays:
        raise InputError("root", path, f"holds {names}, not `images`", "save the images under that name")
    images = arrays["images"]
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[1] in (1, 3))):
        rule = "`images` must be uint8 [n, h, w] or [n, c, h, w] with 1 or 3 channels"
        remedy = "save them as uint8 [n, h, w] or [n, c, h, w]"
        raise InputError("root", f"{images.dtype} {list(images.shape)}", rule, remedy)
    tensor = torch.from_numpy(images if images.ndim == 4 else images[:, None])
    if "labels" not in arrays:
        return ImageSet(tensor)
    classes = config.classes or _named(arrays)
    return _labelled(tensor, arrays["labels"], classes)


def _named(arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Return the classes that an npz file names, or else the numbers of its labels."""
    if "classes" not in arrays:
        return _numbered(arrays["labels"])
    names = [str(name) for name in arrays["classes"].reshape(-1)]
    if arrays["classes"].ndim != 1 or len(set(names)) < len(names):
        raise InputError("classes", names, "`classes` must be a list of different names", "rename them")
    return tuple(names)


def _numbered(labels: np.ndarray) -> tuple[str, ...]:
    """Return the classes 0, 1, … up to the largest label."""
    largest = int(labels.max(initial=0)) if labels.dtype.kind in "iu" else 0  # words have no largest
    if largest >= _MAX_CLASSES:
        rule = f"labels must be class numbers below {_MAX_CLASSES:,}"
        raise InputError("labels", largest, rule, "number the classes 0, 1, …")
    return tuple(str(label) for label in range(largest + 1))


def _load_image_folder(config: ImagesConfig) -> ImageSet:
    root = _existing(config)
    if not root.is_dir():
        raise InputError("root", root, "must be a folder", "name the folder that holds the images")
    paths = sorted(_image_files(root))
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = config.classes or tuple(folders)
    unknown = [name for name in folders if name not in classes]
    if unknown:
        raise InputError("root", unknown[0], f"is not one of the classes {list(classes)}", "rename that folder")
    if not paths:
        return ImageSet(torch.empty(0, 1, 1, 1, dtype=torch.uint8))
    stray = [path for path in paths if path.parent == root]
    if stray and folders:
        raise InputError("root", stray[0].name, "lies beside class folders", "move it into its class's folder")
    images = torch.stack(_same_size([_decode(path, config) for path in paths], paths))
    if not folders:
        return ImageSet(images)
    labels = np.array([classes.index(path.relative_to(root).parts[0]) for path in paths])
    return _labelled(images, labels, classes)


def _image_files(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the files with an image's suffix, at any depth and through links. Hidden files are left out."""
    real = os.path.realpath(folder)
    if real in above:
        raise InputError("root", folder, "is a link to a folder that it lies in", "remove the link")
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as err:
        raise InputError("root", folder, f"cannot be listed ({err})", "check its permissions") from err
    for entry in entries:
        if entry.is_dir():
            yield from _image_files(entry, (*above, real))
        elif entry.suffix.lower() in _SUFFIXES:
            yield entry


def _decode(path: Path, config: ImagesConfig) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    if not path.is_file():  # a broken link, or a pipe, which would block
        raise InputError(str(path), "(no file)", "is not a readable image", "fix or remove it", absolute=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _require_one_frame(path, image)
                upright = ImageOps.exif_transpose(_with_bytes(path, image))
                decoded = F.pil_to_tensor(upright.convert("L" if config.channels == 1 else "RGB"))
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        rule = f"claims more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        raise InputError(
            str(path), path.stat().st_size, rule, "remove it, or cut it into tiles", absolute=True
        ) from err
    except Exception as err:  # each format has errors of its own, and the file is at fault for each
        raise InputError(
            str(path), path.stat().st_size, "is not a readable image", "fix or remove it", absolute=True
        ) from err
    if config.size is None:
        return decoded
    height, width = config.size
    scale = max(height / decoded.shape[1], width / decoded.shape[2])  # cover the size, then crop: nothing is stretched
    covering = [max(height, round(decoded.shape[1] * scale)), max(width, round(decoded.shape[2] * scale))]
    return F.center_crop(F.resize(decoded, covering, antialias=True), [height, width])


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


def _same_size(images: list[Tensor], paths: list[Path]) -> list[Tensor]:
    for image, path in zip(images, paths, strict=True):
        if image.shape != images[0].shape:
            rule = f"{path.name} differs in size from {paths[0].name} {list(images[0].shape[1:])}"
            raise InputError("size", list(image.shape[1:]), rule, "set `size: [height, width]`")
    return images


def _labelled(images: Tensor, labels: np.ndarray, classes: tuple[str, ...]) -> ImageSet:
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        rule = f"`labels` must be integers of shape [{len(images)}]"
        raise InputError("labels", f"{labels.dtype} {list(labels.shape)}", rule, "give each image one label")
    outside = labels[(labels < 0) | (labels >= len(classes))]
    if len(outside):
        rule = f"labels must lie in [0, {len(classes)}), the classes {list(classes)}"
        raise InputError("labels", int(outside[0]), rule, "correct the label or list all `classes`")
    return ImageSet(images, torch.from_numpy(labels.astype(np.int64)), classes)


def _existing(config: ImagesConfig) -> Path:
    try:
        root = Path(config.root or "").expanduser()
        if config.root is not None and root.exists():
            return root
        rule = "does not exist"
    except (OSError, RuntimeError) as err:  # RuntimeError: `~` of a user without a home folder
        rule = f"cannot be looked up ({err})"
    raise InputError("root", config.root, rule, "correct the path")


_LOADERS = {"digits": _load_digits, "idx": _load_idx, "image_folder": _load_image_folder, "npz": _load_npz}
