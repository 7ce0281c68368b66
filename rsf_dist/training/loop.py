"""The training loop that each worker runs: steps, evaluations, checkpoints and reports, alike on every rank.

A step follows from the seed, the step's number and the rank. Training that resumes from a checkpoint, after workers or
the driver died, therefore takes the same steps as undisturbed training: to the last bit if the kernels are
deterministic and the number of workers is the same. On another number of workers, a stream's batches still hold the
same rows. The current epoch of stored rows has as many rows as before, but not exactly the same ones.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import Checkpoint
from ray.train.collective import barrier, broadcast_from_rank_zero
from ray.train.torch import get_device, prepare_model
from torch import nn

from rsf_dist.config.training import TrainingConfig
from rsf_dist.data.arrow import from_table
from rsf_dist.data.batch import Batch
from rsf_dist.errors import StatisticalRefusal
from rsf_dist.models.optimization import optimizer_and_schedule
from rsf_dist.runtime.allocator import retain_freed_memory
from rsf_dist.runtime.device import set_device
from rsf_dist.runtime.rng import Purpose, Stage, Streams
from rsf_dist.storage.run_store import room_required
from rsf_dist.tasks.base import Task
from rsf_dist.training.batch_server import StreamProgress, iter_served_batches, start_batch_server, stop_batch_server
from rsf_dist.training.checkpoints import RunFolder, seal
from rsf_dist.training.state import RunningLoss, StreamReport, TrainingIdentity, TrainingState

_SHUFFLE_ROWS = 10_000
_CURVE_POINTS = 50


@dataclass(frozen=True)
class WorkerContext:
    """The task, settings and places that a worker needs.

    Args:
        task: the model, its loss and its metrics.
        training: the settings.
        seed: of dropout and shuffling.
        mean_weight: the mean weight of all rows, by which weighted losses are divided.
        epoch: batches in all stored rows.
        folder: the folder of the checkpoints.
        identity: the settings and rows that every checkpoint names.
    """

    task: Task
    training: TrainingConfig
    seed: int
    mean_weight: float
    epoch: int
    folder: RunFolder
    identity: TrainingIdentity


def train(config: dict[str, Any]) -> StatisticalRefusal | None:
    """Run one worker. All ranks meet a refusal at the same step; it is returned, because a failure would be retried."""
    try:
        _train_worker(config)
    except StatisticalRefusal as refusal:
        return refusal
    return None


def _train_worker(config: dict[str, Any]) -> None:
    loop: WorkerContext = ray.get(config["loop"])
    rank = ray.train.get_context().get_world_rank()
    torch.set_num_threads(max(1, int(loop.training.cpus_per_worker)))
    retain_freed_memory()
    device = get_device() if loop.training.use_gpu else torch.device("cpu")
    set_device(device)  # convolutions then add up in a fixed order
    # Before the optimizer is made, whose restored state goes where its parameters are.
    model = ray.get(config["initial"]).to(device)
    optimizer, schedule = optimizer_and_schedule(model, loop.training)
    stream = loop.identity.stream
    state = TrainingState(
        model,
        optimizer,
        schedule,
        RunningLoss(device),
        intake=None if stream is None else StreamProgress(stream.start),
    )
    state.restore(loop.task, loop.folder)
    replica = prepare_model(model, move_to_device=device)
    every = max(1, loop.training.steps // _CURVE_POINTS)
    replica.train()
    with _batches(loop, state, config["stream"], device) as batches:
        for batch in batches:
            torch.manual_seed(step_seed(loop.seed, state.step, rank))
            state.window.add(_step(loop, replica, batch, state))
            last = state.step == loop.training.steps
            if state.step % every == 0 or last:
                rate = float(state.schedule.get_last_lr()[0])
                loss = _finite(state.window.mean())
                state.history.curve.append({"step": state.step, "train_loss": loss, "learning_rate": rate})
            if state.step % loop.training.evaluate_every == 0 or last:
                _report(loop, state, device)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of torch's generators for one step on one rank, < 2**63.

    It follows from the three numbers alone, so that a step taken again after a restart has the same dropout.
    """
    return Streams(seed, Stage.TRAIN, round=rank, chunk=step).torch_seed()


def shuffle_seed(seed: int, epoch: int) -> int:
    """Return the seed of the order in which each rank reads its stored rows in an epoch, < 2**31."""
    return Streams(seed, Stage.TRAIN, chunk=epoch).integer(2**31, Purpose.SHUFFLE)


def _step(loop: WorkerContext, replica: nn.Module, batch: Batch, state: TrainingState) -> torch.Tensor:
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


@contextmanager
def _batches(
    loop: WorkerContext, state: TrainingState, stream: ray.ObjectRef | None, device: torch.device
) -> Iterator[Iterator[Batch]]:
    """Give this rank's share of each step's batch, from the state's step to the last."""
    left = loop.training.steps - state.step
    if stream is None or left <= 0:
        ranks = ray.train.get_context().get_world_size()
        yield islice(_stored_batches(loop, state.step, ranks, device), max(left, 0))
        return
    with _batch_server(loop, state, stream) as server:
        yield _streamed_batches(loop, state, server, device)


def _stored_batches(loop: WorkerContext, first_step: int, ranks: int, device: torch.device) -> Iterator[Batch]:
    """Yield this rank's rows, in another order each epoch. A restart begins in the middle of its epoch."""
    shard = ray.train.get_dataset_shard(shard_name(ray.train.get_context().get_world_rank()))
    epoch, done = divmod(first_step, loop.epoch)
    for number in count(epoch):
        batches = shard.iter_torch_batches(
            batch_size=loop.training.batch_size // ranks,
            drop_last=True,
            local_shuffle_buffer_size=_SHUFFLE_ROWS,
            local_shuffle_seed=shuffle_seed(loop.seed, number),
            device=device,
        )
        yield from islice(batches, done if number == epoch else 0, None)


@contextmanager
def _batch_server(loop: WorkerContext, state: TrainingState, stream: ray.ObjectRef) -> Iterator[Any]:
    """Give rank 0's batch server to every rank; it begins at the state's step."""
    assert state.intake is not None
    context = ray.train.get_context()
    name = broadcast_from_rank_zero(f"batch-server-{uuid.uuid4().hex}")
    server = None
    if context.get_world_rank() == 0:
        size, steps, ranks = loop.training.batch_size, loop.training.steps, context.get_world_size()
        wanted = columns(loop.task, loop.training)
        server = start_batch_server(name, stream, state.intake.cursor, size, state.step, steps, ranks, wanted)
    try:
        barrier()
        yield server or ray.get_actor(name)
    finally:
        if server is not None:
            stop_batch_server(server)


def _streamed_batches(loop: WorkerContext, state: TrainingState, server: Any, device: torch.device) -> Iterator[Batch]:
    """Yield this rank's share of fresh rows, and move the state's intake with each batch."""
    assert state.intake is not None
    rank = ray.train.get_context().get_world_rank()
    for rows, intake in iter_served_batches(server, rank, state.step, loop.training.steps, state.intake):
        state.intake = intake
        yield {name: column.to(device) for name, column in from_table(rows).items()}


def _finite(loss: float) -> float:
    """Return the loss. All ranks raise StatisticalRefusal if it is not finite."""
    if not torch.isfinite(torch.tensor(loss)):
        raise StatisticalRefusal("the training loss is not finite", "lower the learning_rate of this network")
    return loss


def _report(loop: WorkerContext, state: TrainingState, device: torch.device) -> None:
    """Evaluate on all ranks, write a checkpoint on rank 0, and report on all ranks, which is a barrier."""
    metrics = _evaluate(loop.task, state.model, device) | {"step": state.step}
    state.history.evaluations.append(metrics)
    state.window.gather()
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    stream, report = loop.identity.stream, None
    if stream is not None and state.intake is not None:
        report = asdict(StreamReport.between(stream.start, state.intake, stream.chunk_size))
    identity = loop.identity.to_json()
    described = {"metrics": metrics, "history": asdict(state.history), "stream": report, "identity": identity}
    with room_required(loop.folder.path), tempfile.TemporaryDirectory() as folder:
        state.save(loop.task, Path(folder))
        seal(Path(folder), state.step, described)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _evaluate(task: Task, model: nn.Module, device: torch.device) -> dict[str, float]:
    context = ray.train.get_context()
    if context.get_world_size() > 1:
        for buffer in model.buffers():  # batch norm's statistics: DDP sends rank 0's before training steps only
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


def shard_name(rank: int) -> str:
    """Return the name of a rank's stored rows among the datasets."""
    return f"train-{rank}"


def columns(task: Task, training: TrainingConfig) -> list[str]:
    """Return the names of the columns that training reads."""
    return list(task.columns) + ["weight"] * training.use_row_weights
