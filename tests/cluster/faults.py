"""For tests of faults: a slow sampler that writes down which chunk is drawn where, a training that writes down which
step is taken where, and what must hold afterwards.

As a script: faults.py ADDRESS STORE LOG WANTED NODES samples on the cluster at ADDRESS and prints the fingerprint;
the nodes' ids go into LOG.nodes, address by address.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from processes import own_processes
from torch.distributions import Normal
from torch.optim.optimizer import register_optimizer_step_post_hook

import rsf_dist as rsf
from rsf_dist.data.arrow import to_table
from rsf_dist.runtime.rng import Stage
from rsf_dist.sampling.accepted import describe_columns, fingerprint, ledger_of
from rsf_dist.sampling.chunk import ChunkWork

LOG_M = math.log(2)  # sup p/q at 0, so that every other proposal is accepted
CHUNK = 500


class Logged(rsf.DistributionProposal):
    """N(0, 2), so many seconds a chunk; a line in the log says that a chunk is being drawn, and on which node.

    Args:
        log: the file; O_APPEND keeps the lines of several processes whole.
        seconds: slept for each CHUNK rows.
        fails_at: the chunk that raises an error when it is drawn for the first time.
        nodes, processes: drawing begins in earnest once so many have begun.
    """

    def __init__(self, log: Path, seconds: float, fails_at: int | None = None, nodes: int = 1, processes: int = 1):
        super().__init__(Normal(torch.tensor(0.0), torch.tensor(2.0)))
        self.log, self.seconds, self.fails_at, self.nodes, self.processes = log, seconds, fails_at, nodes, processes

    def sample(self, n, rng):
        if rng.stage == Stage.SAMPLE:
            self._note(rng.chunk)
            if rng.chunk == self.fails_at and [chunk for chunk, _ in drawn(self.log)].count(rng.chunk) == 1:
                raise ConnectionError("the camera went away")
            wait_until(lambda: len({node for _, node in drawn(self.log)}) >= self.nodes)
            wait_until(lambda: len(drawing_processes(self.log)) >= self.processes)
        time.sleep(self.seconds * n / CHUNK)
        return super().sample(n, rng)

    def _note(self, chunk: int) -> None:
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "-"
        file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{chunk} {node} {os.getpid()}\n".encode())
        os.close(file)


def sampler(
    log: Path,
    store: rsf.RunStore | None,
    seconds: float = 0.2,
    fails_at: int | None = None,
    nodes: int = 1,
    processes: int = 1,
    **options: Any,
) -> rsf.RejectionSampler:
    proposal = Logged(log, seconds, fails_at, nodes, processes)
    ratio = rsf.DensityRatio(Normal(0.0, 1.0), proposal, log_bound=LOG_M)
    envelope = rsf.FixedEnvelope(LOG_M, num_pilot=2 * CHUNK)
    return rsf.RejectionSampler(proposal, ratio, envelope, chunk_size=CHUNK, seed=11, store=store, **options)


def fingerprint_in_process(wanted: int, folder: Path) -> str:
    """Return the fingerprint of the first rows that the sampler accepts, one chunk after the other in this process."""
    of = sampler(folder / "in_process.log", None, seconds=0.0)
    work, tables = ChunkWork(of.proposal, of.ratio, LOG_M, CHUNK, of.seed), []
    for chunk in count():
        tables.append(to_table(work(chunk).rows))
        ledger = np.concatenate([ledger_of(table) for table in tables])
        if len(ledger) >= wanted:
            return fingerprint(ledger[:wanted], describe_columns(tables[0]), LOG_M)
    raise AssertionError


def drawn(log: Path) -> list[tuple[int, str]]:
    """(chunk, node) of every draw that was begun, in order."""
    if not log.exists():
        return []
    return [(int(chunk), node) for chunk, node, _ in (line.split() for line in log.read_text().splitlines())]


def drawing_processes(log: Path) -> set[int]:
    """The ids of the processes that have drawn."""
    return {int(line.split()[2]) for line in log.read_text().splitlines()} if log.exists() else set()


def committed(store: rsf.RunStore) -> int:
    """The manifest lists the first so many chunks."""
    progress = store.round(0)
    return 0 if progress is None else progress.chunks


@dataclass
class Deaths:
    """The chunks drawn and the chunks in the manifest at each fault, to bound what is drawn again.

    Args:
        log, store: the sampler's.
        cut_off: a node that may go on drawing after a fault, to nobody's knowledge; that counts for nothing.
    """

    log: Path
    store: rsf.RunStore
    cut_off: str = ""
    known: list[tuple[int, int]] = field(default_factory=list)

    def note(self, committed_before: int | None = None) -> None:
        """Now is the moment; `committed_before`: what the manifest had just before it."""
        chunks = committed(self.store) if committed_before is None else committed_before
        self.known.append((len(drawn(self.log)), chunks))

    def drawn_again(self, most: int | None = None) -> int:
        """The number of chunks; asserts that each was in flight at a fault: drawn, and not in the manifest.

        most: of what the actors had in hand and the driver had not committed, by their numbers; None: not known.
        """
        begun_before = self.known[-1][0]
        draws = [draw for at, draw in enumerate(drawn(self.log)) if at < begun_before or draw[1] != self.cut_off]
        chunks = [chunk for chunk, _ in draws]
        in_flight = 0
        for begun, kept in self.known:
            assert all(chunk >= kept for chunk in chunks[begun:]), "a committed chunk was drawn again"
            in_flight += len({chunk for chunk in chunks[:begun] if chunk >= kept})
        again = sum(times - 1 for times in Counter(chunks).values())
        assert again <= in_flight
        assert most is None or again <= most
        return again


def assert_same_rows(accepted: rsf.AcceptedSet, mark: str, wanted: int) -> None:
    """The fingerprint, and of the Dataset itself: no row lost, none twice."""
    assert accepted.fingerprint == mark
    rows = pa.concat_tables(accepted.dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    places = list(zip(rows["chunk"].to_pylist(), rows["index"].to_pylist(), strict=True))
    assert len(places) == len(set(places)) == wanted
    assert places == sorted(places)


class Stepping(rsf.ClassificationTask):
    """Classification; a line in the log for every optimizer step that a training worker has taken.

    The step's number is AdamW's own count, which a checkpoint brings back and a start from the beginning does not.

    Args:
        classes, model, channels: as of its base.
        log: the file; O_APPEND keeps the lines of several processes whole.
        holds_at: each rank that has taken this step for the first time waits there to be killed; 0: none does.
    """

    def __init__(self, classes, model=None, channels: int = 3, *, log: str | Path, holds_at: int = 0):
        super().__init__(classes, model, channels)
        self.log, self.holds_at, self.hooked = Path(log), holds_at, False

    def loss(self, model, batch):
        if not self.hooked and torch.distributed.is_initialized():  # by Ray Train; pretraining does not count
            register_optimizer_step_post_hook(self._note)
            self.hooked = True
        return super().loss(model, batch)

    def _note(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        step, rank = int(next(iter(optimizer.state.values()))["step"]), torch.distributed.get_rank()
        file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{step} {rank} {os.getpid()}\n".encode())
        os.close(file)
        if step == self.holds_at and [taken[:2] for taken in steps_taken(self.log)].count((step, rank)) == 1:
            time.sleep(180)


def stepping_run(folder: Path, log: Path, holds_at: int) -> dict[str, Any]:
    """Return a part of a run's configuration: `Stepping` as a user's task, from a copy of this module in `folder`."""
    (folder / "code").mkdir(exist_ok=True)
    shutil.copy(__file__, folder / "code")
    shutil.copy(Path(__file__).with_name("processes.py"), folder / "code")
    task = {"kind": "custom", "factory": "faults:Stepping", "options": {"log": str(log), "holds_at": holds_at}}
    return {"code_folder": str(folder / "code"), "task": task}


def steps_taken(log: Path) -> list[tuple[int, int, int]]:
    """(step, rank, process) of every optimizer step, in order."""
    if not log.exists():
        return []
    lines = (map(int, line.split()) for line in log.read_text().splitlines())
    return [(step, rank, process) for step, rank, process in lines]


def all_took(log: Path, step: int, ranks: int) -> bool:
    """Return whether every rank has taken the step."""
    return len({rank for taken, rank, _ in steps_taken(log) if taken == step}) == ranks


@contextmanager
def killing(log: Path, step: int, ranks: int, rank: int = 0) -> Iterator[list[int]]:
    """SIGKILL the rank's worker, beneath this process, once all ranks have taken the step: whom that ended, at the end.

    Training may well end before, or otherwise: then nobody.
    """
    killed: list[int] = []
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.05):
            if all_took(log, step, ranks):
                process = next(process for taken, its, process in steps_taken(log) if (taken, its) == (step, rank))
                for worker in own_processes("ray::RayTrainWorker"):
                    if worker.pid == process:
                        worker.kill()
                        killed.append(process)
                return

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def steps_taken_again(log: Path, kills: int, every: int, last: int) -> int:
    """The number, of the rank with the most; asserts that after each kill each rank went on from the last checkpoint.

    A training from the beginning has the same history in the end: only the steps tell the two apart.

    Args:
        log: of `Stepping`, for one training.
        kills: after each of which training went on.
        every: steps between two checkpoints.
        last: step.
    """
    processes: dict[int, dict[int, list[int]]] = {}
    for step, rank, process in steps_taken(log):
        processes.setdefault(rank, {}).setdefault(process, []).append(step)
    again = []
    for of_rank in processes.values():
        attempts = list(of_rank.values())
        assert all(steps == list(range(steps[0], steps[-1] + 1)) for steps in attempts)
        assert attempts[0][0] == 1
        for before, after in pairwise(attempts):
            assert before[-1] < last, "all was done before the kill"
            assert after[0] - 1 == before[-1] // every * every > 0, "it did not go on from the last checkpoint"
        again.append(sum(len(steps) for steps in attempts) - attempts[-1][-1])
    assert len(processes[0]) == kills + 1  # rank 0 there always is
    assert list(processes[0].values())[-1][-1] == last
    assert max(again) <= kills * every
    return max(again)


def report_times(
    record_property, what: str, disturbed: float, undisturbed: float, again: int, repeated: str = "chunks drawn again"
) -> None:
    """Into the test's record and onto standard output."""
    ratio = disturbed / undisturbed
    record_property("disturbed_to_undisturbed", round(ratio, 2))
    record_property(repeated.replace(" ", "_"), again)
    print(f"\n{what}: {disturbed:.1f} s beside {undisturbed:.1f} s undisturbed, {ratio:.2f} times; {again} {repeated}")


def wait_until(true: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def wait_until_still(log: Path) -> None:
    """Until no more chunks are begun: actors end a little after the sampling that failed."""
    size = -1
    while size != (size := len(drawn(log))):
        time.sleep(1.5)


if __name__ == "__main__":
    address, uri, log, wanted, nodes = sys.argv[1:]
    ray.init(address=address, log_to_driver=False)
    wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == int(nodes))
    Path(f"{log}.nodes").write_text(json.dumps({node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes()}))
    print(sampler(Path(log), rsf.RunStore(uri), nodes=int(nodes)).sample(int(wanted)).fingerprint)
