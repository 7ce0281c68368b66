"""The configuration of a pool: `proposal.kind: dataset` and `sampling.top_k`, and what does not go with them."""

import json

import pytest
import yaml
from jsonschema import Draft202012Validator

from rsf_dist.config.load import dump_config, parse_config, parse_text
from rsf_dist.config.reference import config_schema
from rsf_dist.config.resume import differences
from rsf_dist.config.run import comparable_arms
from rsf_dist.errors import InputError

DIGITS = {"kind": "digits"}
RAW = {
    "output": "runs/pool",
    "source": DIGITS,
    "target": DIGITS,
    "proposal": {"kind": "dataset"},
    "sampling": {"top_k": 300},
}


def refusal(**sections) -> str:
    with pytest.raises(InputError) as caught:
        parse_config(RAW | sections)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_top_k_says_how_many_rows_there_are():
    config = parse_config(RAW)
    assert (config.sampling.top_k, config.sampling.num_accepted) == (300, 300)
    assert config.own_arm == "top_k"
    assert config.proposal.own_images is None  # the source itself
    again = parse_text(dump_config(config))
    assert differences(config, again) == []
    assert parse_config(RAW | {"sampling": {"top_k": 300, "num_accepted": 300}}).sampling == config.sampling


def test_without_top_k_rows_are_rejected_until_the_pool_ends():
    config = parse_config(RAW | {"sampling": {"num_accepted": 300}})
    assert (config.sampling.top_k, config.own_arm) == (None, "one_shot")


def test_a_pool_of_its_own_takes_the_keys_of_data():
    config = parse_config(
        RAW | {"proposal": {"kind": "dataset", "images": {"root": "pool"}}, "data": {"kind": "npz", "size": [8, 8]}}
    )
    assert config.proposal.own_images.kind == "npz"
    assert config.proposal.own_images.size == (8, 8)
    assert parse_text(dump_config(config)).proposal == config.proposal


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"sampling": {"top_k": 0}}, "sampling.top_k=0: "),
        ({"sampling": {"top_k": "few"}}, "sampling.top_k=few: "),
        ({"sampling": {}}, "sampling.num_accepted=(absent): is required"),
        (
            {"sampling": {"top_k": 300, "num_accepted": 200}},
            "sampling.top_k=300: and num_accepted=200 both say how many rows are kept; leave num_accepted out",
        ),
        ({"sampling": {"top_k": 9, "mode": "stream"}}, "sampling.top_k=9: is known when all of the pool was read"),
        (
            {"sampling": {"top_k": 9, "budget": {"max_proposals": 5000}}},
            "sampling.top_k=9: reads all of the pool, whatever budget.max_proposals; leave max_proposals out",
        ),
        (
            {"sampling": {"top_k": 9, "budget": {"on_shortfall": "partial"}}},
            "sampling.top_k=9: keeps so many rows, never a part of them; leave budget.on_shortfall out",
        ),
        (
            {"proposal": {}},
            "sampling.top_k=300: needs a pool, and proposals of kind augment have no end; set proposal.kind=dataset",
        ),
        (
            {"rounds": 3},
            "rounds.num_rounds=3: would move the proposal, and a pool (proposal.kind=dataset) stays as it is; "
            "set rounds=1",
        ),
        (
            {"sampling": {"num_accepted": 9, "mode": "stream"}},
            "sampling.mode=stream: draws without end, and a pool (proposal.kind=dataset) ends; set sampling.mode=store",
        ),
        (
            {"evaluation": {"arms": ["one_shot"]}},
            "evaluation.arms=one_shot: rejection that leaves as many rows of a pool is the arm top_k itself",
        ),
        (
            {"evaluation": {"arms": ["top_k"]}, "sampling": {"num_accepted": 9}},
            "evaluation.arms=top_k: needs sampling.top_k; set it, or leave the arm out",
        ),
        ({"proposal": {"kind": "dataset", "image": DIGITS}}, "proposal.image={'kind': 'digits'}: unknown key; did"),
        ({"proposal": {"kind": "dataset", "images": {"kind": "gif"}}}, "proposal.images.kind=gif: must be one of"),
        ({"proposal": {"kind": "dataset", "images": {"kind": "npz"}}}, "proposal.images.root=(absent): is required"),
        ({"proposal": {"kind": "dataset", "images": "pool"}}, "proposal.images=pool: must hold keys and values"),
    ],
)
def test_what_does_not_go_with_a_pool_is_refused_in_one_line(sections, told):
    assert refusal(**sections).startswith(told)


def test_a_comparison_has_the_arms_that_there_can_be():
    test = {"evaluation": {"test": DIGITS}}
    top = comparable_arms(parse_config(RAW | test))
    assert top == ["pretrained", "batch_norm", "pseudo_labels", "random", "weighted", "top_k"]
    rejection = comparable_arms(parse_config(RAW | test | {"sampling": {"num_accepted": 9}}))
    assert rejection == ["pretrained", "batch_norm", "pseudo_labels", "random", "weighted", "one_shot"]


def test_editors_ask_for_either_number_of_rows():
    schema = Draft202012Validator(config_schema())
    assert list(schema.iter_errors(json.loads(json.dumps(RAW)))) == []
    assert list(schema.iter_errors(RAW | {"sampling": {"num_accepted": 5}})) == []
    assert list(schema.iter_errors(RAW | {"sampling": {}}))
    assert list(schema.iter_errors(yaml.safe_load(dump_config(parse_config(RAW))))) == []
