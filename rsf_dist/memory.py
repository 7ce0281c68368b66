"""What becomes of memory that is freed: chunks and steps ask for the same again at once.

glibc's malloc gives large pieces back to the system when they are freed, and the system clears them, page by page, when
they are asked for again: a third to a half of the time of a chunk of cheap densities, a sixth of a training step's.
"""

from __future__ import annotations

import ctypes
import os

KEPT_BYTES = 256 * 2**20
"""That a process may hold though it has freed them."""
_LARGEST_PIECE = 32 * 2**20  # as large as glibc allows; what is larger goes back as before
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed() -> None:
    """Let this process keep what it frees for its next request, up to KEPT_BYTES, where its C library is glibc.

    What it holds at its peak does not grow. Nothing is done where the environment has settings of one's own for malloc.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_PIECE)
