"""The accepted rows of a run, written as files that other tools read, each with where it comes from.

Only the rows that are the result are written, in the order of chunk and index. They are read from the run's directory
shard by shard, in this process: no cluster is needed, and memory holds one chunk's rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import torch
from pydantic import JsonValue

from rsf_dist.config.run import RunConfig
from rsf_dist.data.annotations import IGNORED
from rsf_dist.data.arrow import from_table
from rsf_dist.data.batch import Batch
from rsf_dist.data.export import WRITERS, Writer
from rsf_dist.data.images import ImageSet
from rsf_dist.data.pixels import require_images
from rsf_dist.errors import InputError
from rsf_dist.outputs.new_folder import checked_output, new_folder
from rsf_dist.report import report_json
from rsf_dist.runs.run_folder import seed_folder, stored_config
from rsf_dist.runs.source_names import SourceNames, stored_names
from rsf_dist.runtime.progress import Progress
from rsf_dist.sampling.accepted import stored_tables
from rsf_dist.sampling.chunk import class_labels
from rsf_dist.sampling.report import SamplingReport
from rsf_dist.storage.manifest import RoundResult
from rsf_dist.storage.run_store import RunStore

_ANNOTATIONS = ("boxes", "box_label", "box_crowd", "mask")
_PROVENANCE = ("source", "round", "chunk", "index", "log_ratio", "weight", "seed")
_TOLD = {"image", "label", "base_index", "accept_key", *_PROVENANCE, *_ANNOTATIONS} - {"source", "seed"}
"""Columns of rows that are written in a form of their own, or have no use outside of the run."""
_NAMES = {"source", "seed", "file", "file_name", "mask_file_name", "objects"}
"""Columns that an export adds. A parameter of such a name is written under another."""
_BLOCK_BYTES, _BLOCK_ROWS = 2**26, 256


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        output: the folder.
        format: the format.
        num_rows: rows that were written.
        seed: the seed that they were accepted in.
        round: the round that they were accepted in.
        fingerprint: of these rows, as the run's report has it.
        has_source: True if the rows say which image each was made from.
    """

    output: str
    format: str
    num_rows: int
    seed: int
    round: int
    fingerprint: str
    has_source: bool

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the fields as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Rows:
    """The accepted rows of a round.

    Args:
        store: the seed's directory.
        seed: the seed.
        round: the round's number.
        chunk_size: proposals in each of its chunks.
        result: its outcome.
        names: what classes and source images are called.
    """

    store: RunStore
    seed: int
    round: int
    chunk_size: int
    result: RoundResult
    names: SourceNames

    def blocks(self) -> Iterator[pa.Table]:
        """Yield the rows, a few at a time."""
        for table in stored_tables(self.store, self.round):
            size = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES * table.num_rows // max(1, table.nbytes)))
            for start in range(0, table.num_rows, size):
                yield table.slice(start, size)

    def images(self, batch: Batch) -> ImageSet:
        """Return rows as an image set, whose ids are made of chunk and index. Raises InputError."""
        _require_pictures(batch)
        _require_classes(batch, self.names.classes)
        labels = class_labels(batch)
        annotations = {name: batch[name] for name in _ANNOTATIONS if name in batch}
        digits = len(str(self.chunk_size))
        places = zip(batch["chunk"].tolist(), batch["index"].tolist(), strict=True)
        ids = tuple(f"{chunk:06d}-{index:0{digits}d}" for chunk, index in places)
        numbers = None if labels is None else torch.from_numpy(labels)
        return ImageSet(batch["image"], numbers, self.names.classes, annotations, ids)

    def provenance(self, rows: pa.Table) -> pa.Table:
        """Return where rows come from, and with which parameters each was made."""
        made = {"source": self._sources(rows), "seed": pa.array([self.seed] * rows.num_rows, pa.int64())}
        columns = {name: made[name] if name in made else rows[name] for name in _PROVENANCE}
        parameters = [field.name for field in rows.schema if field.name not in _TOLD and _is_plain(field.type)]
        return pa.table(columns | {_parameter_name(name, rows.column_names): rows[name] for name in parameters})

    def _sources(self, rows: pa.Table) -> pa.Array:
        if "base_index" not in rows.column_names:
            return pa.nulls(rows.num_rows, pa.string())
        ids, numbers = self.names.ids, rows["base_index"].to_pylist()
        return pa.array([ids[number] if 0 <= number < len(ids) else None for number in numbers], pa.string())


def export(
    run: str,
    output: str | None = None,
    format: str = "folder",
    seed: int | None = None,
    round: int | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write the accepted rows of a run into a new folder.

    Args:
        run: the run's directory, a path or a URI.
        output: the folder to write. None means the run's name and the format, beside a local run or else here.
        format: one of `rsf_dist.data.export.WRITERS`.
        seed: the seed whose rows are written. None means the first.
        round: the round whose rows are written. None means the last, whose rows the model is trained on.
        progress: counts the rows.

    Raises:
        InputError: there are no such rows, they do not fit the format, the folder exists, or it cannot be written. No
            part of it is left behind.
    """
    progress = progress or Progress()
    store = RunStore(run)
    config = stored_config(store)
    path = checked_output(output if output is not None else _usual_output(store, format))
    rows = _chosen_rows(store, config, seed, round, progress)
    total, written, has_source = SamplingReport.from_dict(rows.result.report).num_accepted, 0, False
    writer: Writer | None = None
    with new_folder(path) as folder:
        for table in rows.blocks():
            images, about = rows.images(from_table(table)), rows.provenance(table)
            if writer is None:
                writer = _writer(format, folder, images, rows)
            writer.add(images, about)
            written, has_source = written + len(images), has_source or about["source"].null_count < len(about)
            progress.count("writing rows", written, total)
        if writer is not None:
            writer.close()
    return Exported(str(path), format, written, rows.seed, rows.round, rows.result.fingerprint, has_source)


def _usual_output(store: RunStore, format: str) -> str:
    name = f"{store.root.rstrip('/').rpartition('/')[2]}-{format}"
    return str(Path(store.root).with_name(name)) if store.is_local else name


def _chosen_rows(store: RunStore, config: RunConfig, seed: int | None, round: int | None, progress: Progress) -> _Rows:
    """Return the rows to write. Raises InputError where there is no such seed or round, or it is not done."""
    seeds = [config.seed + number for number in range(config.num_seeds)]
    chosen = seeds[0] if seed is None else seed
    if chosen not in seeds:
        rule = f"is no seed of this run, whose seeds are {', '.join(map(str, seeds))}"
        raise InputError("--seed", chosen, rule, "name one of these")
    at = store.at(seed_folder(seeds.index(chosen), len(seeds)))
    rounds, number = at.manifest().rounds, _last_round(at) if round is None else round
    entry = None if number is None else rounds.get(number)
    if number is None or entry is None or entry.result is None:
        raise _not_done(at, round, [one for one, progress in rounds.items() if progress.complete])
    names = stored_names(store, at, config, progress)
    return _Rows(at, chosen, number, entry.work.chunk_size, entry.result, names)


def _not_done(store: RunStore, round: int | None, done: list[int]) -> InputError:
    """Return the error of a round, None for the last, whose rows are not accepted, while others are done."""
    so_far = f"rounds done: {', '.join(map(str, done))}" if done else "no round is done"
    if round is not None:
        remedy = "name one that is done" if done else "run it again: it goes on"
        return InputError("--round", round, f"is no round whose rows were accepted in {store.uri} ({so_far})", remedy)
    remedy = f"run it again: it goes on{f'; or export a round that is done by --round {max(done)}' if done else ''}"
    return InputError("run", store.uri, f"has not accepted the rows to train on yet ({so_far})", remedy)


def _last_round(store: RunStore) -> int | None:
    """Return the round whose rows are trained on, or None where it is not done."""
    rounds = report_json.read(store).rounds if store.exists(report_json.REPORT) else []
    return rounds[-1].round if rounds and rounds[-1].last else None


def _writer(format: str, folder: Path, images: ImageSet, rows: _Rows) -> Writer:
    """Return the writer of a format. Raises InputError for a format that cannot hold the rows."""
    if format not in WRITERS or not WRITERS[format].fits(images.annotations):
        fitting = [name for name, kind in WRITERS.items() if kind.fits(images.annotations)]
        what = ", ".join({"boxes", "mask"} & images.annotations.keys()) or "one label each"
        rule = f"cannot hold this run's rows, which have {what}" if format in WRITERS else "is no format"
        raise InputError("--format", format, rule, f"choose one of {', '.join(fitting)}")
    described = (
        f"The accepted rows of round {rows.round}, seed {rows.seed}, of a run of rsf_dist "
        f"(fingerprint {rows.result.fingerprint})."
    )
    return WRITERS[format](folder, images.classes, described)


def _require_pictures(batch: Batch) -> None:
    """Raise InputError unless rows have images that a PNG file can hold."""
    if "image" not in batch:
        rule = "has no column `image`, and only images are exported"
        raise InputError("run", ", ".join(batch), rule, "read its Parquet shards, which manifest.json lists")
    require_images(batch["image"])
    if batch["image"].shape[1] not in (1, 3):
        rule = f"images of {batch['image'].shape[1]} channels are neither grey nor RGB"
        raise InputError("image", list(batch["image"].shape[1:]), rule, "read the run's Parquet shards")


def _require_classes(batch: Batch, classes: tuple[str, ...]) -> None:
    """Raise InputError unless every number of a class has a name; -1 is no box, and 255 an ignored pixel."""
    for name, none in (("label", None), ("box_label", -1), ("box_crowd", -1), ("mask", IGNORED)):
        numbers = batch.get(name)
        if numbers is None or numbers.is_floating_point():
            continue
        outside = numbers[(numbers.long() < 0) | (numbers.long() >= len(classes))]
        outside = outside[outside != none] if none is not None else outside
        if len(outside):
            rule = f"must lie in [0, {len(classes)}), the source's classes"
            raise InputError(name, int(outside[0]), rule, "correct the proposal's labels", absolute=True)


def _parameter_name(name: str, columns: list[str]) -> str:
    """Return the name that a parameter's column is written under; `columns` are those of the rows."""
    if name not in _NAMES:
        return name
    written = f"{name}_parameter"
    while written in columns:
        written += "_"
    return written


def _is_plain(kind: pa.DataType) -> bool:
    small = pa.types.is_float16(kind)  # which pyarrow writes into no CSV
    return not small and (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
