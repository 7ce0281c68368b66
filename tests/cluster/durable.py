"""A sampler whose drawn chunks are written down, and a driver of it that kills itself at a given write.

As a script: durable.py ADDRESS STORE LOG WRITES WHEN samples on the cluster at ADDRESS and, `before` or `after` its
WRITES-th write to the store, sends itself SIGKILL.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch.distributions import Normal

import rsf_dist as rsf
from rsf_dist.rng import Stage

CHUNK, WANTED = 500, 12_000  # acceptance 1/4: some 96 chunks


class Logged(rsf.DistributionProposal):
    """N(0, 2); each chunk's number goes into a file when it is drawn."""

    def __init__(self, log: str, seconds: float):
        super().__init__(Normal(torch.tensor(0.0), 2.0))
        self.log, self.seconds = log, seconds

    def sample(self, n, rng):
        if rng.stage == Stage.SAMPLE:
            time.sleep(self.seconds)
            with open(self.log, "ab", buffering=0) as file:  # one write, appended whole
                file.write(f"{rng.chunk}\n".encode())
        return super().sample(n, rng)


def sampler(log: object, store: rsf.RunStore | None, seconds: float = 0.05, **options) -> rsf.RejectionSampler:
    proposal = Logged(str(log), seconds)
    ratio = rsf.DensityRatio(Normal(0.0, 1.0), proposal)
    return rsf.RejectionSampler(
        proposal, ratio, rsf.FixedEnvelope(1.3863), chunk_size=CHUNK, store=store, seed=5, **options
    )  # fmt: skip


def drawn(log: Path) -> list[int]:
    """The chunks, in the order in which they were drawn."""
    return [int(line) for line in log.read_text().split()]


def _die_at(writes: int, when: str) -> None:
    original, count = rsf.RunStore.write, 0

    def write(self, name, data):
        nonlocal count
        count += 1
        if count == writes and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, name, data)
        if count == writes and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    rsf.RunStore.write = write


if __name__ == "__main__":
    import ray

    from rsf_dist import journal

    address, uri, log, writes, when = sys.argv[1:]
    journal.COMMIT_SECONDS = 0.2
    _die_at(int(writes), when)
    ray.init(address=address, log_to_driver=False)
    sampler(log, rsf.RunStore(uri)).sample(WANTED)
