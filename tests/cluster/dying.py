"""A driver that sends itself SIGKILL `before` or `after` its WRITES-th write to the run's directory.

As a script: dying.py WRITES WHEN sample ADDRESS STORE LOG WANTED runs the sampler of faults.py on the cluster at
ADDRESS; dying.py WRITES WHEN run … is `rsf run …`.
"""

import os
import signal
import sys
from pathlib import Path

import rsf_dist as rsf


def counted(note) -> None:
    """Let `note(number, name, when)` know of every write of this process, `before` and `after` it."""
    original, count = rsf.RunStore.write, 0

    def write(self, name, data):
        nonlocal count
        count += 1
        note(count, name, "before")
        original(self, name, data)
        note(count, name, "after")

    rsf.RunStore.write = write


if __name__ == "__main__":
    deadly = (int(sys.argv[1]), sys.argv[2])
    counted(lambda number, _, when: os.kill(os.getpid(), signal.SIGKILL) if (number, when) == deadly else None)
    if sys.argv[3] == "run":
        from rsf_dist.cli import main

        sys.argv[1:] = sys.argv[3:]
        main()
    else:
        import ray
        from faults import sampler

        from rsf_dist.sampling import checkpoint

        address, uri, log, wanted = sys.argv[4:]
        checkpoint.COMMIT_SECONDS = 0.2
        ray.init(address=address, log_to_driver=False)
        sampler(
            Path(log), rsf.RunStore(uri), pool=rsf.PoolConfig(min_actors=2, max_actors=2, max_tasks_in_flight=1)
        ).sample(int(wanted))
