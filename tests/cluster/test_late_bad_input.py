"""Faults that show only in actors, as of a ratio that fails after every check of it has passed, end in one error."""

import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray
import torch
from faults import wait_until
from processes import own_processes

import rsf_dist as rsf
from rsf_dist.config.load import parse_config
from rsf_dist.config.model import ModelConfig
from rsf_dist.data.arrow import to_table
from rsf_dist.errors import RsfError
from rsf_dist.runs import pipeline

pytestmark = pytest.mark.ray

CODE = Path(__file__).parents[1] / "unit" / "bad_input" / "code"


@pytest.fixture
def no_records() -> Iterator[None]:
    """Logging is disabled: pytest would keep Ray Data's errors, whose frames hold actors, until the test ends."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


DRAWING = ("ray::MapWorker", "ray::MapBatches")
"""Titles of what draws chunks: an actor for as long as it lives, and a worker while it runs a wave of tasks."""


def drawing() -> set[psutil.Process]:
    return {process for title in DRAWING for process in own_processes(title)}


@contextmanager
def watched() -> Iterator[set[psutil.Process]]:
    """The processes that are seen drawing while the block runs."""
    seen: set[psutil.Process] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            seen.update(drawing())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", r"64 of [\d,]+ log ratios are NaN or \+inf; fix the target or the ratio there"),
        pytest.param(  # test_sampler has the same refusal, of the first chunk
            "one_too_few", r"ratio\.score=\[63\]: must be \[64\]; give one number a row", marks=pytest.mark.soak
        ),
        ("fails", r"ratio\.score=late_ratios:fails: fails \(RuntimeError: the server is gone\); fix it"),
        ("exits", r"ratio\.score=late_ratios:exits: fails \(SystemExit: 0\); fix it"),
        ("hangs", r"proposal or ratio=chunk \d+: did not end within 2 s, and was in hangs\(\) of late_ratios\.py:\d+"),
    ],
)
def test_a_ratio_that_goes_wrong_late(
    name: str, message: str, small_run: dict, no_records: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error of ours, within 90 s, most of which starts processes; none draws on, though the error is held."""
    assert not drawing()
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "late_ratios", raising=False)  # it counts its calls
    changes = {
        "code_folder": str(CODE),
        "ratio": {"kind": "reward", "score": f"late_ratios:{name}", "max_score": 1.0},
        "envelope": {"kind": "pilot", "num_pilot": 128},
        "sampling": {
            "num_accepted": 4000,
            "chunk_size": 64,
            "pool": {"max_actors": 2, "chunk_seconds": 2.0 if name == "hangs" else 60.0},
        },
    }
    started = time.monotonic()
    with watched() as seen, pytest.raises(RsfError) as caught:
        pipeline.sample(parse_config(small_run | changes))
    assert re.match(message, str(caught.value)), str(caught.value)
    assert caught.value.exit_code in (2, 3)
    assert time.monotonic() - started < 90
    assert seen
    wait_until(lambda: not drawing(), seconds=60)


def parquet(folder: Path, **columns: torch.Tensor | list[str]) -> ray.data.Dataset:
    """The columns, read from a file."""
    folder.mkdir()
    rows = to_table({name: column for name, column in columns.items() if isinstance(column, torch.Tensor)})
    for name, column in columns.items():
        rows = rows if isinstance(column, torch.Tensor) else rows.append_column(name, [column])
    pq.write_table(rows, folder / "rows.parquet")
    return ray.data.read_parquet(str(folder))


def test_parquet_of_other_columns_is_not_trained_on(no_records: None, tmp_path: Path) -> None:
    """The other type shows in a worker alone, whose error of ours comes back as one line; more: test_task_columns."""
    task = rsf.ClassificationTask(("a", "b"), ModelConfig(width=4), channels=1)
    training = rsf.TrainingConfig(steps=2, batch_size=8, num_workers=1, cpus_per_worker=0.5, max_failures=0)
    image, label = torch.zeros(64, 1, 8, 8, dtype=torch.uint8), torch.arange(64) % 2
    names = ["a", "b"] * 32
    for number, (columns, message) in enumerate(
        [
            ({"image": image}, r"column=label: is not among the dataset's \['image'\]; add or rename it"),
            ({"image": image, "label": names}, r"column=label \(string\): holds no numbers; convert it to numbers"),
            ({"image": image, "label": label.double()}, r"label=torch.float64 \[8\]: must be a class's number"),
        ]
    ):
        with pytest.raises(rsf.InputError, match=message) as caught:
            rsf.FineTuner(task, training, storage_path=str(tmp_path)).fit(parquet(tmp_path / str(number), **columns))
        assert str(caught.value).isprintable()
    good, named = (
        parquet(tmp_path / "good", image=image, label=label),
        parquet(tmp_path / "named", image=image, label=names),
    )
    with pytest.raises(rsf.InputError, match=r"validation column=label \(string\): holds no numbers"):
        rsf.FineTuner(task, training, storage_path=str(tmp_path)).fit(good, validation=named)
