"""Make the pool of this example, or count what a run took of it.

    python examples/pool_selection/main.py make [key=value ...]     # writes the file that config.yaml names
    python examples/pool_selection/main.py count RUN ...            # of which look the rows of a run are

A tenth of the pool is made by the numbers of `target.shift` in config.yaml, from photographs of its own. The others
have one of five other looks, in equal numbers. The looks are known here alone: the file has images and labels.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from rsf_dist.builders.shifted_target import make_shifted_images
from rsf_dist.config.images import NpzConfig
from rsf_dist.config.load import load_config
from rsf_dist.config.run import RunConfig
from rsf_dist.config.shifted_images import ShiftConfig
from rsf_dist.data.images import load_images
from rsf_dist.data.sources import list_images
from rsf_dist.errors import InputError, RsfError, located
from rsf_dist.runs.run_folder import seed_folder, stored_config
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.sampling.accepted import stored_rows
from rsf_dist.storage.run_store import RunStore

CONFIG = Path(__file__).parent / "config.yaml"
SIZE, ALIKE, FIRST = 30_000, 0.1, 10_000
"""Images of the pool, the share that looks like the target, and the first photograph of the training split to take."""

OTHER_LOOKS = {
    "as photographed": ShiftConfig(),
    "turned the other way": ShiftConfig(rotation={"mean": -0.6, "sd": 0.2}, scale={"mean": 0.75, "sd": 0.08}),
    "upside down": ShiftConfig(rotation={"mean": 3.0, "sd": 0.2}, brightness={"mean": 0.5, "sd": 0.1}),
    "large": ShiftConfig(scale={"mean": 1.4, "sd": 0.1}, brightness={"mean": 0.8, "sd": 0.1}),
    "dim and noisy": ShiftConfig(brightness={"mean": 0.4, "sd": 0.1}, noise={"mean": 0.2, "sd": 0.04}),
}


def looks(size: int, seed: int = 0) -> np.ndarray:
    """Return the look of each image of the pool, int64 [size]: 0 is the target's, the others are in random order."""
    alike = round(ALIKE * size)
    others = 1 + np.arange(size - alike) % len(OTHER_LOOKS)
    return np.random.default_rng(seed).permutation(np.concatenate([np.zeros(alike, np.int64), others]))


def pool_of(config: RunConfig) -> NpzConfig:
    """Return the file that a configuration names as its pool. Raises InputError where it names none."""
    images = config.proposal.own_images
    if not isinstance(images, NpzConfig):
        raise InputError("proposal.images", images, "must be an npz file", "leave it as config.yaml has it")
    return images


def make(config: RunConfig, size: int = SIZE) -> Path:
    """Write the pool's images and labels to the file that the configuration names."""
    file, look = Path(pool_of(config).root), looks(size)
    base = load_images(config.source.model_copy(update={"start": FIRST, "limit": size}))
    images, labels = np.empty(base.images.shape, np.uint8), np.empty(size, np.int64)
    for number, shift in enumerate([config.target.shift, *OTHER_LOOKS.values()]):
        chosen = torch.from_numpy(np.flatnonzero(look == number))
        made = make_shifted_images(base.subset(chosen), shift, len(chosen), Streams(number, Stage.TARGET, chunk=3))
        images[chosen], labels[chosen] = made.images.numpy(), made.require_labels().numpy()
    write_whole(file, images=images, labels=labels, classes=np.array(base.classes))
    return file


def write_whole(path: Path, **arrays: np.ndarray) -> None:
    """Write an npz file, which appears under its name once it is complete. Raises InputError where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / "draft.npz"
            np.savez_compressed(draft, **arrays)
            os.replace(draft, path)
    except OSError as err:
        remedy = "name another file as proposal.images.root, or make room"
        raise InputError("proposal.images.root", path, f"cannot be written ({err.strerror or err})", remedy) from err


def pool_size(config: RunConfig) -> int:
    """Return the number of images of the pool. Raises InputError where there is no such file."""
    pool = pool_of(config)
    if not os.path.exists(pool.root):
        remedy = "write it with `main.py make`, or call this from the folder where it was made"
        raise InputError("proposal.images.root", pool.root, "does not exist", remedy)
    with located("proposal.images"):
        return len(list_images(pool).ids)


def count(run: str) -> str:
    """Return lines for each seed of a run: of which look its rows are, and those with the highest keys among them."""
    config = stored_config(RunStore(run))
    size, lines = pool_size(config), []
    for number in range(config.num_seeds):
        rows = stored_rows(RunStore(run).at(seed_folder(number, config.num_seeds)), 0)
        look = looks(size)[rows["base_index"].to_numpy()]
        taken = np.bincount(look, minlength=1 + len(OTHER_LOOKS))
        others = ", ".join(f"{name} {n:,}" for name, n in zip(OTHER_LOOKS, taken[1:], strict=True))
        share, of_all = taken[0] / len(look), taken[0] / round(ALIKE * size)
        lines.append(f"seed {config.seed + number}: {len(look):,} rows, {share:.1%} like the target")
        lines[-1] += f" ({of_all:.1%} of all that are); {others}"
        by_key = look[np.argsort(-rows["accept_key"].to_numpy())]
        lines += [f"  the best {k:,}: {np.mean(by_key[:k] == 0):.1%}" for k in (300, 1_000, 2_000) if k < len(look)]
    return "\n".join(lines)


def main() -> None:
    """Run the command that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "count"])
    parser.add_argument("given", nargs="*", help="overrides of config.yaml, or run directories")
    parser.add_argument("--size", type=int, default=SIZE, help="images of the pool")
    arguments = parser.parse_args()
    if not 60 <= arguments.size <= SIZE:
        parser.error(f"argument --size: {arguments.size} must be from 60, ten images a look, to {SIZE}")
    try:
        if arguments.command == "make":
            print(make(load_config(CONFIG, arguments.given), arguments.size))
        for run in arguments.given if arguments.command == "count" else ():
            print(f"{run}\n{count(run)}")
    except RsfError as err:
        sys.exit(str(err))


if __name__ == "__main__":
    main()
