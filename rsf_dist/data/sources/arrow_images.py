"""Images in a column of an Arrow table: the bytes of image files, or tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from rsf_dist.config.images import ImagesKind
from rsf_dist.data.decoding import Brightest, Header, header_of
from rsf_dist.data.resizing import with_channels
from rsf_dist.data.sources.columns import brought_to_size, decoded
from rsf_dist.errors import InputError

_FORMS = "the bytes of image files, or uint8 tensors [channels, height, width]"


def require_images(field: pa.Field, where: str) -> None:
    """Raise InputError unless a column's type can hold images.

    Args:
        field: the column's name and type.
        where: the table, for errors.
    """
    kind = field.type
    if _is_binary(kind) or isinstance(kind, pa.FixedShapeTensorType) or (_is_list(kind) and _is_list(kind.value_type)):
        return
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type):
        return
    remedy = f"write {_FORMS}, or name another column as `image_column`"
    raise InputError("image_column", field.name, f"is {kind} in {where}, not {_FORMS}", remedy)


def image_in(cell: pa.Scalar, config: ImagesKind, place: str, seen: list[Brightest] | None = None) -> Tensor:
    """Return the image in a cell of a column that `require_images` lets pass, with the channels and size of `config`.

    Args:
        cell: bytes, a struct of bytes and path, or a tensor.
        config: says channels and size.
        place: names the row, for errors.
        seen: the brightest pixel is added to it if the cell holds a file with 16 bits a channel.

    Raises:
        InputError: the cell is empty, or holds no image.
    """
    cell = _filled(cell, place)
    if _is_binary(cell.type):
        return decoded(Path(place), config, place, cell.as_py(), seen)
    return tensor_image(_array(cell, place), config, place)


def header_in(cell: pa.Scalar, place: str) -> Header:
    """Return what the image in a cell tells before it is decoded. Raises InputError, which names the place."""
    cell = _filled(cell, place)
    if _is_binary(cell.type):
        try:
            return header_of(Path(place), cell.as_py())
        except InputError as err:
            raise InputError(place, err.value, err.rule, err.remedy, absolute=True) from err
    channels, height, width = (1, *_array(cell, place).shape)[-3:]
    return Header(height, width, "RGB" if channels == 3 else "L")


def _filled(cell: pa.Scalar, place: str) -> pa.Scalar:
    """Return a cell, of a struct its bytes. Raises InputError where it is empty."""
    if pa.types.is_struct(cell.type) and cell.is_valid:
        cell = _bytes_of(cell, place)
    if not cell.is_valid:
        raise InputError(place, "(empty)", "has no image", "fill it in, or remove the row", absolute=True)
    return cell


def _bytes_of(cell: pa.StructScalar, place: str) -> pa.Scalar:
    path = cell.as_py().get("path")
    if not cell["bytes"].is_valid and path:
        rule, remedy = "is a path without the image's bytes", "write the bytes into the table"
        raise InputError(place, path, rule, remedy, absolute=True)
    return cell["bytes"]


def tensor_image(array: np.ndarray, config: ImagesKind, place: str) -> Tensor:
    """Return an array as an image, with the channels and size of `config`. Raises InputError, which names the place.

    Args:
        array: integers from 0 to 255, of shape [1 or 3, height, width] or [height, width].
        config: says channels and size.
        place: names the row, for errors.
    """
    pixels = array[None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        remedy = "put the channels first" if pixels.shape[-1] in (1, 3) else "write it in that shape"
        rule = "an image must be [channels, height, width] with 1 or 3 channels, or [height, width]"
        raise InputError(place, list(array.shape), rule, remedy, absolute=True)
    if not pixels.size:
        raise InputError(
            place, list(array.shape), "has no pixels", "write the image again, or remove it", absolute=True
        )
    if array.dtype != np.uint8 and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255):
        raise InputError(place, array.dtype, "pixels must be whole numbers from 0 to 255", "scale them", absolute=True)
    image = torch.from_numpy(pixels.astype(np.uint8))  # a copy: Arrow's memory is read-only
    return brought_to_size(with_channels(image, config.channels), config)


def _array(cell: pa.Scalar, place: str) -> np.ndarray:
    """Return a cell's tensor. Raises InputError if lists within it differ in length, or leave numbers out."""
    if isinstance(cell.type, pa.FixedShapeTensorType):
        array = cell.value.values.to_numpy(zero_copy_only=False).reshape(cell.type.shape)
        return array if cell.type.permutation is None else array.transpose(cell.type.permutation)
    values: Any = cell.values
    shape = [len(values)]
    while _is_list(values.type):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            rule = "lists of an image must have one length each"
            raise InputError(place, f"lengths {lengths}", rule, "write the image again", absolute=True)
        shape.append(lengths[0])
        values = values.flatten()
    if values.null_count:
        raise InputError(place, "(empty)", "has pixels without a number", "write the image again", absolute=True)
    return values.to_numpy(zero_copy_only=False).reshape(shape)


def _is_binary(kind: pa.DataType) -> bool:
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(check(kind) for check in binary)


def _is_list(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
