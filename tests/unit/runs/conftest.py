import pytest
import torch
from seed_runs import broad, seed_run_in

from rsf_dist.data.arrow import to_table
from rsf_dist.data.batch import to_cpu
from rsf_dist.runs import rounds
from rsf_dist.runtime.rng import Streams


@pytest.fixture
def seed_run(tmp_path):
    return seed_run_in(tmp_path, rounds=3)


@pytest.fixture
def rows_of(monkeypatch):
    """Stored rows turned by about .8, for every round; the fixture lists the rounds that were asked for."""
    asked = []

    def stored_rows(store, number):
        asked.append(number)
        rows = to_cpu(broad().sample(300, Streams(5)))
        rows["rotation"] = 0.8 + 0.1 * torch.randn(300, generator=torch.Generator().manual_seed(1))
        return to_table(rows)

    monkeypatch.setattr(rounds, "stored_rows", stored_rows)
    return asked
