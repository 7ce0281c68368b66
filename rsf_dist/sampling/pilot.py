"""The pilot: a first sample of log ratios that M is chosen from, kept with the run; and the probe that goes before it.

A probe is a few proposals drawn and scored in this process: a proposal or ratio that is broken fails here, in a second
and without an actor. Kept with the pilot, it tells later whether the same proposal, ratio and libraries are at work.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rsf_dist.cluster.workers import run_in_task
from rsf_dist.config.resources import Share
from rsf_dist.config.sampling import PoolConfig
from rsf_dist.data.batch import Batch, LazyBatch, num_rows, row_digests, select, to_cpu
from rsf_dist.errors import InputError, RsfError
from rsf_dist.proposals.base import Proposal
from rsf_dist.ratios.base import Ratio
from rsf_dist.runtime.rng import Streams
from rsf_dist.runtime.timeouts import call_with_timeout, time_limit
from rsf_dist.sampling.chunk import propose, propose_and_score, refuse_nonfinite
from rsf_dist.sampling.envelope import Pilot
from rsf_dist.sampling.pool import TIMEOUT_REMEDY, USER_CODE_FIELD
from rsf_dist.types import Floats

PROBE_SECONDS = 60.0
"""Time limit of a probe."""

_PROBE_ROWS = 16
_MADE_ROWS = 256
_PROBE_CHUNK = 2**40 - 1  # no chunk of a pilot has this number
_TOLERANCE = 1e-4  # of log ratios, which other processors round otherwise


@dataclass(frozen=True)
class Probe:
    """The SHA-256 of a few proposals' content, and their log ratios."""

    digest: str
    log_ratio: tuple[float, ...]

    @staticmethod
    def of(proposal: Proposal, ratio: Ratio, streams: Streams) -> Probe:
        """Draw and score them in this process. Raises InputError where the user's code fails."""
        probing = Streams(streams.seed, streams.stage, streams.round, _PROBE_CHUNK)
        try:
            with one_thread(), time_limit(PROBE_SECONDS, USER_CODE_FIELD, f"a first chunk of {_PROBE_ROWS} rows"):
                batch, log_ratio, _ = propose_and_score(proposal, ratio, probing, _PROBE_ROWS)
        except RsfError:
            raise
        except Exception as err:  # the user's code raises what it pleases
            rule = f"fails on a first chunk of {_PROBE_ROWS} rows: {err}"
            raise InputError("proposal or ratio", type(err).__name__, rule, "correct it") from err
        return Probe(hashlib.sha256(row_digests(batch)).hexdigest(), tuple(log_ratio.tolist()))

    def agrees_with(self, other: Probe) -> bool:
        """Return True if both drew the same rows and gave them the same log ratios, up to rounding."""
        same = np.allclose(self.log_ratio, other.log_ratio, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
        return self.digest == other.digest and same


@dataclass(frozen=True)
class PilotRun:
    """A pilot's log ratios, and the measured cost of a row.

    Args:
        rows: log ratios and keys.
        seconds_per_row: of drawing and scoring, on one core.
        probe: of the proposal and the ratio at work.
        making: seconds to compute the lazy columns: per chunk, and per row that is computed.
    """

    rows: Pilot
    seconds_per_row: float
    probe: Probe
    making: tuple[float, float] = (0.0, 0.0)

    def save(self, folder: Path) -> None:
        """Write pilot.npz and pilot.json."""
        np.savez_compressed(folder / "pilot.npz", log_ratio=self.rows.log_ratio, accept_key=self.rows.accept_key)
        described = {
            "log_bound": self.rows.log_bound,
            "seconds_per_row": self.seconds_per_row,
            "making": self.making,
            "probe": asdict(self.probe),
        }
        (folder / "pilot.json").write_text(json.dumps(described, indent=1) + "\n")

    @staticmethod
    def load(folder: Path) -> PilotRun:
        """Read what `save` wrote."""
        raw = json.loads((folder / "pilot.json").read_text())
        with np.load(folder / "pilot.npz", allow_pickle=False) as arrays:
            rows = Pilot(arrays["log_ratio"], arrays["accept_key"], raw["log_bound"])
        probe = Probe(raw["probe"]["digest"], tuple(raw["probe"]["log_ratio"]))
        return PilotRun(rows, raw["seconds_per_row"], probe, tuple(raw.get("making", (0.0, 0.0))))


def row_bytes(proposal: Proposal, streams: Streams) -> int:
    """Return the bytes of a row, from one that is drawn in this process. Raises InputError where that fails."""
    probing = Streams(streams.seed, streams.stage, streams.round, _PROBE_CHUNK)
    with one_thread(), time_limit(PROBE_SECONDS, USER_CODE_FIELD, "a first row"):
        row = to_cpu(propose(proposal, probing, 1))
    return sum(column.nbytes for column in row.values())


def draw_pilot(
    proposal: Proposal, ratio: Ratio, streams: Streams, num_pilot: int, chunk_size: int, pool: PoolConfig, probe: Probe
) -> PilotRun:
    """Draw and score `num_pilot` proposals in a Ray task with an actor's resources.

    Raises:
        InputError: the proposal or the ratio breaks its contract.
        StatisticalRefusal: a log ratio is NaN or +inf.
    """
    share = Share.of_pool(pool)
    pilot = run_in_task(_draw, proposal, ratio, streams, num_pilot, chunk_size, probe, pool.chunk_seconds, share=share)
    refuse_nonfinite(int((~(pilot.rows.log_ratio < np.inf)).sum()), num_pilot, "pilot ")
    return pilot


def _draw(
    proposal: Proposal,
    ratio: Ratio,
    streams: Streams,
    num_pilot: int,
    chunk_size: int,
    probe: Probe,
    chunk_seconds: float,
) -> PilotRun:
    pieces: list[tuple[Floats, Floats]] = []
    first: Batch | LazyBatch | None = None
    started = time.monotonic()
    for chunk, size in enumerate(_sizes(num_pilot, chunk_size)):
        one = Streams(streams.seed, streams.stage, streams.round, chunk)
        drawing = partial(propose_and_score, proposal, ratio, one, size)
        batch, log_ratio, exponentials = call_with_timeout(
            drawing, chunk_seconds, USER_CODE_FIELD, "the pilot", TIMEOUT_REMEDY
        )
        pieces.append((log_ratio, log_ratio + exponentials))
        first = batch if first is None else first
    seconds = time.monotonic() - started
    making = call_with_timeout(
        partial(_production_seconds, first or {}, chunk_size),
        chunk_seconds,
        USER_CODE_FIELD,
        "the pilot",
        TIMEOUT_REMEDY,
    )
    log_ratios, keys = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return PilotRun(Pilot(log_ratios, keys, ratio.log_bound), seconds / num_pilot, probe, making)


def _production_seconds(drawn: Batch | LazyBatch, chunk_size: int) -> tuple[float, float]:
    """Measure the seconds to compute lazy columns: per chunk, for the first row, and per row."""

    def seconds(rows: int) -> float:
        begun = time.monotonic()
        to_cpu(select(drawn, slice(0, rows)))
        return time.monotonic() - begun

    if not isinstance(drawn, LazyBatch):
        return 0.0, 0.0
    rows = min(num_rows(drawn), _MADE_ROWS)
    first, one, several = seconds(1), seconds(1), seconds(rows)
    return first * chunk_size / num_rows(drawn), max(0.0, several - one) / max(rows - 1, 1)


def stored_bytes(rows: pa.Table) -> int:
    """Return the bytes of a shard that holds these rows."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    return sink.getvalue().size


def _sizes(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, as actors do, so that sums of floats come out alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
