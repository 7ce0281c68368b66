"""Image sets as tables that Hugging Face's `datasets` reads: Parquet, and image folders with metadata.jsonl.

The columns are image, label (or objects, or mask), and what is known about each image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from rsf_dist.data.annotations import IGNORED
from rsf_dist.data.export.annotated import boxes_of
from rsf_dist.data.export.base import Writer, file_names, png_bytes, write_png
from rsf_dist.data.images import ImageSet

_ALL = frozenset({"label", "boxes", "mask"})
_PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_OBJECTS = pa.struct(
    {"bbox": pa.list_(pa.list_(pa.float32())), "category": pa.list_(pa.string()), "iscrowd": pa.list_(pa.int64())}
)
_ROWS = "rows.parquet"
_DTYPES = {"float": "float32", "double": "float64"}  # Arrow's name -> Hugging Face's


class ParquetWriter(Writer):
    """A writer of rows.parquet, a row group for each block, with the images as the bytes of PNG files.

    The schema says in Hugging Face's words what the columns are: images, and class labels with their names.
    """

    holds: ClassVar[frozenset[str]] = _ALL
    _file: pq.ParquetWriter | None = None

    def write(self, images: ImageSet, about: pa.Table | None) -> None:
        """Write a row group."""
        table = self._table(images, about)
        if self._file is None:
            self._file = pq.ParquetWriter(self.folder / _ROWS, table.schema)
        self._file.write_table(table)

    def close(self) -> None:
        """Write the file's footer."""
        if self._file is not None:
            self._file.close()

    def _table(self, images: ImageSet, about: pa.Table | None) -> pa.Table:
        names = file_names(images, self.folder)
        columns = {"image": _pictures(images.images, names)}
        if images.labels is not None:
            columns["label"] = pa.array(images.labels.numpy())
        if "boxes" in images.annotations:
            columns["objects"] = pa.array(list(_objects(images)), _OBJECTS)
        if "mask" in images.annotations:
            columns["mask"] = _pictures(images.annotations["mask"][:, None], names)
        if about is not None:
            columns |= {name: about[name] for name in about.column_names}
        table = pa.table(columns)
        features = {name: self._feature(name, table.schema.field(name).type) for name in columns}
        known = {name: feature for name, feature in features.items() if feature}
        return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": known}})})

    def _feature(self, name: str, kind: pa.DataType) -> dict[str, Any]:
        """Return a column in Hugging Face's words; an empty one where its type says everything."""
        if kind == _PICTURE:
            return {"_type": "Image"}
        if name == "label":
            return {"_type": "ClassLabel", "names": list(self.classes)}
        return {} if kind == _OBJECTS else {"_type": "Value", "dtype": _DTYPES.get(str(kind), str(kind))}


class HuggingFaceWriter(Writer):
    """A writer of `train/images/`, `train/metadata.jsonl` and a dataset card, as Hugging Face's ImageFolder reads them.

    Labels and categories are the classes' names. Masks lie in `train/masks/`.
    """

    holds: ClassVar[frozenset[str]] = _ALL
    _columns: tuple[str, ...] = ()

    def write(self, images: ImageSet, about: pa.Table | None) -> None:
        """Write the image files of a block, and add to metadata.jsonl."""
        names = file_names(images, self.folder)
        part = self.folder / "train"
        for name, image in zip(names, images.images, strict=True):
            write_png(image, part / "images" / name)
        entries = [{"file_name": f"images/{name}"} for name in names]
        for more in (self._annotations(images, names, part), _plain_rows(about)):
            for entry, values in zip(entries, more, strict=False):
                entry.update(values)
        with (part / "metadata.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        self._columns = tuple(entries[0]) if entries else self._columns

    def _annotations(self, images: ImageSet, names: list[str], part: Path) -> Iterator[dict[str, Any]]:
        """Yield the label, objects and mask of each image, and write the masks."""
        masks, labels = images.annotations.get("mask"), images.labels
        objects = _objects(images) if "boxes" in images.annotations else None
        for position, name in enumerate(names):
            entry: dict[str, Any] = {}
            if labels is not None:
                entry["label"] = images.classes[int(labels[position])]
            if objects is not None:
                entry["objects"] = next(objects)
            if masks is not None:
                write_png(masks[position][None], part / "masks" / name)
                entry["mask_file_name"] = f"masks/{name}"
            yield entry

    def close(self) -> None:
        """Write the dataset card."""
        size = next(limit for limit in _SIZES if self.count < _SIZES[limit])
        header = {"pretty_name": "Accepted rows", "size_categories": [size], "tags": ["rejection-sampling"]}
        lines = [
            self.description or "Images written by rsf_dist.",
            'Load them with `datasets.load_dataset("imagefolder", data_dir="this folder")`.',
            f"Columns: {', '.join(name.removesuffix('file_name').rstrip('_') or 'image' for name in self._columns)}.",
            f"Classes, in the order of their numbers: {', '.join(self.classes)}.",
        ]
        if "mask_file_name" in self._columns:
            lines.append(f"A mask holds a class's number for each pixel, {IGNORED} where the pixel is ignored.")
        head = yaml.safe_dump(header, allow_unicode=True, sort_keys=False)
        (self.folder / "README.md").write_text(f"---\n{head}---\n\n" + "\n\n".join(lines) + "\n", "utf-8")


_SIZES = {"n<1K": 1e3, "1K<n<10K": 1e4, "10K<n<100K": 1e5, "100K<n<1M": 1e6, "n>1M": math.inf}
"""Hugging Face's names of sizes, and the number of images that each is below."""


def _pictures(images: Any, names: list[str]) -> pa.Array:
    rows = [{"bytes": png_bytes(image), "path": name} for image, name in zip(images, names, strict=True)]
    return pa.array(rows, _PICTURE)


def _objects(images: ImageSet) -> Iterator[dict[str, Any]]:
    """Yield the boxes of each image as Hugging Face keeps them: x, y, width, height in pixels, and category."""
    for row in boxes_of(images):
        yield {
            "bbox": [[x0, y0, x1 - x0, y1 - y0] for (x0, y0, x1, y1), _, _ in row],
            "category": [images.classes[box.label] for box in row],
            "iscrowd": [int(box.crowd) for box in row],
        }


def _plain_rows(about: pa.Table | None) -> list[dict[str, Any]]:
    """Return the rows of a table as plain values."""
    rows = [] if about is None else about.to_pylist()
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    """Return a value that JSON knows: null for NaN and infinity; no text, whose column needs a type, for null."""
    if value is None:
        return ""
    return None if isinstance(value, float) and not math.isfinite(value) else value
