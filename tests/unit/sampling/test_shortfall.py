"""A budget that ends short of the rows: what was drawn is kept, and drawn no more when the run goes on."""

from pathlib import Path

import pytest
from in_process import CHUNK, sampler_into, without_ray

from rsf_dist.config.sampling import Budget
from rsf_dist.errors import Shortfall
from rsf_dist.sampling.accepted import stored_rows
from rsf_dist.storage.run_store import RunStore

WANTED, SMALL, LARGE = 200, 4, 40


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return without_ray(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "run")


def budget(chunks: int, on_shortfall: str = "partial") -> Budget:
    return Budget.model_validate({"max_proposals": chunks * CHUNK, "on_shortfall": on_shortfall})


@pytest.mark.parametrize("on_shortfall", ["partial", "error"])
def test_what_a_budget_ended_is_kept_and_gone_on_from(
    on_shortfall: str, store: RunStore, drawn: list[int], tmp_path: Path
) -> None:
    if on_shortfall == "error":
        with pytest.raises(Shortfall, match=r"of 200 rows accepted after 200 proposals, where the budget") as caught:
            sampler_into(store, budget(SMALL, on_shortfall)).sample(WANTED)
        assert caught.value.exit_code == 3
    else:
        short = sampler_into(store, budget(SMALL)).sample(WANTED)
        assert 0 < short.report.num_accepted == WANTED - short.report.shortfall < WANTED
        assert stored_rows(store, 0)["accept_key"].to_pylist() == short.ledger["accept_key"].tolist()
    assert drawn == list(range(SMALL))
    files = {path: path.stat().st_mtime_ns for path in Path(store.uri).rglob("*.parquet")}
    assert len(files) == SMALL
    manifest = store.round(0)
    assert manifest is not None
    assert (manifest.chunks, manifest.complete) == (SMALL, on_shortfall == "partial")

    drawn.clear()
    whole = sampler_into(store, budget(LARGE)).sample(WANTED)
    assert whole.report.shortfall == 0
    assert drawn == list(range(SMALL, SMALL + len(drawn)))  # nothing again
    assert drawn
    assert {path: path.stat().st_mtime_ns for path in files} == files
    undisturbed = sampler_into(RunStore(tmp_path / "undisturbed"), budget(LARGE)).sample(WANTED)
    assert whole.fingerprint == undisturbed.fingerprint


def test_the_same_budget_gives_the_partial_set_again(store: RunStore, drawn: list[int]) -> None:
    short = sampler_into(store, budget(SMALL)).sample(WANTED)
    drawn.clear()
    again = sampler_into(store, budget(SMALL)).sample(WANTED)
    assert drawn == []
    assert (again.fingerprint, again.report) == (short.fingerprint, short.report)
