"""`--from`: a run that takes over from another is the run that it would have been from nothing."""

import json
import shutil
from pathlib import Path

import pytest

from rsf_dist.config.load import parse_config
from rsf_dist.errors import InputError
from rsf_dist.forecast.plan_run import plan_run
from rsf_dist.runs import pipeline
from rsf_dist.runs.verification import verify
from rsf_dist.runtime.progress import Progress
from rsf_dist.storage.run_store import RunStore

pytestmark = pytest.mark.ray


class Lines(Progress):
    """The lines that a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def fingerprints(folder: Path) -> list[str]:
    return [entry["fingerprint"] for entry in json.loads((folder / "report.json").read_text())["rounds"]]


def more_rows(raw: dict, folder: Path, output: str) -> dict:
    return raw | {"output": str(folder / output), "sampling": raw["sampling"] | {"num_accepted": 400}}


def test_more_rows_and_another_training_rest_on_what_is_there(
    small_run: dict, tmp_path: Path, ray_address: str
) -> None:
    old, raw = Path(small_run["output"]), more_rows(small_run, tmp_path, "new") | {"model": {"width": 6}}
    pipeline.sample(parse_config(small_run))
    pipeline.sample(parse_config(more_rows(small_run, tmp_path, "fresh") | {"model": {"width": 6}}))
    said = Lines()
    result = pipeline.run(parse_config(raw), reuse=str(old), progress=said)
    manifest = result.store.manifest()
    assert set(manifest.taken_over) == {f"rounds/000/{part}" for part in ("ratio", "pilot", "accepted")}
    assert not any(line.startswith("making the classifier ratio") for line in said.lines)
    assert manifest.taken_over["rounds/000/accepted"].chunks < manifest.rounds[0].chunks
    assert fingerprints(tmp_path / "new") == fingerprints(tmp_path / "fresh") != fingerprints(old)
    of_both = [RunStore(tmp_path / name).round(0).shards for name in ("new", "fresh")]
    assert of_both[0] == of_both[1]
    assert result.report.taken_over.startswith(f"taken over from {old}: rounds/000/ratio, rounds/000/pilot")
    # It stands alone, and a third run takes its model over, too.
    shutil.rmtree(old)
    assert verify(str(tmp_path / "new")).wrong == ()
    raw["evaluation"] |= {"arms": ["pretrained", "batch_norm"]}
    again = Lines()
    third = pipeline.run(parse_config(raw | {"output": str(tmp_path / "third")}), reuse=str(tmp_path / "new"),
                         progress=again)  # fmt: skip
    assert not any("fine-tuning" in line or "the model before" in line for line in again.lines)
    assert third.report.evaluation.arms["one_shot"] == result.report.evaluation.arms["one_shot"]
    assert verify(str(tmp_path / "third")).wrong == ()
    with pytest.raises(InputError, match=r"holds another run: .*name another output with --from .*pilot of round 0"):
        pipeline.run(parse_config(raw | {"output": str(tmp_path / "third"), "training": {"steps": 3}}))


def test_rounds_that_explored_are_taken_over_and_the_last_is_drawn_on(
    small_run: dict, tmp_path: Path, ray_address: str
) -> None:
    rounds = {"num_rounds": 2, "num_accepted": 150, "acceptance": 0.1, "num_pilot": 1000, "warm_start_steps": 10,
              "class_prior": {"num_proposals": 300, "optimizer": {"steps": 10}}}  # fmt: skip
    several = small_run | {"rounds": rounds, "output": str(tmp_path / "several")}
    pipeline.sample(parse_config(several))
    pipeline.sample(parse_config(more_rows(several, tmp_path, "fresh")))
    said = Lines()
    result = pipeline.sample(
        parse_config(more_rows(several, tmp_path, "new")), reuse=str(tmp_path / "several"), progress=said
    )
    assert fingerprints(tmp_path / "new") == fingerprints(tmp_path / "fresh")
    assert {"rounds/000/accepted", "rounds/001/ratio", "rounds/001/accepted"} <= set(result.store.manifest().taken_over)
    assert not any("class prior by" in line or line.startswith("making the") for line in said.lines)
    assert verify(str(tmp_path / "new")).wrong == ()


@pytest.mark.soak
def test_a_plan_keeps_its_ratio_for_runs_with_any_envelope(small_run: dict, tmp_path: Path, ray_address: str) -> None:
    kept, raw = tmp_path / "plan", small_run | {"num_seeds": 2}
    forecast = plan_run(parse_config(raw), keep=str(kept))
    assert forecast.costs.ratio_seconds > 0
    assert not Path(small_run["output"]).exists()
    said = Lines()
    plan_run(parse_config(raw), keep=str(kept), progress=said)
    result = pipeline.sample(parse_config(small_run | {"envelope": {"kind": "pilot", "num_pilot": 2000}}),
                             reuse=str(kept), progress=said)  # fmt: skip
    assert not any(line.startswith("making the classifier ratio") for line in said.lines)
    network = "rounds/000/ratio/network-0.safetensors"
    assert result.store.read(network) == (kept / network).read_bytes()
    assert verify(result.store.uri).wrong == ()
