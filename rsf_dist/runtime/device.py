"""The device on which this process draws, renders, scores and fits: the CPU, unless Ray lent it a GPU.

A process that merely sees a GPU, as the driver may, does not use it, so that it draws the same rows on any machine.
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
    """Make this process compute on `where` from now on. Workers on the cluster call this themselves.

    On a GPU, convolutions are made to add up in a fixed order. Otherwise a repeated fit would give another model.
    """
    global _device
    _device = where
    torch.backends.cudnn.deterministic = where.type == "cuda"


def device() -> torch.device:
    """Return the device on which this process computes."""
    return _device


def fastest_device() -> torch.device:
    """Return this machine's GPU, or the CPU where there is none that works. It is for what draws no rows."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def seeded(streams: Streams, purpose: Purpose = Purpose.GLOBAL_GENERATOR) -> Iterator[None]:
    """Seed torch's global generators inside the block, on the CPU and on this process's GPU; restore them after."""
    gpus = [torch.cuda.current_device()] if device().type == "cuda" else []
    with streams.torch_global(purpose), torch.random.fork_rng(devices=gpus):
        if gpus:
            torch.cuda.manual_seed(torch.default_generator.initial_seed())
        yield


def scaled_for_gpu(number: int) -> int:
    """Return the number of rows to compute with at once: the given number on a CPU, and four times as many on a GPU."""
    return number * _GPU_FACTOR if device().type == "cuda" else number


def to_device(column: Tensor) -> Tensor:
    """Move a column to the device of this process, without waiting for what a GPU is computing."""
    return column.to(device(), non_blocking=device().type != "cpu")


def to_cpu_copy(module: _Module) -> _Module:
    """Return the module itself, or a copy on the CPU if it is elsewhere, which processes without a GPU can unpickle."""
    if all(tensor.device.type == "cpu" for tensor in itertools.chain(module.parameters(), module.buffers())):
        return module
    return copy.deepcopy(module).cpu()
