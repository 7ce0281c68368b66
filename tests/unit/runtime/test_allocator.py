import os
import platform
import subprocess
import sys
import weakref

import pytest

from rsf_dist.runtime import allocator

FAULTS = """
import resource, sys, threading
import torch
from rsf_dist.runtime.allocator import retain_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    retain_freed_memory()

def allocate():
    for _ in range(20):
        parts = [torch.ones(2**18) for _ in range(16)]  # 16 MiB, given back together
        del parts

def measure():
    allocate()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    allocate()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

measure()
other = threading.Thread(target=measure)  # Ray Data calls actors in one
other.start()
other.join()
"""


GIVEN_BACK = """
import psutil, torch
from rsf_dist.runtime.allocator import release_freed_memory, retain_freed_memory
retain_freed_memory()
parts, kept = [], []
for _ in range(100):
    parts.append(torch.ones(2**18))
    kept.append(torch.ones(2**10))  # in between, so that holes are left
parts.clear()
before = psutil.Process().memory_info().rss
release_freed_memory()
print((before - psutil.Process().memory_info().rss) // 2**20, len(kept))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_holes_are_given_back():
    own = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "33554432"}
    assert printed(GIVEN_BACK)[0] > 50  # of 100 MiB
    assert printed(GIVEN_BACK, **own)[0] < 10  # one's own stay


def test_memory_is_given_back_once_a_function_holds_nothing_any_more(monkeypatch):
    class Held:
        """What can be watched."""

    def works(word: str) -> str:
        held = Held()
        watched.append(weakref.ref(held))
        return word

    watched, alive = [], []
    monkeypatch.setattr(allocator, "release_freed_memory", lambda: alive.append(watched[-1]()))
    assert allocator.releasing_memory(works)("done") == "done"
    assert alive == [None]


def printed(script: str, *arguments: str, **environment: str) -> list[int]:
    """The numbers that a script prints, in a process with no word on malloc in its environment but this."""
    plain = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", script, *arguments]
    ran = subprocess.run(command, env={**plain, **environment}, capture_output=True, text=True, check=True)
    return [int(word) for word in ran.stdout.split()]


def faults(how: str, **environment: str) -> list[int]:
    """Pages that the system had to give for 20 times 16 MiB, in the main thread and in another one."""
    return printed(FAULTS, how, **environment)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_memory_that_was_freed_is_used_again():
    # 16 MiB are 4,096 pages of 4 KiB.
    assert all(found < 4_096 for found in faults("kept"))
    assert faults("as it is")[1] > 10 * 4_096  # in the main thread it depends on what lies above
    assert all(found > 10 * 4_096 for found in faults("kept", MALLOC_TRIM_THRESHOLD_="131072"))  # one's own stay
