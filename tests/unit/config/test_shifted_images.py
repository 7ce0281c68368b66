"""What image sets have in common, and places made from photographs, as a configuration says them."""

import copy
import math
from pathlib import Path

import pytest
import yaml

from rsf_dist.config.images import IdxConfig
from rsf_dist.config.load import dump_config, load_config, parse_config, parse_text
from rsf_dist.config.resume import differences
from rsf_dist.config.shifted_images import ParameterShiftConfig, ShiftedImagesConfig, ShiftedTargetConfig
from rsf_dist.errors import InputError

RAW = {
    "output": "runs/one",
    "data": {"kind": "idx", "root": "here", "classes": ["a", "b"]},
    "source": {"limit": 30},
    "target": {
        "kind": "shifted",
        "base": {"start": 30},
        "shift": {"rotation": {"mean": 0.6, "sd": 0.2}, "noise": {"mean": 0.1, "sd": 0.0}, "prior": [0.1, 0.9]},
    },
    "sampling": {"num_accepted": 100},
    "evaluation": {
        "test": {"kind": "shifted", "base": {"split": "test"}, "num_images": 50},
        "source_test": {"split": "test"},
        "oracle": {"kind": "npz", "root": "oracle.npz"},
        "arms": ["one_shot", "oracle"],
    },
}
EXAMPLE = Path(__file__).parents[3] / "examples" / "fashion_shift"
SHIFTS = yaml.safe_load((EXAMPLE / "shifts.yaml").read_text())
UNIFORM = (0.1,) * 10


def overridden(*overrides, raw=RAW):
    return parse_text(yaml.safe_dump(raw, sort_keys=False), overrides)


def refused(*overrides, raw=RAW):
    with pytest.raises(InputError) as caught:
        overridden(*overrides, raw=raw)
    assert "\n" not in str(caught.value)
    return caught.value


def image_sets(config):
    evaluation = config.evaluation
    return [config.source, config.target.base, evaluation.test.base, evaluation.source_test, evaluation.oracle]


def test_every_set_takes_what_it_does_not_say():
    config = overridden()
    assert [images.kind for images in image_sets(config)] == ["idx"] * 4 + ["npz"]
    assert [images.root for images in image_sets(config)] == ["here"] * 4 + ["oracle.npz"]
    assert {images.classes for images in image_sets(config)} == {("a", "b")}
    assert [images.limit for images in image_sets(config)] == [30, None, None, None, None]
    assert [images.split for images in image_sets(config)[:4]] == ["train", "train", "test", "test"]


def test_a_set_takes_the_keys_that_its_kind_has():
    config = overridden("source={kind: digits}", "data.channels=3")
    assert (config.source.classes, config.source.channels) == (("a", "b"), 3)
    assert "root" not in config.source.model_dump()


def test_one_override_moves_the_data():
    roots = [images.root for images in image_sets(overridden("data.root=/elsewhere"))]
    assert roots == ["/elsewhere"] * 4 + ["oracle.npz"]


def test_what_a_set_says_itself_stands():
    config = overridden("source.root=mine", "data.size=[8, 9]", "source.size=null", "data.channels=1")
    assert (config.source.root, config.source.size, config.source.channels) == ("mine", None, 1)
    assert (config.target.base.root, config.target.base.size) == ("here", (8, 9))


def test_a_made_set_may_have_all_of_the_data_for_its_base():
    config = overridden("target={kind: shifted, base: {}}", "evaluation.test={kind: shifted, base: {}}")
    assert config.target.base == config.evaluation.test.base == IdxConfig(root="here", classes=("a", "b"))
    assert (config.target.num_images, config.evaluation.test.num_images) == (2000, 5000)


def test_what_was_given_is_not_changed():
    raw = copy.deepcopy(RAW)
    parse_config(raw)
    assert raw == RAW


def test_data_are_no_more_than_defaults():
    assert overridden(raw=RAW | {"data": {}, "source": {"kind": "digits"}, "target": {"kind": "digits"},
                                 "evaluation": {}}).data.kind is None  # fmt: skip
    bare = {key: value for key, value in RAW.items() if key != "data"}
    assert refused(raw=bare).field == "source.kind"
    assert refused("evaluation=3").field == "evaluation"
    assert refused("source=3").field == "source"


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["target.shift.rotation.mean=[-0.9, 0.6]", "target.shift.blur=0.8", "target.shift.gamma=0.6"],
        ["data.size=[8, 8]", "data.channels=1", "source.size=null"],
        ["data={}", "source={kind: digits}", "target={kind: digits}", "evaluation={}"],
        ["target.shift.rotation=null", "target.shift.prior=null", "evaluation.test=null"],
    ],
)
def test_dump_and_load_round_trip(overrides):
    config = overridden(*overrides)
    assert parse_text(dump_config(config)) == config
    assert differences(parse_text(dump_config(config)), config) == []


def test_what_differs_is_listed_where_it_counts():
    found = differences(overridden(), overridden("data.root=there"))
    assert "target.base.root=there (was here)" in found
    assert len(found) == 4  # source, the bases of target and test, source_test
    written_out = yaml.safe_load(dump_config(overridden()))
    assert differences(overridden(), parse_config(written_out | {"data": {}})) == []
    told = differences(overridden(), overridden("target.shift.rotation.mean=[0, 1]", "target.shift.noise=null"))
    assert "target.shift.rotation.mean=[0.0, 1.0] (was 0.6)" in told
    assert "target.shift.noise.mean=(absent) (was 0.1)" in told


def test_overrides_reach_every_number_of_the_shift():
    config = overridden(
        "target.shift.rotation.mean=0.3",
        "target.shift.scale={mean: [0.5, 2], sd: 0.1}",
        "target.shift.noise=null",
        "target.shift.prior=[0.5, 0.5]",
        "target.num_images=500",
    )
    shift = config.target.shift
    assert shift.rotation == ParameterShiftConfig(mean=0.3, sd=0.2)
    assert (shift.scale.mean, shift.scale.sd) == ((0.5, 2.0), 0.1)
    assert shift.noise is None
    assert shift.prior == (0.5, 0.5)
    assert (shift.blur, shift.gamma) == (0.0, 1.0)
    assert config.target.num_images == 500


@pytest.mark.parametrize(
    ("override", "field", "rule"),
    [
        ("target.shift.rotation.sd=-0.1", "target.shift.rotation.sd", "greater than or equal to 0"),
        ("target.shift.rotation.sd=.nan", "target.shift.rotation.sd", "finite"),
        ("target.shift.rotation.mean=.inf", "target.shift.rotation.mean", "finite"),
        ("target.shift.rotation.mean=many", "target.shift.rotation.mean", "must be a number"),
        ("target.shift.rotation.mean=", "target.shift.rotation.mean", "must be a number"),
        ("target.shift.rotation.mean=[]", "target.shift.rotation.mean", "at least 1 item"),
        ("target.shift.rotation.mean=[0.1, .nan]", "target.shift.rotation.mean.1", "finite"),
        ("target.shift.scale.sd=0.1", "target.shift.scale.mean", "is required"),
        ("target.shift.prior=[0.5, -0.5]", "target.shift.prior.1", "greater than or equal to 0"),
        ("target.shift.prior=[0.5, .inf]", "target.shift.prior.1", "finite"),
        ("target.shift.blur=-1", "target.shift.blur", "greater than or equal to 0"),
        ("target.shift.gamma=0", "target.shift.gamma", "greater than 0"),
        ("target.shift.gamma=.inf", "target.shift.gamma", "finite"),
        ("target.num_images=0", "target.num_images", "greater than 0"),
        ("evaluation.test.num_images=0", "evaluation.test.num_images", "greater than 0"),
        ("target.limit=3", "target.limit", "unknown key"),
        ("target.base.kind=shifted", "target.base.kind", "one of digits, idx, npz, image_folder"),
        ("target.kind=shift", "target.kind", ", shifted"),
        ("target={kind: shifted}", "target.base", "is required"),
        ("target={kind: shifted, base: 3}", "target.base", "must hold keys and values"),
        ("evaluation.source_test.kind=shifted", "evaluation.source_test.kind", "one of digits, idx"),
        ("data.split=test", "data.split", "unknown key"),
        ("data.kind=shifted", "data.kind", "one of digits, idx, npz, image_folder"),
        ("data.classes=[a, a]", "data.classes", "a is there twice"),
    ],
)
def test_what_is_wrong_is_named(override, field, rule):
    error = refused(override)
    assert error.field == field
    assert rule in error.rule


def test_an_unknown_key_of_the_shift_is_named_with_a_suggestion():
    assert refused("target.shift.rotaton.mean=1").remedy == "did you mean rotation?"
    assert refused("target.shift.rotation.std=1").field == "target.shift.rotation.std"


@pytest.mark.parametrize("name", ["test", "oracle"])
def test_a_test_is_made_like_a_target_that_is_made(name):
    made = "{kind: shifted, base: {start: 3}}"
    assert isinstance(getattr(overridden(f"evaluation.{name}={made}").evaluation, name), ShiftedImagesConfig)
    target = "target={kind: npz, root: target.npz}"
    error = refused(target, "evaluation.test=null", f"evaluation.{name}={made}")
    assert error.field == "evaluation"
    assert error.rule == f"{name} of kind shifted is made by target.shift, and target is of kind npz"


def test_complaints_of_other_targets_name_what_they_did():
    raw = RAW | {"evaluation": {}}
    assert refused("target={kind: npz, root: x, splt: test}", raw=raw).field == "target.splt"
    assert refused("target={kind: npz, root: x, limit: 0}", raw=raw).field == "target.limit"
    assert refused("target={kind: npz, root: x, start: .nan}", raw=raw).field == "target.start"
    missing = refused("target={kind: npz}", "data={}", "source={kind: digits}", raw=raw)
    assert (missing.field, missing.rule) == ("target.root", "is required")


def test_the_example_is_made_from_one_folder():
    config = load_config(EXAMPLE / "config.yaml", ["data.root=/elsewhere"])
    evaluation = config.evaluation
    assert isinstance(config.target, ShiftedTargetConfig)
    bases = [config.source, config.target.base, evaluation.test.base, evaluation.source_test, evaluation.oracle.base]
    assert {images.root for images in bases} == {"/elsewhere"}
    assert math.isclose(sum(config.target.shift.prior), 1)
    assert len(config.source.classes) == 10
    # the target domain is made from photographs that the source does not contain
    assert config.target.base.start == evaluation.oracle.base.start == config.source.start + config.source.limit


@pytest.mark.parametrize(
    ("name", "shifted"),
    [
        ("geometric", {"rotation", "scale", "translate_x", "translate_y"}),
        ("photometric", {"brightness", "noise"}),
        ("class_prior", set()),
        ("bimodal", {"rotation", "scale", "brightness", "translate_x", "translate_y", "noise"}),
        ("outside", {"rotation", "scale", "brightness", "translate_x", "translate_y", "noise"}),
        ("misspecified", {"rotation", "scale", "brightness", "translate_x", "translate_y", "noise", "blur", "gamma"}),
    ],
)
def test_the_examples_other_shifts(name, shifted):
    shift = load_config(EXAMPLE / "config.yaml", SHIFTS[name]).target.shift
    given = shift.model_dump(exclude_defaults=True)
    assert given.keys() - {"prior"} == shifted
    assert (shift.prior == UNIFORM) == (name in {"geometric", "photometric"})
    assert set(SHIFTS) == {"geometric", "photometric", "class_prior", "bimodal", "misspecified", "outside"}
    if name == "bimodal":
        assert shift.rotation == ParameterShiftConfig(mean=[-0.9, 0.6], sd=0.2)
    if name == "outside":  # by three standard deviations and more
        assert shift.rotation.mean - 3 * shift.rotation.sd > 1.5
