import math

import pytest
import torch
from torch import nn

from rsf_dist.config.model import OptimizerConfig
from rsf_dist.errors import StatisticalRefusal, located
from rsf_dist.models.optimization import descend, optimizer_and_schedule


def rates(**options):
    config = OptimizerConfig(learning_rate=1.0, **options)
    optimizer, schedule = optimizer_and_schedule(nn.Linear(2, 1), config)
    used = []
    for _ in range(config.steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return used, schedule.get_last_lr()[0]


def test_warm_up_then_cosine_to_zero():
    # 10 steps, 2 of them warm-up: 1/3, 2/3, then (1 + cos(pi t/8))/2 for t = 0..7, and 0 once all are done
    used, end = rates(steps=10, warmup_fraction=0.2)
    cosine = [(1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)]
    assert used == pytest.approx([1 / 3, 2 / 3, *cosine])
    assert end == pytest.approx(0, abs=1e-12)


def test_without_warm_up():
    # 4 steps: (1 + cos(pi t/4))/2 = 1, .854, .5, .146
    used, end = rates(steps=4, warmup_fraction=0.0)
    assert used == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert end == pytest.approx(0, abs=1e-12)


def test_one_step_is_taken_at_the_full_rate():
    assert rates(steps=1, warmup_fraction=1.0)[0] == [1.0]


def test_all_warm_up_still_reaches_the_full_rate():
    # 4 steps: at most 3 of warm-up, 1/4, 2/4, 3/4, then 1
    assert rates(steps=4, warmup_fraction=1.0)[0] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_only_trainable_parameters_are_optimised():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    optimizer, _ = optimizer_and_schedule(model, OptimizerConfig(learning_rate=0.1, weight_decay=0.3))
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model[1].parameters()]
    assert optimizer.param_groups[0]["weight_decay"] == 0.3
    assert isinstance(optimizer, torch.optim.AdamW)


def test_descend_finds_a_minimum_and_leaves_the_model_ready_for_use():
    model = nn.Linear(1, 1, bias=False)
    modes = []

    def next_loss():
        modes.append(model.training)
        return (model.weight - 3).square().sum()

    descend(model, OptimizerConfig(steps=200, learning_rate=0.2, weight_decay=0.0), next_loss)
    assert model.weight.item() == pytest.approx(3, abs=1e-2)
    assert modes == [True] * 200
    assert not model.training


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_descend_refuses_a_loss_that_is_not_finite(loss):
    with (
        pytest.raises(StatisticalRefusal, match=r"the loss is not finite; lower pretrain\.learning_rate"),
        located("pretrain"),
    ):
        descend(nn.Linear(1, 1), OptimizerConfig(), lambda: torch.tensor(loss))


def test_plain_sgd_at_a_constant_rate_by_hand():
    # loss w^2 from w = 1 at rate 1/4: w <- w - 2w/4 = w/2, so 1/8 after three steps, whatever the warm-up's length
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    config = OptimizerConfig(algorithm="sgd", schedule="constant", steps=3, learning_rate=0.25, weight_decay=0.0)
    descend(model, config, lambda: model.weight.square().sum())
    assert model.weight.item() == pytest.approx(1 / 8)


def test_constant_rate():
    assert rates(steps=5, schedule="constant", warmup_fraction=0.4) == ([1.0] * 5, 1.0)
