"""The speed of sampling from packed images is compared with that from memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from measuring import Bench
from workloads import DISTRIBUTIONS, Scored

import rsf_dist as rsf
from rsf_dist.data.batch import row_digests
from rsf_dist.data.images import ImageSet
from rsf_dist.data.packed import Beside, open_packed, write_packed
from rsf_dist.sampling.chunk import Chunk, ChunkWork

pytestmark = pytest.mark.bench

CLASSES = tuple("abcdefghij")


def image_set(num_images: int, shape: tuple[int, int, int]) -> ImageSet:
    pixels = torch.randint(256, (num_images, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(num_images) % len(CLASSES), CLASSES)


def packed(images: ImageSet, folder: Path) -> ImageSet:
    """Return the same images from files."""
    beside = Beside([str(number) for number in range(len(images))], images.labels, images.classes)
    write_packed(folder, [{"image": images.images}], beside)
    found = open_packed(folder)
    assert found is not None
    return ImageSet(found.columns["image"], found.columns["label"], found.classes)


def work_on(images: ImageSet, chunk_size: int) -> ChunkWork:
    parameters = {name: one for name, one in DISTRIBUTIONS.items() if name != "noise"}  # cheaper: the reads count more
    ratio = Scored() if images.images.shape[1] == 1 else rsf.VerifierRatio(lambda rows: rows["image"][:, 0, 0, 0] >= 0)
    return ChunkWork(rsf.AugmentProposal(images, parameters), ratio, 0.0, chunk_size, seed=0)


def drawing(work: ChunkWork) -> Callable[[], Chunk]:
    ids = count()
    return lambda: work(next(ids))


@pytest.mark.parametrize(
    ("shape", "num_images", "chunk_size"), [((1, 28, 28), 120_000, 2_048), ((3, 224, 224), 700, 64)], ids=str
)
def test_sampling_from_packed_images(
    bench: Bench, shape: tuple[int, int, int], num_images: int, chunk_size: int, tmp_path: Path
) -> None:
    """90 MiB and more of random images, so that pages are given back as they are read."""
    in_memory = image_set(num_images, shape)
    works = [work_on(images, chunk_size) for images in (packed(in_memory, tmp_path), in_memory)]
    assert row_digests(works[0](0).rows) == row_digests(works[1](0).rows)
    ours, theirs = bench.in_turn(drawing(works[0]), drawing(works[1]), 40 if bench.full else 8)
    name = f"chunk of augmented images of {shape[1]} x {shape[2]}, packed / in memory"
    bench.speedup(name, ours, theirs, reach=0.95, known=1.0, noise=0.25)
