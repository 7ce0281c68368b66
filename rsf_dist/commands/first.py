"""`rsf init`: a first configuration, from the images that there are."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from rsf_dist.commands.options import Debug
from rsf_dist.errors import InputError


class TaskName(str, Enum):
    """What the model learns."""

    CLASSIFICATION = "classification"


class PresetName(str, Enum):
    """The effort: minutes on a laptop, or what results take."""

    QUICK = "quick"
    THOROUGH = "thorough"


def init(
    source: Annotated[str, typer.Argument(help="Labelled images: a folder with one sub-folder a class, or a file.")],
    target: Annotated[str, typer.Argument(help="Images of the target domain. Labels are not looked at.")],
    test: Annotated[str | None, typer.Argument(help="Labelled images of the target domain, to evaluate on.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML file to write.")] = Path("config.yaml"),
    task: Annotated[TaskName, typer.Option(help="What the model learns.")] = TaskName.CLASSIFICATION,
    preset: Annotated[
        PresetName, typer.Option(help="`quick` takes minutes on a laptop; `thorough` is for results.")
    ] = PresetName.QUICK,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    debug: Debug = False,
) -> None:
    """Write a first configuration for your images.

    It looks at the folders or files, and chooses sizes, networks and budgets that fit the images. The file has
    comments, and runs as it is.
    """
    if not force and os.path.lexists(output):
        raise InputError("--output", output, "exists", "name another file, or overwrite it with --force")
    from rsf_dist.starting.first_config import first_config  # takes seconds

    _write(output, first_config(source, target, test, preset.value))
    print(f"wrote {output}; next: rsf inspect {output}, then rsf run {output}")


def _write(output: Path, text: str) -> None:
    """Write a file as a whole: a full disk leaves the old one as it was. Raises InputError where it cannot be written.

    A link stays, and the file that it leads to is replaced.
    """
    try:
        file = Path(os.path.realpath(output))
        if os.path.lexists(file) and not file.is_file():  # a folder; a device, which must not be replaced
            raise InputError("--output", output, "is no file", "name a file")
        with TemporaryDirectory(dir=file.parent) as folder:
            draft = Path(folder) / "draft.yaml"
            draft.write_text(text, encoding="utf-8")
            os.replace(draft, file)
    except (OSError, ValueError) as err:  # ValueError: a null byte
        reason = getattr(err, "strerror", None) or err  # without the draft's name
        raise InputError("--output", output, f"cannot be written ({reason})", "name a file that can") from err
