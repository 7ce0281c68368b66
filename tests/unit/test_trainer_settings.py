"""What Ray Train reads from the environment."""

import os
from types import SimpleNamespace

import pytest
from torch import nn

from rsf_dist import trainer
from rsf_dist.config import TrainingConfig
from rsf_dist.resources import Bundle

POLL, WATCH = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


@pytest.mark.parametrize(("nodes", "watch"), [(1, "0"), (2, None)])
def test_it_is_told_while_it_trains(nodes, watch, monkeypatch):
    monkeypatch.setattr(trainer, "nodes_up", lambda: [Bundle(2.0)] * nodes)
    for name in (POLL, WATCH):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with trainer._told_to_ray_train():
        assert (os.environ[POLL], os.environ.get(WATCH)) == ("0.25", watch)
    assert os.environ == before


def test_what_the_user_says_stays(monkeypatch):
    monkeypatch.setattr(trainer, "nodes_up", lambda: [Bundle(2.0)])
    monkeypatch.setenv(POLL, "7")
    monkeypatch.setenv(WATCH, "1")
    with trainer._told_to_ray_train():
        assert (os.environ[POLL], os.environ[WATCH]) == ("7", "1")
    assert (os.environ[POLL], os.environ[WATCH]) == ("7", "1")


def test_a_training_is_started_with_it(monkeypatch):
    told = {}

    def fit():
        told.update({name: os.environ.get(name) for name in (POLL, WATCH)})
        return SimpleNamespace(return_value=None)

    for name in (POLL, WATCH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(trainer, "nodes_up", lambda: [Bundle(2.0)])
    for name in ("ensure_cluster", "check_training"):
        monkeypatch.setattr(trainer, name, lambda *given: None)
    monkeypatch.setattr(trainer.FineTuner, "_stored", lambda *given: None)
    monkeypatch.setattr(trainer.FineTuner, "_finished", lambda *given: False)
    monkeypatch.setattr(trainer.FineTuner, "_trainer", lambda *given: SimpleNamespace(fit=fit))
    monkeypatch.setattr(trainer.FineTuneResult, "of", lambda *given: "tuned")
    assert trainer.FineTuner(None, TrainingConfig(), initial=nn.Identity()).fit(None) == "tuned"
    assert told == {POLL: "0.25", WATCH: "0"}
