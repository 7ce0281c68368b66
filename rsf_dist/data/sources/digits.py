"""Source `digits`: scikit-learn's 1,797 scans."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from rsf_dist.config.images import DigitsConfig
from rsf_dist.data.sources.base import Listing, list_images, numbers, read_rows


@list_images.register
def _(config: DigitsConfig) -> Listing:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    classes = tuple("0123456789")
    return Listing(numbers(len(labels)), partial(read_rows, images, config), labels, config.classes or classes)
