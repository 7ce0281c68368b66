"""The command `rsf`: its commands (`rsf_dist.commands`), and the exit code of what happens in them.

Modules that import torch or Ray take seconds to import. Each command imports its own, so that `rsf --help` and an error
in the configuration are quick.
"""

from __future__ import annotations

import signal
import sys
import traceback
from typing import Annotated

import typer

from rsf_dist import __version__
from rsf_dist.commands.demo import demo
from rsf_dist.commands.export import export
from rsf_dist.commands.first import init
from rsf_dist.commands.forecast import plan
from rsf_dist.commands.inspect import inspect
from rsf_dist.commands.jobs import compare, run, sample, train
from rsf_dist.commands.predict import predict
from rsf_dist.commands.results import report, verify
from rsf_dist.commands.schemas import schema
from rsf_dist.errors import InputError, RsfError
from rsf_dist.runtime.ray_lines import hide_ended_actors

INTERRUPTED = 130

app = typer.Typer(
    help="Rejection sampling fine-tuning of vision models on Ray.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _common(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"rsf {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


for _command in (init, inspect, run, compare, sample, train, report, plan, verify, export, predict, schema, demo):
    app.command()(_command)


def main() -> None:
    """Run the command and exit: 0 done, 1 our bug, 2 the user's input, 3 a statistical refusal, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # schedulers interrupt by SIGTERM
    debug = "--debug" in sys.argv
    if not debug:
        hide_ended_actors()
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # Typer catches Ctrl-C itself
            raise KeyboardInterrupt
        sys.exit(code or 0)
    except RsfError as err:
        if debug:
            traceback.print_exc()
        _complain(str(err))
        sys.exit(err.exit_code)
    except KeyboardInterrupt:
        _complain(f"interrupted; {_way_on(sys.argv[1:])}")
        sys.exit(INTERRUPTED)
    except Exception as err:
        if not hasattr(err, "format_message"):  # only click's usage errors have it; Typer may bring a click of its own
            raise
        _complain(err.format_message())
        sys.exit(InputError.exit_code)


def _way_on(words: list[str]) -> str:
    """Return what to do after the command of these words was interrupted."""
    command = next((word for word in words if not word.startswith("-")), "")
    if command in ("run", "compare", "sample", "train"):
        return "the same command goes on from there"
    if command == "demo":
        return "`rsf demo --output FOLDER` goes on from there, with the folder that this one wrote to"
    return "the same command starts again from the beginning"


def _complain(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)
