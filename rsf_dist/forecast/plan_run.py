"""A look ahead: the ratio, a pilot of bounded cost and a rehearsal on the pool, then the forecast of the whole run.

Nothing is written into the run's directory. What it holds of this very run, ratio and pilot, is used; everything else
is made in a temporary directory and forgotten.
"""

from __future__ import annotations

from dataclasses import replace
from tempfile import TemporaryDirectory

from rsf_dist.builders.components import build_envelope
from rsf_dist.cluster.capacity import check_pool, check_ratio, max_actors
from rsf_dist.cluster.connection import connect
from rsf_dist.config.resume import differences
from rsf_dist.config.run import RunConfig
from rsf_dist.forecast.estimate import (
    Forecast,
    LaterRound,
    LaterRounds,
    Recommendation,
    Request,
    forecast,
    forecast_rounds,
    warn_of_rounds,
)
from rsf_dist.forecast.measure import RowCost, measure_pool, measure_row
from rsf_dist.report import report_json
from rsf_dist.runs.pipeline import CONFIG, prepare, seed_folder, stored_config
from rsf_dist.runs.rounds import round_sampler
from rsf_dist.runs.seed_run import SeedRun, pilot_folder, ratio_folder
from rsf_dist.runtime.progress import Progress
from rsf_dist.sampling.pilot import PilotRun
from rsf_dist.sampling.sampler import RejectionSampler
from rsf_dist.storage.run_store import RunStore

LEAST_PILOT = 2_000
"""Proposals that a pilot of ours draws at least, unless that takes longer than PILOT_SECONDS."""


PILOT_SECONDS = 60.0
"""What a pilot of ours may take on one core; it is shrunk to that."""


_LEAST_AFFORDABLE = 64


_NO_ADVICE = "none: the envelope is the last round's, which starts from another proposal"


def plan_run(
    config: RunConfig,
    *,
    actors: int | None = None,
    address: str | None = None,
    verbose: bool = False,
    progress: Progress | None = None,
) -> Forecast:
    """Forecast a run's sampling; see `forecast`.

    Args:
        config: see `load_config`.
        actors: how many to forecast for; None: as many as the pool may have on this cluster.
        address, verbose, progress: as of `pipeline.run`.

    Raises:
        InputError: something in the configuration, its files or the cluster does not fit; or Ray Train fits the ratio
            on nodes that do not share a folder for temporary files (TMPDIR).
        StatisticalRefusal: the ratio cannot be made, or the pilot allows no M.
    """
    progress = progress or Progress()
    inputs = prepare(config, progress)
    with connect(address, verbose, config.code_folder), TemporaryDirectory() as folder:
        check_ratio(config.ratio)
        check_pool(config.sampling.pool)
        draft = SeedRun(config, inputs, RunStore(folder), config.seed, progress)
        warnings = borrow(config, draft.store)
        return _forecast_trial(draft, actors, warnings)


def _forecast_trial(draft: SeedRun, actors: int | None, warnings: list[str]) -> Forecast:
    """The forecast of a trial that has a ratio and a pilot already, or makes them."""
    report_json.begin(draft.store, draft.seed)
    proposal, had_pilot = draft.proposal(), draft.store.is_intact(pilot_folder(0))
    rounds = draft.config.rounds
    exploring = rounds.num_rounds > 1
    sampler = round_sampler(draft, proposal, draft.ratio(proposal), exploring)
    draft.progress.say("drawing a pilot, and rehearsing on the pool")
    look = measure_row(sampler.proposal, sampler.ratio, sampler.seed, sampler.pool)
    plan = sampler.plan(num_pilot=pilot_size(sampler, look, warnings))
    wanted = rounds.num_accepted if exploring else rows_to_train_on(draft.config)
    job = Request(wanted, actors or max_actors(sampler.pool), sampler.budget, draft.config.num_seeds)
    num_pilot = 0 if had_pilot else sampler.num_pilot
    costs = replace(
        measure_pool(plan, sampler.pool, job.actors, look.seconds_per_row),
        num_pilot=num_pilot,
        pilot_seconds=num_pilot * plan.pilot.seconds_per_row,
        ratio_seconds=report_json.read(draft.store)["seconds"].get("ratio"),
        bytes_per_shard=look.bytes_per_shard,
        bytes_per_row=look.bytes_per_row,
    )
    found = forecast(plan, job, costs, by_quantile=plan.choice.is_quantile, warnings=warnings)
    if not exploring:
        return found
    following, warnings = later_rounds(draft.config)
    all_rounds = None if following is None else forecast_rounds(plan, found, job, following)
    short = [] if all_rounds is None else list(warn_of_rounds(all_rounds))
    told = (*found.warnings, *warnings, *short)
    return replace(found, recommendation=Recommendation("", _NO_ADVICE), rounds=all_rounds, warnings=told)


def rows_to_train_on(config: RunConfig) -> int:
    """Of the last round; in mode `stream` those that training takes come fresh."""
    training, sampling = config.training, config.sampling
    return sampling.num_accepted + (training.steps * training.batch_size if sampling.mode == "stream" else 0)


def later_rounds(config: RunConfig) -> tuple[LaterRounds | None, list[str]]:
    """What is known beforehand of the rounds after the first, None where that is nothing; and what is to be said."""
    rounds, envelope, sampling = config.rounds, config.envelope, config.sampling
    warnings = ["acceptance and bias are of the first round; the line on rounds, where there is one, is of them all"]
    last = None
    if envelope.acceptance_known is not None:
        num_pilot = build_envelope(envelope).num_pilot
        last = LaterRound(rows_to_train_on(config), sampling.budget, envelope.acceptance_known, num_pilot)
    else:
        warnings.append(
            f"the last round is left out: what it accepts at its envelope, kind {envelope.kind}, depends on where the "
            "others move the proposal"
        )
    exploring = rounds.num_rounds - 2
    if exploring == 0 and last is None:
        return None, warnings
    share = config.ratio.refit_share(rounds.warm_start_steps)
    return LaterRounds(exploring, rounds.num_pilot, last, share), warnings


def borrow(config: RunConfig, draft: RunStore) -> list[str]:
    """Copy ratio and pilot from the run's directory where it holds this very run; a warning where it holds another."""
    run = RunStore(config.output)
    if not run.exists(CONFIG):
        return []
    found = differences(stored_config(run), config)
    if found:
        return [f"{run.uri} holds another run ({', '.join(found[:3])}): rsf run will want another output"]
    seed_run = run.at(seed_folder(0, config.num_seeds))
    for folder in (ratio_folder(0), pilot_folder(0)):
        draft.copy_from(folder, seed_run)
    return []


def pilot_size(sampler: RejectionSampler, look: RowCost, warnings: list[str]) -> int:
    """Proposals of the pilot that is there; else the envelope's number within our limits, and a warning where fewer."""
    if sampler.store is not None and sampler.store.is_intact(pilot_folder(0)):
        return len(sampler.store.load_folder(pilot_folder(0), PilotRun.load).rows.log_ratio)
    wanted = max(LEAST_PILOT, sampler.num_pilot)
    affordable = max(_LEAST_AFFORDABLE, int(PILOT_SECONDS / look.seconds_per_row))
    if affordable < wanted:
        warnings.append(
            f"this rests on a pilot of {affordable:,} proposals, {PILOT_SECONDS:g} s of them, not {wanted:,}"
        )
    return min(wanted, affordable)
