"""Image sets from Ray Datasets: whatever Ray Data can read, for users of the Python interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from ray.data import Dataset
from torch import Tensor

from rsf_dist.cluster.ray_workarounds import preserve_order, unwrapped
from rsf_dist.config.images import Channels, ImagesKind, Resize
from rsf_dist.config.messages import first_error
from rsf_dist.data.images import ImageSet
from rsf_dist.data.sources.arrow_images import tensor_image
from rsf_dist.data.sources.base import numbers
from rsf_dist.data.sources.columns import decoded, find_column, read_labels, require_column, stacked
from rsf_dist.errors import InputError

_THIS = "the dataset"


def images_from_dataset(
    dataset: Dataset,
    *,
    image_column: str = "image",
    label_column: str | None = None,
    classes: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    resize: Resize = "cover",
    channels: Channels | None = None,
) -> ImageSet:
    """Return the images of a Ray Dataset, in its order, with labels where there are some.

    The rows are computed on the cluster. Images are decoded in this process, one batch of rows at a time.

    Args:
        dataset: each row holds an image: the bytes of an image file, alone or as Hugging Face's dict of `bytes` and
            `path`, or uint8 [channels, height, width] or [height, width].
        image_column: the images' column.
        label_column: the labels' column: words, which are classes in alphabetical order or in that of `classes`, or
            whole numbers. None means `label` if there is such a column. "" means that no labels are read.
        classes: the classes' names, in the order of their labels. Empty means the words, or the numbers.
        size: height and width in pixels that images are brought to. None requires images of one size.
        resize: `cover`, `fit` or `stretch`, as in a configuration.
        channels: 1 (grey) or 3 (RGB). None means those of the tensors, and 3 of files.

    Raises:
        InputError: names the argument, or the row, counted from 0, that is wrong.
        ClusterFailure: a process or a machine died.
    """
    config = _checked(kind="dataset", classes=tuple(classes), size=size, resize=resize, channels=channels)
    with unwrapped():
        columns = dataset.columns() or []
        require_column(image_column, (image_column,), columns, "image_column", _THIS)
        labels_in = (
            None if label_column == "" else find_column(label_column, ("label",), columns, "label_column", _THIS)
        )
        images, labels = _read(dataset, image_column, labels_in, config)
    if not images:
        raise InputError("dataset", "0 rows", "holds no images", "give one that does")
    ids = numbers(len(images))
    stack = stacked(images, [_place(row) for row in range(len(images))])
    if labels_in is None:
        return ImageSet(stack, ids=tuple(ids))
    return ImageSet(stack, *read_labels(labels, config.classes, _place), ids=tuple(ids))


def _checked(**arguments: Any) -> ImagesKind:
    try:
        return ImagesKind(**arguments)
    except ValidationError as err:
        raise first_error(err, ImagesKind) from None


def _place(row: int) -> str:
    return f"dataset row {row} (the first is 0)"


def _read(
    dataset: Dataset, image_column: str, label_column: str | None, config: ImagesKind
) -> tuple[list[Tensor], list[object]]:
    images: list[Tensor] = []
    labels: list[object] = []
    for image, label in _cells(dataset, image_column, label_column):
        images.append(_image(image, config, _place(len(images))))
        labels.append(label.item() if isinstance(label, np.generic) else label)
    return images, labels


def _cells(dataset: Dataset, image_column: str, label_column: str | None) -> Iterator[tuple[Any, Any]]:
    names = list(dict.fromkeys(name for name in (image_column, label_column) if name is not None))
    rows = preserve_order(dataset.select_columns(names))
    for row in rows.iter_rows():
        yield row[image_column], row[label_column] if label_column is not None else None


def _image(cell: Any, config: ImagesKind, place: str) -> Tensor:
    """Return a cell's image. Raises InputError, which names the row."""
    if isinstance(cell, dict):  # as Hugging Face writes images
        cell = cell.get("bytes")
    if cell is None:
        raise InputError(place, "(empty)", "has no image", "fill it in, or filter the row out", absolute=True)
    if isinstance(cell, bytes):
        return decoded(Path(place), config, place, cell)
    if isinstance(cell, np.ndarray):
        return tensor_image(cell, config, place)
    remedy = "give bytes, or uint8 [channels, height, width]"
    raise InputError(place, type(cell).__name__, "is no image", remedy, absolute=True)
