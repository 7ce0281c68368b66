import os
import platform
import subprocess
import sys
import weakref
from dataclasses import dataclass

import pytest

from rsf_dist.runtime import allocator

MEASURE = """
import resource, sys, threading
import psutil, torch
from rsf_dist.runtime.allocator import release_freed_memory, retain_freed_memory
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

parts, kept = [], []
for _ in range(100):
    parts.append(torch.ones(2**18))
    kept.append(torch.ones(2**10))  # in between, so that holes are left
parts.clear()
before = psutil.Process().memory_info().rss
release_freed_memory()
print((before - psutil.Process().memory_info().rss) // 2**20)
"""


@dataclass(frozen=True)
class Behaviour:
    """The behaviour of an allocator in its own process.

    Args:
        faults: pages that the system had to give for 20 times 16 MiB, in the main thread and in another one.
        given_back: MiB of 100 MiB of holes that the process gave back when it was told to.
    """

    faults: tuple[int, int]
    given_back: int


def behaviour(how: str, **environment: str) -> Behaviour:
    """Measure a process whose environment says nothing on malloc but this; how: `kept`, or `as it is`."""
    plain = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", MEASURE, how]
    ran = subprocess.run(command, env={**plain, **environment}, capture_output=True, text=True, check=True)
    main, other, given_back = map(int, ran.stdout.split())
    return Behaviour((main, other), given_back)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_memory_that_was_freed_is_used_again_and_holes_are_given_back():
    # 16 MiB are 4,096 pages of 4 KiB.
    kept, plain = behaviour("kept"), behaviour("as it is")
    assert all(found < 4_096 for found in kept.faults)
    assert plain.faults[1] > 10 * 4_096  # in the main thread it depends on what lies above
    assert kept.given_back > 50


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_what_the_environment_says_of_malloc_stays():
    trimming = behaviour("kept", MALLOC_TRIM_THRESHOLD_="131072")
    assert all(found > 10 * 4_096 for found in trimming.faults)
    keeping = behaviour("kept", MALLOC_TRIM_THRESHOLD_="1000000000", MALLOC_MMAP_THRESHOLD_="33554432")
    assert keeping.given_back < 10


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
