"""`rsf export`: the accepted rows of a run, for other tools."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated

import typer

from rsf_dist.commands.options import Debug, Directory, Json
from rsf_dist.commands.output import progress_shown


class Format(str, Enum):
    """The formats that rows can be written in."""

    FOLDER = "folder"
    COCO = "coco"
    VOC = "voc"
    YOLO = "yolo"
    MASKS = "masks"
    PARQUET = "parquet"
    HUGGINGFACE = "huggingface"


def export(
    directory: Directory,
    output: Annotated[
        str | None,
        typer.Option(help="Folder to write, which must not exist. By default the run's name and the format."),
    ] = None,
    format: Annotated[
        Format,
        typer.Option(help="Format: one with labels (folder), boxes (coco, voc, yolo), masks (coco, masks), or any."),
    ] = Format.FOLDER,
    seed: Annotated[int | None, typer.Option(help="Seed whose rows are written. By default the run's first.")] = None,
    round: Annotated[int | None, typer.Option(min=0, help="Round whose rows are written. By default the last.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the accepted rows of a run as images for other tools.

    Each comes with its provenance: source image, round, chunk, index, log ratio, weight, seed and parameters.
    """
    from rsf_dist.outputs.export import export as export_run

    with progress_shown() as progress:
        exported = export_run(directory, output, format.value, seed, round, progress)
    if as_json:
        print(json.dumps(exported.to_dict(), indent=2))
        return
    print(f"{exported.num_rows:,} rows of seed {exported.seed}, round {exported.round}: {exported.output}")
