"""The pool's cost beside its chunks is measured in the steady state, by clocks in the actors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import ray
import torch
from clocks import Clocked, chunks_per_second
from measuring import Bench, Measured
from ray.data.expressions import col
from ray.util import ActorPool
from workloads import Scored, augmented, mixture_work

import rsf_dist as rsf
from rsf_dist.config.sampling import PoolConfig
from rsf_dist.runtime.allocator import retain_freed_memory
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.collector import ChunkTask
from rsf_dist.sampling.pool import map_chunks

pytestmark = [pytest.mark.ray, pytest.mark.bench, pytest.mark.soak]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
CHUNK = 16_384


def mixture(size: int = CHUNK) -> ChunkWork:
    return mixture_work(10, size)


def on_pool(chunks: Sequence[int], actors: int, per_task: int) -> tuple[float, float]:
    """Chunks a second, and seconds until the first one ended."""
    started = time.monotonic()
    pool = PoolConfig(min_actors=actors, max_actors=actors)
    records = list(map_chunks(Clocked(ChunkTask(mixture(), None)), chunks, pool, per_task))
    clocks = [(record["actor"], record["ended"]) for record in records]
    return chunks_per_second(clocks), min(ended for _, ended in clocks) - started


def in_process(count: int) -> list[tuple[int, float]]:
    """Clocks of chunks drawn here, as an actor draws them."""
    torch.set_num_threads(1)
    retain_freed_memory()
    recorder = Clocked(ChunkTask(mixture(), None))
    recorder(0)
    return [(record["actor"], record["ended"]) for record in map(recorder, range(count))]


def without_ray(count: int, processes: int) -> float:
    """Chunks a second of processes that know nothing of each other: what the machine has to give."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:
        clocks = executor.map(in_process, [count] * processes)
        return chunks_per_second(clock for of_one in clocks for clock in of_one)


def test_one_actor_and_two(bench: Bench) -> None:
    # Tasks of two seconds, as the sampler plans them.
    count, per_task, repetitions = (900, 150, 3) if bench.full else (450, 150, 1)
    alone, beside, one, two, startup = [], [], [], [], []
    for _ in range(repetitions):
        alone.append(chunks_per_second(in_process(count // 2)))
        one.append(on_pool(range(count), 1, per_task)[0])
        rate, start = on_pool(range(2 * count), 2, per_task)
        two.append(rate)
        startup.append(start)
        if bench.full:
            beside.append(without_ray(count // 2, 2) / without_ray(count // 2, 1))
    rates = {"in one process": median(alone), "one actor": median(one), "two actors": median(two)}
    shared = {"detail": {"chunks a second": rates}, "startup": {"seconds to the first chunk": median(startup)}}
    value = median(one) / median(alone)
    bench.tell(
        "pool of one actor, steady state / the same chunks in one process",
        Measured(value, 0.95, True, known=0.95, noise=0.35, **shared),
    )
    value = median(two) / median(one)
    bench.tell("pool of two actors / pool of one", Measured(value, 1.85, True, known=1.75, noise=0.25, **shared))
    if bench.full:
        name = "two processes without Ray / one: what the machine has to give"
        bench.tell(name, Measured(median(beside), 1.85, True, known=1.75, noise=0.15))


class DrawAndScore:
    """The actor that a user would write for Ray Data: it returns a chunk's proposals, with ratios and keys."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        retain_freed_memory()  # as our actors do: it is not the pool that is compared by it
        self.work = mixture()
        self.p, self.q = self.work.ratio.target, self.work.proposal.distribution

    def rows(self, chunk: int) -> dict[str, np.ndarray]:
        generator = torch.random.manual_seed(chunk)
        x = self.q.sample(torch.Size([CHUNK]))
        log_ratio = self.p.log_prob(x) - self.q.log_prob(x)
        log_u = torch.rand(CHUNK, generator=generator).log()
        return {"x": x.numpy(), "log_ratio": log_ratio.numpy(), "log_u": log_u.numpy()}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        chunks = [self.rows(int(chunk)) for chunk in batch["id"]]
        rows = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
        total, now = len(rows["x"]), time.monotonic()
        # One row says when: rows that are filtered out cannot.
        rows["log_u"][-1] = -np.inf
        return {**rows, "actor": np.full(total, os.getpid()), "ended": np.full(total, now)}


class DrawAndAccept(DrawAndScore):
    """The same, but rejected rows stay where they are."""

    def rows(self, chunk: int) -> dict[str, np.ndarray]:
        rows = super().rows(chunk)
        keep = rows["log_u"] < rows["log_ratio"] - self.work.log_m
        return {name: column[keep] for name, column in rows.items()}


def by_ray_data(count: int, actors: int, per_task: int, drawing: type[DrawAndScore] = DrawAndScore) -> float:
    """Chunks a second."""
    rows = ray.data.range(count, override_num_blocks=count // per_task).map_batches(
        drawing, batch_size=None, compute=ray.data.ActorPoolStrategy(size=actors)
    )
    if drawing is DrawAndScore:
        rows = rows.filter(expr=col("log_u") < col("log_ratio") - mixture().log_m)
    rows.context.enable_progress_bars = False
    tasks = set()
    for table in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
        tasks |= set(zip(table["actor"].to_pylist(), table["ended"].to_pylist(), strict=True))
    return per_task * chunks_per_second(tasks)


@ray.remote
class Drawer:
    """The actor that a user would write for ray.util.ActorPool: it returns chunks of the same kernel to the driver."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        retain_freed_memory()
        self.recorder = Clocked(ChunkTask(mixture(), None))

    def draw(self, chunks: Sequence[int]) -> list[dict[str, Any]]:
        return [self.recorder(chunk) for chunk in chunks]


def by_actor_pool(count: int, actors: int, per_call: int = 1) -> float:
    """Chunks a second."""
    drawers = [Drawer.remote() for _ in range(actors)]
    calls = [range(start, start + per_call) for start in range(0, count, per_call)]
    try:
        answers = list(ActorPool(drawers).map(lambda drawer, chunks: drawer.draw.remote(chunks), calls))
    finally:
        for drawer in drawers:
            ray.kill(drawer)
    return chunks_per_second((record["actor"], record["ended"]) for found in answers for record in found)


def test_against_ray_data_and_actor_pool(bench: Bench) -> None:
    count, per_task, repetitions = (1_000, 25, 3) if bench.full else (300, 25, 1)
    ours, data, pool, accepting, grouped = [], [], [], [], []
    for _ in range(repetitions):
        ours.append(on_pool(range(count), 2, per_task)[0])
        data.append(by_ray_data(count, 2, per_task))
        pool.append(by_actor_pool(count, 2))
        if bench.full:
            accepting.append(by_ray_data(count, 2, per_task, DrawAndAccept))
            grouped.append(by_actor_pool(count, 2, per_task))
    rates = {"ours": median(ours), "Ray Data": median(data), "ActorPool": median(pool)}
    if bench.full:  # where the difference is
        rates["Ray Data, rejecting before rows leave the actor"] = median(accepting)
        rates["ActorPool, as many chunks a call as ours"] = median(grouped)
    for name, other, known in [("map_batches and filter of Ray Data", data, 1.0), ("ray.util.ActorPool", pool, 1.0)]:
        value = median(ours) / median(other)
        measured = Measured(value, 1.0, True, known=known, noise=0.4, detail={"chunks a second": rates})
        bench.tell(f"pool of two actors / {name} with the same densities", measured)


def test_the_first_row_of_a_ready_pool(bench: Bench) -> None:
    """From when an actor is up and begins, though many chunks travel together."""
    recorder = Clocked(ChunkTask(ChunkWork(augmented(), Scored(), 0.0, 4_096, seed=0), None))
    pool = PoolConfig(min_actors=1, max_actors=1)
    waited, chunk = [], []
    for _ in range(3 if bench.full else 1):
        records = map_chunks(recorder, range(12), pool, 5)
        first = next(records)
        waited.append(time.monotonic() - first["began"])
        assert len(first["ledger"]) > 0
        chunk += [record["ended"] - record["began"] for record in records]
    seconds = {"first row": median(waited), "chunk": median(chunk)}
    name = "ready pool: time to the first accepted row / time of a chunk of 4,096 images"
    bench.tell(name, Measured(median(waited) / median(chunk), 2, False, known=1.5, noise=1.0, seconds=seconds))


def test_what_a_chunk_costs_the_driver(bench: Bench) -> None:
    """Trivial chunks, in processes of their own."""
    if not bench.full:
        pytest.skip("no ratio, and minutes: make bench")
    many, few = 100_000, 1_000
    script = Path(__file__).with_name("trivial_chunks.py")
    found = {}
    for count in (few, many):
        ran = subprocess.run([sys.executable, str(script), str(count)], capture_output=True, text=True, check=True)
        found[count] = json.loads(ran.stdout.splitlines()[-1])
    more = {name: found[many][name] - found[few][name] for name in ("own_mib", "driver_cpu_seconds", "chunks")}
    detail = {str(count): values for count, values in found.items()}
    kib = 1024 * more["own_mib"] / more["chunks"]
    name = "driver's memory, KiB a trivial chunk (20 MiB for 99,000 are 0.2)"
    bench.tell(name, Measured(kib, 20 * 1024 / 99_000, False, known=0.19, noise=0.5, detail=detail))
    milliseconds = 1e3 * more["driver_cpu_seconds"] / more["chunks"]
    name = "driver's CPU time, ms a trivial chunk"
    bench.tell(name, Measured(milliseconds, 1, False, known=0.06, noise=1.0, detail=detail))
    name = "driver's CPU time, ms a task of Ray Data, which takes two seconds' chunks and more"
    bench.tell(name, Measured(1e3 * found[many]["driver_cpu_seconds_a_task"], 20, False, known=5, noise=0.5))


def object_store_bytes() -> float:
    """In use on all nodes."""
    total = ray.cluster_resources()["object_store_memory"]
    return total - ray.available_resources().get("object_store_memory", 0.0)


def test_the_object_store_while_images_are_sampled(bench: Bench) -> None:
    """Rows are read as they come; beside what every actor is sent once, proposal and ratio."""
    size, actors, rows = 4_096, 2, 60_000 if bench.full else 20_000
    proposal, ratio = augmented(), Scored()
    envelope = rsf.BudgetEnvelope(acceptance=0.25, num_pilot=4_096)
    pool = PoolConfig(min_actors=actors, max_actors=actors)
    stream = rsf.RejectionSampler(proposal, ratio, envelope, chunk_size=size, pool=pool).row_stream(rows)
    before, used, done = object_store_bytes(), [], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            used.append(object_store_bytes() - before)

    count = row_bytes = 0
    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(watch)
        try:
            for table in stream.dataset(rows).iter_batches(batch_size=None, batch_format="pyarrow"):
                count, row_bytes = count + table.num_rows, max(row_bytes, table.nbytes / max(table.num_rows, 1))
        finally:
            done.set()
        watching.result()
    assert count == rows
    assert len(used) > 20
    sent = len(ray.cloudpickle.dumps(ChunkTask(stream.work, None)))
    output = actors * size * stream.acceptance * row_bytes
    assert max(used) > output / 2
    detail = {"at most, MiB": max(used) / 2**20, "sent once, MiB": sent / 2**20, "output, MiB": output / 2**20}
    value = max(0.0, max(used) - sent) / output
    name = "object store in use while images are sampled and read / actors x a chunk's accepted rows"
    bench.tell(name, Measured(value, 4, False, known=2.5, noise=1.0, detail=detail))
