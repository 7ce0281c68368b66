"""A target place made of digits that the demo's classifier never sees: turned, scaled, dim, noisy, unevenly mixed.

Written as image files, as somebody's own would be: unlabelled/ is what the method is given, test/ judges it, and
oracle/ (labelled) is only for scale.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.distributions import Normal
from torchvision.io import write_png

from rsf_dist.config import ImagesConfig
from rsf_dist.images import ImageSet, load_images
from rsf_dist.proposals import AugmentProposal
from rsf_dist.rng import Stage, Streams

SHIFT = {
    "rotation": Normal(0.6, 0.15),
    "scale": Normal(1.3, 0.08),
    "brightness": Normal(0.5, 0.1),
    "translate_x": Normal(0.15, 0.06),
    "translate_y": Normal(-0.1, 0.06),
    "noise": Normal(0.1, 0.03),
}
PRIOR = (3, 1, 1, 2, 1, 2, 4, 1, 1, 2)

_SOURCE_END, _TEST_START = 1_000, 1_400  # digits before the first are the source's; from the second on, the test's


def make_place(
    folder: Path, seed: int = 1, *, num_unlabelled: int = 300, num_test: int = 2_000, num_oracle: int = 2_000
) -> None:
    """Write unlabelled/*.png, and test/ and oracle/ with a sub-folder for each digit; source and test share no scan."""
    digits = load_images(ImagesConfig(kind="digits"), "digits")
    near, far = digits.subset(slice(_SOURCE_END, _TEST_START)), digits.subset(slice(_TEST_START, None))
    for number, (name, base, count) in enumerate(
        [("unlabelled", near, num_unlabelled), ("oracle", near, num_oracle), ("test", far, num_test)]
    ):
        _write(folder / name, base, count, Streams(seed, Stage.PLACE, chunk=number), labelled=name != "unlabelled")


def _write(folder: Path, base: ImageSet, count: int, streams: Streams, labelled: bool) -> None:
    rows = AugmentProposal(base, SHIFT, torch.tensor(PRIOR, dtype=torch.float64)).sample(count, streams)
    for label in range(len(base.classes)) if labelled else ():
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for index, (image, label) in enumerate(zip(rows["image"], rows["label"].tolist(), strict=True)):
        within = folder / str(label) if labelled else folder
        write_png(image, str(within / f"{index:05d}.png"))
