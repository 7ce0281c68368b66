"""Source `digits`: scikit-learn's 1,797 scans."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rsf_dist.config.images import DigitsConfig
from rsf_dist.data.sources.base import InMemory, Listing, list_images, list_unlabelled, numbers, shortened
from rsf_dist.errors import InputError

_CLASSES = tuple("0123456789")


@list_images.register
def _(config: DigitsConfig) -> Listing:
    classes = config.classes or _CLASSES
    if len(classes) < len(_CLASSES):
        rule = "must name all ten digits, in the order 0, 1, …, 9"
        raise InputError("classes", shortened(classes), rule, "list ten names, or leave `classes` out")
    return replace(_scans(config), classes=classes)


@list_unlabelled.register
def _(config: DigitsConfig) -> Listing:
    listing = _scans(config)
    return replace(listing, labels=None, groups=listing.labels)


def _scans(config: DigitsConfig) -> Listing:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return Listing(numbers(len(labels)), InMemory(images, config), labels)
