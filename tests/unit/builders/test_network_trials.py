"""Networks that cannot take the images, or cannot be trained on the run's batches, are refused before the run."""

import re
import sys
from pathlib import Path

import pytest
import torch

from rsf_dist.builders.inputs import Inputs, load_inputs
from rsf_dist.builders.preflight import preflight
from rsf_dist.config.load import parse_config
from rsf_dist.config.run import RunConfig
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.runtime import user_code

MODULE = """
import torch
from torch import nn
from rsf_dist.tasks import ClassificationTask


class Own(ClassificationTask):
    pass


def task(classes, model, channels):
    return Own(classes, model, channels)


def normed(num_outputs, channels):
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*pooled, nn.BatchNorm1d(channels), nn.Linear(channels, num_outputs))


def plain(num_outputs, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, num_outputs))


class OnlyPairs(nn.Linear):
    def forward(self, x):
        if self.training and len(x) < 2:
            raise ValueError("give me two")
        return super().forward(x.flatten(1))


def pairs(num_outputs, channels):
    return OnlyPairs(channels * 64, num_outputs)


def fixed(num_outputs, channels):
    return plain(num_outputs, channels).requires_grad_(False)


def breaks_in_training(num_outputs, channels):
    network = plain(num_outputs, channels)
    network.register_forward_hook(lambda module, _, out: (out, out) if module.training else out)
    return network


def of_28(num_outputs, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 784, num_outputs))
"""
NORMED, PLAIN, PAIRS, OF_28 = ({"name": f"my_trials:{name}"} for name in ("normed", "plain", "pairs", "of_28"))
OWN_TASK = {"kind": "custom", "factory": "my_trials:task"}
RESNET = {"name": "resnet18", "input_size": [32, 32]}
PRIOR = {"kind": "label_shift", "target_prior": [0.1, 0.9]}
MINIMAL = {
    "output": "runs/one",
    "source": {"kind": "digits"},
    "target": {"kind": "digits"},
    "sampling": {"num_accepted": 100},
    "ratio": PRIOR,
    "model": NORMED,
}
TWO_ON_TWO = {"batch_size": 2, "num_workers": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_trials.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    user_code.allow_folder(tmp_path)
    yield
    sys.modules.pop("my_trials", None)


def images(size: int = 8, channels: int = 1) -> Inputs:
    pixels = torch.randint(256, (40, channels, size, size), dtype=torch.uint8)
    return Inputs(ImageSet(pixels, torch.arange(40) % 2, ("a", "b")), ImageSet(pixels), None, None, None)


def having(**sections: object) -> RunConfig:
    return parse_config(MINIMAL | sections)


def refused(config: RunConfig, inputs: Inputs | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        preflight(config, inputs or images())
    assert "\n" not in str(caught.value)
    return caught.value


def rows(batch_size: int) -> dict:
    return {"optimizer": {"batch_size": batch_size}}


def rounds(batch_size: int, **more: object) -> dict:
    turned = {"parameters": {"rotation": {"uniform": [-1, 1]}}}
    return {"rounds": {"num_rounds": 2, "class_prior": {**rows(batch_size), **more}}, "ratio": {}, "proposal": turned}


@pytest.mark.parametrize(
    ("sections", "field", "least"),
    [
        ({"training": {"batch_size": 1}}, "training.batch_size", 2),
        ({"training": TWO_ON_TWO}, "training.batch_size", 4),
        ({"training": {"batch_size": 1}, "model": PAIRS}, "training.batch_size", 2),
        ({"training": {"batch_size": 1}, "task": OWN_TASK}, "training.batch_size", 2),
        ({"training": {"batch_size": 1}, "model": RESNET}, "training.batch_size", 2),
        ({"pretrain": {"batch_size": 1}}, "pretrain.batch_size", 2),
        ({"ratio": {"network": NORMED, "num_workers": 2, **rows(2)}}, "ratio.optimizer.batch_size", 4),
        ({"ratio": {"kind": "label_shift", "network": NORMED, **rows(1)}}, "ratio.optimizer.batch_size", 2),
        (
            {"ratio": {"kind": "product", "factors": [PRIOR, {"network": NORMED, "num_workers": 1, **rows(1)}]}},
            "ratio.factors.1.optimizer.batch_size",
            2,
        ),
        (rounds(1), "rounds.class_prior.optimizer.batch_size", 2),
        (rounds(1, network=NORMED) | {"model": PLAIN}, "rounds.class_prior.optimizer.batch_size", 2),
    ],
)
def test_one_row_a_worker_is_refused_where_a_step_on_it_fails(sections: dict, field: str, least: int) -> None:
    err = refused(having(**sections))
    assert err.field == field
    assert re.match(r"leaves each worker one row a step, .* \((Expected more than 1 value|give me two)", err.rule)
    assert err.remedy == f"raise it to {least} or more"


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"batch_size": 1}, "model": PLAIN},
        {"training": {"batch_size": 2}},
        {"training": {"batch_size": 4, "num_workers": 2}},
        {"training": TWO_ON_TWO, "model": PLAIN},
        {"training": {"batch_size": 1}, "model": {"width": 4}},  # batch norm over the pixels of one image
        {"pretrain": {"batch_size": 1}, "model": PLAIN},
        {"pretrain": {"batch_size": 2}},
        {"ratio": {"network": NORMED, **rows(1)}},  # one row of each side in one task
        {"ratio": {"network": NORMED, "num_workers": 1, "freeze_backbone": True, **rows(1)}},
        rounds(1) | {"model": PLAIN},
        {"rounds": {"class_prior": rows(1)}},  # one round: there is no class prior to move
    ],
)
def test_one_row_a_worker_is_taken_where_a_step_on_it_works(sections: dict) -> None:
    preflight(having(**sections), images())


def test_the_trial_leaves_the_global_generator_alone() -> None:
    config, inputs = having(model={"width": 4, "dropout": 0.5}, training={"batch_size": 1}), images()
    torch.manual_seed(1)
    undisturbed = torch.rand(2)
    torch.manual_seed(1)
    preflight(config, inputs)
    assert torch.equal(torch.rand(2), undisturbed)


BREAKS, FIXED = {"name": "my_trials:breaks_in_training"}, {"name": "my_trials:fixed"}


@pytest.mark.parametrize(
    ("sections", "field", "rule"),
    [
        ({"model": BREAKS}, "model", "fails on a first batch (TypeError"),
        ({"ratio": {"network": BREAKS}}, "ratio.network", "gives a tuple in training mode"),
        ({"ratio": {"kind": "label_shift", "network": BREAKS}}, "ratio.network", "gives a tuple in training mode"),
        ({"model": FIXED}, "model", "has no parameter that can be trained"),
        ({"ratio": {"network": FIXED}}, "ratio.network", "has no parameter that can be trained"),
    ],
)
def test_a_network_that_fails_in_training_alone(sections: dict, field: str, rule: str) -> None:
    err = refused(having(**sections))
    assert err.field == field
    assert err.rule.startswith(rule)


@pytest.mark.parametrize(
    "sections",
    [{"ratio": {"network": FIXED, "freeze_backbone": True}}, {"evaluation": {"feature_network": BREAKS}}],
)
def test_a_network_that_is_not_trained_need_not_be_trainable(sections: dict) -> None:
    preflight(having(**sections), images())


@pytest.mark.parametrize(
    ("sections", "field", "advice"),
    [
        ({"model": {"name": "alexnet"}}, "model.input_size", "64, 64"),
        ({"model": OF_28}, "model.input_size", "28, 28"),
        ({"ratio": {"network": OF_28}}, "ratio.network.input_size", "28, 28"),
        ({"evaluation": {"feature_network": OF_28}}, "evaluation.feature_network.input_size", "28, 28"),
    ],
)
def test_images_of_a_size_that_the_network_does_not_take(sections: dict, field: str, advice: str) -> None:
    err = refused(having(**sections), images(12))
    assert (err.field, err.value) == (field, "null")
    assert "does not take images of 12 x 12 pixels" in err.rule
    assert err.remedy == f"resize them: [{advice}] passes"


def test_the_advice_on_the_size_works() -> None:
    preflight(having(model={"name": "my_trials:of_28", "input_size": [28, 28]}), images(12))


def test_a_size_that_was_set_is_told_as_it_was_set() -> None:
    err = refused(having(model={"name": "my_trials:of_28", "input_size": [20, 10]}), images(12))
    assert (err.field, err.value) == ("model.input_size", [20, 10])
    assert "does not take images of 20 x 10 pixels" in err.rule


def test_a_failure_of_another_reason_is_not_told_as_one_of_the_size() -> None:
    err = refused(having(model={"name": "mlp"}))
    assert (err.field, err.rule.startswith("fails on a first batch")) == ("model", True)


@pytest.mark.parametrize(("given", "named"), [({}, "cat"), ({"data": {"classes": ["cat", "dog"]}}, None)])
def test_a_source_of_one_class_is_refused_unless_more_are_named(given: dict, named: str | None, tmp_path: Path) -> None:
    from PIL import Image

    for number in range(30):
        (tmp_path / "images/cat").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(tmp_path / f"images/cat/{number}.png")
    folder = {"kind": "image_folder", "root": str(tmp_path / "images"), "channels": 1}
    config = having(source=folder, target=folder, **given)
    if named is None:
        assert load_inputs(config).source.classes == ("cat", "dog")
        return
    with pytest.raises(
        InputError, match=r"^source=cat: is the only class, and a classifier needs two; .*data\.classes"
    ):
        load_inputs(config)
