"""Rotation is in radians: degrees are refused wherever an angle stands, with the radians that are meant."""

import math

import pytest

from rsf_dist.config.load import parse_text
from rsf_dist.errors import InputError

BASE = "output: x\nsource: {kind: digits}\nsampling: {num_accepted: 1}\ntarget: "
READ = BASE + "{kind: digits}\n"
MADE = BASE + "{kind: shifted, base: {kind: digits}}\n"


def refused(text, override):
    with pytest.raises(InputError) as caught:
        parse_text(text, [override])
    return caught.value


@pytest.mark.parametrize(
    ("text", "key", "value", "remedy"),
    [
        (READ, "proposal.parameters.rotation.uniform", "[-30, 30]", "30 degrees are 0.5236: write [-0.5236, 0.5236]"),
        (READ, "proposal.parameters.rotation.uniform", "[0, 90]", "90 degrees are 1.5708: write [0.0, 1.5708]"),
        (READ, "proposal.parameters.rotation.normal", "[0, 15]", "15 degrees are 0.2618: write [0.0, 0.2618]"),
        (READ, "proposal.parameters.rotation.normal", "[-45, 5]", "45 degrees are 0.7854: write [-0.7854, 0.0873]"),
        (MADE, "target.shift.rotation.mean", "30", "30 degrees are 0.5236: write 0.5236"),
        (MADE, "target.shift.rotation.mean", "[0, -30]", "30 degrees are 0.5236: write [0.0, -0.5236]"),
    ],
)
def test_degrees_are_refused_with_the_radians_that_are_meant(text, key, value, remedy):
    error = refused(text, f"{key}={value}")
    assert (error.field, error.rule) == (key, "is beyond a full turn, 6.2832, and rotation is in radians")
    assert error.remedy == remedy


def test_degrees_are_refused_in_a_spread_and_in_a_densitys_target():
    assert refused(MADE, "target.shift.rotation={mean: 0, sd: 15}").field == "target.shift.rotation.sd"
    density = "ratio={kind: density, parameters: {rotation: {normal: [30, 5]}}}"
    assert refused(READ, density).field == "ratio.parameters.rotation.normal"


@pytest.mark.parametrize("law", [[-math.pi, math.pi], [-6.2832, 6.2832], [0, 6.3], [-1.5, 1.5], [-2 * math.pi, 0]])
def test_angles_up_to_a_full_turn_are_taken(law):
    config = parse_text(READ, [f"proposal.parameters.rotation.uniform={law}"])
    assert config.proposal.parameters["rotation"].uniform == tuple(law)


def test_other_parameters_may_be_as_large_as_they_like():
    config = parse_text(READ, ["proposal.parameters.brightness.uniform=[0, 30]"])
    assert config.proposal.parameters["brightness"].uniform == (0, 30)
    assert parse_text(MADE, ["target.shift.scale.mean=30"]).target.shift.scale.mean == 30


@pytest.mark.parametrize(
    ("text", "override", "remedy"),
    [
        (READ, "proposal.parameters.rotation=[-0.5, 0.5]", "write {uniform: [-0.5, 0.5]}"),
        (READ, "proposal.parameters.rotation=[-30, 30]", "write {uniform: [-0.5236, 0.5236]}, in radians"),
        (READ, "proposal.parameters.brightness=[10, 20]", "write {uniform: [10, 20]}"),
        (READ, "proposal.parameters.brightness=0.5", "write {normal: [0.5, sd]}"),
        (READ, "proposal.parameters.brightness=[1, 2, 3]", "known here: normal, uniform"),
        (READ, "proposal.parameters.brightness=bright", "known here: normal, uniform"),
        (READ, "proposal.parameters.brightness=[dark, bright]", "known here: normal, uniform"),
        (READ, "proposal.parameters.brightness=[yes, no]", "known here: normal, uniform"),
        (READ, "proposal.parameters.rotation=[-.inf, 30]", "known here: normal, uniform"),
        (MADE, "target.shift.scale=[a, b]", "known here: mean, sd"),
        (READ, "proposal.parameters.brightness.uniform=3", "write [low, high]"),
        (READ, "proposal.parameters.brightness.normal=[1]", "write [mean, sd]"),
        (MADE, "target.shift.rotation=0.6", "write {mean: 0.6}"),
        (MADE, "target.shift.rotation=30", "write {mean: 0.5236}, in radians"),
        (MADE, "target.shift.scale=[1, 2]", "write {mean: [1, 2]}"),
    ],
)
def test_numbers_in_place_of_a_distribution_are_refused_with_what_to_write(text, override, remedy):
    assert refused(text, override).remedy == remedy


def test_what_the_remedies_say_is_taken():
    parse_text(READ, ["proposal.parameters.rotation={uniform: [-0.5236, 0.5236]}"])
    parse_text(MADE, ["target.shift.rotation={mean: 0.5236}"])


def test_a_misspelt_parameter_is_told_from_those_there_are():
    error = refused(READ, "proposal.parameters={rotaton: {uniform: [0, 1]}}")
    assert (error.field, error.rule, error.remedy) == (
        "proposal.parameters.rotaton",
        "unknown key",
        "did you mean rotation?",
    )
