"""Source `torchvision`: a data set of torchvision.datasets with one class an image."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from rsf_dist.config.images import TorchvisionDatasetConfig
from rsf_dist.data.batch import Batch
from rsf_dist.data.sources.arrow_images import tensor_image
from rsf_dist.data.sources.base import Listing, existing, list_images, list_unlabelled, numbers
from rsf_dist.data.sources.columns import filled, number_labels
from rsf_dist.data.unreadable import out_of_memory
from rsf_dist.errors import InputError

_RESERVED = {"self", "root", "download", "transform", "target_transform", "transforms", "loader", "is_valid_file"}
_UNPICKLING = {"LSUN", "LSUNClass"}  # they unpickle a file that nobody verified
_BASES = {"VisionDataset", "DatasetFolder"}
_LISTED_LABELS = ("targets", "labels", "_labels", "y")
_GREY = ("1", "L", "LA")


@dataclass(frozen=True)
class _Items:
    """A data set whose images are decoded when they are read.

    Args:
        dataset: gives pairs of an image and a class's number.
        labels: the numbers that were listed. None means that labels are not looked at.
        config: says channels and size.
    """

    dataset: Any
    labels: Tensor | None
    config: TorchvisionDatasetConfig

    def __call__(self, positions: Sequence[int]) -> Batch:
        names = [f"{self.config.name} image {position}" for position in positions]
        images = enumerate(map(self._read, positions, names))
        return {"image": filled(images, len(names), names.__getitem__, "root")}

    def _read(self, position: int, name: str) -> Tensor:
        image, given = _pair(self.dataset, position, name)
        if self.labels is not None and (label := _number(given, name)) != self.labels[position]:
            rule = f"has another class than the {self.labels[position]} that was listed"
            raise InputError(name, label, rule, "choose `options` that give the class of an image", absolute=True)
        return tensor_image(_pixels(image, self.config.channels, name), self.config, name)


@list_images.register
def _(config: TorchvisionDatasetConfig) -> Listing:
    return _listing(_opened(config), config)


@list_unlabelled.register
def _(config: TorchvisionDatasetConfig) -> Listing:
    dataset = _opened(config)
    try:
        groups = _listing(dataset, config).labels
    except InputError:  # of a label, which does not matter here; images are refused when they are read
        groups = None
    return Listing(numbers(len(dataset)), _Items(dataset, None, config), groups=groups)


def _listing(dataset: Any, config: TorchvisionDatasetConfig) -> Listing:
    ids = numbers(len(dataset))
    labels = _labels(dataset, config.name)
    if labels is None:
        return Listing(ids, _Items(dataset, None, config))
    classes = config.classes or _class_names(dataset)
    checked, classes = number_labels(labels, classes, lambda row: f"{config.name} image {row}")
    return Listing(ids, _Items(dataset, checked, config), checked, classes)


def _opened(config: TorchvisionDatasetConfig) -> Any:
    """Return the data set. Raises InputError where it is not there, or has no such options."""
    make = _class(config.name)
    parameters = _parameters(make)
    arguments = _options(config, parameters) | _split(config, parameters) | _root(config, parameters)
    if "download" in parameters:  # where it is left out, some classes download
        arguments["download"] = config.download
    elif config.download:
        raise InputError("download", True, f"torchvision cannot download {config.name}", "set it to false")
    with _refusals(config):
        dataset = make(**arguments)
        len(dataset)  # some classes look at their options no earlier
    return dataset


def _class(name: str) -> type:
    """Return a class of torchvision.datasets. Raises InputError."""
    from torchvision import datasets

    if name in _UNPICKLING:
        rule = "unpickles files, which can run code"
        raise InputError("name", name, rule, "read its images by another kind, e.g. image_folder")
    classes = [each for each in datasets.__all__ if inspect.isclass(getattr(datasets, each))]
    known = [each for each in classes if each not in _BASES | _UNPICKLING]
    if name not in known:
        close = difflib.get_close_matches(name.lower(), [each.lower() for each in known], n=1)
        meant = [each for each in known if each.lower() in close]
        remedy = f"did you mean {meant[0]}?" if meant else f"choose one of {', '.join(known)}"
        raise InputError("name", name, "is no data set of torchvision.datasets", remedy)
    return getattr(datasets, name)


def _parameters(make: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a class, those among them that it hands to its base by **kwargs."""
    parameters: dict[str, inspect.Parameter] = {}
    for base in make.__mro__:
        if "__init__" not in vars(base):
            continue
        own = inspect.signature(vars(base)["__init__"]).parameters
        parameters = dict(own) | parameters
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in own.values()):
            break
    return {name: each for name, each in parameters.items() if each.kind != each.VAR_KEYWORD}


def _options(config: TorchvisionDatasetConfig, parameters: Mapping[str, object]) -> dict[str, Any]:
    for name, value in config.options.items():
        known = sorted(set(parameters) - _RESERVED)
        if name not in known:
            rule = f"{config.name} has no such option"
            raise InputError(f"options.{name}", value, rule, f"known here: {', '.join(known) or 'none'}")
    return dict(config.options)


def _split(config: TorchvisionDatasetConfig, parameters: Mapping[str, object]) -> dict[str, Any]:
    """Return the argument that says which part of the data set is read. Raises InputError where there is none."""
    if config.split is None:
        return {}
    named = next((name for name in ("split", "image_set") if name in parameters), None)
    if named is not None:
        return {named: config.split}
    if "train" not in parameters:
        raise InputError("split", config.split, f"{config.name} has no splits", "leave it out")
    if config.split not in ("train", "test"):
        raise InputError("split", config.split, f"{config.name} has the splits train and test", "choose one of them")
    return {"train": config.split == "train"}


def _root(config: TorchvisionDatasetConfig, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    if "root" not in parameters:
        return {}
    if config.root is not None:
        return {"root": config.root if config.download else str(existing(config.root))}
    if parameters["root"].default is inspect.Parameter.empty:
        raise InputError("root", "(absent)", f"is required by {config.name}", "name the folder with its files")
    return {}


@contextmanager
def _refusals(config: TorchvisionDatasetConfig) -> Iterator[None]:
    """Turn what a class of torchvision raises about its files or options into InputError."""
    try:
        yield
    except ImportError as err:
        raise InputError("name", config.name, f"needs a package ({err})", "install it where every node runs") from err
    except (TypeError, ValueError) as err:
        rule = f"{config.name} refuses its options ({err})"
        raise InputError("options", config.options | {"split": config.split}, rule, "correct them") from err
    except Exception as err:  # each class has its own errors about files
        remedy = "correct `root`" if config.download else "correct `root`, or set `download: true`"
        raise InputError("root", config.root, f"{config.name} cannot be read there ({err})", remedy) from err


def _labels(dataset: Any, name: str) -> np.ndarray | None:
    """Return the class's number of each image, or None where all are unlabelled: None or -1. Raises InputError."""
    labels = _listed(dataset)
    if labels is None:
        labels = np.array([_label(dataset, row, f"{name} image {row}") for row in range(len(dataset))])
    if all(label is None or label == -1 for label in labels.tolist()):
        return None
    return labels


def _listed(dataset: Any) -> np.ndarray | None:
    """Return the labels that a data set lists, without decoding an image, or None."""
    columns = [getattr(dataset, name) for name in _LISTED_LABELS if hasattr(dataset, name)]
    pairs = getattr(dataset, "_samples", ())
    if pairs and all(len(pair) == 2 for pair in pairs):
        columns.append([label for _, label in pairs])
    for column in columns:
        if isinstance(column, (list, tuple)) and not all(isinstance(label, (int, np.integer)) for label in column):
            continue
        labels = np.asarray(column)
        if labels.dtype.kind in "iu" and labels.shape == (len(dataset),):
            return labels
    return None


def _label(dataset: Any, position: int, name: str) -> int | None:
    return _number(_pair(dataset, position, name)[1], name)


def _pair(dataset: Any, position: int, name: str) -> tuple[Any, Any]:
    """Return an image and what stands beside it. Raises InputError where the data set gives something else."""
    try:
        item = dataset[position]
    except Exception as err:  # of the disk, the file or the decoder: the file is at fault for each
        if out_of_memory(err):
            raise MemoryError(str(err)) from err
        raise InputError(name, "(a file)", f"cannot be read ({err})", "download it again", absolute=True) from err
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise _no_class(name, type(item).__name__)
    return item[0], item[1]


def _number(label: Any, name: str) -> int | None:
    """Return a class's number, or None where there is none. Raises InputError where the label is something else."""
    if isinstance(label, Tensor) and label.ndim == 0:
        label = label.item()
    if label is not None and not isinstance(label, (int, np.integer)):
        raise _no_class(name, f"{type(label).__name__} beside the image")
    return None if label is None else int(label)


def _no_class(name: str, found: str) -> InputError:
    rule = "must be an image and its class's number"
    remedy = "choose a data set for classification, or other `options`"
    return InputError(name, found, rule, remedy, absolute=True)


def _pixels(image: Any, channels: int | None, name: str) -> np.ndarray:
    """Return an image's pixels [channels, height, width]; those of a file are grey where the file is."""
    if not isinstance(image, Image.Image):
        return np.asarray(image)
    if image.mode.startswith(("I", "F")):
        rule = "has pixels that are not 8 bits, whose scale is not known"
        raise InputError(name, f"mode {image.mode}", rule, "convert the file", absolute=True)
    wanted = channels or (1 if image.mode in _GREY else 3)
    pixels = np.asarray(image.convert("L" if wanted == 1 else "RGB"))
    return pixels[None] if wanted == 1 else pixels.transpose(2, 0, 1)


def _class_names(dataset: Any) -> tuple[str, ...]:
    """Return the names that a data set gives its classes, or none. Names that are there twice get their number."""
    given = getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or ()
    if not isinstance(given, (list, tuple)):
        return ()
    names = [name if isinstance(name, str) else ", ".join(map(str, name)) for name in given]
    return tuple(f"{name} ({row})" if names.count(name) > 1 else name for row, name in enumerate(names))
