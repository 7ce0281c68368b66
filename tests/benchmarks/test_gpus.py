"""The speedup by a GPU is measured where there is one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from measuring import Bench
from workloads import Scored, augmented

from rsf_dist.runtime.device import set_device
from rsf_dist.sampling.chunk import Chunk, ChunkWork

pytestmark = [pytest.mark.bench, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def drawing(work: ChunkWork, where: str) -> Callable[[], Chunk]:
    """The same chunk again and again; its rows are on the CPU when it is there."""

    def drawn() -> Chunk:
        set_device(torch.device(where))
        try:
            return work(0)
        finally:
            set_device(torch.device("cpu"))

    return drawn


def test_a_chunk_of_images_against_one_thread(bench: Bench) -> None:
    work = ChunkWork(augmented(), Scored(), 1.0, 16_384, seed=0)
    name = "chunk of 16,384 noisy images, rendered and scored by a small CNN, on a GPU / on one thread of a CPU"
    ours, theirs = bench.in_turn(drawing(work, "cuda"), drawing(work, "cpu"), 5 if bench.full else 1)
    bench.speedup(name, ours, theirs, reach=20, known=138, noise=0.85)
