"""Processes beneath the tests' own, for tests that kill some."""

import contextlib

import psutil


def own_processes(title: str, root: int | None = None) -> list[psutil.Process]:
    """Those beneath process `root`, by default this one, whose title begins so. Any may end while we look."""
    found = []
    for process in psutil.Process(root).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()[:1]).startswith(title):
                found.append(process)
    return found
