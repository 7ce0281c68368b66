"""For tests of faults: a slow sampler that writes down which chunk is drawn where, and what must hold afterwards.

As a script: faults.py ADDRESS STORE LOG WANTED NODES samples on the cluster at ADDRESS and prints the fingerprint;
the nodes' ids go into LOG.nodes, address by address.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from torch.distributions import Normal

import rsf_dist as rsf
from rsf_dist.accepted import describe_columns, fingerprint, ledger_of
from rsf_dist.batch import to_table
from rsf_dist.chunk import ChunkWork
from rsf_dist.rng import Stage

LOG_M = math.log(2)  # sup p/q at 0, so that every other proposal is accepted
CHUNK = 500


class Logged(rsf.DistributionProposal):
    """N(0, 2), so many seconds a chunk; a line in the log says that a chunk is being drawn, and on which node.

    Args:
        log: the file; O_APPEND keeps the lines of several processes whole.
        seconds: slept for each CHUNK rows.
        fails_at: the chunk that raises an error when it is drawn for the first time.
        nodes: drawing begins in earnest once so many have begun.
    """

    def __init__(self, log: Path, seconds: float, fails_at: int | None = None, nodes: int = 1):
        super().__init__(Normal(torch.tensor(0.0), torch.tensor(2.0)))
        self.log, self.seconds, self.fails_at, self.nodes = log, seconds, fails_at, nodes

    def sample(self, n, rng):
        if rng.stage == Stage.SAMPLE:
            self._note(rng.chunk)
            if rng.chunk == self.fails_at and [chunk for chunk, _ in drawn(self.log)].count(rng.chunk) == 1:
                raise ConnectionError("the camera went away")
            wait_until(lambda: len({node for _, node in drawn(self.log)}) >= self.nodes)
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
    **options: Any,
) -> rsf.RejectionSampler:
    proposal = Logged(log, seconds, fails_at, nodes)
    ratio = rsf.DensityRatio(Normal(0.0, 1.0), proposal, log_bound=LOG_M)
    envelope = rsf.FixedEnvelope(LOG_M, num_pilot=2 * CHUNK)
    return rsf.RejectionSampler(proposal, ratio, envelope, chunk_size=CHUNK, seed=11, store=store, **options)


def fingerprint_in_process(wanted: int, folder: Path) -> str:
    """Of the first rows that the sampler accepts, one chunk after the other in this process."""
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
    return (store.round(0) or {"chunks": 0})["chunks"]


@dataclass
class Deaths:
    """What had been drawn and what the manifest had at each fault; then whether more than that was drawn again.

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


def report_times(record_property, what: str, disturbed: float, undisturbed: float, again: int) -> None:
    """Into the test's record and onto standard output."""
    ratio = disturbed / undisturbed
    record_property("disturbed_to_undisturbed", round(ratio, 2))
    record_property("chunks_drawn_again", again)
    print(f"\n{what}: {disturbed:.1f} s beside {undisturbed:.1f} s undisturbed, {ratio:.2f} times; {again} drawn again")


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
