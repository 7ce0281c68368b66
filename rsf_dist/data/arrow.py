"""Batches as Arrow tables: how rows travel, in Parquet shards and Ray Datasets.

A tensor of shape [n] becomes a plain column, one of shape [n, ...] a fixed-shape tensor column (Arrow's canonical
extension type, readable without rsf_dist or Ray).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rsf_dist.data.batch import Batch


def to_table(batch: Mapping[str, Tensor]) -> pa.Table:
    """Convert a batch to an Arrow table, tensors of two and more dimensions as fixed-shape tensor columns."""
    columns = {}
    for name, column in batch.items():
        array = np.ascontiguousarray(column.detach().cpu().numpy())
        if array.ndim == 1:
            columns[name] = pa.array(array)
        else:
            kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(array.dtype), array.shape[1:])
            storage = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), int(np.prod(array.shape[1:])))
            columns[name] = pa.ExtensionArray.from_storage(kind, storage)
    return pa.table(columns)


def from_table(table: pa.Table) -> Batch:
    """Convert an Arrow table that `to_table` made to a batch."""
    batch = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # zero chunks, or too long for one
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        if isinstance(column.type, pa.FixedShapeTensorType):
            values = column.storage.flatten().to_numpy(zero_copy_only=False)
            array = values.reshape(len(column), *column.type.shape)
        else:
            array = column.to_numpy(zero_copy_only=False)
        batch[name] = torch.from_numpy(array.copy())  # Arrow's memory is read-only, torch's is not
    return batch
