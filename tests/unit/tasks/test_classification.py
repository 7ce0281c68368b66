import math

import pytest
import torch
from torch import nn

from rsf_dist.config.model import ModelConfig
from rsf_dist.config.ratio import ClassifierRatioConfig, RatioNetworkConfig
from rsf_dist.errors import InputError
from rsf_dist.tasks import ClassificationTask
from rsf_dist.tasks.discrimination import DiscriminationTask


class Says(nn.Module):
    """Gives the logits it was told."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images):
        return self.logits


def batch(labels):
    return {"image": torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), "label": torch.tensor(labels)}


def classification(**options):
    return ClassificationTask(("a", "b"), ModelConfig(width=4), channels=1, **options)


def test_classification_loss_is_one_number_a_row():
    # logits 0, 0: log 2 whatever the label; logits 0, log 3: probabilities 1/4, 3/4
    loss = classification().loss(Says([[0.0, 0.0], [0.0, math.log(3)], [0.0, math.log(3)]]), batch([1, 0, 1]))
    assert loss.tolist() == pytest.approx([math.log(2), math.log(4), math.log(4 / 3)])


@pytest.mark.parametrize("label", [2, -1])
def test_label_outside_of_the_classes(label):
    with pytest.raises(InputError, match=rf"label={label}: must lie in \[0, 2\), the classes \['a', 'b'\]"):
        classification().loss(Says([[0.0, 0.0]] * 2), batch([1, label]))


def test_classification_metrics_merge_over_batches():
    # 1 of 1 right, then 1 of 3: accuracy 2/4, not the mean of 1 and 1/3
    task = classification()
    metrics = task.metrics()
    task.update(metrics, Says([[1.0, 0.0]]), batch([0]))
    task.update(metrics, Says([[1.0, 0.0]] * 3), batch([0, 1, 1]))
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.e)
    found = metrics.compute()
    assert found["accuracy"].item() == pytest.approx(0.5)
    assert found["loss"].item() == pytest.approx((2 * right + 2 * wrong) / 4)
    assert task.metric in found


def test_classification_save_and_load(tmp_path):
    task = classification()
    model = task.build_model(seed=1)
    task.save(model, tmp_path)
    images = batch([0, 1])["image"]
    assert torch.equal(task.load(tmp_path)(images), model.eval()(images))
    assert task.spec.classes == ("a", "b")


def test_discrimination_loss_and_metrics():
    # logit log 3: D = 3/4, so -log(3/4) for a target row and -log(1/4) for a proposal
    task = DiscriminationTask(ClassifierRatioConfig(network=RatioNetworkConfig(width=4)), channels=1)
    rows, model = batch([1, 0]), Says([[math.log(3)], [math.log(3)]])
    assert task.loss(model, rows).tolist() == pytest.approx([math.log(4 / 3), math.log(4)])
    metrics = task.metrics()
    task.update(metrics, model, rows)
    assert metrics.compute()["accuracy"].item() == pytest.approx(0.5)
    assert metrics.compute()["loss"].item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


@pytest.mark.parametrize("frozen", [True, False])
def test_discrimination_freezes_the_backbone_on_demand(frozen):
    config = ClassifierRatioConfig(network=RatioNetworkConfig(width=4), freeze_backbone=frozen)
    model = DiscriminationTask(config, channels=1).build_model(seed=0)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert model(batch([0, 1])["image"]).shape == (2, 1)
    assert (trainable == ["network.13.weight", "network.13.bias"]) == frozen
