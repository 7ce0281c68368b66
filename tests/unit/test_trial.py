"""What a trial keeps of its arms, and when it makes it anew."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rsf_dist import trial as trials
from rsf_dist.build import build_task
from rsf_dist.config import parse_config
from rsf_dist.images import ImageSet
from rsf_dist.progress import Progress
from rsf_dist.report import record
from rsf_dist.store import RunStore
from rsf_dist.training_loop import History
from rsf_dist.trial import Trial, arm_model

CONFIG = parse_config(
    {
        "output": "unused",
        "source": {"kind": "digits"},
        "target": {"kind": "digits"},
        "sampling": {"num_accepted": 100},
        "model": {"width": 4},
    }
)
SOURCE = ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ("a", "b"))


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    record.begin(RunStore(tmp_path), seed=0)
    return Trial(CONFIG, SimpleNamespace(source=SOURCE), RunStore(tmp_path), 0, Progress())


@pytest.fixture
def tuned(monkeypatch) -> list[str]:
    """The fingerprints of the rows that were trained on, each time with another model."""
    made: list[str] = []

    def fine_tune(trial, arm, accepted, initial):
        made.append(accepted.fingerprint)
        model = build_task(CONFIG, SOURCE).build_model(len(made))
        metrics = {"step": len(made)}
        return SimpleNamespace(load_model=lambda: model, metrics=metrics, history=History(), stream=None), 90

    monkeypatch.setattr(trials, "fine_tune", fine_tune)
    return made


def of(trial: Trial, fingerprint: str) -> torch.Tensor:
    """A weight of the arm's model for rows with this fingerprint."""
    model = arm_model(trial, "one_shot", SimpleNamespace(fingerprint=fingerprint), torch.nn.Identity())
    return next(model.parameters()).detach()


def test_a_model_is_made_once_for_its_rows(trial, tuned):
    first = of(trial, "f")
    assert torch.equal(of(trial, "f"), first)
    assert tuned == ["f"]


def test_other_rows_get_another_model(trial, tuned):
    first = of(trial, "f")
    assert not torch.equal(of(trial, "g"), first)
    assert tuned == ["f", "g"]
    assert record.read(trial.store)["training"]["one_shot"]["metrics"] == {"step": 2}
    assert record.read(trial.store)["training"]["one_shot"]["rows"] == 90


def test_a_damaged_model_is_made_again(trial, tuned):
    of(trial, "f")
    Path(trial.store.path("models/one_shot/model.safetensors")).write_bytes(b"cut")
    of(trial, "f")
    assert tuned == ["f", "f"]


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_text('{"rounds"')])
def test_a_record_that_was_lost_tells_of_the_training_again(trial, tuned, harm):
    of(trial, "f")
    harm(Path(trial.store.path("report.json")))
    record.begin(trial.store, seed=0)
    assert record.read(trial.store)["training"] == {}
    of(trial, "f")
    assert record.read(trial.store)["training"]["one_shot"]["metrics"] == {"step": 1}
    assert tuned == ["f"]
