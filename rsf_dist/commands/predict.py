"""`rsf predict`: a model's predictions on images."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated

import typer

from rsf_dist.commands.options import Debug, Json
from rsf_dist.commands.output import progress_shown


class Table(str, Enum):
    """The formats that predictions are written in."""

    CSV = "csv"
    JSONL = "jsonl"


def predict(
    model: Annotated[str, typer.Argument(help="Directory of a run, or a folder with model.json; a path or a URI.")],
    path: Annotated[str, typer.Argument(help="Folder of images, an image, or a file that lists or holds images.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Keys of an image set, e.g. limit=100, size=224 or kind=idx.", metavar="[KEY=VALUE]..."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(help="Folder to write, which must not exist. By default the images' name and -predictions."),
    ] = None,
    format: Annotated[Table, typer.Option(help="Format of the table.")] = Table.CSV,
    all_probabilities: Annotated[
        bool, typer.Option("--all-probabilities", help="Write the probability of every class.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a forward pass.")] = 64,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Pass over images that cannot be read, and count them.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the run whose model is used. By default the first.")] = None,
    code_folder: Annotated[
        str | None, typer.Option(help="Folder with a network of your own, whose code is run.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict the classes of images with the model of a run.

    Writes a table of predictions and a contact sheet; the accuracy is printed where images have labels.
    """
    from rsf_dist.outputs.predict import PredictOptions
    from rsf_dist.outputs.predict import predict as predict_images

    options = PredictOptions(format.value, all_probabilities, batch_size, skip_unreadable, seed, code_folder)
    with progress_shown() as progress:
        found = predict_images(model, path, output, overrides or (), options, progress)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
        return
    counts = ", ".join(f"{name} {count:,}" for name, count in found.counts.most_common(10))
    print(f"{found.num_images:,} images: {counts}{', …' if len(found.counts) > 10 else ''}")
    if found.accuracy is not None:
        print(f"accuracy {found.accuracy:.3f} on {found.num_labelled:,} labelled images")
    print(f"predictions: {found.output}")
