"""What Ray Train reads from the environment."""

import os

import pytest

from rsf_dist import trainer
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
