"""The settings and rows that a resumed training must share with the interrupted one."""

import json
from dataclasses import replace

import pytest

from rsf_dist.sampling.stream import Cursor
from rsf_dist.training.state import StreamIdentity, TrainingIdentity

STORED = TrainingIdentity(3, {"steps": 60, "learning_rate": 0.1}, batches=18)
STREAM = StreamIdentity(seed=3, stage=0, round=2, chunk_size=512, log_m=1.5, start=Cursor(7, 4, 100, 2, "ab"))
STREAMED = replace(STORED, batches=None, stream=STREAM)


def test_an_identity_lies_flat_in_a_checkpoint():
    assert STORED.to_json() == {"seed": 3, "steps": 60, "learning_rate": 0.1, "batches": 18}
    assert STREAMED.to_json() == {
        "seed": 3,
        "steps": 60,
        "learning_rate": 0.1,
        "stream.seed": 3,
        "stream.stage": 0,
        "stream.round": 2,
        "stream.chunk_size": 512,
        "stream.log_m": 1.5,
        "stream.start.chunk": 7,
        "stream.start.index": 4,
        "stream.start.rows": 100,
        "stream.start.num_capped": 2,
        "stream.start.digest": "ab",
    }


@pytest.mark.parametrize("identity", [STORED, STREAMED])
def test_a_training_agrees_with_itself_once_stored(identity):
    assert identity.difference(json.loads(json.dumps(identity.to_json()))) is None


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        (replace(STORED, seed=4), "seed=3, not 4"),
        (replace(STORED, settings={"steps": 70, "learning_rate": 0.1}), "steps=60, not 70"),
        (replace(STORED, batches=19), "batches=18, not 19"),
        (STREAMED, "stream.seed=None, not 3"),
    ],
)
def test_the_first_difference_is_named(now, difference):
    assert now.difference(STORED.to_json()) == difference


def test_a_stream_that_begins_elsewhere_is_another():
    later = replace(STREAMED, stream=replace(STREAM, start=Cursor(8, 4, 100, 2, "ab")))
    assert later.difference(STREAMED.to_json()) == "stream.start.chunk=7, not 8"
