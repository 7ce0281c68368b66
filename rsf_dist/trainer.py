"""Fine-tuning with Ray Train's TorchTrainer: blind to M, p and q, it sees rows and weights.

Every worker holds a replica (DDP: gloo on CPUs, NCCL on GPUs) and an equal share of the training rows; steps are
counted, not epochs, so that all ranks do the same number. Validation rows are not split: each rank scores every
world-size-th batch and torchmetrics adds up, so that none is lost.
"""

from __future__ import annotations

import copy
import signal
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray.data import Dataset
from ray.train import Checkpoint, CheckpointConfig, DataConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model
from safetensors.torch import load_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from rsf_dist.batch import Batch
from rsf_dist.config import TrainingConfig
from rsf_dist.errors import InputError, StatisticalRefusal, unwrapped
from rsf_dist.optimization import optimizer_and_schedule
from rsf_dist.resources import check_training, ensure_cluster, require_shared
from rsf_dist.tasks.base import Task

_SHUFFLE_ROWS = 10_000
_CURVE_POINTS = 50


class FineTuner:
    """Fine-tunes a task's model on a Ray Dataset.

    Args:
        task: the model, its loss and its metrics.
        training: steps, batch, learning rate, workers.
        seed: of what no weights give, of dropout and of shuffling.
        initial: a model of the task to begin with; None: the task's own.
        storage_path: where checkpoints go, a folder that every node sees, or a URI; None: Ray's default.
        name: of the run beneath it; a suffix keeps it apart from earlier ones, which Ray would resume.
    """

    def __init__(
        self,
        task: Task,
        training: TrainingConfig | None = None,
        *,
        seed: int = 0,
        initial: nn.Module | None = None,
        storage_path: str | None = None,
        name: str = "fine-tune",
    ):
        self.task, self.training, self.seed = task, training or TrainingConfig(), seed
        self.initial = initial if initial is not None else task.build_model(seed)
        self.storage_path = storage_path
        self.name = f"{name}-{uuid.uuid4().hex[:8]}"

    def fit(self, dataset: Dataset, validation: Dataset | None = None) -> FineTuneResult:
        """Train on `dataset` for the configured steps; score checkpoints on `validation`.

        Args:
            dataset: rows with the task's columns, and `weight` where training.use_row_weights is set.
            validation: rows with the task's columns; None: hold out the last
                training.validation_fraction of the dataset, which should be in random order, as accepted rows are.

        Raises:
            InputError: a column is missing, there are fewer rows than a batch, the cluster is too small, the folder is
                not shared, a label lies outside of the classes.
            StatisticalRefusal: the loss is not finite.
        """
        ensure_cluster()
        check_training(self.training)
        if self.storage_path is not None:
            require_shared(self.storage_path, "storage_path")
        rows = self._checked(dataset)
        if validation is None:
            rows, held_out = rows.train_test_split(self.training.validation_fraction)
        else:
            held_out = validation.select_columns(list(self.task.columns)).materialize()
        self._require_rows(rows, held_out)
        with unwrapped(), _own_interrupts():
            result = self._trainer(rows, held_out).fit()
        return FineTuneResult.of(result, self.task, self.training.keep)

    def _checked(self, dataset: Dataset) -> Dataset:
        wanted = list(self.task.columns) + ["weight"] * self.training.use_row_weights
        schema = dataset.schema()
        there = list(schema.names) if schema else []
        missing = [name for name in wanted if name not in there]
        if missing:
            raise InputError("column", missing[0], f"is not among the dataset's {there}", "add or rename it")
        return dataset.select_columns(wanted).materialize()

    def _require_rows(self, rows: Dataset, held_out: Dataset) -> None:
        count, batch = rows.count(), self.training.batch_size
        if count < batch:
            rule = f"the {count:,} training rows do not fill one batch"
            raise InputError("training.batch_size", batch, rule, "lower it, or accept more rows")
        if held_out.count() == 0:
            raise InputError("validation", "0 rows", "there must be some", "raise training.validation_fraction")

    def _trainer(self, rows: Dataset, held_out: Dataset) -> TorchTrainer:
        training = self.training
        resources = {"CPU": training.cpus_per_worker} | ({"GPU": 1} if training.use_gpu else {})
        weights = rows.mean("weight") if training.use_row_weights else 1.0
        loop = Loop(self.task, training, self.seed, float(weights or 1.0))
        return TorchTrainer(
            _train,
            train_loop_config={"loop": loop, "initial": ray.put(copy.deepcopy(self.initial).cpu())},
            datasets={"train": rows, "validation": held_out},
            dataset_config=DataConfig(datasets_to_split=["train"]),
            scaling_config=ScalingConfig(
                num_workers=training.num_workers, use_gpu=training.use_gpu, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=self.name,
                storage_path=self.storage_path,
                failure_config=FailureConfig(max_failures=training.max_failures),
                # The best one is kept, and Ray Train never deletes the latest.
                checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=self.task.metric),
            ),
        )


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Ray Train takes SIGINT over, exits with 0 when it comes, and never gives it back."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class FineTuneResult:
    """What fine-tuning gave.

    Args:
        metrics: of the chosen checkpoint on the validation rows, and its step.
        history: over the whole training.
        checkpoint: the chosen one.
        task: what it is a model of.
    """

    metrics: dict[str, float]
    history: History
    checkpoint: Checkpoint
    task: Task

    def load_model(self) -> nn.Module:
        """The fine-tuned model, on the CPU, in evaluation mode."""
        with self.checkpoint.as_directory() as folder:
            return self.task.load(Path(folder))

    @staticmethod
    def of(result: Result, task: Task, keep: str) -> FineTuneResult:
        """From Ray Train's result, whose own checkpoint is the last; keep: `last`, or `best` by the task's metric."""
        checkpoint, reported = result.checkpoint, result.metrics
        if keep == "best":
            checkpoint, reported = max(result.best_checkpoints, key=lambda kept: kept[1][task.metric])
        metrics = {name: value for name, value in reported.items() if name != "history"}
        return FineTuneResult(metrics, History(**result.metrics["history"]), checkpoint, task)


@dataclass
class History:
    """How training went.

    Args:
        curve: [{"step", "train_loss", "learning_rate"}, …]
        evaluations: [{"step", and the task's metrics on the validation rows}, …]
    """

    curve: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Loop:
    """What a worker needs. mean_weight: the denominator of weighted losses, the weights' mean over all rows."""

    task: Task
    training: TrainingConfig
    seed: int
    mean_weight: float


def _train(config: dict[str, Any]) -> None:
    """One worker's life."""
    loop: Loop = config["loop"]
    context = ray.train.get_context()
    torch.set_num_threads(max(1, int(loop.training.cpus_per_worker)))
    device = get_device() if loop.training.use_gpu else torch.device("cpu")
    model = ray.get(config["initial"]).to(device)  # before the optimizer, whose restored state follows its parameters
    state = TrainingState(model, *optimizer_and_schedule(model, loop.training))
    state.restore()
    torch.manual_seed((loop.seed + state.step) * 1_000_003 + context.get_world_rank())  # dropout differs between ranks
    replica = prepare_model(model, move_to_device=device)
    window = MeanMetric(nan_strategy="disable").to(device)
    every = max(1, loop.training.steps // _CURVE_POINTS)
    replica.train()
    for batch in _endless_batches(loop, context.get_world_size(), state.step, device):
        if state.step >= loop.training.steps:
            break
        window.update(_step(loop, replica, batch, state))
        last = state.step == loop.training.steps
        if state.step % every == 0 or last:
            rate = state.schedule.get_last_lr()[0]
            state.history.curve.append(
                {"step": state.step, "train_loss": _mean_loss(window), "learning_rate": float(rate)}
            )
        if state.step % loop.training.evaluate_every == 0 or last:
            _report(loop.task, state, device)


@dataclass
class TrainingState:
    """What a checkpoint holds, so that a restarted group of workers goes on from it."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    step: int = 0
    history: History = field(default_factory=History)

    def save(self, task: Task, folder: Path) -> None:
        """model.safetensors, model.json and training.pt."""
        task.save(self.model, folder)
        optimizer, schedule = self.optimizer.state_dict(), self.schedule.state_dict()
        rest = {"optimizer": optimizer, "schedule": schedule, "step": self.step, "history": asdict(self.history)}
        torch.save(rest, folder / "training.pt")

    def restore(self) -> None:
        """From the worker group's last checkpoint, where there is one."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            self.model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
            rest = torch.load(Path(folder) / "training.pt", map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(rest["optimizer"])
        self.schedule.load_state_dict(rest["schedule"])
        self.step, self.history = rest["step"], History(**rest["history"])


def _step(loop: Loop, replica: nn.Module, batch: Batch, state: TrainingState) -> torch.Tensor:
    losses = loop.task.loss(replica, batch)
    if loop.training.use_row_weights:
        losses = losses * batch["weight"] / loop.mean_weight
    loss = losses.mean()
    state.optimizer.zero_grad()
    loss.backward()
    state.optimizer.step()
    state.schedule.step()
    state.step += 1
    return loss.detach()


def _endless_batches(loop: Loop, world_size: int, first_step: int, device: torch.device) -> Iterator[Batch]:
    """This rank's share of the rows, again and again, each time in another order, also after a restart."""
    shard = ray.train.get_dataset_shard("train")
    epoch = first_step
    while True:
        epoch += 1
        yield from shard.iter_torch_batches(
            batch_size=loop.training.batch_size // world_size,
            drop_last=True,
            local_shuffle_buffer_size=_SHUFFLE_ROWS,
            local_shuffle_seed=loop.seed * 1_000_003 + epoch,
            device=device,
        )


def _mean_loss(window: MeanMetric) -> float:
    """Over all ranks, since the last call; all ranks raise where it is not finite."""
    loss = float(window.compute())
    window.reset()
    if not torch.isfinite(torch.tensor(loss)):
        raise StatisticalRefusal("the training loss is not finite", "lower training.learning_rate")
    return loss


def _report(task: Task, state: TrainingState, device: torch.device) -> None:
    """Evaluate on all ranks, checkpoint on rank 0, report on all: a barrier."""
    values = _evaluate(task, state.model, device) | {"step": state.step}
    state.history.evaluations.append(values)
    metrics = values | {"history": asdict(state.history)}
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        state.save(task, Path(folder))
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _evaluate(task: Task, model: nn.Module, device: torch.device) -> dict[str, float]:
    context = ray.train.get_context()
    if context.get_world_size() > 1:
        for buffer in model.buffers():  # batch norm's statistics; DDP itself sends rank 0's only before a training step
            torch.distributed.broadcast(buffer, 0)
    metrics = task.metrics().to(device)
    batches = ray.train.get_dataset_shard("validation").iter_torch_batches(batch_size=256, device=device)
    model.eval()
    with torch.inference_mode():
        for number, batch in enumerate(batches):
            if number % context.get_world_size() == context.get_world_rank():
                task.update(metrics, model, batch)
        values = {name: float(value) for name, value in metrics.compute().items()}
    model.train()
    return values
