"""The sampling half of a seed run: rounds that move the proposal, and the accepted rows of the last round.

    every round but the last:   ratio -> rows accepted under a budget -> proposal refitted to the rows
    the last round:             class prior -> ratio -> sampling.num_accepted rows

Each round is a rejection sampler for its own q. A learned ratio is fitted again to the round's proposals; any other
ratio is corrected by the two densities (`ReweightedRatio`). This is the cross-entropy method (Rubinstein 1999) with
rejection in the place of a quantile of scores, and with a defensive share of the configured proposal. The class prior
is moved separately, before the last round (`class_prior`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from rsf_dist.builders.components import build_envelope
from rsf_dist.config.resources import Share
from rsf_dist.config.run import RunConfig
from rsf_dist.config.sampling import Budget
from rsf_dist.data.arrow import from_table
from rsf_dist.errors import InputError, Shortfall, located
from rsf_dist.evaluation.sample_quality import two_sample_tests
from rsf_dist.evaluation.two_sample import TwoSample
from rsf_dist.proposals import DefensiveProposal, Pool, Proposal, Refittable
from rsf_dist.ratios import Ratio
from rsf_dist.ratios.info import info_of
from rsf_dist.report import report_json, sample_images
from rsf_dist.report.trust_card import format_trust_card
from rsf_dist.runs.class_prior import ClassPriorDecision, add_class_means, decide_class_prior, stored_decision
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.runtime.timeouts import time_limit
from rsf_dist.runtime.user_code import reported_as
from rsf_dist.sampling.accepted import AcceptedSet, stored_rows
from rsf_dist.sampling.envelope import FORECAST_PILOT, BudgetEnvelope, Choice, Envelope, Pilot, pilot_size
from rsf_dist.sampling.sampler import RejectionSampler
from rsf_dist.sampling.stream import Cursor, RowStream
from rsf_dist.sampling.top_k import TopKEnvelope

_MOST_OF_EXPECTED = 10
"""An exploring round is refused after this many times the proposals that it is expected to take."""

_MORE_TO_EXPLORE = (
    "raise rounds.acceptance or rounds.num_pilot, so that M rests on more rows of the pilot, and name another output"
)
"""The remedy of an exploring round that is refused."""

_NEAR_ONE = 0.95
"""An AUC above which gains say little: far from the target it stays near 1, whatever a refit gains."""


def sample_seed(seed_run: SeedRun) -> AcceptedSet:
    """Move the proposal round by round, then sample the rows to train on and evaluate them."""
    report_json.begin(seed_run.store, seed_run.seed)
    last = explore(seed_run)
    moved = moved_proposal(seed_run, last)
    decision = decide_class_prior(seed_run, last, moved)
    proposal = decision.proposal(moved)
    fitted = seed_run.ratio(proposal, last)
    decision = add_class_means(seed_run, last, decision, proposal, fitted)
    ratio = decision.ratio(fitted)
    accepted = sample_last_round(seed_run, last, proposal, ratio)
    if not report_json.has_round(seed_run.store, accepted.fingerprint):
        report_last_round(seed_run, last, proposal, ratio, accepted, decision)
    return accepted


def sample_last_round(seed_run: SeedRun, number: int, proposal: Proposal, ratio: Ratio) -> AcceptedSet:
    """Sample the rows to train on: until enough are accepted, or the best of a pool."""
    sampling, progress = seed_run.config.sampling, seed_run.progress
    sampler = round_sampler(seed_run, proposal, ratio)
    if sampling.top_k is None:
        with seed_run.stage("sampling", f"sampling until {sampling.num_accepted:,} rows are accepted"):
            return sampler.sample(sampling.num_accepted, number, progress)
    text = f"reading {sampler.pool_size:,} rows, of which the best {sampling.top_k:,} are kept"
    with seed_run.stage("sampling", text):
        return sampler.top_k(sampling.top_k, round=number, progress=progress)


def report_last_round(
    seed_run: SeedRun,
    number: int,
    proposal: Proposal,
    ratio: Ratio,
    accepted: AcceptedSet,
    decision: ClassPriorDecision,
) -> None:
    """Evaluate the accepted rows of the last round, and add the round to the report."""
    with seed_run.stage("two_sample", "comparing proposals and accepted rows with held-out target images"):
        feature_network, target = seed_run.config.evaluation.feature_network, seed_run.inputs.target.images
        proposals = {"before": seed_run.proposal()} | ({"moved": proposal} if number else {})
        share = Share.of_pool(seed_run.config.sampling.pool)  # `rsf sample` may run where training has no room
        tested = two_sample_tests(ratio, proposals, accepted, target, feature_network, seed_run.seed, share=share)
    sample_images.save(seed_run.store, proposal, accepted, seed_run.inputs, seed_run.seed)
    _report_round(seed_run, number, proposal, ratio, accepted, tested, decision)
    seed_run.progress.say(format_trust_card(report_json.last_round(seed_run.store).trust))


def explore(seed_run: SeedRun) -> int:
    """Run every round but the last, and return the number of the last round."""
    rounds, before = seed_run.config.rounds, math.inf  # the first round follows no refit
    for number in range(rounds.num_rounds - 1):
        auc = explore_once(seed_run, number)
        if auc is None:
            continue
        if rounds.min_auc_gain is not None and auc < _NEAR_ONE and before - auc < rounds.min_auc_gain:
            seed_run.progress.say(f"AUC {auc:.3f} after {before:.3f}: the proposal has converged")
            return number + 1
        before = auc
    return rounds.num_rounds - 1


def explore_once(seed_run: SeedRun, number: int) -> float | None:
    """Fit a round's ratio and sample its rows, which the next round's proposal is refitted to.

    Returns the ratio's held-out AUC. None means that the ratio has none, since it is not learned.
    """
    proposal = moved_proposal(seed_run, number)
    ratio = seed_run.ratio(proposal, number)
    num_accepted = seed_run.config.rounds.num_accepted
    sampler = round_sampler(seed_run, proposal, ratio, exploring=True)
    with seed_run.stage("rounds", f"round {number}: sampling {num_accepted:,} rows to move the proposal to"):
        try:
            accepted = sampler.sample(num_accepted, number, seed_run.progress)
        except Shortfall as short:  # the user has not set the budget that ended
            most = f"{_MOST_OF_EXPECTED} times the proposals that rounds.acceptance says"
            finding = f"round {number}: fewer than {num_accepted:,} rows accepted of {most}"
            raise Shortfall(finding, _MORE_TO_EXPLORE) from short
    if not report_json.has_round(seed_run.store, accepted.fingerprint):
        _report_round(seed_run, number, proposal, ratio, accepted)
    quality = info_of(ratio).quality
    return None if quality is None else quality.auc


def moved_proposal(seed_run: SeedRun, number: int) -> Proposal:
    """Return the proposal of a round: as configured in the first, else refitted to the rows of the round before.

    The class prior stays as configured. A share of the proposals, rounds.defensive_share, keeps to the configured
    proposal.

    Raises InputError where the round before has no rows, or the proposal cannot be refitted.
    """
    rounds, proposal = seed_run.config.rounds, seed_run.proposal()
    if number == 0:
        return proposal
    kind = type(proposal).__name__
    if not isinstance(proposal, Refittable):
        raise InputError("proposal", kind, "has no `refit`, which rounds need", "give it one, or set rounds=1")
    rows = from_table(stored_rows(seed_run.store, number - 1))
    seconds = seed_run.config.sampling.pool.chunk_seconds
    with reported_as("proposal", kind, "fails to refit", "fix it"), time_limit(seconds, "proposal", kind):
        moved = proposal.refit(rows, seed_run.round_seed(number), rounds.max_components)
    return DefensiveProposal(proposal, moved, rounds.defensive_share)


def round_sampler(seed_run: SeedRun, proposal: Proposal, ratio: Ratio, exploring: bool = False) -> RejectionSampler:
    """Return the sampler of a round's rows.

    Exploring rounds end by a budget of their own. This budget cannot change when a run is resumed, because the next
    round's proposal depends on the rows.

    Args:
        seed_run: the seed run.
        proposal: the round's proposal.
        ratio: the round's ratio.
        exploring: True in every round but the last.

    Raises:
        InputError: the configured envelope cannot be built.
    """
    sampling, rounds = seed_run.config.sampling, seed_run.config.rounds
    most = max(sampling.chunk_rows, math.ceil(_MOST_OF_EXPECTED * rounds.num_accepted / rounds.acceptance))
    return RejectionSampler(
        proposal,
        ratio,
        _round_envelope(seed_run.config, proposal, exploring),
        seed=seed_run.seed,
        chunk_size=sampling.chunk_rows,
        pool=sampling.pool,
        store=seed_run.store,
        budget=Budget(max_proposals=most) if exploring else sampling.budget,
    )


class RoundEnvelope(BudgetEnvelope):
    """The envelope of an exploring round, whose keys stand in section `rounds`."""

    def choose(self, pilot: Pilot) -> Choice:
        """Choose as a BudgetEnvelope does."""
        with located("rounds", absolute=True):
            return super().choose(pilot)


def pilot_rows(config: RunConfig, exploring: bool, log_bound: float | None) -> int:
    """Return the number of proposals that the pilot of a round draws.

    Args:
        config: the seed run's configuration.
        exploring: True in every round but the last.
        log_bound: the bound of the round's ratio. None means that the ratio has none.

    Raises:
        InputError: the user's own envelope fails.
    """
    if config.sampling.top_k is not None and not exploring:
        return FORECAST_PILOT
    return pilot_size(_configured_envelope(config, exploring), log_bound)


def _round_envelope(config: RunConfig, proposal: Proposal, exploring: bool) -> Envelope:
    if config.sampling.top_k is None or exploring:
        return _configured_envelope(config, exploring)
    assert isinstance(proposal, Pool)  # as the preflight found it
    return TopKEnvelope(config.sampling.top_k, proposal.num_rows)


def _configured_envelope(config: RunConfig, exploring: bool) -> Envelope:
    if exploring:
        with located("rounds"):
            return RoundEnvelope(config.rounds.acceptance, config.rounds.num_pilot)
    with located("envelope"):
        return build_envelope(config.envelope)


def stored_sampler(seed_run: SeedRun, number: int) -> RejectionSampler:
    """Return a round's sampler from what the store holds, without making anything.

    Raises InputError where something is missing or damaged.
    """
    decision, proposal = stored_decision(seed_run, number), moved_proposal(seed_run, number)
    if decision is None:
        return round_sampler(seed_run, proposal, seed_run.stored_ratio(proposal, number), exploring=True)
    proposal = decision.proposal(proposal)
    return round_sampler(seed_run, proposal, decision.ratio(seed_run.stored_ratio(proposal, number)))


def last_rows(seed_run: SeedRun) -> AcceptedSet:
    """Return the stored rows to train on. Raises InputError where they are not sampled yet."""
    return AcceptedSet.load(seed_run.store, report_json.last_round(seed_run.store).round)


def last_stream(seed_run: SeedRun, accepted: AcceptedSet, num_rows: int) -> RowStream:
    """Return the stream of rows that follow the accepted rows of the last round."""
    number = report_json.last_round(seed_run.store).round
    return stored_sampler(seed_run, number).row_stream(num_rows, number, after=Cursor.after(accepted))


def _report_round(
    seed_run: SeedRun,
    number: int,
    proposal: Proposal,
    ratio: Ratio,
    accepted: AcceptedSet,
    tested: Mapping[str, TwoSample] | None = None,
    decision: ClassPriorDecision | None = None,
) -> None:
    """Add a round to the report; a round with a decision about its class prior is the last one."""
    class_prior = None if decision is None else decision.describe()
    parameters = sample_images.save_round(seed_run.store, number, proposal, seed_run.seed)
    last = decision is not None
    entry = report_json.describe_round(number, accepted, ratio, tested, last, class_prior, parameters)
    report_json.add_round(seed_run.store, entry)
    seed_run.progress.say(report_json.format_round(entry))
