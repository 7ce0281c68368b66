"""The rows of arm `oracle`: labelled target images, each once where there are enough, else with replacement."""

from types import SimpleNamespace

import pytest
import torch
from seed_runs import seed_run_in

from rsf_dist.builders.inputs import load_inputs
from rsf_dist.config.load import parse_config
from rsf_dist.data.images import ImageSet
from rsf_dist.runs import baselines
from rsf_dist.runs.arms import arm_rows
from rsf_dist.runtime.rng import Purpose, Stage, Streams

IMAGES = ImageSet(
    torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8), torch.arange(50) % 2, ("a", "b")
)
"""Fifty images, each of a level of its own, with labels by turns."""


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    """Rows as they would be sent off."""
    monkeypatch.setattr(baselines, "_dataset", lambda images, labels: (images[:, 0, 0, 0].tolist(), labels.tolist()))


def test_each_image_is_taken_once_where_there_are_enough():
    levels, labels = baselines.oracle_rows(IMAGES, 30, seed=0)
    assert len(set(levels)) == 30
    assert [level % 2 for level in levels] == labels
    assert levels != sorted(levels)
    assert baselines.oracle_rows(IMAGES, 30, seed=0) == (levels, labels)
    # the rows of a run are its seed's: the head of one permutation
    order = Streams(0, Stage.CONTROL).numpy(Purpose.ORACLE_ROWS).permutation(50)
    assert levels == order[:30].tolist()
    assert sorted(baselines.oracle_rows(IMAGES, 50, seed=0)[0]) == list(range(50))


def test_fewer_images_are_drawn_with_replacement():
    """5,000 rows of 50 images: 100 of each, with a standard deviation below 10; 6 of them, false-alarm rate 1e-7."""
    levels, labels = baselines.oracle_rows(IMAGES, 5_000, seed=0)
    counts = torch.bincount(torch.tensor(levels), minlength=50)
    assert counts.sum() == 5_000
    assert 40 < counts.min() < 100 < counts.max() < 160  # not equally often: drawn, not repeated
    assert [level % 2 for level in levels] == labels
    assert baselines.oracle_rows(IMAGES, 51, seed=0) == baselines.oracle_rows(IMAGES, 51, seed=0)
    assert baselines.oracle_rows(IMAGES, 51, seed=0) != baselines.oracle_rows(IMAGES, 51, seed=1)


@pytest.mark.parametrize(("wanted", "said"), [(50, []), (51, ["evaluation.oracle has 50 images for 51 rows"])])
def test_a_draw_with_replacement_is_told_in_one_line(wanted, said, tmp_path):
    seed_run = seed_run_in(tmp_path)
    seed_run.inputs.oracle = IMAGES
    accepted = SimpleNamespace(report=SimpleNamespace(num_accepted=wanted))
    levels, _ = arm_rows(seed_run, "oracle", accepted, None)
    assert len(levels) == wanted
    assert seed_run.progress.lines == [f"{line}: arm oracle draws them with replacement" for line in said]


def test_fewer_oracle_images_than_rows_to_accept_are_read():
    digits = {"kind": "digits", "limit": 40}
    config = parse_config(
        {
            "output": "unused",
            "source": digits,
            "target": digits,
            "sampling": {"num_accepted": 41},
            "evaluation": {"test": digits, "oracle": digits, "arms": ["oracle"]},
        }
    )
    oracle = load_inputs(config).oracle
    assert oracle is not None
    assert len(oracle) == 40
