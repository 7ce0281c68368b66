"""`rsf inspect`: a look at image sets, before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsf_dist.commands.options import Debug, Json, Overrides
from rsf_dist.commands.output import progress_shown
from rsf_dist.errors import InputError

if TYPE_CHECKING:
    from rsf_dist.inspection.inspection import Inspection
    from rsf_dist.runtime.progress import Progress


def inspect(
    path: Annotated[str, typer.Argument(help="YAML file of a run; or a folder or file with images.", metavar="PATH")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="PNG file of the contact sheet. By default NAME.inspect.png in this folder.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at images before a run, and draw a contact sheet.

    Counts, sizes and modes are printed, what was passed over, and what is suspicious. Of a YAML file every image set is
    looked at, and proposals are drawn. Of another path the kind is recognised; overrides are then keys of its image
    set, e.g. size=224. No cluster is needed.
    Exit with code 2 if a run would refuse the images.
    """
    sheet = output or Path(f"{_name(path)}.inspect.png")
    if sheet.suffix.lower() != ".png" or not sheet.parent.is_dir():
        raise InputError("--output", sheet, "must be a PNG file in a folder that is there", "write e.g. sheet.png")
    with progress_shown() as progress:
        inspection = _inspected(path, overrides or [], progress)
    from rsf_dist.inspection.sheet import panels_of, require_apart, write_sheet
    from rsf_dist.inspection.text import format_inspection, to_dict

    panels = panels_of(inspection)
    if panels:
        require_apart(sheet, inspection)
        write_sheet(panels, sheet)
    if as_json:
        print(json.dumps(to_dict(inspection) | {"sheet": str(sheet) if panels else None}, indent=2))
    else:
        print(format_inspection(inspection) + (f"\ncontact sheet: {sheet}" if panels else ""))
    if inspection.refused:
        raise typer.Exit(InputError.exit_code)


def _name(path: str) -> str:
    """Return the name that the sheet is given by default: the folder's, or the file's without its suffix."""
    place = Path(path) if "://" in path else Path(path).absolute()
    return (place.name if place.is_dir() else place.stem) or "images"


def _inspected(path: str, overrides: list[str], progress: Progress) -> Inspection:
    from rsf_dist.config.load import load_config, parse_images
    from rsf_dist.data.sources.recognise import recognise_parts
    from rsf_dist.data.sources.recognised_files import yolo_parts

    file = Path(path)
    is_config = file.suffix.lower() in (".yaml", ".yml") and not file.is_dir() and not yolo_parts(file)
    if is_config:
        config = load_config(path, overrides)  # errors in the configuration come before what takes long to import
    from rsf_dist.inspection.inspection import inspect_run, inspect_sets

    if is_config:
        return inspect_run(config, progress)
    parts = recognise_parts(path)
    if any(override.startswith("split=") for override in overrides):
        parts = dict(list(parts.items())[:1])
    return inspect_sets({name: parse_images(keys, overrides) for name, keys in parts.items()}, progress)
