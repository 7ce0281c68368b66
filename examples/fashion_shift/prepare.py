"""Make this example's target place from Fashion-MNIST: garments turned, small, dim, shifted, noisy, unevenly mixed.

Reads the IDX files (Debian's dataset-fashion-mnist in /usr/share/datasets/fashion-mnist, or torchvision's layout; with
--download, torchvision fetches them) and writes three npz files: target.npz, without labels, is all that the method is
given; test.npz judges it; oracle.npz, labelled, is only for scale. Source, target and test share no photograph.

    python examples/fashion_shift/prepare.py [--root FOLDER] [--output FOLDER] [--download]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.distributions import Normal

from rsf_dist import AugmentProposal, ImageSet, InputError
from rsf_dist.config import ImagesConfig
from rsf_dist.images import load_images
from rsf_dist.rng import Stage, Streams

DEBIAN = "/usr/share/datasets/fashion-mnist"
SHIFT = {
    "rotation": Normal(0.6, 0.15),
    "scale": Normal(0.75, 0.08),
    "brightness": Normal(0.5, 0.1),
    "translate_x": Normal(0.15, 0.08),
    "translate_y": Normal(-0.1, 0.08),
    "noise": Normal(0.1, 0.03),
}
PRIOR = (3, 1, 1, 2, 1, 2, 4, 1, 1, 2)
SOURCE_END = 30_000
"""The configuration takes the source from the first 30,000 training photographs; the place is made from the others."""


def prepare(root: str, output: Path) -> None:
    """Write the three files into `output`. Raises InputError where `root` holds no IDX files."""
    rest = load_images(ImagesConfig(kind="idx", root=root, split="train", start=SOURCE_END), "root")
    test = load_images(ImagesConfig(kind="idx", root=root, split="test"), "root")
    output.mkdir(parents=True, exist_ok=True)
    worlds = [("target", rest, 2_000), ("oracle", rest, 5_000), ("test", test, 10_000)]
    for number, (name, photographs, count) in enumerate(worlds):
        images = _shifted(photographs, count, Streams(0, Stage.PLACE, chunk=number))
        arrays = {"images": images.images.numpy()}
        if name != "target":
            arrays["labels"] = images.require_labels(name).numpy()
        np.savez_compressed(output / f"{name}.npz", **arrays)


def _shifted(photographs: ImageSet, count: int, streams: Streams) -> ImageSet:
    rows = AugmentProposal(photographs, SHIFT, torch.tensor(PRIOR, dtype=torch.float64)).sample(count, streams)
    return ImageSet(rows["image"], rows["label"], photographs.classes)


def _download(root: str) -> None:
    from torchvision.datasets import FashionMNIST

    for train in (True, False):
        FashionMNIST(root, train=train, download=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=DEBIAN, help="where the IDX files are")
    parser.add_argument("--output", type=Path, default=Path("runs/fashion_place"), help="where the npz files go")
    parser.add_argument("--download", action="store_true", help="fetch the IDX files into --root first")
    arguments = parser.parse_args()
    if arguments.download:
        _download(arguments.root)
    try:
        prepare(arguments.root, arguments.output)
    except InputError as err:
        parser.exit(err.exit_code, f"error: {err}\n")
    print(f"wrote {', '.join(str(arguments.output / name) for name in ('target.npz', 'test.npz', 'oracle.npz'))}")
