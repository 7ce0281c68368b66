"""The settings that Ray Train reads from the environment."""

import os
from types import SimpleNamespace

from torch import nn

from rsf_dist.cluster.ray_workarounds import frequent_train_polls
from rsf_dist.config.training import TrainingConfig
from rsf_dist.training import trainer

POLL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"


def test_it_is_told_while_it_trains(monkeypatch):
    monkeypatch.delenv(POLL, raising=False)
    before = dict(os.environ)
    with frequent_train_polls():
        assert os.environ[POLL] == "0.25"
    assert os.environ == before


def test_what_the_user_says_stays(monkeypatch):
    monkeypatch.setenv(POLL, "7")
    with frequent_train_polls():
        assert os.environ[POLL] == "7"
    assert os.environ[POLL] == "7"


def test_a_training_is_started_with_it(monkeypatch):
    told = []

    def fit():
        told.append(os.environ.get(POLL))
        return SimpleNamespace(return_value=None)

    monkeypatch.delenv(POLL, raising=False)
    for name in ("ensure_cluster", "check_training"):
        monkeypatch.setattr(trainer, name, lambda *given: None)
    monkeypatch.setattr(trainer.FineTuner, "_stored", lambda *given: None)
    monkeypatch.setattr(trainer.FineTuner, "_finished", lambda *given: False)
    monkeypatch.setattr(trainer.FineTuner, "_trainer", lambda *given: SimpleNamespace(fit=fit))
    monkeypatch.setattr(trainer.FineTuneResult, "of", lambda *given: "tuned")
    assert trainer.FineTuner(None, TrainingConfig(), initial=nn.Identity()).fit(None) == "tuned"
    assert told == ["0.25"]
