"""The way onto the cluster: functions run in Ray tasks that each hold a stated share of one node."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import ray
import torch

from rsf_dist.cluster.ray_workarounds import declare_task, unwrapped
from rsf_dist.config.resources import Share
from rsf_dist.runtime import user_code
from rsf_dist.runtime.allocator import retain_freed_memory
from rsf_dist.runtime.device import set_device

_T = TypeVar("_T")


def run_in_task(function: Callable[..., _T], *arguments: Any, share: Share) -> _T:
    """Call the function in a Ray task of its own, and return its result. Raises what the function raises.

    Args:
        function: a function at the top of a module.
        arguments: its arguments. The function receives the value behind an `ObjectRef`.
        share: what the task reserves; the function computes with no more.
    """
    (result,) = run_in_tasks(function, [arguments], share=share)
    return result


def run_in_tasks(function: Callable[..., _T], arguments: Iterable[tuple[Any, ...]], *, share: Share) -> list[_T]:
    """Call the function once for each tuple of arguments, at the same time where there is room.

    The results come in the order of the arguments. Raises what the function raises.
    """
    task = declare_task(_run_limited, function.__name__, share.cpus, share.gpus)
    with unwrapped():
        return ray.get([task.remote(function, share, *each) for each in arguments])


def _run_limited(function: Callable[..., _T], share: Share, *arguments: Any) -> _T:
    limit_to_allocation(share.num_threads or max(1, int(share.cpus)))
    return function(*arguments)


def limit_to_allocation(num_threads: int = 1) -> None:
    """Limit this process to so many threads, and to the GPU that Ray lent it, or none.

    Ray leaves a node's GPUs visible to processes that reserved none. The process also keeps memory that it frees,
    because chunks and steps ask for the same amounts again and again.
    """
    torch.set_num_threads(num_threads)
    retain_freed_memory()
    lent = bool(ray.get_gpu_ids())
    if not lent:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    set_device(torch.device("cuda" if lent and torch.cuda.is_available() else "cpu"))


def ship_code(folder: str) -> None:
    """Send modules that were imported from this folder to the workers by value, since these may not see the folder."""
    for module in user_code.imported_from(folder):
        ray.cloudpickle.register_pickle_by_value(module)
