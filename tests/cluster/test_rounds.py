"""Rounds that move the proposal: stored, gone on with, verified, compared; for every kind of ratio."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from small import small_run_in

from rsf_dist import AcceptedSet, cli
from rsf_dist.config.evaluation import Arm
from rsf_dist.config.load import parse_config
from rsf_dist.data.arrow import from_table
from rsf_dist.runs import class_prior, pipeline, rounds
from rsf_dist.runs.verification import verify
from rsf_dist.storage.run_store import RunStore

pytestmark = pytest.mark.ray

ROUNDS = {
    "num_rounds": 3,
    "num_accepted": 300,
    "acceptance": 0.1,
    "num_pilot": 1_000,
    "min_auc_gain": 0.0,
    "warm_start_steps": 20,
    "class_prior": {"num_proposals": 600, "optimizer": {"steps": 40}},
}


def raw_in(folder: Path, **change) -> dict:
    return small_run_in(folder) | {"rounds": ROUNDS} | change


@pytest.fixture(scope="module")
def sampled(tmp_path_factory, ray_address: str) -> Path:
    folder = tmp_path_factory.mktemp("rounds")
    pipeline.sample(parse_config(raw_in(folder)))
    return folder / "run"


def fingerprints(run: Path) -> list[str]:
    return [told["fingerprint"] for told in json.loads((run / "report.json").read_text())["rounds"]]


def test_every_round_is_told_and_in_order(sampled: Path) -> None:
    told = json.loads((sampled / "report.json").read_text())["rounds"]
    assert [(one["round"], one["last"]) for one in told] == [(0, False), (1, False), (2, True)]
    assert [one["sampling"]["num_accepted"] for one in told] == [300, 300, 256]
    for before, after in itertools.pairwise(told):  # proposed is what was accepted before, and a broad share
        accepted, proposed = (
            before["parameters"]["brightness"]["accepted"],
            after["parameters"]["brightness"]["proposed"],
        )
        assert np.abs(np.subtract(accepted, proposed)[1:4]).max() < 0.15  # of quartiles, 300 and 500 rows
    prior = told[-1]["class_prior"]["estimate"]
    assert sum(prior["prior"]) == pytest.approx(1)
    assert told[0]["class_prior"] is None
    assert {"before", "moved", "after"} == set(told[-1]["two_sample"])
    page = (sampled / "report.html").read_text()
    assert "How the proposal moved" in page
    assert (sampled / "figures" / "movement.png").exists()
    assert verify(str(sampled), num_chunks=4).wrong == ()


class StoppedError(Exception):
    """The error with which these tests stop a run."""


def stop(*_: object, **__: object) -> None:
    raise StoppedError


def stopping_in_round(number: int, inner: Callable) -> Callable:
    """Wrap a function of (seed run, round, ...), so that a run stops when that round calls it."""
    return lambda seed_run, of_round, *rest, **named: (
        stop() if of_round == number else inner(seed_run, of_round, *rest, **named)
    )


STOPS = {
    "in the second round": lambda patch: patch.setattr(
        rounds, "explore_once", stopping_in_round(1, rounds.explore_once)
    ),
    "before the third proposal is fitted": lambda patch: patch.setattr(
        rounds, "moved_proposal", stopping_in_round(2, rounds.moved_proposal)
    ),
    "before the class prior is stored": lambda patch: patch.setattr(class_prior, "estimate_class_prior", stop),
    "before the report": lambda patch: patch.setattr(rounds, "two_sample_tests", stop),
}


def test_a_run_that_is_stopped_again_and_again_goes_on_with_other_actors(sampled: Path, tmp_path: Path) -> None:
    """Two actors draw the rows that one has drawn in a run that nobody stopped, and no row twice."""
    config, again, run = parse_config(raw_in(tmp_path)), raw_in(tmp_path), tmp_path / "run"
    again["sampling"]["pool"] = {"min_actors": 2, "max_actors": 2}
    written: dict[Path, int] = {}
    for stop_there in STOPS.values():
        with pytest.MonkeyPatch.context() as patch:
            stop_there(patch)
            with pytest.raises(StoppedError):
                pipeline.sample(config)
        shards = {file: file.stat().st_mtime_ns for file in run.glob("rounds/*/accepted/*.parquet")}
        assert shards.items() >= written.items()
        written, config = shards, parse_config(again)
        assert not [line for line in verify(str(run), num_chunks=2).wrong if "drawn again" in line]
    assert written
    pipeline.sample(config)
    assert fingerprints(run) == fingerprints(sampled)
    assert {file: file.stat().st_mtime_ns for file in written} == written


def test_a_damaged_round_is_named_and_drawn_again(sampled: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(sampled, run)
    shard = min(run.glob("rounds/001/accepted/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:100])
    assert any(shard.name in line for line in verify(str(run), num_chunks=1).wrong)
    pipeline.sample(pipeline.stored_config(RunStore(run)))
    assert verify(str(run), num_chunks=1).wrong == ()
    assert fingerprints(run) == fingerprints(sampled)


def test_known_distributions_follow_a_proposal_that_moves(tmp_path: Path, ray_address: str) -> None:
    """The last round's rows have the target's distribution, and each takes far fewer proposals."""
    target = {"rotation": {"normal": [0.8, 0.1]}, "brightness": {"normal": [0.5, 0.05]}}
    raw = raw_in(tmp_path, ratio={"kind": "density", "parameters": target})
    raw["envelope"] = {"kind": "budget", "acceptance": 0.3, "num_pilot": 2_000}
    pipeline.sample(parse_config(raw))
    first, *_, last = json.loads((tmp_path / "run" / "report.json").read_text())["rounds"]
    for name, (mean, sd) in {"rotation": (0.8, 0.1), "brightness": (0.5, 0.05)}.items():
        accepted = last["parameters"][name]["accepted"]
        # 256 rows: the median has a standard error of 1.25 sd/16, quartiles of 1.36 sd/16; five of them, and the cap.
        wanted = mean + sd * np.array([-0.674, 0.0, 0.674])
        assert np.abs(np.array(accepted[1:4]) - wanted).max() < 0.6 * sd
    assert last["sampling"]["ess_fraction"] > 5 * first["sampling"]["ess_fraction"]
    assert verify(str(tmp_path / "run"), num_chunks=2).wrong == ()


GENERATOR = '''
import torch
from torch import nn

class Shades(nn.Module):
    """Images of one grey level, of sigmoid(z)."""

    def __init__(self, source):
        super().__init__()
        self.shape = source.images.shape[1:]

    def forward(self, z, y):
        return torch.sigmoid(z[:, 0])[:, None, None, None].expand(-1, *self.shape)

def level(batch):
    return batch["image"].double().mean(dim=(1, 2, 3)) / 255

def bright(batch):
    return level(batch) > 0.9

def not_too_bright(batch):
    return -level(batch)
'''


@pytest.mark.soak
def test_a_generator_under_a_verdict_and_a_reward_in_rounds(tmp_path: Path, ray_address: str) -> None:
    """p is proportional to q exp(-level/0.01) where level > 0.9: just above it, at z = 2.2, in the tail of q."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "shades_by_path.py").write_text(GENERATOR)
    factors = [
        {"kind": "verifier", "passes": "shades_by_path:bright"},
        {"kind": "reward", "score": "shades_by_path:not_too_bright", "beta": 0.01, "max_score": 0.0},
    ]
    raw = raw_in(tmp_path, code_folder=str(tmp_path / "code"), ratio={"kind": "product", "factors": factors})
    raw["proposal"] = {"kind": "generator", "factory": "shades_by_path:Shades", "latent_dim": 1}
    raw["rounds"] = ROUNDS | {"acceptance": 0.005, "num_pilot": 4_000, "num_accepted": 100}
    raw["envelope"] = {"kind": "budget", "acceptance": 0.1, "num_pilot": 2_000}
    pipeline.sample(parse_config(raw))
    told = json.loads((tmp_path / "run" / "report.json").read_text())["rounds"]
    assert len(told) == 3
    assert told[0]["sampling"]["num_screened_out"] > 0  # dim images are not shown to the reward
    images = from_table(AcceptedSet.load(RunStore(str(tmp_path / "run")), 2).head(256))["image"]
    level = images.double().mean(dim=(1, 2, 3)) / 255
    assert bool((level > 0.9).all())
    # Grey levels from 230/255 on, each e^-0.39 times as likely as the one before: the first has 0.32, two have 0.54.
    assert abs(float(level.median()) - 231 / 255) < 1.01 / 255
    assert told[-1]["sampling"]["ess_fraction"] > 5 * told[0]["sampling"]["ess_fraction"]
    assert verify(str(tmp_path / "run"), num_chunks=1).wrong == ()


@pytest.mark.soak
def test_labelled_target_images_change_no_row(sampled: Path, tmp_path: Path) -> None:
    """They only evaluate models: every round has the same rows without them."""
    raw = raw_in(tmp_path)
    assert raw["evaluation"]["test"]
    pipeline.sample(parse_config(raw | {"evaluation": {"test": None, "arms": ["adaptive"]}}))
    assert fingerprints(tmp_path / "run") == fingerprints(sampled)


def test_compare(tmp_path: Path, monkeypatch, capsys, ray_address: str, soak: bool) -> None:
    """Arms that a small run allows, all in the long form; one-shot rejection in a directory of its own within it."""
    raw = raw_in(tmp_path)
    raw["evaluation"]["oracle"] = {"kind": "image_folder", "root": str(tmp_path / "domain" / "oracle"), "channels": 1}
    raw["evaluation"]["arms"] = ["pretrained", "oracle"]
    (tmp_path / "config.yaml").write_text(json.dumps(raw))
    command = ["rsf", "compare", str(tmp_path / "config.yaml"), "--seeds", "1", "--address", ray_address, "--strict"]
    fewer = ["pretrained", "batch_norm", "weighted", "one_shot"]
    monkeypatch.setattr("sys.argv", command if soak else [*command, "--arms", ",".join(fewer)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    report = json.loads((tmp_path / "run-compare" / "report.json").read_text())
    red = [check["name"] for check in report["rounds"][-1]["trust"] if check["light"] == "red"]
    assert ended.value.code == (3 if red else 0), told.err
    assert all(name in told.err for name in red)
    evaluation = report["evaluation"]
    wanted = set(get_args(Arm)) if soak else {*fewer, "adaptive"}
    assert list(evaluation["arms"]) == [arm for arm in get_args(Arm) if arm in wanted]
    assert {run["rows"] for run in report["training"].values()} == {256}
    assert "proposals accepted after rounds" in told.out
    one_shot = RunStore(tmp_path / "run-compare" / "one_shot")
    assert one_shot.round(0).complete
    assert verify(str(tmp_path / "run-compare"), num_chunks=2).wrong == ()
