"""The command `rsf`: parse the command line, call the library, print the result, exit with the right code.

Modules that import torch or Ray take seconds to import. Each command imports its own, so that `rsf --help` and an error
in the configuration are quick.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import sys
import traceback
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rsf_dist import __version__
from rsf_dist.errors import InputError, RsfError, StatisticalRefusal
from rsf_dist.runtime.ray_lines import hide_ended_actors

if TYPE_CHECKING:
    from pydantic import JsonValue

    from rsf_dist.config.run import RunConfig
    from rsf_dist.runs.pipeline import RunResult
    from rsf_dist.runtime.progress import Progress


INTERRUPTED = 130

app = typer.Typer(
    help="Rejection sampling fine-tuning of vision models on Ray.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of text.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with code 3 if the report's trust card is red.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the output of the workers.")]


@app.callback()
def _common(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"rsf {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def run(
    config: Config,
    overrides: Overrides = None,
    address: Address = None,
    as_json: Json = False,
    strict: Strict = False,
    debug: Debug = False,
) -> None:
    """Sample, fine-tune, compare with the baselines and report."""
    from rsf_dist.config.load import load_config

    _run_job("run", load_config(config, overrides or ()), address, as_json, strict, debug)


@app.command()
def compare(
    config: Config,
    overrides: Overrides = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Number of seeds. By default num_seeds of the file if above 1, else 3."),
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(help="Arms, e.g. random,one_shot,oracle. By default all that the file allows."),
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Directory to write to. By default the file's output with -compare.")
    ] = None,
    address: Address = None,
    as_json: Json = False,
    strict: Strict = False,
    debug: Debug = False,
) -> None:
    """Compare the run with its baselines over several seeds.

    All arms have equally many rows and optimizer steps.
    """
    from rsf_dist.config.comparison import load_comparison

    chosen = None if arms is None else [name.strip() for name in arms.split(",")]
    _run_job("run", load_comparison(config, overrides or (), chosen, seeds, output), address, as_json, strict, debug)


@app.command()
def sample(
    config: Config,
    overrides: Overrides = None,
    address: Address = None,
    as_json: Json = False,
    strict: Strict = False,
    debug: Debug = False,
) -> None:
    """Fit the ratio and sample; `rsf train` continues from there."""
    from rsf_dist.config.load import load_config

    _run_job("sample", load_config(config, overrides or ()), address, as_json, strict, debug)


@app.command()
def train(directory: Directory, address: Address = None, as_json: Json = False, debug: Debug = False) -> None:
    """Fine-tune on the accepted rows of a run, compare and report."""
    from rsf_dist.runs import pipeline

    with _progress() as progress:
        result = pipeline.train(directory, address=address, verbose=debug, progress=progress)
    _show(result, as_json)


@app.command()
def report(directory: Directory, as_json: Json = False, debug: Debug = False) -> None:
    """Write the report.html of a run again."""
    from rsf_dist.runs import pipeline

    _show(pipeline.rebuild_report(directory), as_json)


@app.command()
def plan(
    config: Config,
    overrides: Overrides = None,
    actors: Annotated[
        int | None,
        typer.Option(min=1, help="Number of actors to forecast for. By default all there are."),
    ] = None,
    address: Address = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Forecast the acceptance, bias and cost of sampling.

    A pilot is drawn, an envelope is recommended, and nothing is written.
    """
    from rsf_dist.config.load import load_config

    loaded = load_config(config, overrides or ())
    from rsf_dist.forecast.plan_run import plan_run  # takes seconds; errors in the configuration came before
    from rsf_dist.forecast.text import format_forecast

    with _progress() as progress:
        forecast = plan_run(loaded, actors=actors, address=address, verbose=debug, progress=progress)
    print(json.dumps(forecast.to_dict(), indent=2) if as_json else format_forecast(forecast))


@app.command()
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

    with _progress() as progress:
        verification = verify_run(directory, num_chunks=chunks, progress=progress)
    if as_json:
        print(json.dumps(verification.to_dict(), indent=2))
    else:
        print("\n".join([f"wrong: {line}" for line in verification.wrong] or [f"in order: {verification}"]))
    if verification.wrong:
        raise typer.Exit(InputError.exit_code)


class Described(str, Enum):
    """The files whose schema can be printed: a run's YAML file, report.json and manifest.json."""

    CONFIG = "config"
    REPORT = "report"
    MANIFEST = "manifest"


@app.command()
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


@app.command()
def demo(
    overrides: Overrides = None,
    output: Annotated[
        str | None, typer.Option(help="Local folder to write to. By default runs/demo, or runs/demo-2, …")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 1,
    address: Address = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Adapt a classifier of digits to a made target domain.

    The digits are real scans. In the target domain they are turned, dim and noisy. It takes minutes on two cores.
    """
    from importlib.resources import files

    from rsf_dist.config.load import load_config
    from rsf_dist.demo.digits_domain import make_domain
    from rsf_dist.runs import pipeline
    from rsf_dist.storage.run_store import RunStore

    output = output or next(name for name in _demo_names() if not Path(name).exists())
    if "://" in output:
        raise InputError("--output", output, "the demo writes its images there as files", "name a local folder")
    domain = Path(output) / "target_domain"
    roots = {"target": "unlabelled", "evaluation.test": "test", "evaluation.oracle": "oracle"}
    own = [f"output={output}", f"num_seeds={seeds}", *(f"{key}.root={domain / name}" for key, name in roots.items())]
    loaded = load_config(str(files("rsf_dist.demo") / "digits.yaml"), [*own, *(overrides or ())])
    pipeline.require_same(RunStore(output), loaded)
    with _progress() as progress:
        if not domain.exists():
            progress.say(f"writing the target domain's images into {domain}")
            partial = domain.with_name("target_domain.partial")
            make_domain(partial)
            partial.rename(domain)
        result = pipeline.run(loaded, address=address, verbose=debug, progress=progress)
    _show(result, as_json)


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


def _demo_names() -> Iterator[str]:
    yield "runs/demo"
    yield from (f"runs/demo-{number}" for number in itertools.count(2))


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    from rsf_dist.runtime.progress import for_this_terminal

    progress = for_this_terminal()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for the result alone
            yield progress
    finally:
        progress.close()


def _complain(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)


def _run_job(
    job: Literal["run", "sample"], config: RunConfig, address: str | None, as_json: bool, strict: bool, debug: bool
) -> None:
    from rsf_dist.runs import pipeline  # takes seconds; errors in the configuration came before

    with _progress() as progress:
        result = getattr(pipeline, job)(config, address=address, verbose=debug, progress=progress)
    _show(result, as_json)
    _refuse_red(result, strict)


def _refuse_red(result: RunResult, strict: bool) -> None:
    red = sorted({name for names in result.report.red for name in names})
    if strict and red:
        raise StatisticalRefusal(
            f"the trust card is red: {', '.join(red)}",
            f"see {result.store.uri}/report.html; all files are kept",
        )


def _show(result: RunResult, as_json: bool) -> None:
    """Print the result: the arms' accuracies, and the place of the report."""
    if as_json:
        print(json.dumps({"output": result.store.uri, **result.report.model_dump(mode="json")}, indent=2))
        return
    from rsf_dist.report.text import format_report

    print(format_report(result.report))
    print(f"report: {result.store.uri}/report.html")
