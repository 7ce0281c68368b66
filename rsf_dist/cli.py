"""The command `rsf`: words in, exit codes out. Whatever imports torch or Ray is imported when a command runs."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rsf_dist.errors import InputError, RsfError, StatisticalRefusal

if TYPE_CHECKING:
    from rsf_dist.config.run import RunConfig
    from rsf_dist.runs.pipeline import RunResult
    from rsf_dist.runtime.progress import Progress


INTERRUPTED = 130


app = typer.Typer(
    help="Rejection sampling fine-tuning of vision models on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Config = Annotated[Path, typer.Argument(help="The run's YAML file.")]


Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value, e.g. training.steps=100.", metavar="[KEY=VALUE]...")
]


Directory = Annotated[str, typer.Argument(help="The run's directory, a path or a URI.")]


Address = Annotated[str | None, typer.Option(help="Of a Ray cluster; `auto`: the one on this machine.")]


Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


Strict = Annotated[bool, typer.Option("--strict", help="Exit with code 3 where the trust card is red.")]


Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the workers' output.")]


@app.command()
def run(
    config: Config,
    overrides: Overrides = None,
    address: Address = None,
    as_json: Json = False,
    strict: Strict = False,
    debug: Debug = False,
) -> None:
    """Sample, fine-tune, compare, report: the main job."""
    from rsf_dist.config.load import load_config

    _carry_out("run", load_config(config, overrides or ()), address, as_json, strict, debug)


@app.command()
def compare(
    config: Config,
    overrides: Overrides = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Repeat with so many seeds; by default the file's num_seeds if above 1, else 3."),
    ] = None,
    arms: Annotated[
        str | None, typer.Option(help="Which, e.g. random,one_shot,oracle; by default all that the file allows.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Where to; by default the file's output with -compare.")] = None,
    address: Address = None,
    as_json: Json = False,
    strict: Strict = False,
    debug: Debug = False,
) -> None:
    """Hold the run against its alternatives, at equal rows and optimizer steps, over several seeds."""
    from rsf_dist.config.load import load_config
    from rsf_dist.config.run import comparable_arms

    given = list(overrides or ())
    once = load_config(config, given)
    possible = comparable_arms(once)
    chosen = possible if arms is None else [name.strip() for name in arms.split(",")]
    where = output or _compared(once.output)
    count = seeds or (once.num_seeds if once.num_seeds > 1 else 3)
    ours = [f"evaluation.arms=[{', '.join(chosen)}]", f"num_seeds={count}", f"output={json.dumps(where)}"]
    ours += [] if "oracle" in chosen else ["evaluation.oracle=null"]
    _carry_out("run", load_config(config, [*given, *ours]), address, as_json, strict, debug)


@app.command()
def sample(
    config: Config,
    overrides: Overrides = None,
    address: Address = None,
    as_json: Json = False,
    strict: Strict = False,
    debug: Debug = False,
) -> None:
    """Fit the ratio and sample, for `rsf train` to go on with."""
    from rsf_dist.config.load import load_config

    _carry_out("sample", load_config(config, overrides or ()), address, as_json, strict, debug)


@app.command()
def train(directory: Directory, address: Address = None, as_json: Json = False, debug: Debug = False) -> None:
    """Fine-tune on a run's accepted rows, compare, report."""
    from rsf_dist.runs import pipeline

    with _progress() as progress:
        result = pipeline.train(directory, address=address, verbose=debug, progress=progress)
    _show(result, as_json)


@app.command()
def report(directory: Directory, as_json: Json = False, debug: Debug = False) -> None:
    """Draw a run's report.html again."""
    from rsf_dist.runs import pipeline

    _show(pipeline.rebuild_report(directory), as_json)


@app.command()
def plan(
    config: Config,
    overrides: Overrides = None,
    actors: Annotated[
        int | None, typer.Option(min=1, help="How many to forecast for; by default all there are.")
    ] = None,
    address: Address = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Forecast acceptance, bias and cost of sampling from a pilot, and recommend an envelope; writes nothing."""
    from rsf_dist.config.load import load_config

    loaded = load_config(config, overrides or ())
    from rsf_dist.forecast.plan_run import plan_run  # seconds; what is wrong with the configuration is said before
    from rsf_dist.forecast.text import format_forecast

    with _progress() as progress:
        found = plan_run(loaded, actors=actors, address=address, verbose=debug, progress=progress).to_dict()
    print(json.dumps(found, indent=2) if as_json else format_forecast(found))


@app.command()
def verify(
    directory: Directory,
    chunks: Annotated[int, typer.Option(min=0, help="How many chunks to draw again, chosen at random.")] = 8,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a run: its files' hashes, some chunks drawn again, the report against the rows; exit code 2 if it fails."""
    from rsf_dist.runs.verification import verify as verify_run

    with _progress() as progress:
        found = verify_run(directory, num_chunks=chunks, progress=progress)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print("\n".join([f"wrong: {line}" for line in found.wrong] or [f"in order: {found}"]))
    if found.wrong:
        raise typer.Exit(InputError.exit_code)


@app.command()
def demo(
    overrides: Overrides = None,
    output: Annotated[str | None, typer.Option(help="A local folder; by default runs/demo, or runs/demo-2, …")] = None,
    seeds: Annotated[int, typer.Option(help="Repeat with this many seeds.")] = 1,
    address: Address = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Real digits, a place where they look different, and what rejection sampling makes of it. Minutes on two cores."""
    from importlib.resources import files

    from rsf_dist.config.load import load_config
    from rsf_dist.demo.digits_domain import make_domain
    from rsf_dist.runs import pipeline
    from rsf_dist.storage.run_store import RunStore

    output = output or next(name for name in _demo_names() if not Path(name).exists())
    if "://" in output:
        raise InputError("--output", output, "the demo writes its images there as files", "name a local folder")
    place = Path(output) / "place"
    paths = {"target": "unlabelled", "evaluation.test": "test", "evaluation.oracle": "oracle"}
    ours = [f"output={output}", f"num_seeds={seeds}", *(f"{key}.root={place / name}" for key, name in paths.items())]
    loaded = load_config(str(files("rsf_dist.demo") / "digits.yaml"), [*ours, *(overrides or ())])
    pipeline.require_same(RunStore(output), loaded)
    with _progress() as progress:
        if not place.exists():
            progress.say(f"writing the target place's images into {place}")
            make_domain(place.with_name("place.partial"))
            place.with_name("place.partial").rename(place)
        result = pipeline.run(loaded, address=address, verbose=debug, progress=progress)
    _show(result, as_json)


def main() -> None:
    """Run the command and exit: 0 done, 1 our bug, 2 the user's input, 3 a statistical refusal, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way to interrupt
    debug = "--debug" in sys.argv
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # Typer has caught Ctrl-C by itself
            raise KeyboardInterrupt
        sys.exit(code or 0)
    except RsfError as err:
        if debug:
            traceback.print_exc()
        _complain(str(err))
        sys.exit(err.exit_code)
    except KeyboardInterrupt:
        _complain("interrupted")
        sys.exit(INTERRUPTED)
    except Exception as err:
        if not hasattr(err, "format_message"):  # only click's usage errors have one, whichever click Typer brings
            raise
        _complain(err.format_message())
        sys.exit(InputError.exit_code)


def _compared(output: str) -> str:
    """Where a comparison goes, beside the run itself."""
    path, mark, options = output.partition("?")  # as in s3://bucket/run?endpoint_override=…
    return f"{path.rstrip('/')}-compare{mark}{options}"


def _demo_names() -> Iterator[str]:
    yield "runs/demo"
    yield from (f"runs/demo-{number}" for number in itertools.count(2))


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    from rsf_dist.runtime.progress import for_this_terminal

    progress = for_this_terminal()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for the result
            yield progress
    finally:
        progress.close()


def _complain(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)


def _carry_out(
    job: Literal["run", "sample"], config: RunConfig, address: str | None, as_json: bool, strict: bool, debug: bool
) -> None:
    from rsf_dist.runs import pipeline  # seconds; what is wrong with the configuration was said before

    with _progress() as progress:
        result = getattr(pipeline, job)(config, address=address, verbose=debug, progress=progress)
    _show(result, as_json)
    _refuse_red(result, strict)


def _refuse_red(result: RunResult, strict: bool) -> None:
    red = sorted({name for names in result.report.red for name in names})
    if strict and red:
        raise StatisticalRefusal(
            f"the trust card is red: {', '.join(red)}", f"see {result.store.uri}/report.html; what was made is kept"
        )


def _show(result: RunResult, as_json: bool) -> None:
    """The result on standard output: the arms' accuracies, and where the report is."""
    if as_json:
        print(json.dumps({"output": result.store.uri, **result.report.model_dump(mode="json")}, indent=2))
        return
    from rsf_dist.report.text import format_report

    print(format_report(result.report))
    print(f"report: {result.store.uri}/report.html")
