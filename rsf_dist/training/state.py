"""The state of a training that a checkpoint holds, its history, and its identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import ray
import torch
from ray.train import Checkpoint
from ray.train.collective import broadcast_from_rank_zero
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rsf_dist.sampling.stream import Cursor, RowStream
from rsf_dist.tasks.base import Task
from rsf_dist.training.batch_server import StreamProgress
from rsf_dist.training.checkpoints import RunFolder


@dataclass(frozen=True)
class StreamIdentity:
    """The settings that determine the rows of a stream.

    Args:
        seed: of the sampler.
        stage: of its random streams.
        round: of its random streams.
        chunk_size: proposals in a chunk.
        log_m: the logarithm of the envelope's M.
        start: the place where the stream begins.
    """

    seed: int
    stage: int
    round: int
    chunk_size: int
    log_m: float
    start: Cursor

    @staticmethod
    def of(stream: RowStream) -> StreamIdentity:
        """Return the identity of a stream."""
        work = stream.work
        return StreamIdentity(work.seed, int(work.stage), work.round, work.chunk_size, work.log_m, stream.start)


@dataclass(frozen=True)
class TrainingIdentity:
    """The settings and rows that a resumed training must share with the interrupted one.

    Args:
        seed: of dropout and shuffling.
        settings: the keys of the training's configuration that change its result, as JSON values.
        batches: batches in all stored rows. None means that the rows come from a stream.
        stream: None means that the rows are stored.
    """

    seed: int
    settings: dict[str, object]
    batches: int | None = None
    stream: StreamIdentity | None = None

    def to_json(self) -> dict[str, object]:
        """Return flat JSON values, for a checkpoint."""
        flat: dict[str, object] = {"seed": self.seed, **self.settings}
        if self.stream is None:
            return flat | {"batches": self.batches}
        stream = asdict(self.stream)
        start = {f"stream.start.{name}": value for name, value in stream.pop("start").items()}
        return flat | {f"stream.{name}": value for name, value in stream.items()} | start

    def difference(self, stored: dict[str, object]) -> str | None:
        """Describe the first value that differs from a stored identity's. None means that all agree."""
        for name, value in self.to_json().items():
            if stored.get(name) != value:
                return f"{name}={stored.get(name)}, not {value}"
        return None


@dataclass
class History:
    """The course of a training.

    Args:
        curve: [{"step", "train_loss", "learning_rate"}, …]
        evaluations: [{"step", and the task's metrics on the validation rows}, …]
    """

    curve: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class StreamReport:
    """The rows that training took from a stream.

    Args:
        rows: number of rows, each used once.
        num_proposed: proposals from which the rows were accepted.
        num_capped: rows with p/q > M.
        digest: of the rows in their batches; equal rows have equal digests.
        trainer_waited_seconds: seconds that training waited for rows.
        sampler_waited_seconds: seconds that rows were ready and had no room.
    """

    rows: int
    num_proposed: int
    num_capped: int
    digest: str
    trainer_waited_seconds: float
    sampler_waited_seconds: float

    @staticmethod
    def between(start: Cursor, intake: StreamProgress, chunk_size: int) -> StreamReport:
        """Report on the stretch from the stream's start to the place that training has reached."""
        end = intake.cursor
        return StreamReport(
            rows=end.rows - start.rows,
            num_proposed=end.num_proposed(chunk_size) - start.num_proposed(chunk_size),
            num_capped=end.num_capped - start.num_capped,
            digest=end.digest,
            trainer_waited_seconds=round(intake.trainer_waited_seconds, 3),
            sampler_waited_seconds=round(intake.sampler_waited_seconds, 3),
        )


class RunningLoss:
    """The losses of the steps since the curve's last point, kept on the device so that no step waits for them.

    Args:
        device: of this rank.
        sums: the sum of losses, and their number.
    """

    def __init__(self, device: torch.device, sums: Sequence[float] = (0.0, 0.0)):
        self.sums = torch.tensor(sums, dtype=torch.float64, device=device)

    def add(self, loss: torch.Tensor) -> None:
        """Add this rank's loss of one step."""
        self.sums[0] += loss
        self.sums[1] += 1

    def gather(self) -> None:
        """Move all ranks' sums to rank 0, so that a checkpoint holds the sums that training continues with."""
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.sums)
            if torch.distributed.get_rank() != 0:
                self.sums.zero_()

    def mean(self) -> float:
        """Return the mean over all ranks, and begin anew."""
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.sums)
        loss = float(self.sums[0] / self.sums[1])
        self.sums.zero_()
        return loss


@dataclass
class TrainingState:
    """The state that a checkpoint holds, from which workers resume."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    window: RunningLoss
    step: int = 0
    history: History = field(default_factory=History)
    intake: StreamProgress | None = None

    def save(self, task: Task, folder: Path) -> None:
        """Write model.safetensors, model.json and training.pt."""
        task.save(self.model, folder)
        rest = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "history": asdict(self.history),
            "window": self.window.sums.tolist(),
            "intake": self.intake and asdict(self.intake),
        }
        torch.save(rest, folder / "training.pt")

    def restore(self, task: Task, folder: RunFolder) -> None:
        """Restore all ranks from the newest intact checkpoint, which rank 0 chooses, if there is one."""
        rank = ray.train.get_context().get_world_rank()
        saved = folder.newest() if rank == 0 else None
        path = broadcast_from_rank_zero(saved.checkpoint.path if saved else "")
        if not path:
            return
        with Checkpoint(path, folder.filesystem).as_directory() as local:
            self.model.load_state_dict(task.load(Path(local)).state_dict())
            rest = torch.load(Path(local) / "training.pt", map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(rest["optimizer"])
        self.schedule.load_state_dict(rest["schedule"])
        self.step, self.history = rest["step"], History(**rest["history"])
        if rank == 0:
            self.window = RunningLoss(self.window.sums.device, rest["window"])
        if rest["intake"]:
            intake = rest["intake"]
            self.intake = StreamProgress(**intake | {"cursor": Cursor(**intake["cursor"])})
