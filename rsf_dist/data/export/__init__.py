"""Image sets written as files that other tools read, block by block, one file of this package a kind of format.

Images are PNG files, so that the source of the same kind reads back what was written.
"""

from rsf_dist.data.export.annotated import (
    CocoWriter,
    MaskWriter,
    VocWriter,
    YoloWriter,
    write_coco,
    write_masks,
    write_voc,
    write_yolo,
)
from rsf_dist.data.export.base import Writer
from rsf_dist.data.export.class_folders import FolderWriter
from rsf_dist.data.export.tables import HuggingFaceWriter, ParquetWriter

WRITERS: dict[str, type[Writer]] = {
    "folder": FolderWriter,
    "coco": CocoWriter,
    "voc": VocWriter,
    "yolo": YoloWriter,
    "masks": MaskWriter,
    "parquet": ParquetWriter,
    "huggingface": HuggingFaceWriter,
}
"""The writer of each format."""

__all__ = [
    "WRITERS",
    "CocoWriter",
    "FolderWriter",
    "HuggingFaceWriter",
    "MaskWriter",
    "ParquetWriter",
    "VocWriter",
    "Writer",
    "YoloWriter",
    "write_coco",
    "write_masks",
    "write_voc",
    "write_yolo",
]
