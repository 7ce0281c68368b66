"""Training on rows from Ray Data, stored or streamed, has a bounded cost. The model's step is included."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median

import pytest
import ray
import torch
from clocks import Clocked, chunks_per_second
from measuring import Bench, Measured
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from workloads import DISTRIBUTIONS, Scored, augmented

import rsf_dist as rsf
from rsf_dist.config.model import ModelConfig
from rsf_dist.config.sampling import PoolConfig
from rsf_dist.config.training import TrainingConfig
from rsf_dist.data.batch import Batch
from rsf_dist.data.images import ImageSet
from rsf_dist.models.optimization import optimizer_and_schedule
from rsf_dist.ratios.constant import ConstantRatio
from rsf_dist.sampling.accepted import LEDGER_ROW
from rsf_dist.sampling.collector import ChunkTask
from rsf_dist.sampling.pool import map_chunks
from rsf_dist.storage.run_store import RunStore

pytestmark = [pytest.mark.ray, pytest.mark.bench, pytest.mark.soak]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
CLASSES = tuple("abcdefghij")
SKIPPED = 5  # steps of either, before its clock counts


@dataclass(frozen=True)
class Size:
    """Images, and how many."""

    side: int
    channels: int
    batch: int
    width: int


SIZES = {"28x28": Size(28, 1, 128, 16), "224x224": Size(224, 3, 16, 8)}


class ClockedTask(rsf.ClassificationTask):
    """Tells when each step began, in a file, by a clock that all processes share."""

    def __init__(self, clock: Path, size: Size):
        super().__init__(CLASSES, ModelConfig(name="small_cnn", width=size.width), size.channels)
        self.clock, self.began = str(clock), []

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.began.append(time.monotonic())
        return super().loss(model, batch)

    def save(self, model: nn.Module, folder: Path) -> None:
        Path(self.clock).write_text("\n".join(map(repr, self.began)))
        super().save(model, folder)


def steps_per_second(began: list[float]) -> float:
    counted = began[SKIPPED:]
    return (len(counted) - 1) / (counted[-1] - counted[0])


def in_worker(rows: object, size: Size, steps: int, folder: Path, validation: object = None) -> float:
    """Steps a second of a training worker that has one CPU."""
    task = ClockedTask(folder / "clock.txt", size)
    training = TrainingConfig(steps=steps, batch_size=size.batch, evaluate_every=steps)
    rsf.FineTuner(task, training, storage_path=str(folder / "checkpoints")).fit(rows, validation)
    return steps_per_second([float(line) for line in (folder / "clock.txt").read_text().splitlines()])


def by_loader(image: Tensor, label: Tensor, size: Size, steps: int, folder: Path) -> float:
    """Steps a second of the loop that one would write by hand."""
    task = ClockedTask(folder / "unused.txt", size)
    model = task.build_model(0).train()
    optimizer, schedule = optimizer_and_schedule(model, TrainingConfig(steps=steps, batch_size=size.batch))
    loader = DataLoader(TensorDataset(image, label), batch_size=size.batch, shuffle=True, drop_last=True)

    def forever() -> object:
        while True:
            yield from loader

    for images, labels in islice(forever(), steps):
        loss = task.loss(model, {"image": images, "label": labels}).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return steps_per_second(task.began)


def accepted_of(size: Size, rows: int, folder: Path) -> rsf.AcceptedSet:
    """Stored rows, none rejected: how they were drawn does not matter here."""
    images = torch.randint(256, (500, size.channels, size.side, size.side), dtype=torch.uint8)
    proposal = rsf.AugmentProposal(
        ImageSet(images, torch.arange(500) % 10, CLASSES), {"brightness": DISTRIBUTIONS["brightness"]}
    )
    store = RunStore(str(folder / "run"))
    sampler = rsf.RejectionSampler(
        proposal, ConstantRatio(), rsf.FixedEnvelope(0.0), chunk_size=256, store=store, pool=PoolConfig(max_actors=1)
    )
    return sampler.sample(rows)


@pytest.mark.parametrize("name", SIZES)
def test_training_on_stored_rows(name: str, bench: Bench, tmp_path: Path) -> None:
    size = SIZES[name]
    if size.side > 100 and not bench.full:
        pytest.skip("a minute and a half: make bench")
    steps, repetitions = (150, 3) if bench.full else (60, 1)
    accepted = accepted_of(size, 40 * size.batch, tmp_path)
    rows = accepted.dataset.take_all()
    image = torch.stack([torch.tensor(row["image"]) for row in rows])
    label = torch.tensor([row["label"] for row in rows])
    ours, theirs = [], []
    for repetition in range(repetitions):
        folder = tmp_path / str(repetition)
        folder.mkdir()
        ours.append(in_worker(accepted.dataset, size, steps, folder))
        theirs.append(by_loader(image, label, size, steps, folder))
    rates = {"ours": median(ours) * size.batch, "DataLoader": median(theirs) * size.batch}
    measured = Measured(
        median(ours) / median(theirs), 0.9, True, known=0.95, noise=0.35, detail={"images a second": rates}
    )
    bench.tell(f"training on AcceptedSet.dataset, {name} / the same tensors through DataLoader", measured)


def test_sampling_and_training_at_once(bench: Bench, tmp_path: Path) -> None:
    """On a CPU each; what the two take alone is about the same, so that neither hides behind the other."""
    if not bench.full:
        pytest.skip("a minute and a half: make bench")
    size, steps, repetitions = SIZES["28x28"], 150, 3
    proposal, ratio, pool = augmented(), Scored(), PoolConfig(max_actors=1)
    envelope = rsf.BudgetEnvelope(acceptance=0.25, num_pilot=2_048)
    sampler = rsf.RejectionSampler(proposal, ratio, envelope, chunk_size=1_024, pool=pool)
    validation = sampler.sample(256, round=1).dataset
    stored = accepted_of(size, 40 * size.batch, tmp_path)
    stream = replace(sampler.row_stream(steps * size.batch), chunks_per_task=1)  # so that no step lives on a long start
    alone, trained, together = [], [], []
    for repetition in range(repetitions):
        folders = [tmp_path / f"{repetition}-{kind}" for kind in ("stored", "streamed")]
        for folder in folders:
            folder.mkdir()
        records = list(map_chunks(Clocked(ChunkTask(stream.work, None)), range(64), pool, 1))
        rows = sum(len(record["ledger"]) for record in records) / LEDGER_ROW.itemsize / len(records)
        rate = chunks_per_second((record["actor"], record["ended"]) for record in records)
        alone.append(size.batch / (rate * rows))
        trained.append(1 / in_worker(stored.dataset, size, steps, folders[0], validation))
        together.append(1 / in_worker(stream, size, steps, folders[1], validation))
    seconds = {"sampling alone": median(alone), "training alone": median(trained), "both": median(together)}
    longer, shorter = sorted((seconds["sampling alone"], seconds["training alone"]), reverse=True)
    bench.tell(
        "sampling and training at once, time of a batch / the longer of the two alone",
        Measured(seconds["both"] / longer, 1.1, False, known=1.25, noise=0.2, seconds=seconds),
    )
    assert longer < 2 * shorter, "choose another acceptance: the one hides behind the other"
