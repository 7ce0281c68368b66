"""What becomes of memory that is freed: chunks and steps ask for the same again at once.

glibc's malloc gives large pieces back to the system when they are freed, and the system clears them, page by page, when
they are asked for again: a third to a half of the time of a chunk of cheap densities, a sixth of a training step's.
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
"""That the free end of a process's heap may grow to. Holes between pieces still in use are not bounded by it."""


_LARGEST_PIECE = 32 * 2**20  # as large as glibc allows; what is larger goes back as before


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def retain_freed_memory() -> None:
    """Let this process keep what it frees for its next request, where its C library is glibc.

    Where pieces of many sizes come and go, what it holds at its peak can grow by the holes between them;
    `release_freed_memory` empties these. Nothing is done, by either,
    where the environment has a word on malloc: MALLOC_… or GLIBC_TUNABLES.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_PIECE)


def release_freed_memory() -> None:
    """Return all that is free to the system."""
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def releasing_memory(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Wrap a function so that memory it has freed goes back to the system once it has returned."""

    @functools.wraps(function)
    def followed(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        result = function(*args, **kwargs)
        release_freed_memory()
        return result

    return followed


def _of_glibc(name: str) -> Callable[..., int] | None:
    if any(one.startswith("MALLOC_") or one == "GLIBC_TUNABLES" for one in os.environ):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return None
