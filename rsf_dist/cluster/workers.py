"""What runs in the cluster's worker processes: tasks with a share of a node, and code of the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import ray
import ray.data  # importing it sets the levels of its loggers, which `_join` sets again
import torch

from rsf_dist.errors import unwrapped
from rsf_dist.runtime import user_code
from rsf_dist.runtime.allocator import retain_freed_memory
from rsf_dist.runtime.device import set_device

_T = TypeVar("_T")


def limit_to_allocation(cpus: float = 1) -> None:
    """Keep this process to its share: a thread a CPU, and the GPU that it asked for or none (Ray leaves them visible).

    And let it keep the memory that it frees: it is here for work that asks for the same again and again.
    """
    torch.set_num_threads(max(1, int(cpus)))
    retain_freed_memory()
    lent = bool(ray.get_gpu_ids())
    if not lent:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    set_device(torch.device("cuda" if lent and torch.cuda.is_available() else "cpu"))


def run_in_task(function: Callable[..., _T], *arguments: Any, cpus: float, gpus: float = 0) -> _T:
    """What the function gives in a Ray task of its own, with that share of a node. Raises what it raises.

    Where it has a GPU, its process ends with it: another task there would find torch bound to a GPU that by then may be
    someone else's. Ray does so for what is declared with `num_gpus`, and not where `options` says it.
    """
    task = ray.remote(num_cpus=cpus, num_gpus=gpus)(function)
    with unwrapped():
        return ray.get(task.remote(*arguments))


def ship_code(folder: str) -> None:
    """Let what was imported from the folder travel to the workers by value, for those that cannot import it."""
    for module in user_code.imported_from(folder):
        ray.cloudpickle.register_pickle_by_value(module)
