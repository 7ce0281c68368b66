"""The sources of image sets, one file a format."""

from rsf_dist.data.sources import (
    coco,
    digits,
    idx,
    image_folder,
    mask_folder,
    npz,
    parquet,
    table,
    torchvision_dataset,
    voc,
    yolo,
)
from rsf_dist.data.sources.base import Listing, list_images

__all__ = [
    "Listing",
    "coco",
    "digits",
    "idx",
    "image_folder",
    "list_images",
    "mask_folder",
    "npz",
    "parquet",
    "table",
    "torchvision_dataset",
    "voc",
    "yolo",
]
