"""Rounds in one process: when they end, what each proposes and scores with, and what is told of them."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, Uniform

from rsf_dist import cli
from rsf_dist.builders import classifier_fit
from rsf_dist.builders.context import RatioContext, WarmStart
from rsf_dist.config.load import parse_config
from rsf_dist.config.model import ModelConfig
from rsf_dist.config.ratio import ClassifierRatioConfig, RatioNetworkConfig, RatioOptimizerConfig
from rsf_dist.config.rounds import RoundsConfig
from rsf_dist.data.arrow import to_table
from rsf_dist.data.batch import num_rows, to_cpu
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError, Shortfall, StatisticalRefusal
from rsf_dist.models.networks import NetworkSpec
from rsf_dist.proposals import AugmentProposal, DefensiveProposal, DistributionProposal
from rsf_dist.ratios import ClassifierRatio, ConstantRatio, DensityRatio, ClassConditionalRatio, ReweightedRatio, ProductRatio
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.ratios.classifier import evaluate_ratio, split_samples
from rsf_dist.report import report_json
from rsf_dist.report import sample_images
from rsf_dist.report.html import write_html
from rsf_dist.report.text import format_report
from rsf_dist.runs import class_prior
from rsf_dist.runs import pipeline, rounds
from rsf_dist.runs.class_prior import ClassPriorDecision, means_folder, class_prior_folder, stored_decision
from rsf_dist.runs.pipeline import RunResult
from rsf_dist.runs.seed_run import SeedRun
from rsf_dist.runtime.progress import Progress
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.accepted import describe_columns
from rsf_dist.sampling.chunk import ChunkWork
from rsf_dist.sampling.report import Setting, summarise
from rsf_dist.storage.run_store import RunStore

CONFIG = {
    "output": "unused",
    "source": {"kind": "digits"},
    "target": {"kind": "digits"},
    "proposal": {"parameters": {"rotation": {"uniform": [-1.5, 1.5]}}},
    "sampling": {"num_accepted": 100},
    "model": {"width": 4},
}
SOURCE = ImageSet(
    torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    torch.arange(6) % 3,
    ("a", "b", "c"),
)


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


class Learned(DensityRatio):
    """Of a target turned by .8 ± .1 and the proposal's own density, with the figures of a ratio that was learned."""

    def __init__(self, proposal, distance):
        super().__init__(Normal(0.8, 0.1), DistributionProposal(Uniform(-1.5, 1.5), column="rotation"), log_bound=4.0)
        spread = np.linspace(-1, 1, 50)
        self.quality = evaluate_ratio(spread + distance, spread - distance, "none")


def trial_in(folder: Path, **sections) -> SeedRun:
    store = RunStore(folder)
    report_json.begin(store, seed=0)
    config = parse_config(CONFIG | sections)
    return SeedRun(config, SimpleNamespace(source=SOURCE, target=SOURCE), store, 0, Told())


@pytest.fixture
def seed_run(tmp_path):
    return trial_in(tmp_path, rounds=3)


def broad():
    return AugmentProposal(SOURCE, {"rotation": Uniform(-1.5, 1.5)})


def stored(store, number, rows, report):
    """Put a round's rows into the store, as the sampler leaves them."""
    table = to_table(rows)
    described = {"complete": True, "columns": describe_columns(table), "report": report.to_dict()}
    store.commit_round(number, [store.write_shard(number, 0, table)], described)
    return SimpleNamespace(report=report, fingerprint=f"{number + 10:064x}")


def tell(seed_run, number, last, distance=0.5, n=1_500):
    """Draw a round here, store it, and write it into the record, as rounds do."""
    proposal = broad()
    ratio = Learned(proposal, distance)
    chunk = ChunkWork(proposal, ratio, 1.5, n, seed=0, round=number)(0)
    report = summarise(
        Setting(1.5, "given", normalised=True),
        chunk.statistics,
        chunk.rows["log_ratio"].numpy(),
        chunk.rows["accept_key"].numpy(),
        num_proposed=n,
        num_accepted=num_rows(chunk.rows),
        num_duplicates=0,
        stopped=False,
    )
    accepted = stored(seed_run.store, number, chunk.rows, report)
    rounds._tell(seed_run, number, proposal, ratio, accepted, last=last)
    return accepted


# When rounds end


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
    seed_run = trial_in(tmp_path, rounds={"num_rounds": len(aucs) + 1, "min_auc_gain": 0.005})
    assert rounds.explore(seed_run) == last
    assert asked == list(range(last))
    assert any("has converged" in line for line in seed_run.progress.lines) == (last < len(aucs))


@pytest.mark.parametrize("sections", [{"num_rounds": 5}, {"num_rounds": 5, "min_auc_gain": None}])
def test_by_default_all_rounds_are_run(sections, tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "explore_once", lambda seed_run, number: 0.6)
    seed_run = trial_in(tmp_path, rounds=sections)
    assert rounds.explore(seed_run) == 4
    assert seed_run.progress.lines == []


# What a learned ratio goes on from


def numbers(mean, n, seed):
    """N(mean, 1) in each of four numbers."""
    return mean + torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


TARGET, PROPOSALS, NEARER = numbers(1.0, 400, 0), numbers(0.0, 800, 1), numbers(0.2, 800, 2)


def fitted(proposals, steps, **options):
    config = ClassifierRatioConfig(
        network=RatioNetworkConfig(name="mlp", width=16, depth=2, dropout=0.0),
        optimizer=RatioOptimizerConfig(steps=steps, learning_rate=1e-2, weight_decay=0.0),
        freeze_backbone=options.pop("freeze_backbone", False),
        calibration="none",
        ensemble=2,
    )
    return ClassifierRatio.fit(TARGET, proposals, config, column="x", **options)


@pytest.fixture(scope="module")
def before():
    return fitted(PROPOSALS, steps=150, seed=0)


def test_a_warm_start_is_ahead_of_a_cold_one_with_as_few_steps(before):
    """Held-out log loss of proposals a little nearer, after 4 steps: .693 is chance."""
    warm, cold = (fitted(NEARER, 4, seed=1, split_seed=0, initial=one) for one in (before.networks, None))
    assert warm.quality.log_loss < cold.quality.log_loss - 0.1
    assert warm.quality.auc > 0.8


@pytest.mark.parametrize("freeze_backbone", [False, True])
def test_the_networks_to_go_on_from_are_left_as_they_are(freeze_backbone, before):
    weights = [{name: one.clone() for name, one in network.state_dict().items()} for network in before.networks]
    warm = fitted(NEARER, 4, seed=1, initial=before.networks, freeze_backbone=freeze_backbone)
    for network, kept, moved in zip(before.networks, weights, warm.networks, strict=True):
        assert all(torch.equal(one, kept[name]) for name, one in network.state_dict().items())
        assert all(parameter.requires_grad for parameter in network.parameters())
        assert not network.frozen_backbone
        assert not network.training
        assert not torch.equal(moved.head.weight, network.head.weight)
        assert torch.equal(moved.network[0].weight, network.network[0].weight) == freeze_backbone


def test_rows_stay_apart_by_the_splits_seed_whatever_the_other():
    one, other, elsewhere, alone = (
        fitted(PROPOSALS, 1, seed=seed, split_seed=split).test_index.tolist()
        for seed, split in ((0, 7), (1, 7), (0, 8), (7, None))
    )
    assert one == other == alone
    assert len(one) == 80  # a fifth
    assert one != elsewhere


@pytest.fixture
def asked(monkeypatch):
    """What a Ray task would have been asked to fit: configuration, initial networks, seeds."""
    calls = []

    def in_task(function, config, target, proposal, seed, initial, split_seed, **share):
        assert function is classifier_fit._fit
        calls.append(SimpleNamespace(steps=config.optimizer.steps, initial=initial, seeds=(seed, split_seed)))

    monkeypatch.setattr(classifier_fit, "run_in_task", in_task)
    monkeypatch.setattr(classifier_fit, "check_ratio", lambda config, field: None)
    return calls


def test_a_classifier_goes_on_with_fewer_steps_where_there_is_one(before, asked):
    config = ClassifierRatioConfig(optimizer=RatioOptimizerConfig(steps=99))
    context = RatioContext(SimpleNamespace(target=SimpleNamespace(images=TARGET)), broad(), seed=3, split_seed=0)
    for known in (WarmStart(), WarmStart(before, None), WarmStart(ConstantRatio(), 5), WarmStart(before, 5)):
        classifier_fit.fit_classifier(config, replace(context, warm_start=known))
    assert [call.steps for call in asked] == [99, 99, 99, 5]
    assert [call.initial for call in asked] == [None, None, None, before.networks]
    assert {call.seeds for call in asked} == {(3, 0)}
    classifier_fit.fit_classifier(config, replace(context, split_seed=None))
    assert asked[-1].seeds == (3, 3)


def test_data_parallel_too_features_stay_as_they_are(monkeypatch):
    given = []

    def tuner(*_, initial, **named):
        given.append(initial)
        fitted = SimpleNamespace(load_model=lambda: initial)
        return SimpleNamespace(fit=lambda *rows: fitted)

    monkeypatch.setattr(classifier_fit, "FineTuner", tuner)
    monkeypatch.setattr(classifier_fit.ray.data, "from_arrow", lambda rows: rows)
    network = NetworkSpec(ModelConfig(width=4), num_outputs=1, channels=1).build(0)
    for freeze in (True, False):
        config = ClassifierRatioConfig(num_workers=2, freeze_backbone=freeze)
        splits = split_samples(TARGET, PROPOSALS, config, 0)
        classifier_fit._fit_parallel(config, splits, 0, None, network)
    assert [one.frozen_backbone for one in given] == [True, False]
    assert not network.frozen_backbone


def test_a_products_factors_go_on_each_from_its_own(before):
    product = WarmStart(ProductRatio([ConstantRatio(), before]), 5)
    assert isinstance(product.for_factor(0).ratio, ConstantRatio)
    assert (product.for_factor(1).ratio, product.for_factor(1).steps) == (before, 5)
    assert WarmStart(before, 5).for_factor(0).ratio is None


@pytest.mark.parametrize(
    ("number", "sections", "steps"),
    [
        (0, {"rounds": 3}, None),
        (2, {"rounds": 3}, RoundsConfig().warm_start_steps),
        (2, {"rounds": {"num_rounds": 3, "warm_start_steps": 7}}, 7),
        (2, {"rounds": {"num_rounds": 3, "warm_start_steps": None}}, None),
        (2, {"rounds": 3, "ratio": {"kind": "custom", "factory": "mine:ratio"}}, None),
    ],
)
def test_a_rounds_ratio_goes_on_from_the_round_before(number, sections, steps, before, tmp_path, monkeypatch):
    kept = []

    def earlier(seed_run, number, proposal=None):
        kept.append(number)
        return before

    monkeypatch.setattr(SeedRun, "_stored", earlier)
    start = trial_in(tmp_path, **sections)._warm_start(number)
    assert start == (WarmStart() if steps is None else WarmStart(before, steps))
    assert kept == ([] if steps is None else [number - 1])


# What a round proposes


ESTIMATE = ClassPrior(np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.2, 0.4]), np.array([0.3, 0.4, 0.6]), "em")
COLLAPSED = ClassPrior(np.array([0.98, 0.01, 0.01]), np.zeros(3), np.ones(3), "em")


@pytest.fixture
def rows_of(monkeypatch):
    """What the round before accepted: rows turned by about .8. The numbers of the rounds that were asked for."""
    asked = []

    def stored_rows(store, number):
        asked.append(number)
        rows = to_cpu(broad().sample(300, Streams(5)))
        rows["rotation"] = 0.8 + 0.1 * torch.randn(300, generator=torch.Generator().manual_seed(1))
        return to_table(rows)

    monkeypatch.setattr(rounds, "stored_rows", stored_rows)
    return asked


def keep_mix(seed_run, number, estimate=ESTIMATE, kept=None):
    text = json.dumps(ClassPriorDecision(estimate, kept).to_json())
    seed_run.store.commit_folder(class_prior_folder(number), lambda folder: (folder / "mix.json").write_text(text))


def told_mix(seed_run, number):
    mix = stored_decision(seed_run, number)
    return mix.estimate and mix.estimate.to_json(), mix.kept


def test_the_first_round_proposes_as_configured(seed_run, rows_of):
    proposal = rounds.round_proposal(seed_run, 0)
    assert isinstance(proposal, AugmentProposal)
    assert proposal.joint is None
    assert rows_of == []


def test_later_rounds_propose_where_rows_were_accepted_and_a_share_of_all(seed_run, rows_of):
    proposal = rounds.round_proposal(seed_run, 2)
    assert rows_of == [1]
    assert isinstance(proposal, DefensiveProposal)
    assert (proposal.broad.joint, proposal.share) == (None, seed_run.config.rounds.defensive_share)
    turns = proposal.moved.sample(500, Streams(0))["rotation"]
    assert turns.mean().item() == pytest.approx(0.8, abs=0.05)  # 500 draws of a spread of .1
    assert turns.std().item() == pytest.approx(0.1, abs=0.03)
    again = rounds.round_proposal(seed_run, 2)
    assert torch.equal(again.sample(9, Streams(0))["rotation"], proposal.sample(9, Streams(0))["rotation"])


def test_a_mix_of_classes_that_was_estimated_is_proposed(seed_run, rows_of):
    keep_mix(seed_run, 2)
    proposal = rounds.round_proposal(seed_run, 2)
    # .05 of a third, and .95 of the estimate
    assert seed_run.config.rounds.class_prior.smoothing == 0.05
    wanted = 0.05 / 3 + 0.95 * ESTIMATE.prior
    for part in (proposal, proposal.broad, proposal.moved):
        assert part.class_prior.tolist() == pytest.approx(wanted.tolist())
    assert rounds.round_proposal(seed_run, 1).class_prior.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("estimate", "kept"), [(None, "rounds.class_prior is null"), (None, "it refuses"), (COLLAPSED, "it collapsed")]
)
def test_a_mix_that_is_kept_as_configured_stays(estimate, kept, seed_run, rows_of):
    keep_mix(seed_run, 2, estimate, kept)
    proposal, ratio = rounds.round_proposal(seed_run, 2), ConstantRatio()
    assert proposal.class_prior.tolist() == pytest.approx([1 / 3] * 3)
    class_prior.compute_class_means(seed_run, 2, proposal, ratio)
    assert class_prior.condition_on_class(seed_run, 2, proposal, ratio) is ratio
    assert not seed_run.store.is_listed(means_folder(2))


def test_a_proposal_that_cannot_move_is_refused_in_its_second_round(seed_run, rows_of, monkeypatch):
    class Still:
        def sample(self, n, rng):
            return {}

    monkeypatch.setattr(SeedRun, "proposal", lambda seed_run: Still())
    rounds.round_proposal(seed_run, 0)
    with pytest.raises(InputError, match="proposal=Still: has no `refit`, which rounds need"):
        rounds.round_proposal(seed_run, 1)


def test_a_round_that_explores_and_falls_short_names_what_is_its_own_to_raise(seed_run, rows_of, monkeypatch):
    """Its budget is not sampling.budget, of which the sampler speaks."""

    class Short:
        def sample(self, *_):
            raise Shortfall(
                "3 of 4 rows accepted after 9 proposals, where the budget ends", "raise budget.max_proposals"
            )

    monkeypatch.setattr(SeedRun, "ratio", lambda seed_run, proposal, number: ConstantRatio())
    monkeypatch.setattr(rounds, "round_sampler", lambda *_, exploring: Short())
    with pytest.raises(StatisticalRefusal, match=r"round 1: fewer than .* rows accepted of 10 times") as short:
        rounds.explore_once(seed_run, 1)
    assert "raise rounds.acceptance or rounds.num_pilot" in short.value.remedy
    assert "budget" not in str(short.value)


def test_without_rounds_a_mixture_of_the_users_own_is_no_proposal_that_moved(tmp_path, monkeypatch):
    """Its ratio is of itself, whatever it is a mixture of."""
    mixture = DefensiveProposal(broad(), broad().with_class_prior([0.8, 0.1, 0.1]), share=0.3)
    known = ConstantRatio()
    monkeypatch.setattr(SeedRun, "_stored", lambda seed_run, number, proposal: known)
    seed_run = trial_in(tmp_path, ratio={"kind": "density", "parameters": {"rotation": {"normal": [0.8, 0.1]}}})
    assert seed_run.stored_ratio(mixture, 0) is known
    assert isinstance(seed_run.stored_ratio(mixture, 1), ReweightedRatio)


@pytest.mark.parametrize("last", [0, 2])
def test_accepted_rows_are_judged_beside_proposals_as_configured_and_as_moved(last, seed_run, monkeypatch):
    asked, configured, moved = [], broad(), broad()
    sampled = SimpleNamespace(fingerprint="ab", report=SimpleNamespace(num_accepted=3))
    for name, stand_in in {
        "explore": lambda seed_run: last,
        "moved_proposal": lambda seed_run, number: moved,
        "apply_class_prior": lambda seed_run, number, proposal: proposal,
        "decide_class_prior": lambda *_: None,
        "compute_class_means": lambda *_: None,
        "condition_on_class": lambda seed_run, number, proposal, ratio: ratio,
        "round_sampler": lambda *_: SimpleNamespace(sample=lambda *_: sampled),
        "two_sample_tests": lambda ratio, proposals, *_: asked.append(proposals),
        "_tell": lambda *_, **__: report_json.add_round(seed_run.store, entry(last, last=True)),
    }.items():
        monkeypatch.setattr(rounds, name, stand_in)
    monkeypatch.setattr(rounds.sample_images, "save", lambda *_: None)
    monkeypatch.setattr(SeedRun, "proposal", lambda seed_run: configured)
    monkeypatch.setattr(SeedRun, "ratio", lambda seed_run, proposal, number: ConstantRatio())
    assert rounds.sample_seed(seed_run) is sampled
    (proposals,) = asked
    assert proposals["before"] is configured
    assert ("moved" in proposals) == (last > 0)
    assert proposals.get("moved", moved) is moved


def test_a_known_ratio_is_made_once_and_follows_the_proposal(tmp_path, rows_of):
    target = {"rotation": {"normal": [0.8, 0.1]}}
    seed_run = trial_in(tmp_path, rounds=3, ratio={"kind": "density", "parameters": target})
    first = seed_run.ratio(rounds.round_proposal(seed_run, 0), 0)
    assert isinstance(first, DensityRatio)
    proposal = rounds.round_proposal(seed_run, 1)
    ratio = seed_run.ratio(proposal, 1)
    assert isinstance(ratio, ReweightedRatio)
    assert ratio.moved is proposal
    rows = proposal.sample(100, Streams(0))
    shift = proposal.broad.log_prob(rows) - proposal.log_prob(rows)
    assert torch.allclose(ratio.log_ratio(rows), first.log_ratio(rows) + shift, atol=1e-5)
    assert seed_run.store.manifest()["folders"].keys() == {"rounds/000/ratio"}
    sampler = rounds.stored_sampler(seed_run, 1)
    assert sampler.ratio.log_ratio(rows).tolist() == ratio.log_ratio(rows).tolist()


# The mix of classes


@pytest.fixture
def estimated(monkeypatch):
    """What a classifier was to be asked, which gives ESTIMATE: task, proposal, seed and initial model of each call."""
    calls = []

    def estimate_prior(config, task, inputs, proposal, seed, initial):
        calls.append(SimpleNamespace(task=task, proposal=proposal, seed=seed, initial=initial))
        return ESTIMATE

    monkeypatch.setattr(class_prior, "estimate_class_prior", estimate_prior)
    return calls


def settle(seed_run, number=2):
    class_prior.decide_class_prior(seed_run, number, rounds.moved_proposal(seed_run, number))


def test_the_mix_is_estimated_once_against_the_proposal_as_it_was_refitted(seed_run, rows_of, estimated):
    settle(seed_run)
    settle(seed_run)
    (call,) = estimated
    assert isinstance(call.proposal, DefensiveProposal)
    assert call.proposal.class_prior.tolist() == pytest.approx([1 / 3] * 3)
    assert call.seed == seed_run.round_seed(2) != seed_run.seed
    assert call.task.spec.config == seed_run.config.model
    assert told_mix(seed_run, 2) == (ESTIMATE.to_json(), None)
    assert told_mix(seed_run, 1) == (None, None)
    assert rounds.round_proposal(seed_run, 2).class_prior[2].item() == pytest.approx(0.05 / 3 + 0.95 * 0.5)


def test_the_classifier_of_classes_may_be_a_network_of_its_own(tmp_path, rows_of, estimated):
    seed_run = trial_in(tmp_path, rounds={"num_rounds": 3, "class_prior": {"network": {"width": 5}}})
    settle(seed_run)
    (call,) = estimated
    assert call.task.spec.config.width == 5
    assert next(call.initial.parameters()).shape[0] == 5


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"rounds": {"num_rounds": 3, "class_prior": None}}, "rounds.class_prior is null"),
        ({"ratio": {"kind": "density", "parameters": {"rotation": {"uniform": [0, 1]}}}}, "a density ratio says"),
        ({"ratio": {"kind": "label_shift", "target_prior": [0.2, 0.3, 0.5]}}, "a label_shift ratio says"),
        ({"ratio": {"kind": "label_shift"}}, "a label_shift ratio says"),  # learned, but not of images
        ({"ratio": {"kind": "product", "factors": [{"kind": "classifier"}, {"kind": "custom", "factory": "a:b"}]}},
         "a product ratio says"),
    ],
)  # fmt: skip
def test_only_the_mix_of_a_classifier_ratio_is_moved(sections, why, tmp_path, rows_of, estimated):
    seed_run = trial_in(tmp_path, **{"rounds": 3} | sections)
    settle(seed_run)
    assert estimated == []
    estimate, kept = told_mix(seed_run, 2)
    assert estimate is None
    assert kept.startswith(why)
    assert seed_run.store.is_listed(class_prior_folder(2))  # it marks the last round all the same
    assert rounds.round_proposal(seed_run, 2).class_prior.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("lacks", ["class_prior", "with_class_prior"])
def test_classes_stay_where_the_proposal_has_none_to_move(lacks, seed_run, estimated):
    proposal = SimpleNamespace(class_prior=torch.ones(3) / 3, with_class_prior=lambda prior: None)
    delattr(proposal, lacks)
    class_prior.decide_class_prior(seed_run, 2, proposal)
    assert estimated == []
    assert told_mix(seed_run, 2) == (None, "the proposal has none that could be set")


@pytest.mark.parametrize("network", [None, {"width": 5}])
def test_a_task_that_needs_more_than_images_and_labels_has_no_classifier_of_classes(network, tmp_path, monkeypatch):
    seed_run = trial_in(tmp_path, rounds={"num_rounds": 3, "class_prior": {"network": network}})
    monkeypatch.setattr(SeedRun, "task", lambda seed_run: SimpleNamespace(columns=("image", "rotation")))
    why = class_prior.reason_to_keep(seed_run, broad())
    assert why is None if network else "needs more than images and labels" in why


REFUSED = StatisticalRefusal("the outputs do not tell the classes apart", "use a better classifier")
NO_ROW = InputError("labels", "class 1", "has no source row", "add rows of that class")


@pytest.mark.parametrize("refusal", [REFUSED, NO_ROW])
def test_a_refusal_is_kept_with_its_reason_and_not_asked_for_again(refusal, seed_run, rows_of, monkeypatch):
    asked = []

    def estimate_prior(*_):
        asked.append(1)
        raise refusal

    monkeypatch.setattr(class_prior, "estimate_class_prior", estimate_prior)
    settle(seed_run)
    settle(seed_run)
    assert asked == [1]
    assert told_mix(seed_run, 2) == (None, str(refusal))
    assert f"the mix of classes stays as configured: {refusal}" in seed_run.progress.lines
    tell(seed_run, 2, last=True)
    assert report_json.last_round(seed_run.store)["class_prior"] is None


def test_a_mistake_of_the_configuration_is_no_refusal(seed_run, rows_of, monkeypatch):
    def estimate_prior(*_):
        raise InputError("rounds.class_prior.cpus", 99, "no node has as many", "ask for fewer")

    monkeypatch.setattr(class_prior, "estimate_class_prior", estimate_prior)
    with pytest.raises(InputError, match="no node has as many"):
        settle(seed_run)
    assert not seed_run.store.is_listed(class_prior_folder(2))


def test_a_collapsed_estimate_is_told_and_kept_but_not_followed(seed_run, rows_of, monkeypatch):
    asked = []
    monkeypatch.setattr(class_prior, "estimate_class_prior", lambda *_: asked.append(1) or COLLAPSED)
    settle(seed_run)
    settle(seed_run)
    assert asked == [1]
    # exp of the entropy of .98, .01, .01: exp(.0198 + 2 .0461)
    why = "the estimate collapsed to 1.12 effective classes"
    assert told_mix(seed_run, 2) == (COLLAPSED.to_json(), why)
    assert f"the mix of classes stays as configured: {why}" in seed_run.progress.lines
    assert rounds.round_proposal(seed_run, 2).class_prior.tolist() == pytest.approx([1 / 3] * 3)
    tell(seed_run, 2, last=True)
    last = report_json.last_round(seed_run.store)
    assert last["class_mix_kept"] == why
    (light,) = (check["light"] for check in last["trust"] if check["name"] == "mix of classes")
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
    seed_run = trial_in(tmp_path, rounds={"num_rounds": 3, "class_prior": given})
    monkeypatch.setattr(class_prior, "estimate_class_prior", lambda *_: ClassPrior(np.array(prior), *np.zeros((2, 3)), "em"))
    class_prior.decide_class_prior(seed_run, 2, broad())
    assert (stored_decision(seed_run, 2).kept is not None) == collapsed


def test_a_mix_that_is_damaged_is_refused_and_made_again(seed_run, rows_of, estimated):
    settle(seed_run)
    file = Path(seed_run.store.path(class_prior_folder(2))) / "mix.json"
    sound = file.read_bytes()
    file.write_text("{}")
    assert seed_run.store.is_listed(class_prior_folder(2))
    assert not seed_run.store.is_intact(class_prior_folder(2))
    for read in (stored_decision, rounds.round_proposal, rounds.stored_sampler):
        with pytest.raises(InputError, match=r"rounds/002/class_mix.*differs from its SHA-256.*it is made again"):
            read(seed_run, 2)
    settle(seed_run)
    assert len(estimated) == 2
    assert estimated[0].seed == estimated[1].seed
    assert estimated[1].proposal.class_prior.tolist() == pytest.approx([1 / 3] * 3)
    assert file.read_bytes() == sound


def test_what_became_of_a_mix_reads_back():
    for mix in (ClassPriorDecision(), ClassPriorDecision(ESTIMATE), ClassPriorDecision(COLLAPSED, "it collapsed"), ClassPriorDecision(None, "it refuses")):
        again = ClassPriorDecision.from_json(json.loads(json.dumps(mix.to_json())))
        assert again.to_json() == mix.to_json()
        assert again.kept == mix.kept


@pytest.fixture
def means(monkeypatch):
    """What the means within the classes were asked of; they are those of MEANS."""
    asked = []

    def mean_given_class(ratio, proposal, num_classes, seed, sampling):
        asked.append((ratio, proposal, num_classes, seed, sampling))
        return LOG_MEANS

    monkeypatch.setattr(class_prior, "class_log_mean_ratios", mean_given_class)
    return asked


LOG_MEANS = np.log([2.0, 1.0, 4.0])


def test_with_moved_classes_the_last_ratio_says_nothing_of_them_but_their_mix(seed_run, rows_of, means, monkeypatch):
    """log g - log E_q[g | y], as the mix that is proposed is the one that is wanted; the means are kept."""
    fitted = ConstantRatio()
    monkeypatch.setattr(SeedRun, "stored_ratio", lambda seed_run, proposal, round=0: fitted)
    keep_mix(seed_run, 2)
    proposal = rounds.round_proposal(seed_run, 2)
    for _ in range(2):
        class_prior.compute_class_means(seed_run, 2, proposal, fitted)
    assert means == [(fitted, proposal, 3, seed_run.round_seed(2), seed_run.config.sampling)]
    rows = {"label": torch.arange(3), "x": torch.zeros(3)}
    for ratio in (class_prior.condition_on_class(seed_run, 2, proposal, fitted), rounds.stored_sampler(seed_run, 2).ratio):
        assert isinstance(ratio, ClassConditionalRatio)
        assert ratio.classes.target_prior.tolist() == pytest.approx(proposal.class_prior.tolist())
        assert ratio.log_ratio(rows).tolist() == pytest.approx((-LOG_MEANS).tolist())
        assert ratio.estimate.to_json() == ESTIMATE.to_json()


def test_means_that_are_missing_or_damaged_are_refused_and_made_again(seed_run, rows_of, means):
    keep_mix(seed_run, 2)
    proposal, fitted = rounds.round_proposal(seed_run, 2), ConstantRatio()
    with pytest.raises(InputError, match="rounds/002/class_means is not in the manifest"):
        class_prior.condition_on_class(seed_run, 2, proposal, fitted)
    class_prior.compute_class_means(seed_run, 2, proposal, fitted)
    (Path(seed_run.store.path(means_folder(2))) / "means.json").write_text("[0, 0, 0]")
    with pytest.raises(InputError, match=r"class_means/means\.json differs from its SHA-256"):
        class_prior.condition_on_class(seed_run, 2, proposal, fitted)
    class_prior.compute_class_means(seed_run, 2, proposal, fitted)
    assert len(means) == 2
    assert isinstance(class_prior.condition_on_class(seed_run, 2, proposal, fitted), ClassConditionalRatio)


# What samples a round


BEST = {"envelope": {"kind": "budget", "acceptance": 0.3}, "sampling": {"num_accepted": 100, "chunk_size": 50,
        "budget": {"max_proposals": 777}}}  # fmt: skip


def test_the_kept_mix_marks_the_last_round(tmp_path, rows_of, monkeypatch):
    monkeypatch.setattr(SeedRun, "stored_ratio", lambda seed_run, proposal, round=0: ConstantRatio())
    seed_run = trial_in(tmp_path, rounds={"num_rounds": 3, "acceptance": 0.1}, **BEST)
    keep_mix(seed_run, 2, None, "it refuses")
    for number, acceptance in ((0, 0.1), (1, 0.1), (2, 0.3)):
        sampler = rounds.stored_sampler(seed_run, number)
        assert sampler.envelope.acceptance == acceptance
        assert (sampler.budget.max_proposals == 777) == (number == 2)


def test_without_rounds_the_only_one_is_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(SeedRun, "stored_ratio", lambda seed_run, proposal, round=0: ConstantRatio())
    sampler = rounds.stored_sampler(trial_in(tmp_path, **BEST), 0)
    assert (sampler.envelope.acceptance, sampler.budget.max_proposals) == (0.3, 777)


@pytest.mark.parametrize(
    ("num_accepted", "chunk_size", "most"),
    [(40, 50, 4_000), (41, 50, 4_100), (1, 5_000, 5_000)],  # ten times n/.1, and a chunk at least
)
def test_a_round_that_explores_has_a_budget_of_its_own(num_accepted, chunk_size, most, tmp_path):
    sampling = {"num_accepted": 100, "chunk_size": chunk_size, "budget": {"max_proposals": 7, "max_seconds": 3}}
    section = {"num_rounds": 3, "num_accepted": num_accepted, "acceptance": 0.1}
    seed_run = trial_in(tmp_path, rounds=section, sampling=sampling)
    sampler = rounds.round_sampler(seed_run, broad(), ConstantRatio(), exploring=True)
    assert sampler.envelope.section == "rounds"
    assert (sampler.budget.max_proposals, sampler.budget.max_seconds) == (most, None)
    assert rounds.round_sampler(seed_run, broad(), ConstantRatio()).budget == seed_run.config.sampling.budget


@pytest.mark.parametrize(("num_rounds", "settled"), [(1, []), (3, [2])])
def test_the_mix_is_settled_whenever_there_are_rounds(num_rounds, settled, tmp_path, monkeypatch):
    class Reached(BaseException):
        pass

    def stop(*_, **__):
        raise Reached

    found = []
    monkeypatch.setattr(rounds, "explore", lambda seed_run: num_rounds - 1)
    monkeypatch.setattr(rounds, "moved_proposal", lambda seed_run, number: broad())
    monkeypatch.setattr(rounds, "decide_class_prior", lambda seed_run, number, proposal: found.append(number))
    monkeypatch.setattr(SeedRun, "ratio", stop)
    with pytest.raises(Reached):
        rounds.sample_seed(trial_in(tmp_path, rounds=num_rounds))
    assert found == settled


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
        rounds.round_proposal(seed_run, 1)
    assert ("proposal=Failing" in str(caught.value)) == (not isinstance(error, InputError))


def test_rounds_have_seeds_of_their_own_and_the_first_the_trials(seed_run):
    seeds = [seed_run.round_seed(number) for number in range(5)]
    assert seeds[0] == seed_run.seed
    assert len(set(seeds)) == 5


def test_one_shot_rejection_beside_rounds_has_a_directory_and_no_rounds(seed_run):
    alone = seed_run.one_shot()
    assert alone.config.own_arm == "one_shot"
    assert alone.store.root == f"{seed_run.store.root}/one_shot"
    assert (alone.seed, alone.inputs) == (seed_run.seed, seed_run.inputs)
    assert seed_run.config.own_arm == "adaptive"
    assert alone._in_memory is not seed_run._in_memory


@pytest.mark.parametrize(("of_the_rounds", "pilot"), [(4_000, 4_000), (400, 2_000)])
def test_one_shot_rejection_beside_rounds_has_their_budget(of_the_rounds, pilot, tmp_path):
    """The last round's acceptance is of another proposal, and would keep nearly all of this one's."""
    envelope = {"kind": "budget", "acceptance": 0.5, "num_pilot": 2_000}
    section = {"num_rounds": 3, "acceptance": 0.05, "num_pilot": of_the_rounds}
    seed_run = trial_in(tmp_path, envelope=envelope, rounds=section)
    alone = seed_run.one_shot().config
    assert (alone.envelope.kind, alone.envelope.acceptance, alone.envelope.num_pilot) == ("budget", 0.05, pilot)
    assert seed_run.config.envelope.acceptance == 0.5
    exact = {"kind": "fixed", "log_m": 2.0}
    assert trial_in(tmp_path, envelope=exact, rounds=section).one_shot().config.envelope.kind == "fixed"
    without = trial_in(tmp_path, envelope=envelope, rounds={**section, "num_rounds": 1}).one_shot().config
    assert without.envelope.acceptance == 0.5


# The record


def entry(number, last=False, mark="f"):
    return {"round": number, "last": last, "fingerprint": mark, "trust": []}


def test_an_entry_takes_its_place_and_later_ones_go(tmp_path):
    store = RunStore(tmp_path)
    report_json.begin(store, seed=0)
    for number in range(3):
        report_json.add_round(store, entry(number, last=number == 2, mark=f"f{number}"))
    assert [one["round"] for one in report_json.read(store)["rounds"]] == [0, 1, 2]
    assert report_json.last_round(store)["round"] == 2
    assert report_json.has_round(store, "f1")
    report_json.add_round(store, entry(1, mark="other"))
    assert [one["fingerprint"] for one in report_json.read(store)["rounds"]] == ["f0", "other"]
    assert not report_json.has_round(store, "f1")
    assert not report_json.has_round(store, "f2")


@pytest.mark.parametrize("entries", [[], [entry(0)], [entry(0), entry(1)]])
def test_a_run_whose_last_round_is_missing_has_no_rows_to_train_on(entries, tmp_path):
    store = RunStore(tmp_path)
    report_json.begin(store, seed=0)
    for one in entries:
        report_json.add_round(store, one)
    with pytest.raises(InputError, match=r"run=.*has no accepted rows to train on; sample them first: rsf sample"):
        report_json.last_round(store)
    with pytest.raises(InputError, match="no accepted rows"):
        rounds.last_rows(SimpleNamespace(store=store))
    with pytest.raises(InputError, match=r"run=.*has no accepted rows to report on; run it again") as caught:
        report_json.merge([store], [""])
    assert str(tmp_path) in str(caught.value)


def two_trials(folder, second_is_done=True, evaluations=(None, None)):
    stores = [RunStore(folder / name) for name in ("000", "001")]
    for seed, (store, evaluation) in enumerate(zip(stores, evaluations, strict=True)):
        report_json.begin(store, seed)
        report_json.add_round(store, entry(0, mark=f"f{seed}"))
        report_json.add_round(store, entry(1, last=second_is_done or seed == 0))
        report_json.add(store, evaluation=evaluation)
    return stores


def test_the_trial_whose_last_round_is_missing_is_named(tmp_path):
    stores = two_trials(tmp_path, second_is_done=False)
    with pytest.raises(InputError, match="has no accepted rows to report on") as caught:
        report_json.merge(stores, ["000", "001"])
    assert caught.value.value == stores[1].uri


def test_records_of_two_seeds_are_merged(tmp_path):
    """Means of two seeds: random .6, adaptive .8, oracle .9, hence (.8 - .6)/(.9 - .6) of the gap."""
    values = [{"random": 0.5, "adaptive": 0.7, "oracle": 0.9}, {"random": 0.7, "adaptive": 0.9, "oracle": 0.9}]
    evaluations = [
        {
            "metric": "accuracy",
            "arms": {arm: [value] for arm, value in one.items()},
            "source": {arm: [value / 2] for arm, value in one.items()},
            "gap_closed": {},
            "own_arm": "adaptive",
        }
        for one in values
    ]
    merged = report_json.merge(two_trials(tmp_path, evaluations=evaluations), ["a", "b"])
    assert (merged["seeds"], merged["trials"]) == ([0, 1], ["a", "b"])
    assert [one["fingerprint"] for one in merged["rounds"]] == ["f0", "f"]
    assert merged["evaluation"]["arms"] == {"random": [0.5, 0.7], "adaptive": [0.7, 0.9], "oracle": [0.9, 0.9]}
    assert merged["evaluation"]["source"]["oracle"] == [0.45, 0.45]
    assert merged["evaluation"]["gap_closed"] == pytest.approx({"adaptive": 2 / 3})


def test_trials_that_were_only_sampled_have_nothing_to_compare(tmp_path):
    assert report_json.merge(two_trials(tmp_path), ["a", "b"])["evaluation"] is None


def test_the_red_checks_of_each_trials_last_round_are_merged(tmp_path):
    stores = two_trials(tmp_path)
    lights = (("red", "red"), ("green", "red"))
    for store, (one, other) in zip(stores, lights, strict=True):
        trust = [{"name": "bias", "light": one}, {"name": "tail", "light": other}, {"name": "rows", "light": "amber"}]
        report_json.add_round(store, entry(0) | {"trust": [{"name": "before", "light": "red"}]})
        report_json.add_round(store, entry(1, last=True) | {"trust": trust})
    assert report_json.merge(stores, ["a", "b"])["red"] == [["bias", "tail"], ["tail"]]
    assert report_json.merge(stores[1:], ["b"])["red"] == [["tail"]]


def test_the_line_of_the_card_says_whose_it_is(three):
    _, report = three
    assert "on the cards of the others" not in format_report(report)
    told = format_report(report | {"seeds": [5, 6, 7], "red": [["bias"], [], ["bias", "tail"]]})
    assert "that is of seed 5; red on the cards of the others: seed 6: none; seed 7: bias, tail" in told


# A round's entry, its line and its page


def test_what_rows_are_made_of_in_quantiles(seed_run):
    """Of 0, .01, … 1: the 5, 25, 50, 75 and 95 % quantiles are these numbers themselves."""
    values = torch.arange(101) / 100
    rows = {
        "image": torch.zeros(101, 1, 8, 8, dtype=torch.uint8), "label": torch.zeros(101, dtype=torch.int64),
        "latent": torch.zeros(101, 3), "turn": values, "log_ratio": values, "index": torch.arange(101),
        "accept_key": torch.full((101,), 2.0, dtype=torch.float64),
    }  # fmt: skip

    class Turned:
        def sample(self, n, rng):
            made = {name: rows[name][torch.arange(n) % 101] for name in ("image", "label", "latent")}
            return made | {"turn": torch.full((n,), 3.0)}

    report = tell(seed_run, 0, last=True).report
    stored(seed_run.store, 4, rows, replace(report, num_accepted=101))
    told = sample_images.save_round(seed_run.store, 4, Turned(), seed=0)
    assert told["parameters"].keys() == {"turn"}
    assert told["parameters"]["turn"]["accepted"] == pytest.approx([0.05, 0.25, 0.5, 0.75, 0.95])
    assert told["parameters"]["turn"]["proposed"] == [3.0] * 5
    assert sample_images.load(seed_run.store, sample_images.round_samples(4))["accepted"].shape == (12, 1, 8, 8)


def test_a_rounds_line(seed_run):
    accepted = tell(seed_run, 0, last=False)
    tell(seed_run, 1, last=True)
    first, second = seed_run.progress.lines
    count = accepted.report.num_accepted
    assert first.startswith(f"round 0: accepted {count} of 1,500 proposals (")
    assert "log M 1.500" in first
    assert "held-out AUC of the ratio 0." in first
    assert second.startswith("round 1: accepted ")
    alone = report_json.last_round(seed_run.store) | {"round": 0}
    assert report_json.format_round(alone).startswith("accepted ")  # the only one


def test_a_round_tells_of_an_estimated_mix_and_its_effective_classes(seed_run):
    keep_mix(seed_run, 1)
    tell(seed_run, 0, last=False)
    tell(seed_run, 1, last=True)
    first, last = report_json.read(seed_run.store)["rounds"]
    assert first["class_prior"] is None
    effective = {"effective_classes": pytest.approx(2.8, abs=0.01)}
    assert last["class_prior"] == ESTIMATE.to_json() | effective


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with the record of three rounds."""
    seed_run = trial_in(tmp_path_factory.mktemp("three"), rounds=3)
    keep_mix(seed_run, 2)
    for number in range(3):
        tell(seed_run, number, last=number == 2, distance=0.9 - 0.4 * number)
    return seed_run.store.root


@pytest.fixture
def three(drawn, tmp_path):
    """A copy of that folder, and the merged record."""
    folder = tmp_path / "three"
    shutil.copytree(drawn, folder)
    return folder, report_json.merge([RunStore(folder)], [""])


def page_of(folder, report):
    write_html(RunStore(folder), RunStore(folder), report)
    return (folder / "report.html").read_text()


def pictures(folder):
    for picture in folder.glob("figures/*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    return {picture.stem for picture in folder.glob("figures/*.png")}


def test_the_page_of_three_rounds(three):
    folder, report = three
    page = page_of(folder, report)
    assert {"movement", "rounds"} <= pictures(folder)
    assert "<h2>Rounds</h2>" in page
    for told in report["rounds"]:
        name = f"{told['round']}, the last" if told["last"] else f"{told['round']}"
        assert f"<tr><td>{name}</td><td>1,500</td>" in page
        assert f"<td>{told['ratio']['auc']:.3f}</td>" in page
        assert f"<td>{100 * told['sampling']['ess_fraction']:.1f} %</td>" in page
    assert "How the proposal moved" in page
    assert "one row a round" in page
    assert "share of the target, by em" in page
    assert "<td>0.500</td><td>0.400 to 0.600</td>" in page


def test_the_page_tells_of_an_estimate_that_was_not_followed(three):
    folder, report = three
    assert "stays as configured" not in page_of(folder, report)
    report["rounds"][-1]["class_mix_kept"] = "the estimate collapsed"
    assert "The mix of classes stays as configured: the estimate collapsed." in page_of(folder, report)


def test_the_lines_of_three_rounds(three):
    lines = format_report(three[1]).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["round 0", "round 1", "round 2", "trust"]


def test_the_page_of_one_round_has_no_table_of_rounds(tmp_path):
    seed_run = trial_in(tmp_path)
    tell(seed_run, 0, last=True)
    page = page_of(tmp_path, report_json.merge([seed_run.store], [""]))
    assert "<h2>Rounds</h2>" not in page
    assert not {"movement", "rounds"} & pictures(tmp_path)


def test_rounds_of_rows_that_are_made_of_no_numbers(three):
    folder, report = three
    for told in report["rounds"]:
        told["parameters"] = {}
        told["ratio"] = {"kind": "VerifierRatio", "log_bound": 0.0}
        told["class_prior"] = None
    page = page_of(folder, report)
    assert "<h2>Rounds</h2>" in page
    assert "How the proposal moved" not in page
    assert "rounds" in pictures(folder)
    assert "movement" not in pictures(folder)


def test_images_of_a_round_that_were_lost_are_a_row_less(three):
    folder, report = three
    (folder / "figures" / "round-001.npz").write_bytes(b"cut")
    page_of(folder, report)
    fewer = (folder / "figures" / "rounds.png").read_bytes()
    (folder / "figures" / "round-000.npz").unlink()
    page_of(folder, report)
    assert len((folder / "figures" / "rounds.png").read_bytes()) < len(fewer)


# rsf run --strict


@pytest.mark.parametrize("command", ["run", "sample", "compare"])
@pytest.mark.parametrize(
    ("found", "options", "red"),
    [
        ([["check 1", "check 2"]], ["--strict"], "the trust card is red: check 1, check 2; see "),
        ([[], ["check 2"], ["check 1", "check 2"]], ["--strict"], "the trust card is red: check 1, check 2; see "),
        ([["check 1", "check 2"]], [], None),
        ([[], []], ["--strict"], None),
    ],
)
def test_strict_refuses_what_is_red_in_any_trial(command, found, options, red, three, tmp_path, monkeypatch, capsys):
    folder, report = three
    report |= {"red": found, "seeds": list(range(len(found)))}
    result = RunResult(RunStore(folder), report)
    for name in ("run", "sample"):
        monkeypatch.setattr(pipeline, name, lambda *_, **__: result)
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(CONFIG | {"evaluation": {"test": {"kind": "digits"}}}))
    monkeypatch.setattr(sys, "argv", ["rsf", command, str(path), *options])
    if red is None:
        cli.app(standalone_mode=False)
    else:
        with pytest.raises(StatisticalRefusal, match=red) as caught:
            cli.app(standalone_mode=False)
        assert caught.value.exit_code == 3
    assert "round 2: accepted" in capsys.readouterr().out  # what was made is shown all the same
