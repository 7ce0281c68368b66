import json
import math
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import faults
import pytest
import ray
import torch
from faults import Stepping, killing, report_times, steps_taken_again

import rsf_dist as rsf
from rsf_dist.config.images import DigitsConfig
from rsf_dist.config.model import ModelConfig
from rsf_dist.data.arrow import to_table
from rsf_dist.data.images import load_images
from rsf_dist.models.networks import ImageNetwork
from rsf_dist.training.checkpoints import RunFolder
from rsf_dist.training.trainer import FineTuneResult

pytestmark = pytest.mark.ray
for module in (sys.modules[__name__], faults):
    ray.cloudpickle.register_pickle_by_value(module)  # workers cannot import a test module

DIGITS = load_images(DigitsConfig())
TASK = rsf.ClassificationTask(DIGITS.classes, ModelConfig(width=4), channels=1)


def dataset(count: int = 600, **columns: torch.Tensor) -> ray.data.Dataset:
    rows = to_table({"image": DIGITS.images[:count], "label": DIGITS.labels[:count], **columns})
    return ray.data.from_arrow([rows.slice(start, 100) for start in range(0, count, 100)])


def training(**options) -> rsf.TrainingConfig:
    quick = {"steps": 60, "batch_size": 32, "learning_rate": 5e-3, "cpus_per_worker": 0.5, "evaluate_every": 20}
    return rsf.TrainingConfig(**(quick | {"max_failures": 0} | options))


@dataclass(frozen=True)
class Trained:
    """A training that nothing disturbed, 300 steps of two workers.

    Args:
        folder: the checkpoints of its run.
        result: the training's result.
        seconds: wall time.
    """

    folder: RunFolder
    result: FineTuneResult
    seconds: float


LONG = {"steps": 300, "evaluate_every": 110, "num_workers": 2, "max_failures": 1}  # 18 steps an epoch: in its middle


def train_long(task: rsf.ClassificationTask, storage: Path, **options) -> Trained:
    started = time.monotonic()
    tuner = rsf.FineTuner(task, training(**LONG | options), storage_path=str(storage))
    result = tuner.fit(dataset(), dataset(600))
    return Trained(RunFolder.of(str(storage), tuner.name), result, time.monotonic() - started)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, ray_address: str) -> Trained:
    return train_long(TASK, tmp_path_factory.mktemp("undisturbed"))


def test_learns_and_keeps_its_last_checkpoints(undisturbed: Trained) -> None:
    check_learned(undisturbed)


@pytest.mark.soak
def test_one_worker_learns_and_keeps_its_last_checkpoints(tmp_path) -> None:
    check_learned(train_long(TASK, tmp_path, num_workers=1))


def check_learned(trained: Trained) -> None:
    tuned = trained.result
    assert tuned.metrics["step"] == 300
    assert [evaluation["step"] for evaluation in tuned.history.evaluations] == [110, 220, 300]
    assert tuned.history.curve[-1]["train_loss"] < 0.5 * tuned.history.curve[0]["train_loss"]
    assert tuned.history.curve[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)
    # The chosen model, loaded here, scores what the workers together reported: no validation row was lost or split off.
    model = tuned.load_model()
    with torch.inference_mode():
        accuracy = (model(DIGITS.images[:600]).argmax(1) == DIGITS.labels[:600]).float().mean()
    assert tuned.metrics["accuracy"] == pytest.approx(float(accuracy), abs=1e-6)
    assert accuracy > 0.5
    folder = Path(trained.folder.path)
    kept = {json.loads(file.read_text())["classes"][3] for file in folder.glob("checkpoint*/model.json")}
    assert kept == {"3"}
    assert len(list(folder.glob("checkpoint*/model.safetensors"))) == 2  # the one before stands in for it
    best = FineTuneResult.of(trained.folder, TASK, "best")
    assert best.metrics["accuracy"] == max(evaluation["accuracy"] for evaluation in tuned.history.evaluations[1:])


def test_begins_with_the_model_that_it_is_given(tmp_path) -> None:
    initial = TASK.build_model(7)
    still = training(steps=1, learning_rate=1e-12, weight_decay=0, evaluate_every=1, algorithm="sgd")
    tuned = rsf.FineTuner(TASK, still, initial=initial, storage_path=str(tmp_path)).fit(dataset(100))
    head = tuned.load_model().network[-1].weight
    torch.testing.assert_close(head, initial.network[-1].weight)


def test_row_weights_weigh(tmp_path) -> None:
    # Half of the rows have a wrong label and weight 0: with weights they do no harm.
    wrong = DIGITS.labels[:600].clone()
    wrong[::2] = (wrong[::2] + 1) % 10
    weight = torch.ones(600)
    weight[::2] = 0
    rows = dataset(label=wrong, weight=weight)
    accuracy = {}
    for weighted in (True, False):
        tuner = rsf.FineTuner(TASK, training(use_row_weights=weighted), storage_path=str(tmp_path))
        accuracy[weighted] = tuner.fit(rows, dataset(600)).metrics["accuracy"]
    assert accuracy[True] > accuracy[False] + 0.1


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({"label": torch.full((600,), 10)}, {}, r"label=10: must lie in \[0, 10\)"),
        ({}, {"batch_size": 1000}, "do not fill one batch"),
        ({}, {"num_workers": 4, "cpus_per_worker": 1}, "Ray Data needs a whole CPU"),
        ({}, {"num_workers": 1, "use_gpu": True}, r"needs 1 × \(0.5 CPU, 1 GPU\)"),
        ({}, {"use_row_weights": True}, "column=weight: is not among"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(rows: dict, options: dict, message: str, tmp_path) -> None:
    tuner = rsf.FineTuner(TASK, training(**options), storage_path=str(tmp_path))
    with pytest.raises(rsf.InputError, match=message) as caught:
        tuner.fit(dataset(**rows))
    assert "\n" not in str(caught.value)


def test_rows_are_trained_on_in_their_order_whichever_block_is_ready_first(tmp_path) -> None:
    def late(rows: dict) -> dict:
        time.sleep(3.0 if rows["row"][0] == 0 else 0.0)
        return rows

    rows = dataset(row=torch.arange(600)).map_batches(late, batch_size=None)
    tuner = rsf.FineTuner(Noting(tmp_path / "log"), training(), storage_path=str(tmp_path))
    held = tuner._stored(rows, None)
    assert held.stored is not None
    assert [row["row"] for row in held.stored.take_all()] == list(range(540))
    assert [row["row"] for row in held.validation.take_all()] == list(range(540, 600))


def test_a_loss_that_is_not_finite_is_refused(tmp_path) -> None:
    broken = TASK.build_model(0)
    assert isinstance(broken, ImageNetwork)
    torch.nn.init.constant_(broken.network[-1].bias, math.nan)
    with pytest.raises(rsf.StatisticalRefusal, match="not finite"):
        rsf.FineTuner(TASK, training(), initial=broken, storage_path=str(tmp_path)).fit(dataset())


def test_a_killed_worker_changes_nothing(undisturbed: Trained, tmp_path, record_property) -> None:
    """SIGKILL one of two workers 40 steps after a checkpoint: these are taken again, and nothing else is."""
    with killing(tmp_path / "log", step=150, ranks=2, rank=1) as killed:
        disturbed = train_long(stepping(tmp_path / "log", holds_at=150), tmp_path)
    again = steps_taken_again(tmp_path / "log", len(killed), every=110, last=300)
    assert (len(killed), again) == (1, 40)
    tuned, whole = disturbed.result, undisturbed.result
    assert [point["step"] for point in tuned.history.curve] == list(range(6, 301, 6))
    assert [evaluation["step"] for evaluation in tuned.history.evaluations] == [110, 220, 300]
    assert tuned.history == whole.history  # to the last bit
    weights, others = (result.load_model().state_dict() for result in (tuned, whole))
    assert all(torch.equal(weights[name], others[name]) for name in others)
    report_times(record_property, "worker killed", disturbed.seconds, undisturbed.seconds, again, "steps taken again")


@pytest.mark.soak
def test_a_killed_worker_is_told_where_none_may_fail_and_the_run_goes_on(tmp_path) -> None:
    task = stepping(tmp_path / "log", holds_at=50)

    def tuner() -> rsf.FineTuner:
        return rsf.FineTuner(task, training(steps=100), storage_path=str(tmp_path), name="run", resume=True)

    with (
        killing(tmp_path / "log", step=50, ranks=1) as killed,
        pytest.raises(rsf.ClusterFailure, match=r"^the cluster failed \(.*run it again: it goes on$"),
    ):
        tuner().fit(dataset())
    assert [saved.step for saved in RunFolder.of(str(tmp_path), "run").newest_first()] == [40, 20]
    tuned = tuner().fit(dataset())
    assert [evaluation["step"] for evaluation in tuned.history.evaluations] == [20, 40, 60, 80, 100]
    again = steps_taken_again(tmp_path / "log", len(killed), every=20, last=100)
    assert (len(killed), again) == (1, 10)


def stepping(log: Path, holds_at: int) -> Stepping:
    """TASK, with a line for every step."""
    return Stepping(DIGITS.classes, ModelConfig(width=4), channels=1, log=log, holds_at=holds_at)


class Noting(rsf.ClassificationTask):
    """Writes down which rows each rank trains on, a line a step; O_APPEND keeps the lines whole."""

    columns = ("image", "label", "row")

    def __init__(self, log: Path):
        super().__init__(DIGITS.classes, ModelConfig(width=4), channels=1)
        self.log = log

    def loss(self, model, batch):
        line = " ".join(str(row) for row in batch["row"].tolist()) + "\n"
        file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())
        os.close(file)
        return super().loss(model, batch)


@pytest.mark.soak
def test_with_other_workers_an_epoch_goes_on_with_as_many_rows(tmp_path) -> None:
    """600 rows are 18 batches of 32; two workers begin at step 40, 4 batches into the third epoch."""
    log, rows = tmp_path / "rows", dataset(row=torch.arange(600))

    def tuner(num_workers: int) -> rsf.FineTuner:
        options = training(num_workers=num_workers)
        return rsf.FineTuner(Noting(log), options, storage_path=str(tmp_path), name="run", resume=True)

    alone = tuner(1).fit(rows, rows)
    assert len(log.read_text().splitlines()) == 60
    newest = next(RunFolder.of(str(tmp_path), "run").newest_first())
    shutil.rmtree(newest.checkpoint.path)
    together = tuner(2).fit(rows, rows)
    lines = [[int(row) for row in line.split()] for line in log.read_text().splitlines()]
    before, after = lines[:40], lines[60:]
    assert [len(line) for line in after] == [16] * (2 * 20)  # every step from the checkpoint on, on both ranks
    for epoch in (before[:18], before[18:36]):
        assert len({row for line in epoch for row in line}) == 18 * 32
    third = after[: 2 * 14]  # the ranks step together
    assert sum(map(len, before[36:])) + sum(map(len, third)) == 18 * 32
    assert len({row for line in third for row in line}) == 14 * 32  # none twice
    assert [point["step"] for point in together.history.curve] == list(range(1, 61))
    assert together.history.curve[:40] == alone.history.curve[:40]
    assert together.history.evaluations[:2] == alone.history.evaluations[:2]
    assert together.metrics["loss"] == pytest.approx(alone.metrics["loss"], rel=0.15)


def test_resumes_and_steps_back_over_what_is_damaged(tmp_path) -> None:
    def tuner(**options) -> rsf.FineTuner:
        return rsf.FineTuner(TASK, training(**options), storage_path=str(tmp_path), name="again", resume=True)

    first = tuner().fit(dataset())
    folder = RunFolder.of(str(tmp_path), "again")
    newest, older = (Path(saved.checkpoint.path) for saved in folder.newest_first())
    # A finished run gives its result again; another training under its name is refused.
    again = tuner().fit(dataset())
    assert (again.metrics, again.history) == (first.metrics, first.history)
    with pytest.raises(rsf.InputError, match=r"name=again: holds a training with steps=60, not 70"):
        tuner(steps=70).fit(dataset())
    # The newest one truncated: on from the one before, with as many workers to the same end.
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert [saved.step for saved in folder.newest_first()] == [40]
    repaired = tuner().fit(dataset())
    assert (repaired.metrics, repaired.history) == (first.metrics, first.history)
    # A file of every one gone, a folder too, and Ray's own list with them: from the beginning.
    for saved in folder.newest_first():
        (Path(saved.checkpoint.path) / "training.pt").unlink()
    shutil.rmtree(older, ignore_errors=True)
    (tmp_path / "again" / "checkpoint_manager_snapshot.json").write_text('{"checkpoint_results": [')
    anew = tuner().fit(dataset())
    assert [evaluation["step"] for evaluation in anew.history.evaluations] == [20, 40, 60]
    assert anew.metrics["accuracy"] > 0.5
