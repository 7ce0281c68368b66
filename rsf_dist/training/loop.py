"""What each worker of a fine-tuning does: steps, checkpoints, reports; the same on every rank.

What a step does follows from the seed, the step and the rank. So training that goes on from a checkpoint, after workers
or the driver died, does what it would have done undisturbed, to the last bit where the kernels are deterministic and
the number of workers is the same. With another number, a stream's batches still hold the same rows; of stored rows the
current epoch has as many as ever, but not quite the same ones.
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
    """What a worker needs.

    Args:
        task, training, seed: as configured.
        mean_weight: the denominator of weighted losses, the weights' mean over all rows.
        epoch: batches in all stored rows.
        folder: where the checkpoints are.
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
    """One worker's life. A refusal, which all ranks meet at the same step, is its result: no failure to be retried."""
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
    set_device(device)  # where convolutions then add up in a fixed order
    model = ray.get(config["initial"]).to(device)  # before the optimizer, whose restored state follows its parameters
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
    """This rank's share of each step's batch, from the state's step to the last."""
    left = loop.training.steps - state.step
    if stream is None or left <= 0:
        ranks = ray.train.get_context().get_world_size()
        yield islice(_stored_batches(loop, state.step, ranks, device), max(left, 0))
        return
    with _feed(loop, state, stream) as feed:
        yield _streamed_batches(loop, state, feed, device)


def _stored_batches(loop: WorkerContext, first_step: int, ranks: int, device: torch.device) -> Iterator[Batch]:
    """This rank's rows again and again, in another order each epoch; after a restart from the middle of its epoch."""
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
def _feed(loop: WorkerContext, state: TrainingState, stream: ray.ObjectRef) -> Iterator[Any]:
    """Rank 0's feed, on every rank, from where the state is."""
    assert state.intake is not None
    context = ray.train.get_context()
    name = broadcast_from_rank_zero(f"feed-{uuid.uuid4().hex}")
    feed = None
    if context.get_world_rank() == 0:
        size, steps, ranks = loop.training.batch_size, loop.training.steps, context.get_world_size()
        wanted = columns(loop.task, loop.training)
        feed = start_batch_server(name, stream, state.intake.cursor, size, state.step, steps, ranks, wanted)
    try:
        barrier()
        yield feed or ray.get_actor(name)
    finally:
        if feed is not None:
            stop_batch_server(feed)


def _streamed_batches(loop: WorkerContext, state: TrainingState, feed: Any, device: torch.device) -> Iterator[Batch]:
    """Fresh rows; the state's intake moves with them."""
    assert state.intake is not None
    rank = ray.train.get_context().get_world_rank()
    for rows, intake in iter_served_batches(feed, rank, state.step, loop.training.steps, state.intake):
        state.intake = intake
        yield {name: column.to(device) for name, column in from_table(rows).items()}


def _finite(loss: float) -> float:
    """The loss; all ranks raise where it is not finite."""
    if not torch.isfinite(torch.tensor(loss)):
        raise StatisticalRefusal("the training loss is not finite", "lower training.learning_rate")
    return loss


def _report(loop: WorkerContext, state: TrainingState, device: torch.device) -> None:
    """Evaluate on all ranks, checkpoint on rank 0, report on all: a barrier."""
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


def shard_name(rank: int) -> str:
    """The name of a rank's stored rows among the datasets."""
    return f"train-{rank}"


def columns(task: Task, training: TrainingConfig) -> list[str]:
    """Those that training reads."""
    return list(task.columns) + ["weight"] * training.use_row_weights
