"""The memory that a process frees: kept for its next request, because chunks and steps ask for the same amounts again.

glibc's malloc gives large blocks back to the system when they are freed. The system clears them, page by page, when
they are requested again. This takes a third to a half of the time of a chunk of cheap densities, and a sixth of a
training step's.

The thresholds are set by `mallopt`, and not by MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ in a Ray runtime_env.
The variables would reach only clusters that rsf_dist itself joins, and never a process of the user's own. They would
also keep workers that Ray has started in advance from being used, and hide whether the user has set malloc up.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

KEPT_BYTES = 256 * 2**20
"""The upper limit on free memory at the top of a process's heap. Fragmentation below the top is not limited by it."""

_LARGEST_BLOCK = 32 * 2**20  # the most that glibc allows; larger blocks go back to the system as before
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def retain_freed_memory() -> None:
    """Make this process keep memory that it frees for its next request, if its C library is glibc.

    Blocks of many sizes can leave holes, which raise the process's peak; `release_freed_memory` gives the holes back.
    Neither function does anything if the environment sets malloc up, by MALLOC_… or GLIBC_TUNABLES.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)


def release_freed_memory() -> None:
    """Give all free memory back to the system."""
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def releasing_memory(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Wrap a function so that memory it has freed goes back to the system once it has returned."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        result = function(*args, **kwargs)
        release_freed_memory()
        return result

    return wrapped


def _of_glibc(name: str) -> Callable[..., int] | None:
    if any(variable.startswith("MALLOC_") or variable == "GLIBC_TUNABLES" for variable in os.environ):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return None
