"""The sizes, networks and budgets of a first configuration, chosen from the images by stated rules."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsf_dist.config import size_rules
from rsf_dist.config.size_rules import Shape
from rsf_dist.starting.found_images import FoundImages

PUBLISHED = "resnet18"
"""The network of photographs, where this machine holds its published weights."""

_STEP = 32  # pixels; sizes that are chosen are multiples
_LEAST_SIDE = 8
_PROPOSAL_BYTES = 2**28  # that the proposals which a ratio is fitted on may take
_THUMBNAIL_PARAMETERS: dict[str, dict[str, list[float]]] = {
    "rotation": {"uniform": [-0.4, 0.4]},
    "scale": {"uniform": [0.7, 1.3]},
    "translate_x": {"uniform": [-0.25, 0.25]},
    "translate_y": {"uniform": [-0.25, 0.25]},
    "brightness": {"uniform": [0.3, 1.3]},
    "noise": {"uniform": [0.0, 0.2]},
}
"""Broad, and yet so that a digit stays the digit that it is."""


@dataclass(frozen=True)
class Preset:
    """The effort of a first configuration.

    Args:
        side: pixels of photographs, of their shorter side.
        most_accepted: rows to train on.
        ratio_steps: optimizer steps of the ratio.
        rounds: rounds of sampling.
        epochs: passes over the rows in training.
    """

    side: int
    most_accepted: int
    ratio_steps: int
    rounds: int
    epochs: int


PRESETS = {"quick": Preset(96, 500, 150, 2, 8), "thorough": Preset(224, 5000, 400, 5, 20)}
"""`quick` takes minutes on a laptop and shows whether everything fits; `thorough` is for results."""


@dataclass(frozen=True)
class Choices:
    """The values that a first configuration names.

    Args:
        shape: channels, height and width that all images are brought to.
        size: what `data.size` is set to. None means that all images have one size already.
        channels: what `data.channels` is set to. None means that the images need none.
        preset: the effort.
        num_source: labelled source images.
    """

    shape: Shape
    size: tuple[int, int] | None
    channels: int | None
    preset: Preset
    num_source: int

    @property
    def parameters(self) -> dict[str, dict[str, list[float]]]:
        """The distributions of the proposal's parameters."""
        return size_rules.PHOTOGRAPH_PARAMETERS if size_rules.is_photograph(self.shape) else _THUMBNAIL_PARAMETERS

    @property
    def num_accepted(self) -> int:
        """As many rows as there are source images, rounded up to hundreds, within the preset."""
        return min(self.preset.most_accepted, max(200, 100 * math.ceil(self.num_source / 100)))

    @property
    def num_proposals(self) -> int:
        """Proposals that the ratio is fitted on."""
        fitting = _PROPOSAL_BYTES // math.prod(self.shape)
        return max(200, min(8 * self.preset.most_accepted, 8000, fitting // 100 * 100))

    def fit(self, num_rows: int) -> dict[str, int]:
        """Return the steps and the batch size of a training on so many rows."""
        batch = 64 if num_rows >= 256 else 32
        steps = math.ceil(self.preset.epochs * num_rows / batch)
        return {"steps": min(4000, max(100, 10 * math.ceil(steps / 10))), "batch_size": batch}

    @property
    def model(self) -> dict[str, Any]:
        """The network to fine-tune: with published weights for photographs if they are here, else a small one."""
        if not size_rules.is_photograph(self.shape):
            return {"name": "small_cnn", "width": 16}
        if published_weights_are_here():
            return {"name": PUBLISHED, "weights": "IMAGENET1K_V1"}
        return {"name": "small_cnn", "width": 32, "stride": size_rules.small_cnn_stride(self.shape)}


def choose(sets: Sequence[FoundImages], preset: Preset) -> Choices:
    """Choose for these image sets, the source first."""
    sizes = {size for images in sets for size in images.sizes}
    alike = len(sizes) == 1 and all(images.complete or not images.are_files for images in sets)
    height, width = _common_size(sets, preset.side)
    grey = [images.grey for images in sets]
    channels = 1 if all(grey) else 3
    fit = not any(grey) or (all(grey) and not any(images.are_files for images in sets))  # where nothing is said
    return Choices(
        shape=(channels, height, width),
        size=None if alike and sizes == {(height, width)} else (height, width),
        channels=None if fit else channels,
        preset=preset,
        num_source=len(sets[0]),
    )


def _common_size(sets: Sequence[FoundImages], side: int) -> tuple[int, int]:
    """Return the height and width to bring all images to: their own if they have one and it is not large.

    Otherwise the shorter side is `side`, or less where half of a set's images are smaller.
    """
    sizes = {size for images in sets for size in images.sizes}
    if len(sizes) == 1:
        ((height, width),) = sizes
        factor = side / min(height, width)
        return (height, width) if factor >= 1 else (round(height * factor), round(width * factor))
    shortest = min(_median([min(size) for size in images.sizes.elements()]) for images in sets)
    shorter = min(side, max(_LEAST_SIDE, shortest if shortest < _STEP else shortest // _STEP * _STEP))
    return shorter, shorter


def _median(numbers: list[int]) -> int:
    return sorted(numbers)[len(numbers) // 2]


def published_weights_are_here() -> bool:
    """Return True if torchvision's weights of PUBLISHED have been downloaded on this machine."""
    import torch.hub
    from torchvision.models import get_model_weights

    url = get_model_weights(PUBLISHED)["IMAGENET1K_V1"].url
    return os.path.isfile(Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name)  # False in a locked folder
