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
from torch import nn

from rsf_dist.rng import Streams

_Module = TypeVar("_Module", bound=nn.Module)
_device = torch.device("cpu")


def compute_on(where: torch.device) -> None:
    """From now on; Ray's workers do this by themselves, with the GPU, or the share of one, that they are given."""
    global _device
    _device = where


def device() -> torch.device:
    """Where to compute."""
    return _device


@contextmanager
def seeded(streams: Streams, purpose: int = 2) -> Iterator[None]:
    """`streams.torch_global`, and the same for the GPU that is computed on, if any."""
    gpus = [torch.cuda.current_device()] if device().type == "cuda" else []
    with streams.torch_global(purpose), torch.random.fork_rng(devices=gpus):
        if gpus:
            torch.cuda.manual_seed(torch.default_generator.initial_seed())
        yield


def portable(module: _Module) -> _Module:
    """The module itself, or a copy where it is not on the CPU, from where it can travel to where there is no GPU."""
    if all(tensor.device.type == "cpu" for tensor in itertools.chain(module.parameters(), module.buffers())):
        return module
    return copy.deepcopy(module).cpu()
