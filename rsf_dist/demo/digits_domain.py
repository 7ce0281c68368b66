"""A target domain made of digits that the demo's classifier never sees: turned, scaled, dim, noisy, unevenly mixed.

It is written as image files, like a user's own. The method uses unlabelled/, the evaluation uses test/, and
arm `oracle` trains on oracle/, which is labelled.
"""

from __future__ import annotations

from pathlib import Path

from torchvision.io import write_png

from rsf_dist.builders.shifted_target import make_shifted_images
from rsf_dist.config.images import DigitsConfig
from rsf_dist.config.shifted_images import ParameterShiftConfig, ShiftConfig
from rsf_dist.data.images import ImageSet, load_images
from rsf_dist.runtime.rng import Stage, Streams

SHIFT = ShiftConfig(
    rotation=ParameterShiftConfig(mean=0.6, sd=0.15),
    scale=ParameterShiftConfig(mean=1.3, sd=0.08),
    brightness=ParameterShiftConfig(mean=0.5, sd=0.1),
    translate_x=ParameterShiftConfig(mean=0.15, sd=0.06),
    translate_y=ParameterShiftConfig(mean=-0.1, sd=0.06),
    noise=ParameterShiftConfig(mean=0.1, sd=0.03),
    prior=(3, 1, 1, 2, 1, 2, 4, 1, 1, 2),
)

_SOURCE_END, _TEST_START = 1_000, 1_400  # the source ends before the first; the test starts at the second


def make_domain(
    folder: Path, seed: int = 1, *, num_images: int = 300, num_test: int = 2_000, num_oracle: int = 2_000
) -> None:
    """Write unlabelled/*.png, and test/ and oracle/ with a sub-folder for each digit. Source and test share no scan."""
    digits = load_images(DigitsConfig())
    domain, held_out = digits.subset(slice(_SOURCE_END, _TEST_START)), digits.subset(slice(_TEST_START, None))
    for number, (name, base, count) in enumerate(
        [("unlabelled", domain, num_images), ("oracle", domain, num_oracle), ("test", held_out, num_test)]
    ):
        _write(folder / name, base, count, Streams(seed, Stage.TARGET, chunk=number), labelled=name != "unlabelled")


def _write(folder: Path, base: ImageSet, count: int, streams: Streams, labelled: bool) -> None:
    made = make_shifted_images(base, SHIFT, count, streams)
    for label in range(len(base.classes)) if labelled else ():
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for index, (image, label) in enumerate(zip(made.images, made.require_labels().tolist(), strict=True)):
        parent = folder / str(label) if labelled else folder
        write_png(image, str(parent / f"{index:05d}.png"))
