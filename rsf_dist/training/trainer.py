"""Fine-tuning with Ray Train's TorchTrainer, which sees rows and weights, and knows nothing of M, p and q.

Every worker holds a replica of the model (DDP: gloo on CPUs, NCCL on GPUs). A worker trains on an equal share of stored
rows, epoch after epoch, or of fresh rows from a stream, each used once. Training is counted in steps, so that all ranks
take the same number. Validation rows are not split: each rank scores every world-size-th batch and torchmetrics adds
up, so that no row is lost. `training.loop` is the code of a worker.
"""

from __future__ import annotations

import copy
import dataclasses
import uuid
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import ray
from ray.data import Dataset, ExecutionOptions
from ray.train import Checkpoint, CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import nn

from rsf_dist.cluster.capacity import check_training, max_actors, workers
from rsf_dist.cluster.connection import ensure_cluster
from rsf_dist.cluster.ray_workarounds import (
    frequent_train_polls,
    preserve_order,
    remove_refused_snapshot,
    restored_sigint,
    unwrapped,
)
from rsf_dist.cluster.shared_storage import require_shared
from rsf_dist.config.training import TrainingConfig
from rsf_dist.errors import InputError, StatisticalRefusal, located
from rsf_dist.sampling.stream import RowStream
from rsf_dist.tasks.base import Task
from rsf_dist.training.checkpoints import RunFolder
from rsf_dist.training.loop import WorkerContext, columns, shard_name, train
from rsf_dist.training.state import History, StreamIdentity, StreamReport, TrainingIdentity

_RESULTS = "~/ray_results"  # Ray's default

_MAY_CHANGE = {
    "num_workers",
    "cpus_per_worker",
    "use_gpu",
    "checkpoint",
    "evaluate_every",
    "max_failures",
    "wait_seconds",
}
"""The keys of `training` that may change before a run is resumed."""


class FineTuner:
    """A trainer of a task's model on a Ray Dataset, or on rows that are sampled during training.

    Args:
        task: the model, its loss and its metrics.
        training: steps, batch size, learning rate and workers. None means the defaults.
        seed: of parameters without given weights, of dropout and of shuffling.
        initial: a model of the task to begin with. None means the task's own.
        storage_path: the folder of checkpoints, which every node must see, or a URI. None means Ray's default.
        name: of the run beneath `storage_path`. A suffix makes the name unique, unless the run may resume.
        resume: resume from the newest intact checkpoint of the run of exactly this name, if there is one, on any
            number of workers. A finished run returns its result again.
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
        resume: bool = False,
    ):
        self.task, self.training, self.seed = task, training or TrainingConfig(), seed
        self.initial = initial if initial is not None else task.build_model(seed)
        self.storage_path = storage_path
        self.name = name if resume else f"{name}-{uuid.uuid4().hex[:8]}"
        self.resume = resume

    def fit(self, dataset: Dataset | RowStream, validation: Dataset | None = None) -> FineTuneResult:
        """Train on `dataset` for the configured steps; score checkpoints on `validation`.

        Args:
            dataset: rows with the task's columns, and `weight` if training.use_row_weights is set. Or a stream of
                such rows, of which steps * batch_size are used, each once. Weighted losses are divided by the rows'
                mean weight, or for a stream by the mean that its pilot forecasts.
            validation: rows with the task's columns. None means that the last training.validation_fraction of the
                dataset is held out; its rows should be in random order, as accepted rows are. A stream must have
                validation rows.

        Raises:
            InputError: a column is missing, there are fewer rows than a batch, the cluster is too small, the folder is
                not shared, a label lies outside of the classes, or the run to resume is another training.
            StatisticalRefusal: the loss is not finite, or the stream ends before the last step.
        """
        ensure_cluster()
        with located("training"):
            check_training(self.training, dataset.pool if isinstance(dataset, RowStream) else None)
        if self.storage_path is not None:
            require_shared(self.storage_path, "storage_path")
        rows = (
            self._streamed(dataset, validation) if isinstance(dataset, RowStream) else self._stored(dataset, validation)
        )
        if not self._finished(rows):
            with unwrapped(), restored_sigint(), frequent_train_polls():
                result = self._trainer(rows).fit()
            if isinstance(result.return_value, StatisticalRefusal):
                raise result.return_value
        return FineTuneResult.of(self._folder, self.task, self.training.checkpoint)

    def _stored(self, dataset: Dataset, validation: Dataset | None) -> TrainingData:
        rows = preserve_order(_checked(dataset, columns(self.task, self.training), "column")).materialize()
        if validation is None:
            rows, held_out = rows.train_test_split(self.training.validation_fraction)
        else:
            held_out = self._held_out(validation)
        count, batch = rows.count(), self.training.batch_size
        if count < batch:
            rule = f"the {count:,} training rows do not fill one batch"
            raise InputError("training.batch_size", batch, rule, "lower it, or accept more rows", absolute=True)
        mean_weight = rows.mean("weight") if self.training.use_row_weights else 1.0
        return TrainingData(self._required(held_out), float(mean_weight or 1.0), stored=rows, epoch=count // batch)

    def _streamed(self, stream: RowStream, validation: Dataset | None) -> TrainingData:
        if validation is None:
            rule = "a stream leaves no rows to hold out"
            raise InputError("validation", None, rule, "give a Dataset of accepted rows that came before the stream")
        _require_columns(columns(self.task, self.training), [*stream.columns, "weight"], "column")
        room = max_actors(stream.pool, beside=workers(self.training))
        stream = dataclasses.replace(stream, pool=stream.pool.model_copy(update={"max_actors": room}))
        return TrainingData(self._required(self._held_out(validation)), stream.mean_weight, stream=stream)

    def _held_out(self, validation: Dataset) -> Dataset:
        if validation.schema() is None:  # without rows, which is refused by itself
            return validation
        return preserve_order(_checked(validation, list(self.task.columns), "validation column")).materialize()

    def _required(self, held_out: Dataset) -> Dataset:
        if held_out.count() == 0:
            raise InputError(
                "validation", "0 rows", "there must be some", "raise training.validation_fraction", absolute=True
            )
        return held_out

    @property
    def _folder(self) -> RunFolder:
        return RunFolder.of(self._storage, self.name)

    @property
    def _storage(self) -> str:
        path = self.storage_path or _RESULTS
        return path if "://" in path else str(Path(path).expanduser().absolute())

    def _identity(self, rows: TrainingData) -> TrainingIdentity:
        settings = self.training.model_dump(mode="json", exclude=_MAY_CHANGE)
        if rows.stream is None:
            return TrainingIdentity(self.seed, settings, batches=rows.epoch)
        return TrainingIdentity(self.seed, settings, stream=StreamIdentity.of(rows.stream))

    def _finished(self, rows: TrainingData) -> bool:
        """Return whether the run to resume is finished. Raises InputError if it is another training."""
        if not self.resume:
            return False
        remove_refused_snapshot(self._folder.filesystem, self._folder.path)
        saved = self._folder.newest()
        if saved is None:
            return False
        difference = self._identity(rows).difference(saved.described["identity"])
        if difference is not None:
            rule = f"holds a training with {difference}"
            raise InputError("name", self.name, rule, "name another run, or give this run the configuration it had")
        return saved.step >= self.training.steps

    def _trainer(self, rows: TrainingData) -> TorchTrainer:
        training = self.training
        resources = {"CPU": training.cpus_per_worker} | ({"GPU": 1} if training.use_gpu else {})
        loop = WorkerContext(
            self.task, training, self.seed, rows.mean_weight, rows.epoch, self._folder, self._identity(rows)
        )
        by = {"checkpoint_score_attribute": self.task.metric} if training.checkpoint == "best" else {}
        return TorchTrainer(
            train,
            train_loop_config={
                "loop": ray.put(loop),  # as a reference, which Ray Train's controller need not unpickle
                "initial": ray.put(copy.deepcopy(self.initial).cpu()),
                "stream": rows.stream and ray.put(rows.stream),
            },
            datasets={"validation": rows.validation, **rows.shares(training.num_workers)},
            dataset_config=DataConfig(datasets_to_split=[], execution_options=ExecutionOptions(preserve_order=True)),
            scaling_config=ScalingConfig(
                num_workers=training.num_workers, use_gpu=training.use_gpu, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=self.name,
                storage_path=self._storage,
                failure_config=FailureConfig(max_failures=training.max_failures),
                # Two, so that one is left if the other is damaged. Ray Train never deletes the latest.
                checkpoint_config=CheckpointConfig(num_to_keep=2, **by),
            ),
        )


@dataclass(frozen=True)
class TrainingData:
    """The rows of a training, stored or streamed.

    Args:
        validation: rows that checkpoints are scored on.
        mean_weight: of the training rows.
        stored: the training rows, materialised. None means a stream.
        epoch: batches in all stored rows.
        stream: the stream, with a pool that fits beside the workers. None means stored rows.
    """

    validation: Dataset
    mean_weight: float
    stored: Dataset | None = None
    epoch: int = 0
    stream: RowStream | None = None

    def shares(self, num_workers: int) -> dict[str, Dataset]:
        """Split the stored rows evenly among the ranks.

        A rank always gets the same rows, which Ray Train's own split does not promise.
        """
        if self.stored is None:
            return {}
        return {shard_name(rank): part for rank, part in enumerate(self.stored.split(num_workers, equal=True))}


def _checked(dataset: Dataset, wanted: list[str], field: str) -> Dataset:
    """Select columns. Raises InputError if a column is missing or holds text."""
    schema = dataset.schema()
    kinds = dict(zip(schema.names, schema.types, strict=True)) if schema else {}
    _require_columns(wanted, list(kinds), field)
    for name in wanted:
        if kinds[name] in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
            raise InputError(
                field, f"{name} ({kinds[name]})", "holds no numbers", "convert it to numbers", absolute=True
            )
    return dataset.select_columns(wanted)


def _require_columns(wanted: list[str], present: list[str], field: str) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise InputError(field, missing[0], f"is not among the dataset's {present}", "add or rename it", absolute=True)


@dataclass(frozen=True)
class FineTuneResult:
    """The result of fine-tuning.

    Args:
        metrics: of the chosen checkpoint on the validation rows, and its step.
        history: of the whole training.
        checkpoint: the chosen checkpoint.
        task: the task of its model.
        stream: the rows taken from a stream. None means that the rows were stored.
    """

    metrics: dict[str, float]
    history: History
    checkpoint: Checkpoint
    task: Task
    stream: StreamReport | None = None

    def load_model(self) -> nn.Module:
        """Read the fine-tuned model, on the CPU and in evaluation mode."""
        with self.checkpoint.as_directory() as folder:
            return self.task.load(Path(folder))

    @staticmethod
    def of(folder: RunFolder, task: Task, checkpoint: str) -> FineTuneResult:
        """Choose among a run's intact checkpoints.

        Args:
            folder: the run's folder.
            task: the task of its model.
            checkpoint: `last`, or `best` by the task's metric.

        Raises:
            InputError: there is no intact checkpoint.
        """
        last = folder.newest()
        if last is None:
            raise InputError("checkpoints", folder.path, "holds no intact checkpoint", "train again", absolute=True)
        chosen = last
        if checkpoint == "best":
            chosen = max(folder.newest_first(), key=lambda saved: saved.described["metrics"][task.metric])
        stream = last.described["stream"]
        return FineTuneResult(
            chosen.described["metrics"],
            History(**last.described["history"]),
            chosen.checkpoint,
            task,
            stream and StreamReport(**stream),
        )
