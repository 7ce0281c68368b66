"""Image sets on disk, decoded into memory: labelled sources, unlabelled target images, labelled test images.

Four layouts are read, each by the library that defines it: `digits` (scikit-learn's 1,797 scans), `idx` (MNIST's and
Fashion-MNIST's files, as torchvision and Debian's dataset-fashion-mnist keep them), `image_folder` (a folder of images,
or of one sub-folder a class) and `npz` (arrays `images` and, where labelled, `labels`).
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsf_dist.config import ImagesConfig
from rsf_dist.errors import InputError

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, with or without labels.

    Args:
        images: uint8 [n, channels, height, width].
        labels: int64 [n] in [0, len(classes)), or None.
        classes: the classes' names, by label; empty without labels.
    """

    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, index: Tensor | slice) -> ImageSet:
        """The images (and labels) at `index`."""
        return ImageSet(self.images[index], None if self.labels is None else self.labels[index], self.classes)

    def require_labels(self, field: str) -> Tensor:
        """The labels; InputError naming `field` where there are none."""
        if self.labels is None:
            raise InputError(field, "unlabelled images", "needs labels", "use one sub-folder a class, or add `labels`")
        return self.labels

    def require_like(self, other: ImageSet, field: str) -> None:
        """InputError naming `field` unless images, and classes where both are labelled, are of `other`'s kind."""
        ours, theirs = tuple(self.images.shape[1:]), tuple(other.images.shape[1:])
        if ours != theirs:
            raise InputError(
                field, ours, f"images must be [channels, height, width] = {theirs} like the source's", "set its `size`"
            )
        if self.labels is not None and self.classes != other.classes:
            raise InputError(field, list(self.classes), f"classes must be the source's {list(other.classes)}", "rename")


def load_images(config: ImagesConfig, field: str) -> ImageSet:
    """Read what `config` describes; errors name `field`."""
    found = _LOADERS[config.kind](config, field)
    if len(found) == 0:
        raise InputError(f"{field}.root", config.root, "holds no images", "point it to a folder that does")
    if config.limit is not None:
        found = found.subset(slice(config.start, config.start + config.limit))
    elif config.start:
        found = found.subset(slice(config.start, None))
    if len(found) == 0:
        raise InputError(f"{field}.start", config.start, "leaves no images", "lower it")
    return found


def _load_digits(config: ImagesConfig, field: str) -> ImageSet:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    return ImageSet(images, torch.from_numpy(digits.target.astype(np.int64)), tuple("0123456789"))


def _load_idx(config: ImagesConfig, field: str) -> ImageSet:
    root = _existing(config, field)
    images, labels = (_read_idx(_find_idx(root, name, field)) for name in _IDX_FILES[config.split])
    classes = config.classes or tuple(str(label) for label in range(int(labels.max()) + 1))
    return _labelled(torch.from_numpy(images).unsqueeze(1), labels, classes, field)


def _find_idx(root: Path, name: str, field: str) -> Path:
    for folder in [root, root / "FashionMNIST" / "raw", root / "MNIST" / "raw"]:
        for path in [folder / name, folder / f"{name}.gz"]:
            if path.is_file():
                return path
    raise InputError(f"{field}.root", root, f"holds no {name}[.gz]", "point it to a folder with the IDX files")


def _read_idx(path: Path) -> np.ndarray:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as err:
        raise InputError(str(path), path.stat().st_size, f"cannot be read ({err})", "download it again") from err
    if data[:3] != b"\x00\x00\x08" or len(data) < 4 or len(data) < 4 + 4 * data[3]:
        raise InputError(str(path), data[:4].hex(), "is not an IDX file of unsigned bytes", "download it again")
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    if len(data) - 4 - 4 * data[3] != np.prod(shape):
        raise InputError(
            str(path), f"{len(data)} bytes", f"is cut short: {shape.tolist()} expected", "download it again"
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape).copy()


def _load_npz(config: ImagesConfig, field: str) -> ImageSet:
    path = _existing(config, field)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as err:
        raise InputError(
            f"{field}.root", path, f"is not an npz file of plain arrays ({err})", "write it again"
        ) from err
    if "images" not in arrays:
        raise InputError(
            f"{field}.root", path, f"holds {sorted(arrays)}, not `images`", "save the images under that name"
        )
    images = arrays["images"]
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[1] in (1, 3))):
        rule = "`images` must be uint8 [n, h, w] or [n, c, h, w] with 1 or 3 channels"
        raise InputError(f"{field}.root", f"{images.dtype} {list(images.shape)}", rule, "convert them")
    tensor = torch.from_numpy(images if images.ndim == 4 else images[:, None])
    if "labels" not in arrays:
        return ImageSet(tensor)
    labels = arrays["labels"]
    largest = int(labels.max(initial=0)) if labels.dtype.kind in "iu" else 0  # of words there is no largest
    classes = config.classes or tuple(str(name) for name in arrays.get("classes", range(largest + 1)))
    return _labelled(tensor, labels, classes, field)


def _load_image_folder(config: ImagesConfig, field: str) -> ImageSet:
    root = _existing(config, field)
    if not root.is_dir():
        raise InputError(f"{field}.root", root, "must be a folder", "name the folder that holds the images")
    folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = config.classes or tuple(folders)
    unknown = [name for name in folders if name not in classes]
    if unknown:
        raise InputError(
            f"{field}.root", unknown[0], f"is not one of the classes {list(classes)}", "rename that folder"
        )
    paths = sorted(path for path in root.rglob("[!.]*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        return ImageSet(torch.empty(0, 1, 1, 1, dtype=torch.uint8))
    images = torch.stack(_same_size([_decode(path, config) for path in paths], paths, field))
    if not folders:
        return ImageSet(images)
    stray = [path for path in paths if path.parent == root]
    if stray:
        raise InputError(f"{field}.root", stray[0].name, "lies beside class folders", "move it into its class's folder")
    labels = np.array([classes.index(path.relative_to(root).parts[0]) for path in paths])
    return _labelled(images, labels, classes, field)


def _decode(path: Path, config: ImagesConfig) -> Tensor:
    from PIL import Image, ImageOps, UnidentifiedImageError
    from torchvision.transforms.v2 import functional as F

    try:
        with Image.open(path) as image:
            decoded = F.pil_to_tensor(ImageOps.exif_transpose(image).convert("L" if config.channels == 1 else "RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as err:
        raise InputError(str(path), path.stat().st_size, "is not a readable image", "mend or remove it") from err
    if config.size is None:
        return decoded
    height, width = config.size
    scale = max(height / decoded.shape[1], width / decoded.shape[2])  # cover the size, then crop: nothing is stretched
    covering = [max(height, round(decoded.shape[1] * scale)), max(width, round(decoded.shape[2] * scale))]
    return F.center_crop(F.resize(decoded, covering, antialias=True), [height, width])


def _same_size(images: list[Tensor], paths: list[Path], field: str) -> list[Tensor]:
    for image, path in zip(images, paths, strict=True):
        if image.shape != images[0].shape:
            rule = f"{path.name} differs in size from {paths[0].name} {list(images[0].shape[1:])}"
            raise InputError(f"{field}.size", list(image.shape[1:]), rule, "set `size: [height, width]`")
    return images


def _labelled(images: Tensor, labels: np.ndarray, classes: tuple[str, ...], field: str) -> ImageSet:
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        rule = f"`labels` must be integers of shape [{len(images)}]"
        raise InputError(f"{field}.labels", f"{labels.dtype} {list(labels.shape)}", rule, "give each image one label")
    outside = labels[(labels < 0) | (labels >= len(classes))]
    if len(outside):
        rule = f"labels must lie in [0, {len(classes)}), the classes {list(classes)}"
        raise InputError(f"{field}.labels", int(outside[0]), rule, "correct the label or list all `classes`")
    return ImageSet(images, torch.from_numpy(labels.astype(np.int64)), classes)


def _existing(config: ImagesConfig, field: str) -> Path:
    root = Path(config.root or "").expanduser()
    if config.root is None or not root.exists():
        raise InputError(f"{field}.root", config.root, "does not exist", "correct the path")
    return root


_LOADERS = {"digits": _load_digits, "idx": _load_idx, "image_folder": _load_image_folder, "npz": _load_npz}
