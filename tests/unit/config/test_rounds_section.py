"""What the configuration says of rounds and of arms: short forms, what goes together, and what a run goes on with."""

import contextlib
import copy
import json
import sys
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
import yaml

from rsf_dist import cli
from rsf_dist.config.class_prior import ClassPriorConfig
from rsf_dist.config.evaluation import Arm
from rsf_dist.config.load import dump_config, parse_config, parse_text
from rsf_dist.config.resume import differences
from rsf_dist.config.rounds import RoundsConfig
from rsf_dist.config.run import comparable_arms
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.report.arm_texts import ARMS
from rsf_dist.runs import pipeline, preparation
from rsf_dist.runs.arms import training_bytes
from rsf_dist.storage.run_store import RunStore

MINIMAL = {
    "output": "runs/one",
    "source": {"kind": "digits"},
    "target": {"kind": "digits"},
    "proposal": {"parameters": {"rotation": {"uniform": [-1, 1]}}},
    "sampling": {"num_accepted": 100},
}
IMAGES = {"kind": "digits"}


def having(**sections):
    return parse_config(MINIMAL | copy.deepcopy(sections))


def refused(rule, **sections):
    with pytest.raises(InputError) as caught:
        having(**sections)
    assert "\n" not in str(caught.value)
    assert rule in str(caught.value)
    return caught.value.field


# rounds


def test_without_rounds_it_is_one_shot_rejection():
    config = having()
    assert config.rounds == RoundsConfig()
    assert config.rounds.num_rounds == 1
    assert config.own_arm == "one_shot"


def test_a_number_stands_for_so_many_rounds():
    short, long = having(rounds=3), having(rounds={"num_rounds": 3})
    assert short.rounds == long.rounds == RoundsConfig(num_rounds=3)
    assert short.own_arm == "adaptive"
    assert having(rounds=1).own_arm == "one_shot"
    assert parse_text(json.dumps(MINIMAL), ["rounds=4"]).rounds.num_rounds == 4
    assert parse_text(json.dumps(MINIMAL), ["rounds.num_rounds=4"]).rounds.num_rounds == 4


def test_a_number_given_on_the_command_line_leaves_the_rest_of_the_section():
    text = json.dumps(MINIMAL | {"rounds": {"num_rounds": 3, "num_accepted": 77, "class_prior": None}})
    assert parse_text(text, ["rounds=5"]).rounds == RoundsConfig(num_rounds=5, num_accepted=77, class_prior=None)
    assert parse_text(text, ["rounds={num_rounds: 5}"]).rounds == RoundsConfig(num_rounds=5)
    assert parse_text(json.dumps(MINIMAL | {"rounds": 3}), ["rounds=5"]).rounds == RoundsConfig(num_rounds=5)
    with pytest.raises(InputError, match="rounds"):
        parse_text(text, ["rounds=true"])


def test_by_default_all_rounds_are_run_and_mixes_of_nearly_one_class_are_not_believed():
    assert RoundsConfig().min_auc_gain is None
    assert ClassPriorConfig().min_effective_classes == 1.2
    assert having(rounds={"min_auc_gain": None}).rounds.min_auc_gain is None


def test_the_section():
    given = {
        "num_rounds": 5, "num_accepted": 99, "acceptance": 0.1, "num_pilot": 200, "min_auc_gain": 0,
        "warm_start_steps": None, "max_components": 7, "defensive_share": 0.3,
        "class_prior": {"method": "bbse", "network": {"width": 4}, "smoothing": 0.2, "min_effective_classes": 1},
    }  # fmt: skip
    rounds = having(rounds=given).rounds
    assert rounds.model_dump(include=given.keys() - {"class_prior"}) == {
        key: value for key, value in given.items() if key != "class_prior"
    }
    prior = rounds.class_prior
    assert (prior.method, prior.network.width, prior.smoothing, prior.min_effective_classes) == ("bbse", 4, 0.2, 1.0)
    assert prior.optimizer == ClassPriorConfig().optimizer
    assert having(rounds={"num_rounds": 3, "class_prior": None}).rounds.class_prior is None


@pytest.mark.parametrize(
    ("rounds", "field"),
    [
        (0, "rounds.num_rounds"),
        (1_001, "rounds.num_rounds"),
        (True, "rounds"),
        (2.0, "rounds"),
        ("3", "rounds"),
        ({"num_round": 3}, "rounds.num_round"),
        ({"warm_start_steps": 0}, "rounds.warm_start_steps"),
        ({"min_auc_gain": 0.5}, "rounds.min_auc_gain"),
        ({"defensive_share": 0}, "rounds.defensive_share"),
        ({"defensive_share": 1}, "rounds.defensive_share"),
        ({"class_prior": {"smoothing": 0}}, "rounds.class_prior.smoothing"),
        ({"class_prior": {"min_effective_classes": 0.9}}, "rounds.class_prior.min_effective_classes"),
        ({"class_prior": {"num_proposals": 49}}, "rounds.class_prior.num_proposals"),
        ({"class_prior": {"network": {"widht": 4}}}, "rounds.class_prior.network.widht"),
    ],
)
def test_what_is_no_section_of_rounds(rounds, field):
    assert refused("", rounds=rounds).startswith(field)


def test_a_pilot_must_have_twenty_rows_to_accept():
    # .01 of 2,000
    assert having(rounds={"num_rounds": 3, "acceptance": 0.01, "num_pilot": 2_000}).rounds.num_pilot == 2_000
    refused("num_pilot must be at least 2000: 20 accepted pilot rows", rounds={"acceptance": 0.01, "num_pilot": 1_999})


@pytest.mark.parametrize("rounds", [{}, {"rounds": 5}, {"rounds": {"num_rounds": 2, "class_prior": None}}])
def test_a_resolved_configuration_reads_back(rounds):
    config = having(
        **rounds,
        evaluation={"test": IMAGES, "oracle": IMAGES, "arms": ["oracle", "weighted", "pseudo_labels", "one_shot"]},
    )
    text = dump_config(config)
    assert "num_rounds" in text
    assert "pseudo_label_confidence" in text
    assert parse_text(text) == config
    assert dump_config(parse_text(text)) == text


@pytest.mark.parametrize(
    ("rounds", "told"),
    [
        (3, "rounds.num_rounds=3 (was 1)"),
        ({"min_auc_gain": 0.01}, "rounds.min_auc_gain=0.01 (was None)"),
        ({"num_accepted": 9}, "rounds.num_accepted=9 (was "),
        ({"defensive_share": 0.2}, "rounds.defensive_share=0.2 (was 0.1)"),
        ({"warm_start_steps": None}, "rounds.warm_start_steps=None (was "),
        ({"class_prior": {"smoothing": 0.2}}, "rounds.class_prior.smoothing=0.2 (was 0.05)"),
        ({"class_prior": None}, "rounds.class_prior.method=(absent) (was em)"),
    ],
)
def test_a_run_does_not_go_on_with_other_rounds(rounds, told, tmp_path):
    before, now = having(output=str(tmp_path)), having(output=str(tmp_path), rounds=rounds)
    assert any(line.startswith(told) for line in differences(before, now))
    store = RunStore(tmp_path)
    pipeline.require_same(store, now)  # nothing is there yet
    store.write("config.yaml", dump_config(before))
    pipeline.require_same(store, before)
    with pytest.raises(InputError, match=r"holds another run: .*rounds") as caught:
        pipeline.require_same(store, now)
    assert told in str(caught.value)


def test_a_configuration_that_does_not_fit_is_refused_in_one_line(tmp_path):
    config, store = having(output=str(tmp_path), rounds=3), RunStore(tmp_path)
    written = yaml.safe_load(dump_config(config))
    written["rounds"]["fine_tuned_features"] = False
    store.write("config.yaml", yaml.safe_dump(written, sort_keys=False))
    told = (
        r"output=.*: its config.yaml does not fit this version of rsf_dist \(rounds.fine_tuned_features=False: this key"
    )
    for use in (lambda: pipeline.require_same(store, config), lambda: pipeline.rebuild_report(str(tmp_path))):
        with pytest.raises(InputError, match=told) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_run_goes_on_where_its_class_prior_waits_longer_for_a_cluster():
    waits = having(rounds={"class_prior": {"wait_seconds": 60}})
    assert waits != having()
    assert differences(having(), waits) == []


IMAGE = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
ROW = 64 + 100  # pixels, and what goes with them


@pytest.mark.parametrize(
    ("sections", "rows"),
    [
        ({}, 100),
        ({"rounds": {"num_rounds": 3, "num_accepted": 70}}, 100 + 2 * 70),
        ({"rounds": {"num_rounds": 3, "num_accepted": 70}, "num_seeds": 2}, 2 * (100 + 2 * 70)),
    ],
)
def test_the_disk_that_is_asked_for_has_room_for_every_rounds_rows(sections, rows):
    inputs = SimpleNamespace(source=ImageSet(IMAGE, torch.zeros(1, dtype=torch.int64), ("a",)))
    assert preparation.forecast_bytes(having(**sections), inputs, training=False) == rows * ROW


def test_one_shot_rejection_beside_rounds_keeps_as_many_rows_again():
    inputs = SimpleNamespace(source=ImageSet(IMAGE, torch.zeros(1, dtype=torch.int64), ("a",)))
    forecasts = []
    for arms in (["random"], ["one_shot"]):
        config = having(rounds=2, evaluation={"test": IMAGES, "arms": arms})
        rows = preparation.forecast_bytes(config, inputs, training=True) - training_bytes(config, inputs)
        forecasts.append(rows // ROW)
    assert forecasts == [100 + RoundsConfig().num_accepted, 200 + RoundsConfig().num_accepted]


def refusing_after(number):
    """Return a check that refuses, after it has passed `number` times."""
    passes = iter(range(number))

    def check_ratio(config):
        if next(passes, None) is None:
            raise InputError("gpus", 9, "are too many", "lower it")

    return check_ratio


@pytest.mark.parametrize(
    ("sections", "asked"),
    [
        ({}, ["ratio"]),
        ({"rounds": 2}, ["ratio", "rounds.class_prior"]),
        ({"rounds": {"num_rounds": 2, "class_prior": None}}, ["ratio"]),
        ({"rounds": 2, "ratio": {"kind": "label_shift"}}, ["ratio"]),  # no class prior is estimated there
        ({"rounds": 2, "ratio": {"kind": "custom", "factory": "mine:ratio"}}, ["ratio"]),
    ],
)
def test_what_estimates_the_mix_of_classes_must_have_room_on_the_cluster(sections, asked, monkeypatch):
    for name in ("check_pool", "check_training", "require_shared"):
        monkeypatch.setattr(preparation, name, lambda *_: None)
    config = having(**sections)
    for number, place in enumerate(asked):
        monkeypatch.setattr(preparation, "check_ratio", refusing_after(number))
        with pytest.raises(InputError) as caught:
            preparation.check_cluster(config, sampling=True, training=True)
        assert caught.value.field == f"{place}.gpus"
    monkeypatch.setattr(preparation, "check_ratio", refusing_after(len(asked)))
    preparation.check_cluster(config, sampling=True, training=True)


# arms


def test_adaptive_needs_rounds():
    arms = {"test": IMAGES, "arms": ["adaptive", "random"]}
    assert refused("which needs rounds", evaluation=arms) == "config"
    assert having(evaluation=arms, rounds=2).own_arm == "adaptive"


def test_the_runs_own_arm_needs_no_mention():
    for rounds in (1, 3):
        assert having(rounds=rounds, evaluation={"arms": ["pretrained"]}).evaluation.arms == ("pretrained",)


def test_every_arm_has_a_name_and_a_colour():
    arms = list(get_args(Arm))
    assert list(ARMS) == arms  # in the order in which they are shown
    assert len({text.label for text in ARMS.values()}) == len({text.colour for text in ARMS.values()}) == len(arms)


EVERY = ["pretrained", "batch_norm", "pseudo_labels", "random", "weighted", "one_shot"]


@pytest.mark.parametrize(
    ("sections", "arms"),
    [
        ({"evaluation": {"test": IMAGES}}, EVERY),
        ({"evaluation": {"test": IMAGES}, "rounds": 3}, [*EVERY, "adaptive"]),
        (
            {"evaluation": {"test": IMAGES, "oracle": IMAGES, "arms": ["oracle"]}, "rounds": 3},
            [*EVERY, "adaptive", "oracle"],
        ),
    ],
)
def test_what_can_be_compared(sections, arms):
    config = having(**sections)
    assert comparable_arms(config) == arms
    chosen = sections["evaluation"] | {"arms": arms}
    assert having(**sections | {"evaluation": chosen}).evaluation.arms == tuple(arms)


def test_without_test_images_nothing_can_be_compared():
    with pytest.raises(InputError, match=r"evaluation\.test=None: a comparison needs labelled test images"):
        comparable_arms(having())


# rsf compare


class Reached(BaseException):
    """The command came to where it runs what it was told."""


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """`rsf compare` with these options, of a configuration with these sections: what it would run."""
    given = []

    def run(config, **_):
        given.append(config)
        raise Reached

    def compare(*options, **sections):
        path = tmp_path / "run.yaml"
        path.write_text(json.dumps(MINIMAL | sections))
        monkeypatch.setattr(sys, "argv", ["rsf", "compare", str(path), *options])
        with contextlib.suppress(Reached):
            cli.app(standalone_mode=False)
        return given[-1]

    monkeypatch.setattr(pipeline, "run", run)
    return compare


def test_compare_takes_every_arm_and_three_seeds_beside_the_run(compare):
    config = compare(evaluation={"test": IMAGES, "oracle": IMAGES, "arms": ["oracle"]}, rounds=3)
    assert config.evaluation.arms == (*EVERY, "adaptive", "oracle")
    assert config.num_seeds == 3
    assert config.output == "runs/one-compare"
    assert config.rounds.num_rounds == 3


def test_compare_takes_what_it_is_given(compare):
    options = ("training.steps=7", "--seeds", "2", "--arms", "random, one_shot", "--output", "else where/x")
    config = compare(*options, evaluation={"test": IMAGES}, rounds=3)
    assert config.evaluation.arms == ("random", "one_shot")
    assert (config.num_seeds, config.output, config.training.steps) == (2, "else where/x", 7)


def test_compare_takes_as_many_seeds_as_the_file_where_it_repeats(compare):
    evaluation = {"test": IMAGES}
    assert compare(evaluation=evaluation, num_seeds=5).num_seeds == 5
    assert compare("--seeds", "1", evaluation=evaluation, num_seeds=5).num_seeds == 1


def test_compare_leaves_out_an_oracle_that_is_not_wanted(compare):
    sections = {"evaluation": {"test": IMAGES, "oracle": IMAGES, "arms": ["oracle"]}}
    config = compare("--arms", "random", **sections)
    assert (config.evaluation.arms, config.evaluation.oracle) == (("random",), None)


def test_compare_counts_its_arms_before_it_checks_those_of_the_file(compare):
    evaluation = {"test": IMAGES, "oracle": IMAGES, "arms": ["random"]}  # alone, `rsf run` refuses this
    assert refused("go together", evaluation=evaluation) == "evaluation"
    assert compare("--arms", "random,oracle", evaluation=evaluation).evaluation.arms == ("random", "oracle")
    assert compare(evaluation=evaluation).evaluation.arms == (*EVERY, "oracle")
    config = compare("--arms", "random", evaluation=evaluation)
    assert (config.evaluation.arms, config.evaluation.oracle) == (("random",), None)


def test_compare_takes_arms_where_the_file_names_arms_that_do_not_fit(compare):
    evaluation = {"test": IMAGES, "arms": ["adaptive"]}
    assert refused("which needs rounds", evaluation=evaluation) == "config"
    assert compare("--arms", "random", evaluation=evaluation).evaluation.arms == ("random",)
    images = {"test": IMAGES, "arms": ["oracle"]}
    override = f"evaluation.oracle={json.dumps(IMAGES)}"
    assert compare(override, "--arms", "oracle", evaluation=images).evaluation.arms == ("oracle",)


@pytest.mark.parametrize("folder", ["runs/run #2", "a: b", "@x", "'q'", '"q"', "null", "runs/\U0001f600"])
def test_compare_writes_to_the_very_folder(folder, compare):
    assert compare("--output", folder, evaluation={"test": IMAGES}).output == folder


@pytest.mark.parametrize(
    ("output", "where"),
    [
        ("runs/one/", "runs/one-compare"),
        ("s3://bucket/one?endpoint_override=x", "s3://bucket/one-compare?endpoint_override=x"),
    ],
)
def test_compare_writes_beside_the_run(output, where, compare):
    assert compare(evaluation={"test": IMAGES}, output=output).output == where


@pytest.mark.parametrize(
    ("options", "sections", "words"),
    [
        ((), {}, "a comparison needs labelled test images"),
        (("--arms", "random"), {}, "a comparison needs labelled test images"),
        (("--arms", "random,two_shot"), {"evaluation": {"test": IMAGES}}, "evaluation.arms.1=two_shot"),
        (("--arms", "adaptive"), {"evaluation": {"test": IMAGES}}, "which needs rounds"),
        (("--arms", "oracle"), {"evaluation": {"test": IMAGES}}, "go together; add its images as oracle"),
        ((), {"evaluation": "all"}, "evaluation=all: must hold keys and values"),
    ],
)
def test_what_compare_refuses(options, sections, words, compare):
    with pytest.raises(InputError) as caught:
        compare(*options, **sections)
    assert words in str(caught.value)
