"""The way onto the cluster: functions run in Ray tasks that each hold a stated share of one node."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import ray
import torch

from rsf_dist.cluster.ray_workarounds import unwrapped
from rsf_dist.config.sampling import PoolConfig
from rsf_dist.config.training import TrainingConfig
from rsf_dist.runtime import user_code
from rsf_dist.runtime.allocator import retain_freed_memory
from rsf_dist.runtime.device import set_device

_T = TypeVar("_T")


class TaskResources(Protocol):
    """The part of a configuration that says what its task reserves."""

    @property
    def cpus(self) -> float:
        """CPUs."""
        ...

    @property
    def gpus(self) -> float:
        """GPUs."""
        ...


@dataclass(frozen=True)
class Share:
    """CPUs and GPUs of one node: all that a node has, or the part that one process reserves.

    Args:
        cpus: fractions are allowed.
        gpus: fractions are allowed.
        num_threads: threads that the process computes with. None means one for each whole CPU, and at least one.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    num_threads: int | None = None

    @staticmethod
    def of(config: TaskResources) -> Share:
        """Return the share that a configuration with `cpus` and `gpus` asks for."""
        return Share(config.cpus, config.gpus)

    @staticmethod
    def of_pool(pool: PoolConfig) -> Share:
        """Return the share of one sampling actor, which computes on one thread whatever CPUs it reserves.

        More threads would add up floats in another order, and so give other rows.
        """
        return Share(pool.cpus_per_actor, pool.gpus_per_actor, num_threads=1)

    @staticmethod
    def of_training(training: TrainingConfig) -> Share:
        """Return the share of one training worker."""
        return Share(training.cpus_per_worker, float(training.use_gpu))


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

    A process that held a GPU ends with its task. Another task in this process would find torch bound to a GPU that by
    then may belong to someone else. Ray ends the process only where `ray.remote` declares the GPU, not `options`.
    """
    task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, name=function.__name__)(_run_limited)
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
