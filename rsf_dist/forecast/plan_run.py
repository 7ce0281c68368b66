"""The steps of `rsf plan`: the ratio, a pilot of bounded cost, measurements on the pool, and the forecast.

Nothing is written into the run's directory. A ratio and a pilot of this very run that the directory holds are used.
Everything else is made in a temporary directory and thrown away; or in a directory that is kept, from which a run can
take the ratio and the pilot over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory

from rsf_dist.builders.components import build_envelope
from rsf_dist.builders.image_packing import Join, packing_for
from rsf_dist.builders.inputs import Inputs
from rsf_dist.cluster.capacity import check_pool, check_ratio, max_actors
from rsf_dist.cluster.connection import connect
from rsf_dist.cluster.shared_storage import require_shared
from rsf_dist.config.load import filled
from rsf_dist.config.resume import differences, with_kept_defaults
from rsf_dist.config.run import RunConfig
from rsf_dist.errors import InputError, located
from rsf_dist.forecast.cost import Request
from rsf_dist.forecast.envelope_options import Recommendation
from rsf_dist.forecast.estimate import Forecast, LaterRound, LaterRounds, forecast, forecast_rounds, warn_of_rounds
from rsf_dist.forecast.measure import RowCost, measure_pool, measure_row
from rsf_dist.report import report_json
from rsf_dist.runs.earlier_run import Basis
from rsf_dist.runs.made_with import made_with
from rsf_dist.runs.pipeline import open_run, write_basis
from rsf_dist.runs.preparation import description, prepare
from rsf_dist.runs.rounds import round_sampler
from rsf_dist.runs.run_folder import CONFIG, seed_folder, stored_config
from rsf_dist.runs.seed_run import SeedRun, pilot_folder, ratio_folder
from rsf_dist.runtime.progress import Progress
from rsf_dist.sampling.pilot import PilotRun
from rsf_dist.sampling.sampler import RejectionSampler
from rsf_dist.storage.run_store import RunStore

LEAST_PILOT = 2_000
"""Proposals that a plan's pilot draws at least, unless they take longer than PILOT_SECONDS."""

PILOT_SECONDS = 60.0
"""Seconds that a plan's pilot may take on one core; a larger pilot is shrunk to them."""

_LEAST_AFFORDABLE = 64
"""Proposals that a plan's pilot draws however long they take."""

_NO_ADVICE_ON_TOP_K = "none: sampling.top_k takes the M that leaves as many rows of the pool"

_NO_ADVICE_ON_POOL = (
    "none: a pool ends, so that M decides how many of its rows are kept; sampling.top_k asks for a number"
)

_NO_ADVICE = "none: the envelope is the last round's, which starts from another proposal"


def plan_run(
    config: RunConfig,
    *,
    actors: int | None = None,
    keep: str | None = None,
    address: str | None = None,
    verbose: bool = False,
    progress: Progress | None = None,
) -> Forecast:
    """Forecast a run's sampling; see `forecast`.

    Args:
        config: the run's configuration; see `load_config`.
        actors: actors to forecast for. None means as many as the pool may have on this cluster.
        keep: directory to keep the ratio and the pilot in, a path or a URI; `pipeline.run` takes them over from there
            (`reuse`): the pilot where it draws as many proposals. None means that both are thrown away.
        address: address of a Ray cluster, as in `pipeline.run`.
        verbose: True to show the workers' output.
        progress: receiver of messages.

    Raises:
        InputError: the configuration, its files or the cluster do not fit; or Ray Train fits the ratio on nodes that do
            not share a folder for temporary files (TMPDIR).
        StatisticalRefusal: the ratio cannot be made, or the pilot allows no M.
    """
    progress = progress or Progress()
    run = RunStore(config.output)
    run.manifest()  # refuses a run of another version
    config = _of_this_run(config, run)
    join = partial(connect, address, verbose, config.code_folder)
    with _draft(config, keep, progress, join) as (config, store, inputs), join():
        with located("ratio"):
            check_ratio(config.ratio)
        with located("sampling.pool"):
            check_pool(config.sampling.pool)
        for line in description(config, inputs):
            progress.say(line)
        if keep is None:
            warnings = copy_stored_parts(config, store)
        else:
            require_shared(store.uri, "--keep")
            write_basis(store, Basis(_kept(config, keep), inputs.digests(), made_with(config)), inputs)
            warnings = []
        return _forecast_seed_run(SeedRun(config, inputs, store, config.seed, progress), actors, warnings)


def _of_this_run(config: RunConfig, run: RunStore) -> RunConfig:
    """Return the configuration with what the run in the directory kept of keys that are left to the images.

    Another run's are of no concern, since this run will want another directory.
    """
    if not run.exists(CONFIG):
        return config
    before = stored_config(run)
    kept = with_kept_defaults(before, config)
    return config if differences(before, kept) else kept


@contextmanager
def _draft(
    config: RunConfig, keep: str | None, progress: Progress, join: Join
) -> Iterator[tuple[RunConfig, RunStore, Inputs]]:
    """Yield the resolved configuration, the directory that a plan's ratio and pilot are made in, and the images."""
    if keep is None:
        with packing_for(config, progress, join, keeps=False) as packing, TemporaryDirectory() as folder:
            inputs = prepare(config, progress, packing)
            yield filled(config, inputs.image_defaults), RunStore(folder), inputs
        return
    if not keep.strip():
        raise InputError("--keep", keep, "must not be empty", "name a directory")
    with open_run(_kept(config, keep), progress, join) as (kept, store, inputs):
        yield kept.model_copy(update={"output": config.output, "num_seeds": config.num_seeds}), store, inputs


def _kept(config: RunConfig, keep: str) -> RunConfig:
    """Return the configuration of the run that a plan keeps: of the first seed alone."""
    return config.model_copy(update={"output": keep, "num_seeds": 1})


def _forecast_seed_run(draft: SeedRun, actors: int | None, warnings: list[str]) -> Forecast:
    """Forecast a seed run; its ratio and its pilot are made where its store does not hold them."""
    report_json.begin(draft.store, draft.seed)
    proposal, had_pilot = draft.proposal(), draft.store.is_intact(pilot_folder(0))
    rounds = draft.config.rounds
    exploring = rounds.num_rounds > 1
    sampler = round_sampler(draft, proposal, draft.ratio(proposal), exploring)
    draft.progress.say("drawing a pilot, and measuring the pool")
    row_cost = measure_row(sampler.proposal, sampler.ratio, sampler.seed, sampler.pool)
    plan = sampler.plan(num_pilot=pilot_size(sampler, row_cost, warnings))
    wanted = rounds.num_accepted if exploring else rows_to_train_on(draft.config)
    whole_pool = draft.config.sampling.top_k is not None
    request = Request(wanted, actors or max_actors(sampler.pool), sampler.budget, draft.config.num_seeds, whole_pool)
    num_pilot = 0 if had_pilot else sampler.num_pilot
    costs = replace(
        measure_pool(plan, sampler.pool, request.actors, row_cost.seconds_per_row),
        num_pilot=num_pilot,
        pilot_seconds=num_pilot * plan.pilot.seconds_per_row,
        ratio_seconds=report_json.read(draft.store).seconds.get("ratio"),
        bytes_per_shard=row_cost.bytes_per_shard,
        bytes_per_row=row_cost.bytes_per_row,
    )
    first = forecast(plan, request, costs, by_quantile=plan.choice.is_quantile, warnings=warnings)
    if plan.work.pool_size is not None:
        advice = _NO_ADVICE_ON_TOP_K if whole_pool else _NO_ADVICE_ON_POOL
        return replace(first, options=first.options[:1], recommendation=Recommendation("", advice))
    if not exploring:
        return first
    following, warnings = later_rounds(draft.config)
    all_rounds = None if following is None else forecast_rounds(plan, first, request, following)
    short = [] if all_rounds is None else list(warn_of_rounds(all_rounds))
    all_warnings = (*first.warnings, *warnings, *short)
    return replace(first, recommendation=Recommendation("", _NO_ADVICE), rounds=all_rounds, warnings=all_warnings)


def rows_to_train_on(config: RunConfig) -> int:
    """Return the number of rows that the last round accepts, with the fresh rows of training in mode `stream`."""
    training, sampling = config.training, config.sampling
    return sampling.num_accepted + (training.steps * training.batch_size if sampling.mode == "stream" else 0)


def later_rounds(config: RunConfig) -> tuple[LaterRounds | None, list[str]]:
    """Return what can be forecast about the rounds after the first, and warnings to show.

    None means that nothing can be forecast.
    """
    rounds, envelope, sampling = config.rounds, config.envelope, config.sampling
    warnings = ["acceptance and bias are of the first round; the line on rounds, where there is one, is of them all"]
    last = None
    if envelope.acceptance_known is not None:
        with located("envelope"):
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


def copy_stored_parts(config: RunConfig, draft: RunStore) -> list[str]:
    """Copy the ratio and the pilot from the run's directory; return a warning where it holds another run."""
    run = RunStore(config.output)
    if not run.exists(CONFIG):
        return []
    changes = differences(stored_config(run), config)
    if changes:
        return [f"{run.uri} holds another run ({', '.join(changes[:3])}): rsf run will want another output"]
    seed_run = run.at(seed_folder(0, config.num_seeds))
    for folder in (ratio_folder(0), pilot_folder(0)):
        draft.copy_from(folder, seed_run)
    return []


def pilot_size(sampler: RejectionSampler, row_cost: RowCost, warnings: list[str]) -> int:
    """Return the number of proposals of the plan's pilot.

    A stored pilot is taken as it is. Otherwise the envelope's number is raised to LEAST_PILOT and lowered to
    PILOT_SECONDS, and a warning is added where it is lowered.
    """
    if sampler.store is not None and sampler.store.is_intact(pilot_folder(0)):
        return len(sampler.store.load_folder(pilot_folder(0), PilotRun.load).rows.log_ratio)
    wanted = max(LEAST_PILOT, sampler.num_pilot)
    affordable = max(_LEAST_AFFORDABLE, int(PILOT_SECONDS / row_cost.seconds_per_row))
    if affordable < wanted:
        warnings.append(
            f"this rests on a pilot of {affordable:,} proposals, {PILOT_SECONDS:g} s of them, not {wanted:,}"
        )
    return min(wanted, affordable)
