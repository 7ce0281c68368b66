"""`rsf report` and `rsf verify`: the results of a run, written again or checked."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rsf_dist.commands.options import Debug, Directory, Json
from rsf_dist.commands.output import progress_shown, show
from rsf_dist.errors import InputError


def report(directory: Directory, as_json: Json = False, debug: Debug = False) -> None:
    """Write the report.html of a run again."""
    from rsf_dist.runs import pipeline

    show(pipeline.rebuild_report(directory), as_json)


def verify(
    directory: Directory,
    chunks: Annotated[int, typer.Option(min=0, help="Number of chunks, chosen at random, to draw again.")] = 8,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a run's files, chunks and report.

    The files are checked against their hashes, some chunks are drawn again, and the report is compared with the rows.
    Exit with code 2 if something is wrong.
    """
    from rsf_dist.runs.verification import verify as verify_run

    with progress_shown() as progress:
        verification = verify_run(directory, num_chunks=chunks, progress=progress)
    if as_json:
        print(json.dumps(verification.to_dict(), indent=2))
    else:
        print("\n".join([f"wrong: {line}" for line in verification.wrong] or [f"in order: {verification}"]))
    if verification.wrong:
        raise typer.Exit(InputError.exit_code)
