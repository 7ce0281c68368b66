"""The sources of image sets, one file a format."""

from rsf_dist.data.sources import digits, idx, image_folder, npz, parquet, table, torchvision_dataset
from rsf_dist.data.sources.base import Listing, list_images

__all__ = [
    "Listing",
    "digits",
    "idx",
    "image_folder",
    "list_images",
    "npz",
    "parquet",
    "table",
    "torchvision_dataset",
]
