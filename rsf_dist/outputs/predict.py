"""The predictions of a saved classifier on a user's images: a table and a contact sheet, in a new folder.

Images are decoded and predicted block by block, in this process, on its GPU if there is one.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from rsf_dist.data.unreadable import out_of_memory
from rsf_dist.errors import InputError
from rsf_dist.models.networks import ImageNetwork, Network
from rsf_dist.models.saved import OwnCodeRefused, load_model
from rsf_dist.outputs.given_images import Block, GivenImages, find_images
from rsf_dist.outputs.new_folder import checked_output, new_folder
from rsf_dist.report.predicted_images import PredictedImage, contact_sheet
from rsf_dist.runtime import user_code
from rsf_dist.runtime.device import fastest_device
from rsf_dist.runtime.progress import Progress

SHEET = "contact_sheet.png"
_SHOWN = 48
_DIGITS = 6

TableFormat = Literal["csv", "jsonl"]


@dataclass(frozen=True)
class PredictOptions:
    """What is predicted, and how it is written.

    Args:
        table: the format of the table.
        all_probabilities: True writes the probability of every class.
        batch_size: images in a forward pass.
        skip_unreadable: True passes over image files that cannot be read, instead of ending with an error.
        seed: the seed of a run whose model is used. None means the first.
        code_folder: the folder of a network of the user's own, whose code runs. None means that no code is run.
    """

    table: TableFormat = "csv"
    all_probabilities: bool = False
    batch_size: int = 64
    skip_unreadable: bool = False
    seed: int | None = None
    code_folder: str | None = None


@dataclass
class Predicted:
    """What was predicted.

    Args:
        output: the folder.
        num_images: images that were predicted.
        counts: how many of them are predicted to be of each class that occurs.
        num_unreadable: files that were passed over.
        num_labelled: images with a label of a class that the model knows.
        num_right: those of them whose prediction is right.
    """

    output: str
    num_images: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    num_unreadable: int = 0
    num_labelled: int = 0
    num_right: int = 0

    @property
    def accuracy(self) -> float | None:
        """The share of right predictions, or None where no image has a known label."""
        return self.num_right / self.num_labelled if self.num_labelled else None

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the fields and the accuracy as plain values, for JSON."""
        return asdict(self) | {"counts": dict(self.counts), "accuracy": self.accuracy}


def predict(
    model: str,
    path: str,
    output: str | None = None,
    overrides: Sequence[str] = (),
    options: PredictOptions = PredictOptions(),
    progress: Progress | None = None,
) -> Predicted:
    """Predict images, and write predictions.csv or predictions.jsonl and a contact sheet into a new folder.

    Args:
        model: a run's directory, or a folder with model.json and model.safetensors; a path or a URI.
        path: a folder of images, with a sub-folder for each class or without; an image; or any file of images with or
            without labels that `rsf_dist.data.sources` reads.
        output: the folder. None means the path's name and -predictions, in the working folder.
        overrides: keys of an image set, each `key=value`, e.g. limit=100 or kind=idx.
        options: what is predicted, and how it is written.
        progress: shows messages.

    Raises:
        InputError: there is no model or no image, an image cannot be read, or the folder cannot be written. No part of
            it is left behind.
    """
    progress = progress or Progress()
    folder = checked_output(_usual_output(path) if output is None else output)
    if options.code_folder is not None:
        user_code.allow_folder(options.code_folder, "--code-folder")
    network = _classifier(model, options)
    given = find_images(path, overrides, network)
    for note in given.notes:
        progress.say(note)
    where = fastest_device()
    progress.say(f"predicting {len(given.taken):,} images on {'the GPU' if where.type == 'cuda' else 'the CPU'}")
    with new_folder(folder) as draft:
        predictor = _Predictor(network.to(where), where, given, options, draft / f"predictions.{options.table}")
        return predictor.run(Predicted(str(folder)), progress)


def _usual_output(path: str) -> str:
    name = path.rstrip("/").rpartition("/")[2] if "://" in path else Path(path).expanduser().absolute().name
    return f"{name.partition('.')[0] or name or 'images'}-predictions"


def _classifier(path: str, options: PredictOptions) -> Network:
    """Load a model that maps images to classes. Raises InputError for any other."""
    try:
        network = load_model(path, own_code=options.code_folder is not None, seed=options.seed)
    except OwnCodeRefused as err:
        remedy = "name its folder by --code-folder if you trust whoever wrote it"
        raise InputError(err.field, err.value, err.rule, remedy) from err
    if not isinstance(network, ImageNetwork):
        raise InputError("MODEL", path, "takes rows of numbers, and no images", "name a classifier of images")
    return network


@dataclass
class _Predictor:
    """A pass over the images.

    Args:
        network: the model, on `where`.
        where: the device.
        given: the images.
        options: what is predicted, and how it is written.
        table: the file of the predictions.
    """

    network: Network
    where: torch.device
    given: GivenImages
    options: PredictOptions
    table: Path
    _shown: list[PredictedImage] = field(default_factory=list)
    _first_unreadable: str = ""

    def run(self, found: Predicted, progress: Progress) -> Predicted:
        """Predict every image, and return what was found."""
        taken = self.given.taken
        chosen = {taken[number] for number in np.linspace(0, len(taken) - 1, min(_SHOWN, len(taken))).astype(int)}
        for block in self.given.blocks(self.options.skip_unreadable):
            found.num_unreadable += len(block.unreadable)
            self._first_unreadable = self._first_unreadable or "".join(block.unreadable[:1])
            if block.positions:
                self._add(block, self._probabilities(block.images), chosen, found)
            progress.count("predicting", found.num_images + found.num_unreadable, len(taken))
        if found.num_unreadable:
            progress.say(f"passed over {found.num_unreadable:,} unreadable images; the first: {self._first_unreadable}")
        if not found.num_images:
            raise InputError(
                "PATH", f"{len(taken):,} images", "none of them can be read", f"the first: {self._first_unreadable}"
            )
        (self.table.parent / SHEET).write_bytes(contact_sheet(self._shown))
        return found

    @property
    def _classes(self) -> Sequence[str]:
        return self.network.classes

    def _probabilities(self, images: Tensor) -> NDArray[np.float64]:
        """Return the probability of each class, float64 [n, classes]. Raises InputError where the model fails."""
        parts = [self._logits(batch) for batch in images.split(self.options.batch_size)]
        logits = torch.cat(parts).double()
        if not bool(torch.isfinite(logits).all()):
            remedy = "its weights are damaged, or precision: bfloat16 does not suit it"
            raise InputError("MODEL", self.network.__class__.__name__, "gives logits that are not finite", remedy)
        return logits.softmax(1).numpy()

    def _logits(self, batch: Tensor) -> Tensor:
        try:
            with torch.inference_mode():
                return self.network(batch.to(self.where)).float().cpu()
        except RuntimeError as err:
            if out_of_memory(err):
                rule = f"images of {list(batch.shape[1:])} do not fit into memory together"
                raise InputError("--batch-size", len(batch), rule, "lower it") from err
            rule = f"cannot take images of [channels, height, width] = {list(batch.shape[1:])} ({err})"
            raise InputError("MODEL", self.network.__class__.__name__, rule, "give their size, e.g. size=224") from err

    def _add(self, block: Block, probabilities: NDArray[np.float64], chosen: set[int], found: Predicted) -> None:
        """Write the rows of a block, count them, and keep those that the contact sheet shows."""
        labels = self.given.listing.labels
        rows = []
        for number, position in enumerate(block.positions):
            row = probabilities[number]
            best = int(row.argmax())
            rows.append(self._row(position, best, row))
            found.num_images += 1
            found.counts[self._name(best)] += 1
            if labels is not None and labels[position] >= 0:
                found.num_labelled += 1
                found.num_right += int(labels[position] == best)
            if position in chosen:
                truth = self.given.names[position] if labels is not None else None
                image = block.images[number].numpy()
                self._shown.append(PredictedImage(image, self._name(best), float(row[best]), truth))
        _write_rows(rows, self.table)

    def _name(self, label: int) -> str:
        return self._classes[label] if self._classes else str(label)

    def _row(self, position: int, best: int, row: NDArray[np.float64]) -> dict[str, Any]:
        entry: dict[str, Any] = {"id": self.given.listing.ids[position], "class": self._name(best)}
        entry["probability"] = round(float(row[best]), _DIGITS)
        if self.given.listing.labels is not None:
            entry["label"] = self.given.names[position]
        if self.options.all_probabilities:
            entry["probabilities"] = {
                self._name(label): round(float(value), _DIGITS) for label, value in enumerate(row)
            }
        return entry


def _write_rows(rows: Sequence[Mapping[str, Any]], table: Path) -> None:
    """Add rows to a table. In CSV each class's probability has a column of its own."""
    with table.open("a", encoding="utf-8", newline="") as file:
        if table.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        writer, is_new = csv.writer(file), file.tell() == 0
        for row in rows:
            plain = {name: value for name, value in row.items() if name != "probabilities"}
            spread = {f"p({name})": value for name, value in row.get("probabilities", {}).items()}
            if is_new:
                writer.writerow([*plain, *spread])
                is_new = False
            writer.writerow([*plain.values(), *spread.values()])
