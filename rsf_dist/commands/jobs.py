"""`rsf run`, `rsf compare`, `rsf sample` and `rsf train`: a run, or a part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rsf_dist.commands.options import Address, Config, Debug, Directory, Json, Overrides, Reuse, Strict
from rsf_dist.commands.output import progress_shown, refuse_red, show

if TYPE_CHECKING:
    from rsf_dist.config.run import RunConfig


def run(
    config: Config,
    overrides: Overrides = None,
    reuse: Reuse = None,
    address: Address = None,
    as_json: Json = False,
    strict: Strict = False,
    debug: Debug = False,
) -> None:
    """Sample, fine-tune, compare with the baselines and report."""
    from rsf_dist.config.load import load_config

    _run_job("run", load_config(config, overrides or ()), reuse, address, as_json, strict, debug)


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
    reuse: Reuse = None,
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
    loaded = load_comparison(config, overrides or (), chosen, seeds, output)
    _run_job("run", loaded, reuse, address, as_json, strict, debug)


def sample(
    config: Config,
    overrides: Overrides = None,
    reuse: Reuse = None,
    address: Address = None,
    as_json: Json = False,
    strict: Strict = False,
    debug: Debug = False,
) -> None:
    """Fit the ratio and sample; `rsf train` continues from there."""
    from rsf_dist.config.load import load_config

    _run_job("sample", load_config(config, overrides or ()), reuse, address, as_json, strict, debug)


def train(directory: Directory, address: Address = None, as_json: Json = False, debug: Debug = False) -> None:
    """Fine-tune on the accepted rows of a run, compare and report."""
    from rsf_dist.runs import pipeline

    with progress_shown() as progress:
        result = pipeline.train(directory, address=address, verbose=debug, progress=progress)
    show(result, as_json)


def _run_job(
    job: Literal["run", "sample"],
    config: RunConfig,
    reuse: str | None,
    address: str | None,
    as_json: bool,
    strict: bool,
    debug: bool,
) -> None:
    from rsf_dist.runs import pipeline  # takes seconds; errors in the configuration came before

    with progress_shown() as progress:
        result = getattr(pipeline, job)(config, reuse=reuse, address=address, verbose=debug, progress=progress)
    show(result, as_json)
    refuse_red(result, strict)
