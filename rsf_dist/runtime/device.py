"""Where this process draws, renders, scores and fits: on the CPU, unless it was lent a GPU.

Who merely sees a GPU, as the driver may, does not use it: what it draws is the same wherever it runs.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from rsf_dist.runtime.rng import Purpose, Streams

_Module = TypeVar("_Module", bound=nn.Module)


_device = torch.device("cpu")


_GPU_FACTOR = 4  # with 16, an H200 was slower at images of 224 x 224, and needed four times the memory


def set_device(where: torch.device) -> None:
    """From now on; Ray's workers do this by themselves, with the GPU, or the share of one, that they are given.

    On a GPU convolutions are told to add up in a fixed order: else fitting again would give another ratio or model.
    """
    global _device
    _device = where
    torch.backends.cudnn.deterministic = where.type == "cuda"


def device() -> torch.device:
    """Where to compute."""
    return _device


@contextmanager
def seeded(streams: Streams, purpose: int = Purpose.GLOBAL_GENERATOR) -> Iterator[None]:
    """`streams.torch_global`, and the same for the GPU that is computed on, if any."""
    gpus = [torch.cuda.current_device()] if device().type == "cuda" else []
    with streams.torch_global(purpose), torch.random.fork_rng(devices=gpus):
        if gpus:
            torch.cuda.manual_seed(torch.default_generator.initial_seed())
        yield


def scaled_for_gpu(number: int) -> int:
    """How many to compute with at once, where a CPU takes that number: a GPU is faster with more."""
    return number * _GPU_FACTOR if device().type == "cuda" else number


def to_device(column: Tensor) -> Tensor:
    """The column where this process computes; a GPU is sent it without waiting for what is computed there."""
    return column.to(device(), non_blocking=device().type != "cpu")


def to_cpu_copy(module: _Module) -> _Module:
    """The module itself, or a copy where it is not on the CPU, from where it can travel to where there is no GPU."""
    if all(tensor.device.type == "cpu" for tensor in itertools.chain(module.parameters(), module.buffers())):
        return module
    return copy.deepcopy(module).cpu()
