"""A sampler that draws its chunks in this process, one after the other: what needs no cluster to be shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch.distributions import Normal

from rsf_dist.config.sampling import Budget, PoolConfig
from rsf_dist.proposals import DistributionProposal
from rsf_dist.ratios import DensityRatio
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling import accepted, round_draw, sampler
from rsf_dist.sampling.chunk import propose_and_score
from rsf_dist.sampling.collector import RowCollector
from rsf_dist.sampling.envelope import FixedEnvelope, Pilot
from rsf_dist.sampling.pilot import PilotRun, Probe
from rsf_dist.storage.run_store import RunStore

CHUNK = 50
WIDE = DistributionProposal(Normal(torch.tensor(0.0, dtype=torch.float64), 2.0))
RATIO = DensityRatio(Normal(torch.tensor(0.0, dtype=torch.float64), 1.0), WIDE)


def without_ray(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace what samplers ask of the cluster, leave out their Dataset, and return the list of chunks drawn."""
    drawn: list[int] = []

    def map_chunks(work: Callable[[int], dict], chunks: Sequence[int], *_: object) -> Iterator[dict]:
        for chunk in chunks:
            drawn.append(chunk)
            yield work(chunk)

    def draw_pilot(
        proposal: Any, ratio: Any, streams: Streams, n: int, size: int, pool: PoolConfig, probe: Probe
    ) -> PilotRun:
        _, log_ratio, exponentials = propose_and_score(proposal, ratio, streams, n)
        return PilotRun(Pilot(log_ratio, log_ratio + exponentials, ratio.log_bound), 1e-6, probe)

    for name in ("ensure_cluster", "check_pool", "require_shared"):
        monkeypatch.setattr(sampler, name, lambda *given: None)
    monkeypatch.setattr(round_draw, "max_actors", lambda pool: 1)
    monkeypatch.setattr(round_draw, "map_chunks", map_chunks)
    monkeypatch.setattr(sampler, "draw_pilot", draw_pilot)
    monkeypatch.setattr(RowCollector, "dataset", lambda self, store: None)
    monkeypatch.setattr(accepted, "stored_dataset", lambda store, shards: None)
    for module in (accepted, round_draw):
        monkeypatch.setattr(module, "result_rows", lambda *given: None)
    return drawn


def sampler_into(store: RunStore, budget: Budget | None = None) -> sampler.RejectionSampler:
    """N(0, 1) of N(0, 2) at log M = 1, some 18 of 50 proposals accepted."""
    envelope = FixedEnvelope(1.0, num_pilot=2 * CHUNK)
    return sampler.RejectionSampler(WIDE, RATIO, envelope, seed=3, chunk_size=CHUNK, store=store, budget=budget)
