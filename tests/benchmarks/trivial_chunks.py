"""Samples so many chunks of eight numbers on a cluster of its own, and prints what that cost the driver, as JSON."""

import json
import math
import os
import sys
import time

import psutil
from torch.distributions import Normal

import rsf_dist as rsf

CHUNK, ACCEPTANCE = 8, 1 / 16


def main(num_chunks: int) -> None:
    proposal = rsf.DistributionProposal(Normal(0.0, 1.0))
    ratio = rsf.DensityRatio(Normal(0.0, 1.0), proposal)
    envelope = rsf.FixedEnvelope(-math.log(ACCEPTANCE))
    pool = rsf.PoolConfig(min_actors=2, max_actors=2)
    process = psutil.Process(os.getpid())
    with rsf.cluster():
        sampler = rsf.RejectionSampler(proposal, ratio, envelope, chunk_size=CHUNK, pool=pool)
        sampler.sample(20)  # what is loaded once
        before, cpu, started = process.memory_full_info(), time.process_time(), time.monotonic()
        accepted = sampler.sample(round(num_chunks * CHUNK * ACCEPTANCE), round=1)
        told = {
            # Of its own: what it has looked at of the object store's shared memory is not the driver's.
            "own_mib": (process.memory_full_info().uss - before.uss) / 2**20,
            "resident_mib": (process.memory_info().rss - before.rss) / 2**20,
            "driver_cpu_seconds": time.process_time() - cpu,
            "seconds": time.monotonic() - started,
            "chunks": accepted.report.num_proposed / CHUNK,
        }
    print(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]))
