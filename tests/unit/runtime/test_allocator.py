import os
import platform
import subprocess
import sys
import weakref

import pytest

from rsf_dist.runtime import allocator

BLOCKS = """
import resource, sys, threading
import psutil
from rsf_dist.runtime.allocator import release_freed_memory, retain_freed_memory

def allocate():
    for _ in range(20):
        parts = [ones(2**18) for _ in range(16)]  # 16 MiB, given back together
        del parts

def measure():
    allocate()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    allocate()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

def measure_in_both():
    measure()
    other = threading.Thread(target=measure)  # Ray Data calls actors in one
    other.start()
    other.join()

def measure_holes():
    parts, kept = [], []
    for _ in range(100):
        parts.append(ones(2**18))
        kept.append(ones(2**10))  # in between, so that holes are left
    parts.clear()
    before = psutil.Process().memory_info().rss
    release_freed_memory()
    print((before - psutil.Process().memory_info().rss) // 2**20)
"""
OF_TORCH = "import torch\ntorch.set_num_threads(1)\nones = torch.ones\n"
OF_NUMPY = "import numpy\ndef ones(count): return numpy.ones(count, numpy.float32)\n"  # imported in a tenth of the time


def measured(script: str, **environment: str) -> list[int]:
    """Return what a process prints whose environment says nothing on malloc but this.

    The number of a `measure` is that of the pages that the system had to give for 20 times 16 MiB; the number of
    `measure_holes` that of the MiB, of 100 MiB of holes, that the process gave back when it was told to.
    """
    plain = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", BLOCKS + script]
    ran = subprocess.run(command, env={**plain, **environment}, capture_output=True, text=True, check=True)
    return [int(line) for line in ran.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_memory_that_was_freed_is_used_again_and_holes_are_given_back():
    # 16 MiB are 4,096 pages of 4 KiB.
    script = OF_TORCH + "measure_in_both()\nretain_freed_memory()\nmeasure_in_both()\nmeasure_holes()"
    _, plain, *kept, given_back = measured(script)
    assert plain > 10 * 4_096  # in the main thread it depends on what lies above
    assert all(faults < 4_096 for faults in kept)
    assert given_back > 50


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_what_the_environment_says_of_malloc_stays():
    script = OF_NUMPY + "retain_freed_memory()\n"
    trimming = measured(script + "measure_in_both()", MALLOC_TRIM_THRESHOLD_="131072")
    assert all(faults > 10 * 4_096 for faults in trimming)
    kept = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "33554432"}
    (given_back,) = measured(script + "measure_holes()", **kept)
    assert given_back < 10


def test_memory_is_given_back_once_a_function_holds_nothing_any_more(monkeypatch):
    class Held:
        """An object that a weak reference can watch."""

    def works(word: str) -> str:
        held = Held()
        watched.append(weakref.ref(held))
        return word

    watched, alive = [], []
    monkeypatch.setattr(allocator, "release_freed_memory", lambda: alive.append(watched[-1]()))
    assert allocator.releasing_memory(works)("done") == "done"
    assert alive == [None]
