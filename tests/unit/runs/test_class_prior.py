"""The decision about the class prior: made once, stored once, and made again where it is damaged."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from seed_runs import (
    COLLAPSED,
    ESTIMATE,
    MOVED,
    SMOOTHED,
    broad,
    decision_in,
    report_round,
    round_proposal,
    seed_run_in,
    store_decision,
)

from rsf_dist.errors import InputError, StatisticalRefusal
from rsf_dist.proposals import DefensiveProposal
from rsf_dist.ratios import ClassConditionalRatio, ConstantRatio
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.report import report_json
from rsf_dist.runs import class_prior, rounds
from rsf_dist.runs.class_prior import ClassPriorDecision, class_prior_folder, stored_decision
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.storage.run_store import RunStore


def test_a_class_prior_that_was_estimated_is_proposed(seed_run, rows_of, estimated):
    decide(seed_run)
    proposal = round_proposal(seed_run, 2)
    assert seed_run.config.rounds.class_prior.smoothing == 0.05
    for part in (proposal, proposal.broad, proposal.moved):
        assert part.class_prior.tolist() == pytest.approx(SMOOTHED.tolist())
    assert round_proposal(seed_run, 1).class_prior.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("estimate", "reason", "tried"),
    [
        (None, "rounds.class_prior is null", False),
        (None, "it refuses", True),
        (COLLAPSED, "it collapsed", True),
        (None, None, False),  # of a run without rounds
    ],
)
def test_a_class_prior_that_is_kept_leaves_proposal_and_ratio_as_they_are(estimate, reason, tried, seed_run):
    decision, proposal, ratio = ClassPriorDecision(estimate, reason, tried), broad(), ConstantRatio()
    assert decision.proposal(proposal) is proposal
    assert class_prior.add_class_means(seed_run, 2, decision, proposal, ratio) is decision
    assert decision.ratio(ratio) is ratio
    assert seed_run.store.manifest().folders == {}


@pytest.fixture
def estimated(monkeypatch):
    """Record task, proposal, seed and initial model of each estimate; the fake classifier returns ESTIMATE."""
    calls = []

    def estimate_prior(config, task, inputs, proposal, seed, initial):
        calls.append(SimpleNamespace(task=task, proposal=proposal, seed=seed, initial=initial))
        return ESTIMATE

    monkeypatch.setattr(class_prior, "estimate_class_prior", estimate_prior)
    return calls


def decide(seed_run, number=2):
    return class_prior.decide_class_prior(seed_run, number, rounds.moved_proposal(seed_run, number))


def test_the_class_prior_is_estimated_once_against_the_proposal_as_it_was_refitted(seed_run, rows_of, estimated):
    decide(seed_run)
    decide(seed_run)
    (call,) = estimated
    assert isinstance(call.proposal, DefensiveProposal)
    assert call.proposal.class_prior.tolist() == pytest.approx([1 / 3] * 3)
    assert call.seed == seed_run.round_seed(2) != seed_run.seed
    assert call.task.spec.config == seed_run.config.model
    assert decision_in(seed_run, 2) == (ESTIMATE.to_json(), None)
    assert stored_decision(seed_run, 1) is None
    assert round_proposal(seed_run, 2).class_prior[2].item() == pytest.approx(0.05 / 3 + 0.95 * 0.5)


def test_the_class_priors_classifier_may_have_a_network_of_its_own(tmp_path, rows_of, estimated):
    seed_run = seed_run_in(tmp_path, rounds={"num_rounds": 3, "class_prior": {"network": {"width": 5}}})
    decide(seed_run)
    (call,) = estimated
    assert call.task.spec.config.width == 5
    assert next(call.initial.parameters()).shape[0] == 5


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"rounds": {"num_rounds": 3, "class_prior": None}}, "rounds.class_prior is null"),
        ({"ratio": {"kind": "density", "parameters": {"rotation": {"uniform": [0, 1]}}}}, "a density ratio already"),
        ({"ratio": {"kind": "label_shift", "target_prior": [0.2, 0.3, 0.5]}}, "a label_shift ratio already fixes"),
        ({"ratio": {"kind": "label_shift"}}, "a label_shift ratio already fixes"),  # learned, but not of images
        ({"ratio": {"kind": "product", "factors": [{"kind": "classifier"}, {"kind": "custom", "factory": "a:b"}]}},
         "a product ratio already fixes"),
    ],
)  # fmt: skip
def test_only_the_class_prior_of_a_classifier_ratio_is_moved(sections, why, tmp_path, rows_of, estimated):
    seed_run = seed_run_in(tmp_path, **{"rounds": 3} | sections)
    decide(seed_run)
    assert estimated == []
    estimate, kept = decision_in(seed_run, 2)
    assert estimate is None
    assert kept.startswith(why)
    assert seed_run.store.is_listed(class_prior_folder(2))  # it marks the last round all the same
    assert round_proposal(seed_run, 2).class_prior.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("lacks", ["class_prior", "with_class_prior"])
def test_classes_stay_where_the_proposal_has_none_to_move(lacks, seed_run, estimated):
    proposal = SimpleNamespace(class_prior=torch.ones(3) / 3, with_class_prior=lambda prior: None)
    delattr(proposal, lacks)
    class_prior.decide_class_prior(seed_run, 2, proposal)
    assert estimated == []
    assert decision_in(seed_run, 2) == (None, "the proposal has no class prior that can be set")


@pytest.mark.parametrize("network", [None, {"width": 5}])
def test_a_task_that_needs_more_than_images_and_labels_has_no_classifier_of_classes(network, tmp_path, monkeypatch):
    seed_run = seed_run_in(tmp_path, rounds={"num_rounds": 3, "class_prior": {"network": network}})
    monkeypatch.setattr(SeedRun, "task", lambda seed_run: SimpleNamespace(columns=("image", "rotation")))
    why = class_prior.reason_to_keep(seed_run, broad())
    assert why is None if network else "needs more than images and labels" in why


REFUSED = StatisticalRefusal("the outputs do not tell the classes apart", "use a better classifier")
NO_ROW = InputError("labels", "class 1", "has no source row", "add rows of that class", absolute=True)


@pytest.mark.parametrize("refusal", [REFUSED, NO_ROW])
def test_a_refusal_is_stored_with_its_reason_and_not_asked_for_again(refusal, seed_run, rows_of, monkeypatch):
    asked = []

    def estimate_prior(*_):
        asked.append(1)
        raise refusal

    monkeypatch.setattr(class_prior, "estimate_class_prior", estimate_prior)
    decide(seed_run)
    decide(seed_run)
    assert asked == [1]
    assert decision_in(seed_run, 2) == (None, str(refusal))
    assert f"the class prior stays as configured: {refusal}" in seed_run.progress.lines
    report_round(seed_run, 2, last=True)
    kept = report_json.last_round(seed_run.store).class_prior
    assert (kept.estimate, kept.reason_kept, kept.wanted) == (None, str(refusal), True)


def test_a_mistake_of_the_configuration_is_no_refusal(seed_run, rows_of, monkeypatch):
    def estimate_prior(*_):
        raise InputError("rounds.class_prior.cpus", 99, "no node has as many", "ask for fewer")

    monkeypatch.setattr(class_prior, "estimate_class_prior", estimate_prior)
    with pytest.raises(InputError, match="no node has as many"):
        decide(seed_run)
    assert not seed_run.store.is_listed(class_prior_folder(2))


def test_a_collapsed_estimate_is_reported_and_stored_but_not_proposed(seed_run, rows_of, monkeypatch):
    asked = []
    monkeypatch.setattr(class_prior, "estimate_class_prior", lambda *_: asked.append(1) or COLLAPSED)
    decide(seed_run)
    decide(seed_run)
    assert asked == [1]
    # exp of the entropy of .98, .01, .01: exp(.0198 + 2 .0461)
    why = "the estimate collapsed to 1.12 effective classes"
    assert decision_in(seed_run, 2) == (COLLAPSED.to_json(), why)
    assert f"the class prior stays as configured: {why}" in seed_run.progress.lines
    assert round_proposal(seed_run, 2).class_prior.tolist() == pytest.approx([1 / 3] * 3)
    report_round(seed_run, 2, last=True)
    last = report_json.last_round(seed_run.store)
    assert last.class_prior.reason_kept == why
    (light,) = (check.light for check in last.trust if check.name == "class prior")
    assert light == "amber"


@pytest.mark.parametrize(
    ("least", "prior", "collapsed"),
    [
        (2.8, (0.5, 0.25, 0.25), False),  # exp of the entropy is 2.83
        (2.9, (0.5, 0.25, 0.25), True),
        (1.0, (1.0, 0.0, 0.0), False),
        (None, (0.999, 0.001, 0.0), True),  # by default, 1.2
        (None, (0.96, 0.04, 0.0), True),  # 1.18
        (None, (0.95, 0.05, 0.0), False),  # 1.22
    ],
)
def test_an_estimate_of_too_few_effective_classes_has_collapsed(least, prior, collapsed, tmp_path, monkeypatch):
    given = {} if least is None else {"min_effective_classes": least}
    seed_run = seed_run_in(tmp_path, rounds={"num_rounds": 3, "class_prior": given})
    monkeypatch.setattr(
        class_prior, "estimate_class_prior", lambda *_: ClassPrior(np.array(prior), *np.zeros((2, 3)), "em")
    )
    class_prior.decide_class_prior(seed_run, 2, broad())
    assert (stored_decision(seed_run, 2).reason_to_keep is not None) == collapsed


def test_a_damaged_decision_is_refused_and_made_again(seed_run, rows_of, estimated):
    decide(seed_run)
    file = Path(seed_run.store.path(class_prior_folder(2))) / "decision.json"
    sound = file.read_bytes()
    file.write_text("{}")
    assert seed_run.store.is_listed(class_prior_folder(2))
    assert not seed_run.store.is_intact(class_prior_folder(2))
    for read in (stored_decision, round_proposal, rounds.stored_sampler):
        with pytest.raises(InputError, match=r"rounds/002/class_prior.*differs from its SHA-256.*it is made again"):
            read(seed_run, 2)
    decide(seed_run)
    assert len(estimated) == 2
    assert estimated[0].seed == estimated[1].seed
    assert estimated[1].proposal.class_prior.tolist() == pytest.approx([1 / 3] * 3)
    assert file.read_bytes() == sound


@pytest.mark.parametrize(
    "decision",
    [
        ClassPriorDecision(),
        ClassPriorDecision(None, "it refuses", tried=True),
        ClassPriorDecision(COLLAPSED, "it collapsed", tried=True),
        MOVED,
        replace(MOVED, prior=np.array([1 / 3, 0.1 + 0.2, 1e-17]), log_means=np.log([2.0, 1.0, 1e-300])),
    ],
)
def test_a_decision_reads_back_to_the_last_bit(decision, tmp_path):
    decision.save(tmp_path)
    again = ClassPriorDecision.load(tmp_path)
    assert (again.reason_to_keep, again.tried) == (decision.reason_to_keep, decision.tried)
    assert again.describe() == decision.describe()
    for name in ("prior", "log_means"):
        one, other = getattr(again, name), getattr(decision, name)
        assert (one is None) == (other is None)
        assert one is None or one.tobytes() == other.tobytes()


@pytest.mark.parametrize("num_rounds", [1, 3])
def test_without_rounds_nothing_is_decided_and_nothing_stored(num_rounds, tmp_path, rows_of, estimated):
    seed_run = seed_run_in(tmp_path, rounds=num_rounds)
    last = num_rounds - 1
    decision = decide(seed_run, last)
    assert (decision.describe() is None) == (num_rounds == 1) == (estimated == [])
    assert (stored_decision(seed_run, last).prior is None) == (num_rounds == 1)
    assert seed_run.store.is_listed(class_prior_folder(last)) == (num_rounds > 1)


@pytest.fixture
def means(monkeypatch):
    """Record the arguments of each call for the class means; the fake returns LOG_MEANS."""
    asked = []

    def mean_given_class(ratio, proposal, num_classes, seed, sampling):
        asked.append((ratio, proposal, num_classes, seed, sampling))
        return LOG_MEANS

    monkeypatch.setattr(class_prior, "class_log_mean_ratios", mean_given_class)
    return asked


LOG_MEANS = np.log([2.0, 1.0, 4.0])


def test_with_a_moved_class_prior_the_last_ratio_says_nothing_of_the_classes(seed_run, rows_of, means, monkeypatch):
    """log g - log E_q[g | y], as the class prior that is proposed is the one that is wanted; the means are kept."""
    fitted = ConstantRatio()
    monkeypatch.setattr(SeedRun, "stored_ratio", lambda seed_run, proposal, round=0: fitted)
    store_decision(seed_run, 2)
    proposal = round_proposal(seed_run, 2)
    for _ in range(2):
        decision = class_prior.add_class_means(seed_run, 2, stored_decision(seed_run, 2), proposal, fitted)
    assert means == [(fitted, proposal, 3, seed_run.round_seed(2), seed_run.config.sampling)]
    rows = {"label": torch.arange(3), "x": torch.zeros(3)}
    for ratio in (decision.ratio(fitted), rounds.stored_sampler(seed_run, 2).ratio):
        assert isinstance(ratio, ClassConditionalRatio)
        assert ratio.classes.target_prior.tolist() == pytest.approx(proposal.class_prior.tolist())
        assert ratio.log_ratio(rows).tolist() == pytest.approx((-LOG_MEANS).tolist())
        assert ratio.info.class_prior.to_json() == ESTIMATE.to_json()


def test_a_ratio_whose_class_means_are_missing_is_refused(seed_run, rows_of, monkeypatch):
    """An interrupt while the ratio was fitted leaves this: rows of the last round cannot have been drawn yet."""
    monkeypatch.setattr(SeedRun, "stored_ratio", lambda seed_run, proposal, round=0: ConstantRatio())
    store_decision(seed_run, 2)
    with pytest.raises(InputError, match="class means=None: have not been computed for the last round; run it again"):
        rounds.stored_sampler(seed_run, 2)


def test_a_run_killed_while_the_means_are_added_keeps_its_estimate(seed_run, rows_of, estimated, means, monkeypatch):
    """Their files are written, and the manifest does not list them yet."""
    proposal, fitted = broad(), ConstantRatio()
    decision = decide(seed_run)
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "commit", lambda store, change: None)
        class_prior.add_class_means(seed_run, 2, decision, proposal, fitted)
    assert (Path(seed_run.store.path(class_prior_folder(2))) / "class_means.json").exists()
    again = decide(seed_run)
    assert len(estimated) == 1
    assert again.log_means is None
    class_prior.add_class_means(seed_run, 2, again, proposal, fitted)
    assert len(means) == 2
    assert decide(seed_run).log_means.tolist() == LOG_MEANS.tolist()
    assert len(estimated) == 1


def test_means_that_are_damaged_are_refused_and_made_again(seed_run, rows_of, estimated, means):
    proposal, fitted = broad(), ConstantRatio()
    file = Path(seed_run.store.path(class_prior_folder(2))) / "class_means.json"
    class_prior.add_class_means(seed_run, 2, decide(seed_run), proposal, fitted)
    sound = file.read_bytes()
    file.write_text("[0, 0, 0]")
    with pytest.raises(InputError, match=r"class_means\.json differs from its SHA-256"):
        stored_decision(seed_run, 2)
    decision = class_prior.add_class_means(seed_run, 2, decide(seed_run), proposal, fitted)
    assert (len(estimated), len(means)) == (2, 2)  # one folder: what it holds is made again together
    assert file.read_bytes() == sound
    assert isinstance(decision.ratio(fitted), ClassConditionalRatio)


@pytest.mark.parametrize(("num_rounds", "stored"), [(1, []), (3, ["rounds/002/class_prior"])])
def test_the_class_prior_is_decided_before_the_last_ratio_whenever_there_are_rounds(
    num_rounds, stored, tmp_path, estimated, monkeypatch
):
    class ReachedError(Exception):
        pass

    def stop(*_, **__):
        raise ReachedError

    monkeypatch.setattr(rounds, "explore", lambda seed_run: num_rounds - 1)
    monkeypatch.setattr(rounds, "moved_proposal", lambda seed_run, number: broad())
    monkeypatch.setattr(SeedRun, "ratio", stop)
    seed_run = seed_run_in(tmp_path, rounds=num_rounds)
    with pytest.raises(ReachedError):
        rounds.sample_seed(seed_run)
    assert list(seed_run.store.manifest().folders) == stored
