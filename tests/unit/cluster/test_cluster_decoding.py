"""The decoding of blocks in a worker process: its reader is unpickled once, and not kept for ever."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass

import pyarrow as pa
import pytest
import ray
import torch

from rsf_dist.cluster import decoding
from rsf_dist.cluster.decoding import Latest

unpickled: list[int] = []


class Reader:
    """A reader whose images are all of one level; `unpickled` counts its copies."""

    def __init__(self, level: int) -> None:
        self.level = level

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__dict__ = state
        unpickled.append(self.level)

    def __call__(self, positions: list[int]) -> dict[str, torch.Tensor]:
        return {"image": torch.full((len(positions), 1, 1, 1), self.level, dtype=torch.uint8)}


@dataclass(frozen=True)
class Reference:
    """A reference to an object, as Ray's store keeps it: pickled."""

    stored: bytes

    def binary(self) -> bytes:
        return self.stored[-1:] * 28


@pytest.fixture
def in_a_worker(monkeypatch) -> None:
    unpickled.clear()
    monkeypatch.setattr(decoding, "limit_to_allocation", lambda: None)
    monkeypatch.setattr(decoding, "_latest", Latest())
    monkeypatch.setattr(ray, "get", lambda reference: pickle.loads(reference.stored))


def levels(reference: Reference, count: int) -> list[int]:
    row = decoding._decode(pa.table({"positions": [list(range(count))]}), reference)
    columns, _ = decoding._from_row(row, 0)
    return columns["image"].flatten().tolist()


def test_a_process_unpickles_a_reader_once_however_many_blocks_it_decodes(in_a_worker):
    one, other = (Reference(pickle.dumps(Reader(level)) + bytes([level])) for level in (3, 5))
    assert [levels(one, count) for count in (1, 2, 3)] == [[3], [3, 3], [3, 3, 3]]
    assert unpickled == [3]
    assert levels(other, 1) == [5]  # of the next image set
    assert levels(one, 1) == [3]
    assert unpickled == [3, 5, 3]


def test_a_reader_is_let_go_once_nothing_is_decoded_any_more():
    latest, fetched = Latest(idle_seconds=0.05), []
    latest.get(b"a", lambda: fetched.append("first"))
    deadline = time.monotonic() + 20
    while latest._held and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not latest._held
    latest.get(b"a", lambda: fetched.append("again"))
    assert fetched == ["first", "again"]


def test_a_reader_that_cannot_be_fetched_is_fetched_again_for_the_next_block():
    def lost() -> None:
        raise OSError("lost")

    latest = Latest()
    with pytest.raises(OSError, match="lost"):
        latest.get(b"a", lost)
    assert latest.get(b"a", lambda: 7) == 7


def test_the_decoding_can_be_sent_by_value_as_modules_in_a_user_s_folder_are(in_a_worker):
    one = Reference(pickle.dumps(Reader(3)) + bytes([3]))
    assert levels(one, 1) == [3]
    ray.cloudpickle.register_pickle_by_value(decoding)
    try:
        sent = pickle.loads(ray.cloudpickle.dumps(decoding._decode))
    finally:
        ray.cloudpickle.unregister_pickle_by_value(decoding)
    for _ in range(2):
        block, _ = decoding._from_row(sent(pa.table({"positions": [[0, 1]]}), one), 0)
        assert block["image"].flatten().tolist() == [3, 3]
    assert unpickled == [3, 3]  # once here, once there
