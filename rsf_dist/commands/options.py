"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Argument(help="YAML file of the run. `rsf schema config --markdown` lists its keys.")]

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Overrides of the file's keys, e.g. training.steps=100.",
        metavar="[KEY=VALUE]...",
    ),
]

Directory = Annotated[str, typer.Argument(help="Directory of the run: a local path or a URI.")]

Address = Annotated[
    str | None,
    typer.Option(help="Address of a Ray cluster; `auto` is the one on this machine."),
]

Reuse = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Directory or URI of an earlier run, to take over what both have in common: ratio, rows, models.",
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of text.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with code 3 if the report's trust card is red.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the output of the workers.")]
