"""Samples so many chunks of eight numbers on a cluster of its own, and prints what that cost the driver, as JSON."""

import json
import math
import sys
import time

import psutil
from torch.distributions import Normal

import rsf_dist as rsf
from rsf_dist.sampling.collector import ChunkTask
from rsf_dist.sampling.pool import map_chunks

CHUNK, ACCEPTANCE, TASKS = 8, 1 / 16, 200


def seconds_a_task(recorder: ChunkTask, pool: rsf.PoolConfig) -> float:
    """CPU time of the driver that a task costs, whatever chunks it takes."""

    def cpu(per_task: int) -> float:
        started = time.process_time()
        list(map_chunks(recorder, range(TASKS), pool, per_task))
        return time.process_time() - started

    return (cpu(1) - cpu(TASKS)) / TASKS


def own_bytes() -> int:
    """Resident memory of this process but for what it shares: files, and what it has looked at of the object store."""
    found = psutil.Process().memory_info()
    return found.rss - found.shared


def main(num_chunks: int) -> None:
    proposal = rsf.DistributionProposal(Normal(0.0, 1.0))
    ratio = rsf.DensityRatio(Normal(0.0, 1.0), proposal)
    envelope = rsf.FixedEnvelope(-math.log(ACCEPTANCE))
    pool = rsf.PoolConfig(min_actors=2, max_actors=2)
    with rsf.connect():
        sampler = rsf.RejectionSampler(proposal, ratio, envelope, chunk_size=CHUNK, pool=pool)
        sampler.sample(20)  # what is loaded once
        before, cpu, started = own_bytes(), time.process_time(), time.monotonic()
        accepted = sampler.sample(round(num_chunks * CHUNK * ACCEPTANCE), round=1)
        chunks, cpu_of_chunks = accepted.report.num_proposed / CHUNK, time.process_time() - cpu
        told = {
            "own_mib": (own_bytes() - before) / 2**20,
            "driver_cpu_seconds": cpu_of_chunks,
            "seconds": time.monotonic() - started,
            "chunks": chunks,
            "driver_cpu_seconds_a_task": seconds_a_task(ChunkTask(sampler.plan().work, None), pool),
        }
    print(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]))
