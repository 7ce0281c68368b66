"""A forecast on one screen of a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rsf_dist.forecast.envelope_options import Recommendation
from rsf_dist.forecast.estimate import Forecast, RoundsForecast

_WIDTH = 100
_MEBI = 2**20


def format_forecast(forecast: Forecast) -> str:
    """Return the forecast as text: its figures, a line for each M, the recommended envelope and the warnings."""
    lines = [*_figures(forecast), "", *_options(forecast), "", *_recommended(forecast.recommendation)]
    for warning in forecast.warnings:
        lines += textwrap.wrap(f"warning: {warning}", _WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def _figures(forecast: Forecast) -> Iterator[str]:
    low, high = forecast.acceptance_interval
    fewest, most = forecast.proposals_interval
    soonest, latest = forecast.seconds_interval
    costs, wanted = forecast.costs, forecast.num_wanted
    repeated = f", {forecast.num_seeds} times over" if forecast.num_seeds > 1 else ""
    short = "" if forecast.num_accepted == wanted else f" of {wanted:,}"
    yield f"accepted rows  {forecast.num_accepted:,}{short}, {_bytes(forecast.disk_bytes)} on disk{repeated}"
    yield f"M              log M {forecast.log_m:.3f}, {forecast.log_m_source}"
    yield f"acceptance     {forecast.acceptance:.3%} (95 % interval {low:.3%} to {high:.3%})"
    yield f"proposals      {forecast.proposals:,} ({fewest:,} to {most:,})"
    yield (
        f"wall time      {_time(forecast.seconds)} of sampling ({_time(soonest)} to {_time(latest)}) on "
        f"{forecast.actors} actor(s), {_time(costs.startup_seconds)} of it until they are up; "
        f"ratio {_fit(costs.ratio_seconds)}"
    )
    yield f"CPU time       {_time(3600 * forecast.cpu_hours)} of sampling ({forecast.cpu_hours:.3g} CPU hours)"
    if forecast.rounds is not None:
        yield _rounds(forecast.rounds)


def _rounds(rounds: RoundsForecast) -> str:
    fits = _fit(rounds.ratio_seconds)
    sampling = f"{rounds.proposals:,} proposals, {_time(rounds.seconds)} of sampling, ratios {fits}"
    kept = f"{rounds.cpu_hours:.3g} CPU hours, {_bytes(rounds.disk_bytes)} on disk"
    return f"{rounds.num_rounds:>2} rounds      {sampling}; {kept}"


def _fit(seconds: float | None) -> str:
    return "not measured" if seconds is None else _time(seconds)


def _options(forecast: Forecast) -> Iterator[str]:
    yield f"{'M':<14}{'log M':>8}{'acceptance':>12}{'bias':>8}{'95 % interval':>16}{'proposals':>16}{'wall time':>11}"
    for option in forecast.options:
        interval = "–" if option.bias_interval is None else "{:.3f} to {:.3f}".format(*option.bias_interval)
        yield (
            f"{option.name:<14}{option.log_m:>8.3f}{_percent(option.acceptance):>12}{option.bias:>8.3f}{interval:>16}"
            f"{option.proposals:>16,}{_time(option.seconds):>11}"
        )


def _recommended(recommendation: Recommendation) -> list[str]:
    reason = textwrap.wrap(f"# {recommendation.reason}", _WIDTH, subsequent_indent="# ")
    return [recommendation.yaml, *reason] if recommendation.yaml else reason


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _bytes(count: int) -> str:
    return f"{count / _MEBI:,.1f} MiB"
