"""The sampling half of a trial: rounds that move the proposal, and the accepted rows of the last one.

    ratio -> rows accepted under a budget -> proposal refitted to them      again and again, then
    ratio -> sampling.num_accepted rows

Each round is a rejection sampler for its own q: a learned ratio is learned anew against the round's proposals, any
other is corrected by the two densities (`ReweightedRatio`). It is the cross-entropy method (Rubinstein 1999) with rejection
in the place of a quantile of scores, and a defensive share of the proposal as configured. Classes are moved apart, and
last (`class_mix`).
"""

from __future__ import annotations
import math
from typing import Any
from rsf_dist.sampling.accepted import AcceptedSet, stored_rows
from rsf_dist.data.arrow import from_table
from rsf_dist.builders.components import build_envelope
from rsf_dist.runs.class_prior import class_prior_folder, describe, compute_class_means, decide_class_prior, apply_class_prior, condition_on_class
from rsf_dist.config.sampling import Budget
from rsf_dist.sampling.envelope import BudgetEnvelope
from rsf_dist.errors import InputError, Shortfall
from rsf_dist.evaluation.sample_quality import two_sample_tests
from rsf_dist.proposals import DefensiveProposal, Proposal, Refittable
from rsf_dist.ratios import Ratio
from rsf_dist.report import report_json, sample_images
from rsf_dist.report.trust_card import format_trust_card
from rsf_dist.sampling.sampler import RejectionSampler
from rsf_dist.sampling.stream import Cursor, RowStream
from rsf_dist.runtime.timeouts import time_limit
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.runtime.user_code import reported_as



_MOST_OF_EXPECTED = 10
"""Times the expected proposals, after which a round that explores is refused."""


_MORE_TO_EXPLORE = (
    "raise rounds.acceptance or rounds.num_pilot, so that M rests on more rows of the pilot, and name another output"
)


_NEAR_ONE = 0.95
"""An AUC from which on its gains say little: far from the target it stays near 1 whatever a refit gains."""


def sample_seed(seed_run: SeedRun) -> AcceptedSet:
    """Move the proposal round by round, sample the rows to train on, and judge them."""
    report_json.begin(seed_run.store, seed_run.seed)
    last = explore(seed_run)
    moved = moved_proposal(seed_run, last)
    if seed_run.config.rounds.num_rounds > 1:
        decide_class_prior(seed_run, last, moved)
    proposal = apply_class_prior(seed_run, last, moved)
    fitted = seed_run.ratio(proposal, last)
    compute_class_means(seed_run, last, proposal, fitted)
    ratio = condition_on_class(seed_run, last, proposal, fitted)
    wanted = seed_run.config.sampling.num_accepted
    with seed_run.stage("sampling", f"sampling until {wanted:,} rows are accepted"):
        accepted = round_sampler(seed_run, proposal, ratio).sample(wanted, last, seed_run.progress)
    if not report_json.has_round(seed_run.store, accepted.fingerprint):
        with seed_run.stage("two_sample", "comparing proposals and accepted rows with held-out target images"):
            feature_network, target = seed_run.config.evaluation.feature_network, seed_run.inputs.target.images
            proposals = {"before": seed_run.proposal()} | ({"moved": proposal} if last else {})
            tested = two_sample_tests(ratio, proposals, accepted, target, feature_network, seed_run.seed)
        sample_images.save(seed_run.store, proposal, accepted, seed_run.inputs, seed_run.seed)
        _tell(seed_run, last, proposal, ratio, accepted, tested, last=True)
        seed_run.progress.say(format_trust_card(report_json.last_round(seed_run.store).trust))
    return accepted


def explore(seed_run: SeedRun) -> int:
    """The rounds before the last one, which has the number that is given back."""
    rounds, before = seed_run.config.rounds, math.inf  # the first round follows no refit
    for number in range(rounds.num_rounds - 1):
        auc = explore_once(seed_run, number)
        if rounds.min_auc_gain is not None and auc is not None and auc < _NEAR_ONE and before - auc < rounds.min_auc_gain:
            seed_run.progress.say(f"AUC {auc:.3f} after {before:.3f}: the proposal has converged")
            return number + 1
        before = before if auc is None else auc
    return rounds.num_rounds - 1


def explore_once(seed_run: SeedRun, number: int) -> float | None:
    """A round's ratio and rows, for the next one's proposal; the ratio's held-out AUC, where it has one."""
    proposal = round_proposal(seed_run, number)
    ratio = seed_run.ratio(proposal, number)
    wanted = seed_run.config.rounds.num_accepted
    sampler = round_sampler(seed_run, proposal, ratio, exploring=True)
    with seed_run.stage("rounds", f"round {number}: sampling {wanted:,} rows to move the proposal to"):
        try:
            accepted = sampler.sample(wanted, number, seed_run.progress)
        except Shortfall as short:  # of a budget that the user has not set
            most = f"{_MOST_OF_EXPECTED} times the proposals that rounds.acceptance says"
            finding = f"round {number}: fewer than {wanted:,} rows accepted of {most}"
            raise Shortfall(finding, _MORE_TO_EXPLORE) from short
    if not report_json.has_round(seed_run.store, accepted.fingerprint):
        _tell(seed_run, number, proposal, ratio, accepted)
    quality = getattr(ratio, "quality", None)
    return getattr(quality, "auc", None)


def round_proposal(seed_run: SeedRun, number: int) -> Proposal:
    """The q of a round: as configured, or refitted to the rows of the round before, and its mix of classes moved.

    Raises InputError where the round before has no rows, or the proposal cannot be refitted.
    """
    return apply_class_prior(seed_run, number, moved_proposal(seed_run, number))


def moved_proposal(seed_run: SeedRun, number: int) -> Proposal:
    """As `round_proposal`, with the mix of classes as configured."""
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
    """Return what samples a round's rows. Raises InputError.

    Rounds that explore end by a budget of their own, which cannot change when a run goes on: the next round's proposal
    depends on their rows.
    """
    sampling, rounds = seed_run.config.sampling, seed_run.config.rounds
    most = max(sampling.chunk_size, math.ceil(_MOST_OF_EXPECTED * rounds.num_accepted / rounds.acceptance))
    return RejectionSampler(
        proposal,
        ratio,
        BudgetEnvelope(rounds.acceptance, rounds.num_pilot, "rounds")
        if exploring
        else build_envelope(seed_run.config.envelope),
        seed=seed_run.seed,
        chunk_size=sampling.chunk_size,
        pool=sampling.pool,
        store=seed_run.store,
        budget=Budget(max_proposals=most) if exploring else sampling.budget,
    )


def stored_sampler(seed_run: SeedRun, number: int) -> RejectionSampler:
    """A round's sampler with what the trial keeps; nothing is made. Raises InputError where something is missing."""
    proposal = round_proposal(seed_run, number)
    ratio = condition_on_class(seed_run, number, proposal, seed_run.stored_ratio(proposal, number))
    last = seed_run.config.rounds.num_rounds == 1 or seed_run.store.is_listed(class_prior_folder(number))
    return round_sampler(seed_run, proposal, ratio, exploring=not last)


def last_rows(seed_run: SeedRun) -> AcceptedSet:
    """The rows to train on, as the trial keeps them. Raises InputError where the sampling half is not done."""
    return AcceptedSet.load(seed_run.store, report_json.last_round(seed_run.store).round)


def last_stream(seed_run: SeedRun, accepted: AcceptedSet, num_rows: int) -> RowStream:
    """What draws the rows that come after the accepted ones of the last round."""
    number = report_json.last_round(seed_run.store).round
    return stored_sampler(seed_run, number).row_stream(num_rows, number, after=Cursor.after(accepted))


def _tell(
    seed_run: SeedRun,
    number: int,
    proposal: Proposal,
    ratio: Ratio,
    accepted: AcceptedSet,
    tested: dict[str, Any] | None = None,
    last: bool = False,
) -> None:
    class_prior = describe(seed_run, number, proposal)
    parameters = sample_images.save_round(seed_run.store, number, proposal, seed_run.seed)
    entry = report_json.describe_round(number, accepted, ratio, tested, last, class_prior, parameters)
    report_json.add_round(seed_run.store, entry)
    seed_run.progress.say(report_json.format_round(entry))
