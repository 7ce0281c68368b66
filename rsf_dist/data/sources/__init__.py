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
from rsf_dist.data.sources.base import Listing, PassedOver, list_images, list_unlabelled

__all__ = [
    "Listing",
    "PassedOver",
    "coco",
    "digits",
    "idx",
    "image_folder",
    "list_images",
    "list_unlabelled",
    "mask_folder",
    "npz",
    "parquet",
    "table",
    "torchvision_dataset",
    "voc",
    "yolo",
]
