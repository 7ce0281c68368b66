"""Streams of accepted rows on the session's cluster, and training on them while they are drawn."""

import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import faults
import numpy as np
import pytest
import ray
import torch
from faults import Stepping, all_took, killing, steps_taken_again, wait_until

import rsf_dist as rsf
from rsf_dist.cluster.ray_workarounds import unwrapped
from rsf_dist.config.images import DigitsConfig
from rsf_dist.config.model import ModelConfig
from rsf_dist.data.arrow import from_table
from rsf_dist.data.images import load_images
from rsf_dist.sampling.accepted import describe_columns, fingerprint
from rsf_dist.sampling.stream import LEDGER, Cursor, RowStream, ledger_in
from rsf_dist.training.batch_server import (
    _BATCHES_AHEAD,
    StreamProgress,
    iter_served_batches,
    start_batch_server,
    stop_batch_server,
)
from rsf_dist.training.state import StreamReport

pytestmark = pytest.mark.ray
for module in (sys.modules[__name__], faults):
    ray.cloudpickle.register_pickle_by_value(module)  # the actors cannot import a test module

BATCH, CHUNK = 32, 128
DIGITS = load_images(DigitsConfig())
TASK = rsf.ClassificationTask(DIGITS.classes, ModelConfig(width=4), channels=1)


class NoisyDigits:
    """Digits with noise, so that no two rows are alike; `seconds` a chunk, and padded to `size` pixels."""

    def __init__(self, seconds: float = 0.0, size: int = 8):
        self.seconds, self.size = seconds, size

    def sample(self, n, rng):
        time.sleep(self.seconds if n > 1 else 0)
        generator = rng.torch()
        index = torch.randint(1_200, (n,), generator=generator)
        image = DIGITS.images[index].int() + torch.randint(0, 16, (n, *DIGITS.images.shape[1:]), generator=generator)
        wide = torch.zeros(n, 1, self.size, self.size, dtype=torch.uint8)
        wide[..., :8, :8] = image.clamp(max=255).to(torch.uint8)[..., :8, :8]
        return {"image": wide, "label": DIGITS.labels[index]}


def sampler(proposal=None, chunk_size: int = CHUNK, max_proposals: int = 10**6, **pool) -> rsf.RejectionSampler:
    """Half of the proposals are accepted, and at r/M = 1/2 none is capped."""
    return rsf.RejectionSampler(
        proposal or NoisyDigits(), rsf.ConstantRatio(), rsf.FixedEnvelope(math.log(2), num_pilot=64),
        chunk_size=chunk_size, pool=rsf.PoolConfig(**pool), budget=rsf.Budget(max_proposals=max_proposals),
    )  # fmt: skip


def training(**options) -> rsf.TrainingConfig:
    quick = {"steps": 30, "batch_size": BATCH, "learning_rate": 5e-3, "cpus_per_worker": 0.5, "evaluate_every": 10}
    return rsf.TrainingConfig(**(quick | options))


def read(dataset: ray.data.Dataset):
    """All rows, in one table."""
    import pyarrow as pa

    return pa.concat_tables(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))


@pytest.fixture(scope="module")
def accepted(ray_address: str) -> rsf.AcceptedSet:
    return sampler().sample(500)


@pytest.fixture(scope="module")
def validation(accepted: rsf.AcceptedSet) -> ray.data.Dataset:
    return accepted.dataset.limit(200).materialize()


def expected(stream: RowStream, steps: int) -> Cursor:
    """Return the cursor that a reader of `steps` batches must reach, computed here without a batch server."""
    ledger, cursor = ledger_in(read(stream.dataset(steps * BATCH, with_ledger=True))), stream.start
    for start in range(0, len(ledger), BATCH):
        cursor = cursor.moved(ledger[start : start + BATCH], stream.work.log_m)
    return cursor


@pytest.fixture(scope="module")
def stream(accepted: rsf.AcceptedSet) -> RowStream:
    return sampler().row_stream(30 * BATCH, after=Cursor.after(accepted))


@pytest.fixture(scope="module")
def goal(stream: RowStream) -> Cursor:
    return expected(stream, 30)


@pytest.mark.parametrize(("per_task", "actors"), [pytest.param(1, 1, marks=pytest.mark.soak), (3, 2)])
def test_a_stream_has_the_rows_of_sample(per_task: int, actors: int, accepted: rsf.AcceptedSet) -> None:
    stream = sampler(max_actors=actors, max_tasks_in_flight=2).row_stream(500)
    rows = read(replace(stream, chunks_per_task=per_task).dataset(500, with_ledger=True))
    mark = fingerprint(ledger_in(rows), describe_columns(rows.drop_columns([LEDGER])), accepted.report.log_m)
    assert mark == accepted.fingerprint
    assert rows.drop_columns([LEDGER]).equals(accepted.head(500).select(rows.column_names[:-1]))


def test_the_public_stream(accepted: rsf.AcceptedSet) -> None:
    rows = read(sampler().stream(500))
    assert rows.equals(accepted.head(500).select(rows.column_names))
    assert set(rows.column_names) == {"image", "label", "round", "chunk", "index", "log_ratio", "accept_key", "weight"}


def test_it_goes_on_after_a_set_with_the_next_row(stream: RowStream, accepted: rsf.AcceptedSet) -> None:
    more = sampler().sample(600)
    fresh = from_table(read(stream.dataset(100)))
    for name in ("chunk", "index"):
        np.testing.assert_array_equal(fresh[name].numpy(), more.ledger[name][500:])
    assert stream.start.rows == 500
    assert stream.start.digest == accepted.fingerprint


def test_the_budget_ends_it_and_empty_chunks_have_columns() -> None:
    rare = rsf.RejectionSampler(
        NoisyDigits(), rsf.ConstantRatio(), rsf.FixedEnvelope(math.log(500), num_pilot=64), chunk_size=16,
        budget=rsf.Budget(max_proposals=1_600),
    )  # fmt: skip
    stream = rare.row_stream(1_000)
    rows = read(stream.dataset(1_000))  # 100 chunks, of which some 97 accept nothing
    accepted = [(chunk, index) for chunk in range(100) for index in stream.work(chunk).rows["index"].tolist()]
    assert list(zip(rows["chunk"].to_pylist(), rows["index"].to_pylist(), strict=True)) == accepted != []
    nothing = replace(stream, end=accepted[0][0]).dataset().materialize()
    assert nothing.count() == 0
    assert nothing.schema().names == rows.column_names


def test_what_cannot_be_streamed_is_refused(validation) -> None:
    growing = rsf.RejectionSampler(NoisyDigits(), rsf.ConstantRatio(), rsf.AdaptiveEnvelope(num_pilot=64))
    with pytest.raises(rsf.InputError, match=r"envelope.kind=adaptive: its M grows, and rows already handed over"):
        growing.stream(10)
    with pytest.raises(rsf.InputError, match=r"^sampling.budget.max_proposals=64: is below one chunk"):
        sampler(max_proposals=64).stream(10)
    stream = sampler().row_stream(BATCH)
    with pytest.raises(rsf.InputError, match="a stream leaves no rows to hold out"):
        rsf.FineTuner(TASK, training()).fit(stream)
    with pytest.raises(rsf.InputError, match="3 sampling actor"):
        rsf.FineTuner(TASK, training(num_workers=2, cpus_per_worker=1)).fit(
            replace(stream, pool=rsf.PoolConfig(min_actors=3)), validation
        )


@pytest.mark.soak
def test_a_ratio_that_is_not_finite_is_refused_as_by_sample() -> None:
    class Broken(rsf.ConstantRatio):
        def log_ratio(self, batch):
            return (
                torch.where(batch["label"] == 3, math.nan, 0.0).double()
                if len(batch["label"]) == CHUNK
                else super().log_ratio(batch)
            )

    broken = rsf.RejectionSampler(NoisyDigits(), Broken(), rsf.FixedEnvelope(0.7, num_pilot=64), chunk_size=CHUNK)
    with pytest.raises(rsf.StatisticalRefusal) as sampled:
        broken.sample(50)
    with pytest.raises(rsf.StatisticalRefusal, match="NaN or") as streamed, unwrapped():
        read(broken.stream(50))
    counts = r"^[\d,]+ of [\d,]+ "  # up to which chunk is a matter of which actor was first
    assert re.sub(counts, "", str(streamed.value)) == re.sub(counts, "", str(sampled.value))


def fit(stream, validation, folder, task: rsf.ClassificationTask = TASK, **options) -> rsf.FineTuneResult:
    tuner = rsf.FineTuner(task, training(**options), storage_path=str(folder), name="stream", resume=True)
    return tuner.fit(stream, validation)


def check_complete(report: StreamReport, stream: RowStream, goal: Cursor) -> None:
    assert (report.digest, report.rows, report.num_capped) == (goal.digest, 30 * BATCH, 0)
    assert report.num_proposed == goal.num_proposed(CHUNK) - stream.start.num_proposed(CHUNK)


@pytest.mark.soak
def test_two_workers_train_on_the_stream_in_its_order(stream, goal, validation, tmp_path) -> None:
    assert stream.mean_weight == 1.0  # what weighted losses are divided by: nothing is capped
    tuned = fit(stream, validation, tmp_path, num_workers=2, use_row_weights=True)
    check_complete(tuned.stream, stream, goal)
    assert tuned.metrics["step"] == 30
    assert tuned.history.curve[-1]["train_loss"] < tuned.history.curve[0]["train_loss"]


@pytest.mark.soak
def test_one_worker_waits_for_a_slow_sampler_and_gets_the_same_rows(stream, goal, validation, tmp_path) -> None:
    slow = replace(stream, work=replace(stream.work, proposal=NoisyDigits(0.25)), pool=rsf.PoolConfig(max_actors=1))
    tuned = fit(slow, validation, tmp_path)
    check_complete(tuned.stream, stream, goal)
    # 15 chunks of 0.25 s, one after the other: the trainer has hardly anything else to do.
    assert tuned.stream.trainer_waited_seconds > 1.5
    assert tuned.stream.sampler_waited_seconds < tuned.stream.trainer_waited_seconds / 4


def stepping(log: Path, holds_at: int) -> Stepping:
    """TASK, with a line for every step."""
    return Stepping(DIGITS.classes, ModelConfig(width=4), channels=1, log=log, holds_at=holds_at)


# The batch server dies with rank 0, its owner; when rank 1 dies, the server is left with batches ready.
@pytest.mark.parametrize(
    ("rank", "step"),
    [(0, 15), pytest.param(1, 11, marks=pytest.mark.soak), pytest.param(1, 29, marks=pytest.mark.soak)],
)
def test_a_killed_worker_repeats_and_skips_no_row(rank: int, step: int, goal, validation, stream, tmp_path) -> None:
    """In the history, of the rows and, but for those since the last checkpoint, of the steps that were taken."""
    slow, log = replace(stream, work=replace(stream.work, proposal=NoisyDigits(0.1))), tmp_path / "log"
    with killing(log, step, ranks=2, rank=rank) as killed:
        tuned = fit(slow, validation, tmp_path, stepping(log, holds_at=step), num_workers=2, max_failures=1)
    check_complete(tuned.stream, stream, goal)
    assert [evaluation["step"] for evaluation in tuned.history.evaluations] == [10, 20, 30]
    again = steps_taken_again(log, len(killed), every=10, last=30)
    assert (len(killed), again) == (1, step % 10)


DRIVER = """
import logging, sys, ray
sys.path.insert(0, {tests!r})
import test_streaming as here
ray.init(address={address!r}, log_to_driver=False, logging_level=logging.ERROR)
stream, validation = ray.cloudpickle.load(open({folder!r} + "/arguments", "rb"))
here.fit(stream, ray.data.from_arrow(validation), {folder!r}, here.stepping({folder!r} + "/log", 15), num_workers=2)
"""


@pytest.mark.soak
def test_a_dead_driver_is_gone_on_from_by_another_number_of_workers(
    stream, goal, validation, tmp_path, ray_address: str
) -> None:
    slow, log = replace(stream, work=replace(stream.work, proposal=NoisyDigits(0.2))), tmp_path / "log"
    (tmp_path / "arguments").write_bytes(ray.cloudpickle.dumps((slow, read(validation))))
    code = DRIVER.format(tests=str(Path(__file__).parent), address=ray_address, folder=str(tmp_path))
    driver = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_until(lambda: all_took(log, 15, ranks=2) or driver.poll() is not None, seconds=150)
    finally:
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
    tuned = fit(stream, validation, tmp_path, stepping(log, holds_at=15), num_workers=1)
    check_complete(tuned.stream, stream, goal)
    assert steps_taken_again(log, kills=1, every=10, last=30) == 5
    assert [evaluation["step"] for evaluation in tuned.history.evaluations] == [10, 20, 30]


def test_a_stream_that_ends_early_is_a_refusal_on_all_ranks(validation, tmp_path, soak: bool) -> None:
    short = sampler(max_proposals=10 * CHUNK).row_stream(30 * BATCH)
    started = time.monotonic()
    with pytest.raises(
        rsf.StatisticalRefusal, match=r"for \d+ of 30 training steps accepted after 1,280 prop"
    ) as caught:
        fit(short, validation, tmp_path, num_workers=2, max_failures=2)
    assert time.monotonic() - started < 300  # a rank that waited for another would wait for half an hour
    assert "raise sampling.budget.max_proposals to about" in str(caught.value)
    if soak:  # with a larger budget the same run goes on from its checkpoint
        longer = sampler().row_stream(30 * BATCH)
        assert fit(longer, validation, tmp_path).stream.digest == expected(longer, 30).digest


@pytest.mark.soak
def test_a_slow_trainer_fills_nothing(soak: bool) -> None:
    """Rows of 64 KiB, 64 a chunk: 4 MiB a chunk. What lies in the object store stays within a few chunks an actor."""
    actors, chunk_bytes = 2, 64 * 2**16
    wide = sampler(NoisyDigits(size=256), chunk_size=128, max_actors=actors)
    stream = replace(wide.row_stream(10**5), chunks_per_task=1)
    before = object_store_bytes()
    server = start_batch_server("slow-trainer", ray.put(stream), Cursor(), BATCH, 0, 10**4, 1, ["image", "label"])
    seconds, used = (60 if soak else 12), []
    try:
        taken = iter_served_batches(server, 0, 0, 10**4, StreamProgress(Cursor()))
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            rows, intake = next(taken)
            assert rows.num_rows == BATCH
            used.append(object_store_bytes() - before)
            begin = begin if len(used) > 1 else time.monotonic()  # not what it takes to start
            time.sleep(0.25)
    finally:
        stop_batch_server(server)
    held = (_BATCHES_AHEAD + 3) * BATCH * 2**16
    print(f"object store: at most {max(used) / 2**20:.0f} MiB; {actors} actors, {chunk_bytes / 2**20:.0f} MiB a chunk")
    assert max(used) < 6 * actors * chunk_bytes + held
    assert max(used[len(used) // 2 :]) <= 1.5 * max(used[: len(used) // 2])
    assert intake.sampler_waited_seconds > seconds / 4  # it could have filled the store many times over


def object_store_bytes() -> float:
    """In use on all nodes."""
    total = ray.cluster_resources()["object_store_memory"]
    return total - ray.available_resources().get("object_store_memory", 0.0)
