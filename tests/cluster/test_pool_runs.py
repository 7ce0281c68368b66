"""A run whose proposals are a pool: sampled, verified, planned, interrupted and compared, on Ray."""

import json
from pathlib import Path

import numpy as np
import pytest
from small import small_run_in

from rsf_dist.config.load import parse_config
from rsf_dist.errors import Shortfall
from rsf_dist.forecast.plan_run import plan_run
from rsf_dist.runs import baselines, pipeline
from rsf_dist.runs.verification import verify
from rsf_dist.sampling.accepted import stored_rows
from rsf_dist.sampling.round_draw import RoundDraw
from rsf_dist.storage.run_store import RunStore

pytestmark = pytest.mark.ray

EVENS = """
def even(batch):
    return batch["base_index"] % 2 == 0
"""


@pytest.fixture
def raw(tmp_path: Path, ray_address: str) -> dict:
    """A run that takes the 1,000 source images as its pool; those at even places are the target."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "evens.py").write_text(EVENS)
    small = small_run_in(tmp_path)
    small["evaluation"]["arms"] = ["pretrained", "random"]
    return small | {
        "code_folder": str(tmp_path / "code"),
        "proposal": {"kind": "dataset"},
        "ratio": {"kind": "verifier", "passes": "evens:even", "columns": ["base_index"]},
        "envelope": {"kind": "certified", "num_pilot": 100},
        "sampling": {"num_accepted": 500, "chunk_size": 128, "pool": {"max_actors": 2}},
    }


def rows_of(config) -> np.ndarray:
    return stored_rows(RunStore(config.output), 0)["base_index"].to_numpy()


def test_all_that_passes_is_taken_once_and_in_order_on_any_number_of_actors(raw: dict, tmp_path: Path) -> None:
    prints = []
    for actors in (1, 2):
        raw["sampling"]["pool"] = {"max_actors": actors}
        config = parse_config(raw | {"output": str(tmp_path / f"on-{actors}")})
        told = pipeline.sample(config).report.rounds[0]
        assert sorted(rows_of(config)) == list(range(0, 1000, 2))
        assert (told.sampling.num_scored, told.sampling.num_duplicates) == (1000, 0)
        prints.append(told.fingerprint)
        assert verify(config.output, num_chunks=99).wrong == ()
    assert prints[0] == prints[1]


def test_a_pool_that_ends_short_is_a_statistical_refusal_and_a_part_can_be_kept(raw: dict) -> None:
    raw["sampling"]["num_accepted"] = 501
    with pytest.raises(Shortfall, match="500 of 501 rows accepted after 1,000 proposals, where the pool ends"):
        pipeline.sample(parse_config(raw))
    raw["sampling"]["budget"] = {"on_shortfall": "partial"}  # what was read is not read again
    found = pipeline.sample(parse_config(raw)).report.rounds[0]
    assert (found.sampling.num_accepted, found.sampling.shortfall) == (500, 1)
    assert verify(raw["output"], num_chunks=99).wrong == ()


def test_the_top_k_are_compared_with_as_many_rows_at_random(raw: dict, tmp_path: Path, monkeypatch) -> None:
    """Interrupted after three chunks and run again, the rows are those of an undisturbed run."""
    raw["sampling"] = {"top_k": 256, "chunk_size": 128, "pool": {"max_actors": 2}}
    undisturbed = pipeline.sample(parse_config(raw | {"output": str(tmp_path / "undisturbed")})).report.rounds[0]
    run = RoundDraw.run

    def interrupted(draw, end, progress):
        run(draw, 3, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(RoundDraw, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(parse_config(raw))
    monkeypatch.setattr(RoundDraw, "run", run)
    taken: list = []
    random_rows = baselines.random_rows

    def recorded(*given):
        rows = random_rows(*given)
        taken.extend(row["base_index"] for row in rows.select_columns(["base_index"]).take_all())
        return rows

    monkeypatch.setattr(baselines, "random_rows", recorded)
    config = parse_config(raw)
    report = pipeline.run(config).report
    assert report.rounds[0].fingerprint == undisturbed.fingerprint
    assert report.rounds[0].sampling.log_m_source == "key 257 of 1,000"
    assert (report.rounds[0].sampling.num_proposed, report.rounds[0].sampling.num_accepted) == (1000, 256)
    chosen = rows_of(config)
    assert len(set(chosen)) == 256
    assert not (chosen % 2).any()
    assert len(set(taken)) == len(taken) == 256  # as many, and none twice
    assert np.mean(np.array(taken) % 2) == pytest.approx(0.5, abs=4 * 0.031)
    assert report.evaluation.own_arm == "top_k"
    assert set(report.evaluation.arms) == {"pretrained", "random", "top_k"}
    assert {arm: trained.rows for arm, trained in report.training.items()} == {"random": 256, "top_k": 256}
    assert verify(config.output, num_chunks=99).wrong == ()
    manifest = Path(config.output) / "manifest.json"
    told = json.loads(manifest.read_text())
    told["rounds"]["0"]["result"]["report"]["num_proposed"] = 900
    manifest.write_text(json.dumps(told))
    assert any("num_proposed=900, and of the rows it is 1000" in line for line in verify(config.output).wrong)


def test_a_plan_reads_all_of_the_pool_for_its_top_k_and_no_more_of_it_than_there_is(raw: dict) -> None:
    forecast = plan_run(parse_config(raw | {"sampling": {"top_k": 100, "chunk_size": 300}}))
    assert (forecast.proposals, forecast.num_accepted) == (1000, 100)
    assert "sampling.top_k takes the M" in forecast.recommendation.reason
    forecast = plan_run(parse_config(raw | {"sampling": {"num_accepted": 900, "chunk_size": 300}}))
    assert forecast.proposals == 1000
    assert any("the pool of 1,000 rows, or the budget, ends at about" in line for line in forecast.warnings)
