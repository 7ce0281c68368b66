"""`rsf schema`: what a YAML file, report or manifest may hold."""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from rsf_dist.commands.options import Debug
from rsf_dist.errors import InputError

if TYPE_CHECKING:
    from pydantic import JsonValue


class Described(str, Enum):
    """The files whose schema can be printed: a run's YAML file, report.json and manifest.json."""

    CONFIG = "config"
    REPORT = "report"
    MANIFEST = "manifest"


def schema(
    file: Annotated[Described, typer.Argument(help="The file: a run's YAML file, report.json or manifest.json.")],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the keys of `config` as a Markdown list instead.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Print the JSON Schema of a YAML file, report or manifest.

    An editor with a YAML language server completes and explains keys if the YAML file begins with
    `# yaml-language-server: $schema=config.schema.json`, after `rsf schema config > config.schema.json`.
    """
    from rsf_dist.config import reference

    if markdown and file is not Described.CONFIG:
        raise InputError("--markdown", file.value, "only config has a key reference", "leave --markdown out")
    if markdown:
        print(reference.config_markdown(), end="")
        return
    described = reference.config_schema() if file is Described.CONFIG else _schema_of_a_written_file(file)
    print(json.dumps(described, indent=2))


def _schema_of_a_written_file(file: Described) -> dict[str, JsonValue]:
    if file is Described.REPORT:
        from rsf_dist.report.schema import report_schema

        return report_schema()
    from rsf_dist.storage.manifest import manifest_schema

    return manifest_schema()
