"""Run directories with accepted rows, made in this process: what reads a finished run needs no cluster."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from records import GOOD_REPORT, entry_of, progress_of, result_of
from torch.distributions import Uniform

from rsf_dist.config.load import dump_config, parse_config
from rsf_dist.config.run import RunConfig
from rsf_dist.data.arrow import to_table
from rsf_dist.data.batch import Batch, concat, num_rows, select
from rsf_dist.data.images import load_images
from rsf_dist.proposals import AugmentProposal
from rsf_dist.ratios import ConstantRatio
from rsf_dist.report import report_json
from rsf_dist.runs.run_folder import DIGESTS, INPUTS, seed_folder
from rsf_dist.runs.source_names import SourceNames
from rsf_dist.sampling.accepted import describe_columns
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.storage.run_store import RunStore

CHUNK, CHUNKS, LOG_M = 16, 3, math.log(2)
"""Half of 48 proposals are accepted, in three shards."""

Change = Callable[[Batch], Batch]


def class_folders(folder: Path, classes: Iterable[str] = ("cat", "dog"), each: int = 4, channels: int = 3) -> Path:
    """Write noisy images of 10 x 12 pixels into class folders."""
    generator = np.random.default_rng(7)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = generator.integers(256, size=(10, 12, channels), dtype=np.uint8)
            picture = Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])
            picture.save(folder / name / f"{name}-{number}.png")
    return folder


def config_of(source: dict[str, Any], output: Path, **sections: Any) -> RunConfig:
    """The configuration of a run on these source images."""
    sampling = {"num_accepted": 20, "chunk_size": CHUNK}
    return parse_config({"output": str(output), "source": source, "target": source, "sampling": sampling} | sections)


def drawn_chunks(config: RunConfig, seed: int, round: int = 0) -> list[Batch]:
    """The accepted rows of each chunk, as an actor computes them."""
    proposal = AugmentProposal(load_images(config.source), {"rotation": Uniform(-1.5, 1.5)})
    work = ChunkWork(proposal, ConstantRatio(), LOG_M, CHUNK, seed=seed, round=round)
    return [work(chunk).rows for chunk in range(CHUNKS)]


def begin(config: RunConfig, keeps_names: bool = True) -> RunStore:
    """Write what a run writes before it samples."""
    store = RunStore(config.output)
    store.write("config.yaml", dump_config(config))
    images = load_images(config.source)

    def describe(folder: Path) -> None:
        (folder / DIGESTS).write_text(json.dumps({"source": images.digest()}))
        if keeps_names:
            SourceNames.of(images).save(folder)

    store.commit_folder(INPUTS, describe)
    return store


def store_round(
    store: RunStore, seed: int, chunks: list[Batch], num_accepted: int, round: int = 0, last: bool = True, **report: Any
) -> None:
    """Write a round's shards, with entries in the manifest and in report.json, as a run does."""
    tables = [to_table(rows) for rows in chunks]
    shards = [store.write_shard(round, chunk, table) for chunk, table in enumerate(tables)]
    told = replace(GOOD_REPORT, num_accepted=num_accepted, **{"log_m": LOG_M} | report)
    progress = progress_of(
        *shards, result=result_of(told), columns=describe_columns(tables[0]), drawn_at_log_m=LOG_M, log_m=told.log_m
    )
    progress.work.chunk_size = CHUNK
    store.commit_round(round, progress)
    report_json.begin(store, seed)
    report_json.add_round(store, entry_of(round, last=last))


def stored_run(
    folder: Path, num_accepted: int = 20, seeds: int = 1, change: Change = lambda rows: rows, **sections: Any
) -> RunConfig:
    """Make a run with accepted rows: `folder`/run, on the images of `folder`/source."""
    source = {"kind": "image_folder", "root": str(class_folders(folder / "source"))}
    config = config_of(source, folder / "run", num_seeds=seeds, **sections)
    store = begin(config)
    for number in range(seeds):
        at, seed = store.at(seed_folder(number, seeds)), config.seed + number
        store_round(at, seed, [change(rows) for rows in drawn_chunks(config, seed)], num_accepted)
    return config


def accepted_rows(config: RunConfig, num_accepted: int = 20, seed: int | None = None) -> Batch:
    """The rows that such a run hands over, straight from its chunks."""
    rows = concat(drawn_chunks(config, config.seed if seed is None else seed))
    assert num_rows(rows) > num_accepted  # there are surplus rows in the last shard
    return select(rows, slice(0, num_accepted))


def with_boxes(rows: Batch) -> Batch:
    """The rows with two boxes each instead of a label, the second one missing in every other row."""
    count = num_rows(rows)
    boxes = torch.tensor([[1.0, 2.0, 5.0, 6.5], [0.0, 3.0, 12.0, 10.0]]).repeat(count, 1, 1)
    label = torch.tensor([[0, 1]]).repeat(count, 1)
    label[::2, 1], boxes[::2, 1] = -1, 0
    return {name: column for name, column in rows.items() if name != "label"} | {"boxes": boxes, "box_label": label}


def with_masks(rows: Batch) -> Batch:
    """The rows with a mask of 0, 1 and 255 each instead of a label."""
    count = num_rows(rows)
    mask = torch.tensor([0, 1, 255], dtype=torch.uint8).repeat(count, 10, 4)
    return {name: column for name, column in rows.items() if name != "label"} | {"mask": mask}
