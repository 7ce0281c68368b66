"""Rounds end on time, and each has its proposal and its sampler; in one process."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from records import entry_of
from seed_runs import broad, round_proposal, seed_run_in, store_decision

from rsf_dist.errors import InputError, Shortfall, StatisticalRefusal
from rsf_dist.proposals import AugmentProposal, DefensiveProposal
from rsf_dist.ratios import ConstantRatio
from rsf_dist.report import report_json
from rsf_dist.runs import rounds
from rsf_dist.runs.class_prior import ClassPriorDecision
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.envelope import Pilot


@pytest.mark.parametrize(
    ("aucs", "last"),
    [
        ([], 0),
        ([0.9], 1),
        ([0.99, 0.9, 0.85], 3),
        ([0.99, 0.9, 0.898, 0.5], 3),  # .002 less than before: round 3 is the last
        ([0.99, 0.9, 0.894, 0.8], 4),  # .006 less: on to the end
        ([0.8, 0.9, 0.1], 2),  # a rise is no gain
        ([0.9999, 0.95, 0.9], 3),  # the first follows no refit, however far its proposals are
        ([1.0, 0.999, 0.5], 3),  # near 1 a gain says little
        ([0.951, 0.95, 0.949, 0.5], 3),
        ([None, None, None], 3),  # of a ratio that is not learned
        ([0.9, None, 0.7], 3),
    ],
)
def test_rounds_end_once_a_refit_gains_too_little(aucs, last, tmp_path, monkeypatch):
    """At a min_auc_gain of .005."""
    asked = []

    def explore_once(seed_run, number):
        asked.append(number)
        return aucs[number]

    monkeypatch.setattr(rounds, "explore_once", explore_once)
    seed_run = seed_run_in(tmp_path, rounds={"num_rounds": len(aucs) + 1, "min_auc_gain": 0.005})
    assert rounds.explore(seed_run) == last
    assert asked == list(range(last))
    assert any("has converged" in line for line in seed_run.progress.lines) == (last < len(aucs))


@pytest.mark.parametrize("sections", [{"num_rounds": 5}, {"num_rounds": 5, "min_auc_gain": None}])
def test_by_default_all_rounds_are_run(sections, tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "explore_once", lambda seed_run, number: 0.6)
    seed_run = seed_run_in(tmp_path, rounds=sections)
    assert rounds.explore(seed_run) == 4
    assert seed_run.progress.lines == []


def test_the_first_round_proposes_as_configured(seed_run, rows_of):
    proposal = round_proposal(seed_run, 0)
    assert isinstance(proposal, AugmentProposal)
    assert proposal.joint is None
    assert rows_of == []


def test_later_rounds_propose_where_rows_were_accepted_and_a_share_of_all(seed_run, rows_of):
    proposal = round_proposal(seed_run, 2)
    assert rows_of == [1]
    assert isinstance(proposal, DefensiveProposal)
    assert (proposal.broad.joint, proposal.share) == (None, seed_run.config.rounds.defensive_share)
    turns = proposal.moved.sample(500, Streams(0))["rotation"]
    assert turns.mean().item() == pytest.approx(0.8, abs=0.05)  # 500 draws of a spread of .1
    assert turns.std().item() == pytest.approx(0.1, abs=0.03)
    again = round_proposal(seed_run, 2)
    assert torch.equal(again.sample(9, Streams(0))["rotation"], proposal.sample(9, Streams(0))["rotation"])


def test_a_proposal_that_cannot_move_is_refused_in_its_second_round(seed_run, rows_of, monkeypatch):
    class Still:
        def sample(self, n, rng):
            return {}

    monkeypatch.setattr(SeedRun, "proposal", lambda seed_run: Still())
    round_proposal(seed_run, 0)
    with pytest.raises(InputError, match="proposal=Still: has no `refit`, which rounds need"):
        round_proposal(seed_run, 1)


def test_a_round_that_explores_and_falls_short_names_what_is_its_own_to_raise(seed_run, rows_of, monkeypatch):
    """Its budget is not sampling.budget, of which the sampler speaks."""

    class Short:
        def sample(self, *_):
            raise Shortfall(
                "3 of 4 rows accepted after 9 proposals, where the budget ends", "raise sampling.budget.max_proposals"
            )

    monkeypatch.setattr(SeedRun, "ratio", lambda seed_run, proposal, number: ConstantRatio())
    monkeypatch.setattr(rounds, "round_sampler", lambda *_, exploring: Short())
    with pytest.raises(StatisticalRefusal, match=r"round 1: fewer than .* rows accepted of 10 times") as short:
        rounds.explore_once(seed_run, 1)
    assert "raise rounds.acceptance or rounds.num_pilot" in short.value.remedy
    assert "budget" not in str(short.value)


@pytest.mark.parametrize(("exploring", "section"), [(True, "rounds"), (False, "envelope")])
def test_an_acceptance_out_of_reach_is_named_by_its_place(exploring, section, tmp_path, monkeypatch):
    envelope = {"kind": "budget", "acceptance": 0.1}
    seed_run = seed_run_in(tmp_path, rounds={"num_rounds": 3, "acceptance": 0.1}, envelope=envelope)
    rows = Pilot(np.full(1000, -np.inf), np.full(1000, -np.inf))
    rows.log_ratio[:3] = rows.accept_key[:3] = 0.0
    sampler = rounds.round_sampler(seed_run, broad(), ConstantRatio(), exploring)
    monkeypatch.setattr(sampler, "_pilot", lambda *_: SimpleNamespace(rows=rows))
    rule = rf"^{section}\.acceptance=0\.1 cannot be reached: .* 0\.003 of .*; lower {section}\.acceptance below that"
    with pytest.raises(StatisticalRefusal, match=rule):
        sampler.plan()


@pytest.mark.parametrize("last", [0, 2])
def test_accepted_rows_are_evaluated_beside_proposals_as_configured_and_as_moved(last, tmp_path, monkeypatch):
    """The share is an actor's: where training needs a GPU, `rsf sample` may have none, and would wait for ever."""
    sampling = {"num_accepted": 100, "pool": {"cpus_per_actor": 0.5}}
    seed_run = seed_run_in(tmp_path, sampling=sampling, training={"use_gpu": True})
    asked, configured, moved = [], broad(), broad()
    sampled = SimpleNamespace(fingerprint="ab", report=SimpleNamespace(num_accepted=3))
    for name, stand_in in {
        "explore": lambda seed_run: last,
        "moved_proposal": lambda seed_run, number: moved,
        "decide_class_prior": lambda *_: ClassPriorDecision(),
        "round_sampler": lambda *_: SimpleNamespace(sample=lambda *_: sampled),
        "two_sample_tests": lambda ratio, proposals, *_, share: asked.append((proposals, share)),
        "_report_round": lambda *_: report_json.add_round(seed_run.store, entry_of(last, last=True)),
    }.items():
        monkeypatch.setattr(rounds, name, stand_in)
    monkeypatch.setattr(rounds.sample_images, "save", lambda *_: None)
    monkeypatch.setattr(SeedRun, "proposal", lambda seed_run: configured)
    monkeypatch.setattr(SeedRun, "ratio", lambda seed_run, proposal, number: ConstantRatio())
    assert rounds.sample_seed(seed_run) is sampled
    ((proposals, share),) = asked
    assert (share.cpus, share.gpus) == (0.5, 0.0)
    assert proposals["before"] is configured
    assert ("moved" in proposals) == (last > 0)
    assert proposals.get("moved", moved) is moved


BEST = {"envelope": {"kind": "budget", "acceptance": 0.3}, "sampling": {"num_accepted": 100, "chunk_size": 50,
        "budget": {"max_proposals": 777}}}  # fmt: skip


def test_a_round_with_a_decision_about_its_class_prior_is_the_last(tmp_path, rows_of, monkeypatch):
    monkeypatch.setattr(SeedRun, "stored_ratio", lambda seed_run, proposal, round=0: ConstantRatio())
    seed_run = seed_run_in(tmp_path, rounds={"num_rounds": 3, "acceptance": 0.1}, **BEST)
    store_decision(seed_run, 2, ClassPriorDecision(None, "it refuses", tried=True))
    for number, acceptance in ((0, 0.1), (1, 0.1), (2, 0.3)):
        sampler = rounds.stored_sampler(seed_run, number)
        assert sampler.envelope.acceptance == acceptance
        assert (sampler.budget.max_proposals == 777) == (number == 2)


def test_without_rounds_the_only_one_is_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(SeedRun, "stored_ratio", lambda seed_run, proposal, round=0: ConstantRatio())
    sampler = rounds.stored_sampler(seed_run_in(tmp_path, **BEST), 0)
    assert (sampler.envelope.acceptance, sampler.budget.max_proposals) == (0.3, 777)


@pytest.mark.parametrize(
    ("num_accepted", "chunk_size", "most"),
    [(40, 50, 4_000), (41, 50, 4_100), (1, 5_000, 5_000)],  # ten times n/.1, and a chunk at least
)
def test_a_round_that_explores_has_a_budget_of_its_own(num_accepted, chunk_size, most, tmp_path):
    sampling = {"num_accepted": 100, "chunk_size": chunk_size, "budget": {"max_proposals": 7, "max_seconds": 3}}
    section = {"num_rounds": 3, "num_accepted": num_accepted, "acceptance": 0.1}
    seed_run = seed_run_in(tmp_path, rounds=section, sampling=sampling)
    sampler = rounds.round_sampler(seed_run, broad(), ConstantRatio(), exploring=True)
    assert (sampler.envelope.acceptance, sampler.envelope.num_pilot) == (0.1, seed_run.config.rounds.num_pilot)
    assert (sampler.budget.max_proposals, sampler.budget.max_seconds) == (most, None)
    assert rounds.round_sampler(seed_run, broad(), ConstantRatio()).budget == seed_run.config.sampling.budget


@pytest.mark.parametrize("error", [ValueError("singular"), InputError("joint", 1, "is none", "fix it")])
def test_a_proposal_that_fails_to_refit_is_named(error, seed_run, rows_of, monkeypatch):
    class Failing:
        def sample(self, n, rng):
            return {}

        def log_prob(self, batch):
            return torch.zeros(0)

        def refit(self, rows, seed, max_components):
            raise error

    monkeypatch.setattr(SeedRun, "proposal", lambda seed_run: Failing())
    with pytest.raises(InputError) as caught:
        round_proposal(seed_run, 1)
    assert ("proposal=Failing" in str(caught.value)) == (not isinstance(error, InputError))
