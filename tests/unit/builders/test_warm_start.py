"""A learned ratio goes on from the one of the round before."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from seed_runs import broad

from rsf_dist.builders import classifier_fit
from rsf_dist.builders.context import RatioContext, WarmStart
from rsf_dist.config.model import ModelConfig
from rsf_dist.config.ratio import ClassifierRatioConfig, RatioNetworkConfig, RatioOptimizerConfig
from rsf_dist.models.spec import NetworkSpec
from rsf_dist.ratios import ClassifierRatio, ConstantRatio, ProductRatio
from rsf_dist.ratios.classifier import split_samples


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

    def run_in_task(function, config, target, proposal, seed, initial, split_seed, **share):
        assert function is classifier_fit._fit
        calls.append(SimpleNamespace(steps=config.optimizer.steps, initial=initial, seeds=(seed, split_seed)))

    monkeypatch.setattr(classifier_fit, "run_in_task", run_in_task)
    monkeypatch.setattr(classifier_fit, "check_ratio", lambda config: None)
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
