"""`rsf plan`: a forecast, before a run."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rsf_dist.commands.options import Address, Config, Debug, Json, Overrides
from rsf_dist.commands.output import progress_shown


def plan(
    config: Config,
    overrides: Overrides = None,
    actors: Annotated[
        int | None,
        typer.Option(min=1, help="Number of actors to forecast for. By default all there are."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Directory to keep the ratio and the pilot in: `rsf run --from` takes them over, the pilot where the "
            "envelope draws as many proposals.",
        ),
    ] = None,
    address: Address = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Forecast the acceptance, bias and cost of sampling.

    A pilot is drawn, an envelope is recommended, and nothing is written unless --keep names a directory.
    """
    from rsf_dist.config.load import load_config

    loaded = load_config(config, overrides or ())
    from rsf_dist.forecast.plan_run import plan_run  # takes seconds; errors in the configuration came before
    from rsf_dist.forecast.text import format_forecast

    with progress_shown() as progress:
        forecast = plan_run(loaded, actors=actors, keep=keep, address=address, verbose=debug, progress=progress)
    print(json.dumps(forecast.to_dict(), indent=2) if as_json else format_forecast(forecast))
