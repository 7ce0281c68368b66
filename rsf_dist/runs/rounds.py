"""The sampling half of a trial: rounds that move the proposal, and the accepted rows of the last one.

    ratio -> rows accepted under a budget -> proposal refitted to them      again and again, then
    ratio -> sampling.num_accepted rows

Each round is a rejection sampler for its own q: a learned ratio is learned anew against the round's proposals, any
other is corrected by the two densities (`MovedRatio`). It is the cross-entropy method (Rubinstein 1999) with rejection
in the place of a quantile of scores, and a defensive share of the proposal as configured. Classes are moved apart, and
last (`class_mix`).
"""

from __future__ import annotations
import math
from typing import Any
from rsf_dist.sampling.accepted import AcceptedSet, stored_rows
from rsf_dist.data.arrow import from_table
from rsf_dist.builders.components import build_envelope
from rsf_dist.runs.class_prior import mix_folder, mix_told, settle_means, settle_mix, with_mix, without_classes
from rsf_dist.config.sampling import Budget
from rsf_dist.sampling.envelope import BudgetEnvelope
from rsf_dist.errors import InputError, Shortfall
from rsf_dist.evaluation.sample_quality import judge_round
from rsf_dist.proposals import DefensiveProposal, Proposal, Refittable
from rsf_dist.ratios import Ratio
from rsf_dist.report import report_json as record, sample_images as samples
from rsf_dist.report.trust_card import card_in_words
from rsf_dist.sampling.sampler import RejectionSampler
from rsf_dist.sampling.stream import Cursor, RowStream
from rsf_dist.runtime.timeouts import time_limit
from rsf_dist.runs.seed_run import Trial
from rsf_dist.runtime.user_code import blamed



_MOST_OF_EXPECTED = 10
"""Times the expected proposals, after which a round that explores is refused."""


_MORE_TO_EXPLORE = (
    "raise rounds.acceptance or rounds.num_pilot, so that M rests on more rows of the pilot, and name another output"
)


_NEAR_ONE = 0.95
"""An AUC from which on its gains say little: far from the target it stays near 1 whatever a refit gains."""


def sample_trial(trial: Trial) -> AcceptedSet:
    """Move the proposal round by round, sample the rows to train on, and judge them."""
    record.begin(trial.store, trial.seed)
    last = explore(trial)
    moved = moved_proposal(trial, last)
    if trial.config.rounds.num_rounds > 1:
        settle_mix(trial, last, moved)
    proposal = with_mix(trial, last, moved)
    fitted = trial.ratio(proposal, last)
    settle_means(trial, last, proposal, fitted)
    ratio = without_classes(trial, last, proposal, fitted)
    wanted = trial.config.sampling.num_accepted
    with trial.stage("sampling", f"sampling until {wanted:,} rows are accepted"):
        accepted = round_sampler(trial, proposal, ratio).sample(wanted, last, trial.progress)
    if not record.has_round(trial.store, accepted.fingerprint):
        with trial.stage("two_sample", "comparing proposals and accepted rows with held-out target images"):
            judge, target = trial.config.evaluation.judge, trial.inputs.target.images
            proposals = {"before": trial.proposal()} | ({"moved": proposal} if last else {})
            judged = judge_round(ratio, proposals, accepted, target, judge, trial.seed)
        samples.save(trial.store, proposal, accepted, trial.inputs, trial.seed)
        _tell(trial, last, proposal, ratio, accepted, judged, last=True)
        trial.progress.say(card_in_words(record.last_round(trial.store)["trust"]))
    return accepted


def explore(trial: Trial) -> int:
    """The rounds before the last one, which has the number that is given back."""
    rounds, before = trial.config.rounds, math.inf  # the first round follows no refit
    for number in range(rounds.num_rounds - 1):
        auc = explore_once(trial, number)
        if rounds.min_gain is not None and auc is not None and auc < _NEAR_ONE and before - auc < rounds.min_gain:
            trial.progress.say(f"AUC {auc:.3f} after {before:.3f}: the proposal has converged")
            return number + 1
        before = before if auc is None else auc
    return rounds.num_rounds - 1


def explore_once(trial: Trial, number: int) -> float | None:
    """A round's ratio and rows, for the next one's proposal; the ratio's held-out AUC, where it has one."""
    proposal = round_proposal(trial, number)
    ratio = trial.ratio(proposal, number)
    wanted = trial.config.rounds.num_accepted
    sampler = round_sampler(trial, proposal, ratio, exploring=True)
    with trial.stage("rounds", f"round {number}: sampling {wanted:,} rows to move the proposal to"):
        try:
            accepted = sampler.sample(wanted, number, trial.progress)
        except Shortfall as short:  # of a budget that the user has not set
            most = f"{_MOST_OF_EXPECTED} times the proposals that rounds.acceptance says"
            finding = f"round {number}: fewer than {wanted:,} rows accepted of {most}"
            raise Shortfall(finding, _MORE_TO_EXPLORE) from short
    if not record.has_round(trial.store, accepted.fingerprint):
        _tell(trial, number, proposal, ratio, accepted)
    quality = getattr(ratio, "quality", None)
    return getattr(quality, "auc", None)


def round_proposal(trial: Trial, number: int) -> Proposal:
    """The q of a round: as configured, or refitted to the rows of the round before, and its mix of classes moved.

    Raises InputError where the round before has no rows, or the proposal cannot be refitted.
    """
    return with_mix(trial, number, moved_proposal(trial, number))


def moved_proposal(trial: Trial, number: int) -> Proposal:
    """As `round_proposal`, with the mix of classes as configured."""
    rounds, proposal = trial.config.rounds, trial.proposal()
    if number == 0:
        return proposal
    kind = type(proposal).__name__
    if not isinstance(proposal, Refittable):
        raise InputError("proposal", kind, "has no `refit`, which rounds need", "give it one, or set rounds=1")
    rows = from_table(stored_rows(trial.store, number - 1))
    seconds = trial.config.sampling.pool.chunk_seconds
    with blamed("proposal", kind, "fails to refit", "mend it"), time_limit(seconds, "proposal", kind):
        moved = proposal.refit(rows, trial.round_seed(number), rounds.max_components)
    return DefensiveProposal(proposal, moved, rounds.broad_share)


def round_sampler(trial: Trial, proposal: Proposal, ratio: Ratio, exploring: bool = False) -> RejectionSampler:
    """Return what samples a round's rows. Raises InputError.

    Rounds that explore end by a budget of their own, which cannot change when a run goes on: the next round's proposal
    depends on their rows.
    """
    sampling, rounds = trial.config.sampling, trial.config.rounds
    most = max(sampling.chunk_size, math.ceil(_MOST_OF_EXPECTED * rounds.num_accepted / rounds.acceptance))
    return RejectionSampler(
        proposal,
        ratio,
        BudgetEnvelope(rounds.acceptance, rounds.num_pilot, "rounds")
        if exploring
        else build_envelope(trial.config.envelope),
        seed=trial.seed,
        chunk_size=sampling.chunk_size,
        pool=sampling.pool,
        store=trial.store,
        budget=Budget(max_proposals=most) if exploring else sampling.budget,
    )


def stored_sampler(trial: Trial, number: int) -> RejectionSampler:
    """A round's sampler with what the trial keeps; nothing is made. Raises InputError where something is missing."""
    proposal = round_proposal(trial, number)
    ratio = without_classes(trial, number, proposal, trial.stored_ratio(proposal, number))
    last = trial.config.rounds.num_rounds == 1 or trial.store.lists(mix_folder(number))
    return round_sampler(trial, proposal, ratio, exploring=not last)


def last_rows(trial: Trial) -> AcceptedSet:
    """The rows to train on, as the trial keeps them. Raises InputError where the sampling half is not done."""
    return AcceptedSet.load(trial.store, record.last_round(trial.store)["round"])


def last_stream(trial: Trial, accepted: AcceptedSet, num_rows: int) -> RowStream:
    """What draws the rows that come after the accepted ones of the last round."""
    number = record.last_round(trial.store)["round"]
    return stored_sampler(trial, number).row_stream(num_rows, number, after=Cursor.after(accepted))


def _tell(
    trial: Trial,
    number: int,
    proposal: Proposal,
    ratio: Ratio,
    accepted: AcceptedSet,
    judged: dict[str, Any] | None = None,
    last: bool = False,
) -> None:
    mix = mix_told(trial, number, proposal)
    described = record.describe_round(number, accepted, ratio, judged, last, mix)
    described |= samples.save_round(trial.store, number, proposal, trial.seed)
    record.add_round(trial.store, described)
    trial.progress.say(record.round_in_words(described))
