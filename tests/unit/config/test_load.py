import copy
import math

import pytest
import yaml
from pydantic import ValidationError

from rsf_dist.config.images import IdxConfig
from rsf_dist.config.load import dump_config, load_config, parse_config
from rsf_dist.config.messages import REMOVED, RENAMED
from rsf_dist.config.resume import differences
from rsf_dist.config.run import RunConfig
from rsf_dist.config.sampling import Budget, PoolConfig
from rsf_dist.errors import InputError

MINIMAL = {
    "output": "runs/one",
    "source": {"kind": "digits"},
    "target": {"kind": "digits"},
    "sampling": {"num_accepted": 100},
}


def having(key, value):
    raw = copy.deepcopy(MINIMAL)
    *parents, leaf = key.split(".")
    node = raw
    for parent in parents:
        node = node.setdefault(parent, {})
    node[leaf] = value
    return raw


def reported_error(raw):
    with pytest.raises(InputError) as caught:
        parse_config(raw)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.rule
    assert caught.value.remedy
    return caught.value


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(MINIMAL))
    return file


def test_minimal_config_fills_in_defaults():
    config = parse_config(MINIMAL)
    assert config.sampling.num_accepted == 100
    assert config.sampling.chunk_size is None  # the images fill it
    assert (config.envelope.kind, config.envelope.acceptance) == ("budget", 0.01)
    assert config.seed == 0


def test_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        parse_config(MINIMAL).seed = 1


@pytest.mark.parametrize(
    ("key", "value", "suggestion"),
    [
        ("outptu", "x", "output"),
        ("sampling.chunksize", 10, "chunk_size"),
        ("sampling.pool.max_actor", 2, "max_actors"),
        ("sampling.budget.max_proposal", 10, "max_proposals"),
        ("training.learning_rat", 0.1, "learning_rate"),
        ("ratio.network.widht", 8, "width"),
        ("ratio.optimizer.step", 8, "steps"),
        ("proposal.parameters.rotation", {"unifrm": [0, 1]}, "uniform"),
        ("envelope", {"kind": "pilot", "margn": 1.0}, "margin"),
        ("envelope", {"kind": "budget", "acceptance": 0.1, "num_pilots": 1}, "num_pilot"),
    ],
)
def test_unknown_key_is_named_with_a_suggestion(key, value, suggestion):
    error = reported_error(having(key, value))
    assert error.rule == "unknown key"
    assert error.remedy == f"did you mean {suggestion}?"
    assert error.field.startswith(key)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_key_is_refused_with_its_new_name(old, new):
    error = reported_error(
        having(old, 1)
        if old != "target.num_unlabelled"
        else having("target", {"kind": "shifted", "base": {"kind": "digits"}, "num_unlabelled": 5})
    )
    assert (error.field, error.rule, error.remedy) == (old, "this key has a new name", f"write {new}")


@pytest.mark.parametrize("key", REMOVED)
def test_a_removed_key_is_refused_with_what_to_do_without_it(key):
    error = reported_error(having(key, 0.1))
    assert (error.field, error.rule, error.remedy) == (key, "this key was removed", REMOVED[key])


def test_a_removed_key_of_a_factor_is_refused_as_that_of_a_ratio():
    error = reported_error(having("ratio", {"kind": "product", "factors": [{"relative_alpha": 0.1}, {}]}))
    assert (error.field, error.rule) == ("ratio.factors.0.relative_alpha", "this key was removed")


def test_a_removed_kind_is_refused_with_what_to_do_without_it():
    error = reported_error(having("envelope", {"kind": "drs"}))
    assert (error.field, error.value, error.rule) == ("envelope.kind", "drs", "this kind was removed")
    assert "examples/gaussians25" in error.remedy


def test_unknown_key_like_no_other_lists_the_known_ones():
    error = reported_error(having("sampling.budget.zzz", 1))
    assert error.field == "sampling.budget.zzz"
    assert error.remedy == "known here: max_proposals, max_seconds, on_shortfall"


@pytest.mark.parametrize(
    ("raw", "suggestion"),
    [
        (having("sampling", {"num_acepted": 5}), "num_accepted"),
        (having("envelope", {"kind": "fixed", "log_mm": 1.0}), "log_m"),
    ],
)
def test_a_misspelt_required_key_is_called_misspelt_rather_than_missing(raw, suggestion):
    assert reported_error(raw).remedy == f"did you mean {suggestion}?"


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({key: value for key, value in MINIMAL.items() if key != "output"}, "output"),
        (having("sampling", {}), "sampling.num_accepted"),
        (having("envelope", {"kind": "fixed"}), "envelope.log_m"),
        (having("envelope", {"kind": "budget"}), "envelope.acceptance"),
        (having("source", {}), "source.kind"),
    ],
)
def test_missing_key(raw, field):
    error = reported_error(raw)
    assert (error.field, error.rule, error.remedy) == (field, "is required", "add it")


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("sampling.num_accepted", 0, "greater than 0"),
        ("sampling.num_accepted", -5, "greater than 0"),
        ("sampling.num_accepted", "many", "integer"),
        ("sampling.num_accepted", 2.5, "integer"),
        ("sampling.chunk_size", 0, "greater than 0"),
        ("sampling.budget.max_proposals", -1, "greater than 0"),
        ("sampling.budget.on_shortfall", "shrug", "'error' or 'partial'"),
        ("sampling.pool.cpus_per_actor", 0, "greater than or equal to 0.0001"),
        ("sampling.pool.cpus_per_actor", 1e-5, "greater than or equal to 0.0001"),  # Ray's smallest share
        ("sampling.pool.cpus_per_actor", 1e9, "less than or equal to 10000"),
        ("training.cpus_per_worker", 1e-5, "greater than or equal to 0.0001"),
        ("training.cpus_per_worker", 1e9, "less than or equal to 10000"),
        ("ratio.cpus", 1e-5, "greater than or equal to 0.0001"),
        ("ratio.cpus", 1e9, "less than or equal to 10000"),
        ("ratio.gpus", 1e-5, "a fraction of at least 0.0001"),
        ("ratio.gpus", 1.5, "or a whole number of GPUs"),
        ("sampling.pool.gpus_per_actor", -0.5, "greater than or equal to 0"),
        ("sampling.pool.gpus_per_actor", 2.5, "or a whole number of GPUs"),
        ("sampling.pool.min_actors", 10**12, "less than or equal to 40000"),
        ("sampling.pool.max_actors", 100_000, "less than or equal to 40000"),
        ("ratio.num_workers", 10**12, "less than or equal to 40000"),
        ("training.num_workers", 10**12, "less than or equal to 40000"),
        ("sampling.pool.gpus_per_actor", math.nan, "finite"),
        ("sampling.pool.gpus_per_actor", math.inf, "finite"),
        ("ratio.gpus", math.inf, "finite"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**32, "less than 4294967296"),
        ("output", 3, "text"),
        ("source.kind", "webdataset", "one of digits, idx, npz, image_folder"),
        ("source.channels", 2, "1 or 3"),
        ("training", 3, "keys and values"),
        ("training.learning_rate", math.nan, "finite"),
        ("training.learning_rate", math.inf, "finite"),
        ("training.learning_rate", -1.0, "greater than 0"),
        ("training.weight_decay", math.inf, "finite"),
        ("training.warmup_fraction", math.nan, "less than or equal to 1"),
        ("training.validation_fraction", 1.0, "less than 1"),
        ("training.wait_seconds", -1.0, "greater than or equal to 0"),
        ("training.algorithm", "lion", "'adamw' or 'sgd'"),
        ("model.dropout", math.nan, "less than 1"),
        ("ratio.calibration_fraction", math.nan, "less than 1"),
        ("ratio.num_proposals", 49, "greater than or equal to 50"),
    ],
)
def test_value_that_breaks_a_rule(key, value, rule):
    error = reported_error(having(key, value))
    assert error.field == key
    assert rule in error.rule
    assert str(error).startswith(f"{key}={value}: ")


def test_shares_that_ray_can_count_are_taken():
    pool = parse_config(having("sampling.pool", {"cpus_per_actor": 0.0001, "gpus_per_actor": 0.25})).sampling.pool
    assert (pool.cpus_per_actor, pool.gpus_per_actor) == (0.0001, 0.25)
    pool = parse_config(having("sampling.pool", {"cpus_per_actor": 1.5, "gpus_per_actor": 2})).sampling.pool
    assert (pool.cpus_per_actor, pool.gpus_per_actor) == (1.5, 2.0)


@pytest.mark.parametrize(
    ("envelope", "field", "rule"),
    [
        ({"kind": "fixed", "log_m": math.nan}, "envelope.log_m", "finite"),
        ({"kind": "fixed", "log_m": -math.inf}, "envelope.log_m", "finite"),
        ({"kind": "pilot", "num_pilot": 0}, "envelope.num_pilot", "greater than 0"),
        ({"kind": "pilot", "margin": -1.0}, "envelope.margin", "greater than or equal to 0"),
        ({"kind": "budget", "acceptance": 1.0}, "envelope.acceptance", "less than 1"),
        ({"kind": "budget", "acceptance": math.nan}, "envelope.acceptance", "less than 1"),
        ({"kind": "oracle"}, "envelope.kind", "must be one of fixed, certified, pilot, adaptive, budget, custom"),
        ({}, "envelope.kind", "is required"),
    ],
)
def test_bad_envelope(envelope, field, rule):
    error = reported_error(having("envelope", envelope))
    assert error.field == field
    assert rule in error.rule


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("proposal.parameters.rotation", {}, "exactly one of uniform, normal"),
        ("proposal.parameters.rotation", {"uniform": [0, 1], "normal": [0, 1]}, "exactly one of uniform, normal"),
        ("proposal.parameters.rotation", {"uniform": [1, 1]}, "low < high"),
        ("proposal.parameters.rotation", {"uniform": [0, math.inf]}, "finite"),
        ("proposal.parameters.rotation", {"normal": [math.nan, 1]}, "finite"),
        ("sampling.pool", {"min_actors": 4, "max_actors": 2}, "must not be below min_actors=4"),
        ("ratio", {"calibration_fraction": 0.5, "test_fraction": 0.4}, "must stay below 0.9"),
        ("training", {"batch_size": 10, "num_workers": 4}, "batch_size=10 must be a multiple of num_workers=4"),
        ("ratio", {"num_workers": 3}, "must be a multiple of num_workers=3"),  # of the default batch, 128
        ("evaluation", {"arms": ["one_shot", "oracle"]}, "go together"),
        ("evaluation", {"oracle": {"kind": "digits"}}, "go together"),
    ],
)
def test_values_that_do_not_go_together(key, value, rule):
    error = reported_error(having(key, value))
    assert error.field == key
    assert rule in error.rule


def test_zero_standard_deviation_is_refused():
    error = reported_error(having("proposal.parameters.noise", {"normal": [0.0, 0.0]}))
    assert error.field == "proposal.parameters.noise.normal.1"


def test_values_that_go_together_are_taken():
    raw = having("training", {"batch_size": 12, "num_workers": 4}) | {"envelope": {"kind": "fixed", "log_m": -2}}
    config = parse_config(raw | {"proposal": {"parameters": {"rotation": {"uniform": [-1, 1]}}}})
    assert config.envelope.log_m == -2.0
    assert config.proposal.parameters["rotation"].uniform == (-1.0, 1.0)
    assert parse_config(having("sampling.pool", {"min_actors": 2, "max_actors": 2})).sampling.pool.max_actors == 2


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("output: [", "is not YAML"),
        ("output: 2020-13-45", "is not YAML"),  # reads as a date with a thirteenth month
        ("", "must hold keys and values"),
        ("- a\n- b", "must hold keys and values"),
    ],
)
def test_file_that_holds_no_config(tmp_path, text, rule):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=rule) as caught:
        load_config(file)
    assert caught.value.field == "config"
    assert "\n" not in str(caught.value)


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path / "binary.yaml")


def test_overrides_reach_deep_and_are_read_as_yaml(path):
    overrides = ["seed=7", "training.learning_rate=1e-4", "evaluation.arms=[one_shot]", "model.weights=null"]
    config = load_config(path, [*overrides, "proposal.parameters.rotation.uniform=[-0.5, 0.5]", "output=a=b"])
    assert config.seed == 7
    assert config.training.learning_rate == 1e-4
    assert config.evaluation.arms == ("one_shot",)
    assert config.model.weights is None
    assert config.proposal.parameters["rotation"].uniform == (-0.5, 0.5)
    assert config.output == "a=b"
    assert config.sampling.num_accepted == 100


def test_a_later_override_wins(path):
    assert load_config(path, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("trainingsteps", "must be key=value"),
        ("=3", "must be key=value"),
        ("output.deeper=2", "output is a value, not a section"),
        ("training.steps=[", "its value is not YAML"),
        ("training.steps=2020-13-45", "its value is not YAML"),
    ],
)
def test_bad_override(path, override, rule):
    with pytest.raises(InputError) as caught:
        load_config(path, [override])
    assert caught.value.field == "override"
    assert rule in caught.value.rule
    assert "\n" not in str(caught.value)


def test_override_of_an_unknown_key(path):
    with pytest.raises(InputError, match="did you mean steps"):
        load_config(path, ["training.step=3"])


@pytest.mark.parametrize(
    "envelope",
    [{"kind": "fixed", "log_m": 0.5}, {"kind": "pilot", "margin": 0.2}, {"kind": "budget", "acceptance": 0.05}],
)
def test_dump_and_load_round_trip(tmp_path, envelope):
    raw = having("envelope", envelope) | {"proposal": {"parameters": {"scale": {"normal": [1.0, 0.1]}}}}
    config = parse_config(raw | {"source": {"kind": "npz", "root": "a.npz", "size": [8, 8], "classes": ["a", "b"]}})
    file = tmp_path / "resolved.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config


def test_dump_spells_out_every_field():
    dumped = yaml.safe_load(dump_config(parse_config(MINIMAL)))
    assert dumped.keys() == RunConfig.model_fields.keys()
    assert dumped["sampling"]["pool"]["min_actors"] == 1


# max_proposals=None: 1,000 a wanted row, at least 100,000
@pytest.mark.parametrize(("given", "wanted", "limit"), [(None, 5, 100_000), (None, 500, 500_000), (7, 500, 7)])
def test_budget_in_force(given, wanted, limit):
    assert Budget(max_proposals=given).proposals_for(wanted) == limit


def test_pool_may_have_one_size():
    assert PoolConfig(min_actors=3, max_actors=3).max_actors == 3


def test_images_of_a_kind_with_files_need_a_root():
    with pytest.raises(ValidationError, match="root\n  Field required"):
        IdxConfig()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("output", "elsewhere"),
        ("sampling.pool.max_actors", 3),
        ("sampling.pool.chunk_seconds", 3),
        ("sampling.budget.max_proposals", 5000),
        ("training.num_workers", 2),
        ("training.cpus_per_worker", 0.5),
        ("training.max_failures", 5),
        ("training.wait_seconds", 9),
        ("ratio.wait_seconds", 9),
    ],
)
def test_a_run_may_go_on_with_other_resources(key, value):
    assert parse_config(having(key, value)) != parse_config(MINIMAL)
    assert differences(parse_config(MINIMAL), parse_config(having(key, value))) == []


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("seed", 1, "seed=1 (was 0)"),
        ("sampling.num_accepted", 99, "sampling.num_accepted=99 (was 100)"),
        ("sampling.chunk_size", 99, "sampling.chunk_size=99 (was None)"),
        ("training.steps", 9, "training.steps=9 (was 400)"),
        ("ratio.num_workers", 2, "ratio.num_workers=2 (was 0)"),  # another fit, and so other rows
        ("target.limit", 9, "target.limit=9 (was None)"),
        ("proposal.parameters.scale.uniform", [1, 2], "proposal.parameters.scale.uniform=[1.0, 2.0] (was (absent))"),
    ],
)
def test_what_else_differs_is_listed(key, value, told):
    assert told in differences(parse_config(MINIMAL), parse_config(having(key, value)))


@pytest.mark.parametrize("section", ["ratio", "proposal", "envelope"])
@pytest.mark.parametrize("name", ["wait_seconds", "max_failures", "nested.wait_seconds"])
def test_options_of_the_users_own_code_count_whatever_their_names(section, name):
    def with_option(value):
        raw = having(f"{section}.options.{name}", value)
        raw[section] |= {"kind": "custom", "factory": "my:own"}
        return parse_config(raw)

    assert differences(with_option(1), with_option(2)) == [f"{section}.options.{name}=2 (was 1)"]


def test_the_order_of_keys_is_no_difference():
    ranges = {"noise": {"uniform": [0, 1]}, "rotation": {"uniform": [0, 1]}}
    one, other = (
        parse_config(having("proposal.parameters", given)) for given in (ranges, dict(reversed(ranges.items())))
    )
    assert differences(one, other) == []
    assert dump_config(one) == dump_config(other)
