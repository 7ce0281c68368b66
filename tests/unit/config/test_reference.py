"""What is printed about the configuration: the JSON Schema that editors take, and the key reference."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from bad_input import keys
from jsonschema import Draft202012Validator

import rsf_dist
from rsf_dist.config import reference
from rsf_dist.config.load import dump_config, parse_config, parse_text

ROOT = Path(rsf_dist.__file__).parent
README = ROOT / "config" / "README.md"
FILES = [ROOT / "demo" / "digits.yaml", *sorted((ROOT.parent / "examples").glob("*/config*.yaml"))]
RUNS = [yaml.safe_load(file.read_text()) for file in FILES]
SCHEMA = reference.config_schema()


def errors(raw: object) -> list[str]:
    return [error.json_path for error in Draft202012Validator(SCHEMA).iter_errors(raw)]


def test_the_schema_is_valid() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_key_in_the_schema_is_described() -> None:
    models = {"RunConfig": SCHEMA, **SCHEMA["$defs"]}
    assert len(models) > 35
    bare = [
        f"{name}.{key}"
        for name, model in models.items()
        for key, about in model["properties"].items()
        if not about.get("description")
    ]
    assert bare == []


@pytest.mark.parametrize("raw", RUNS, ids=[str(file.relative_to(ROOT.parent)) for file in FILES])
def test_the_runs_that_come_with_the_package_fit_it(raw: dict) -> None:
    assert errors(raw) == []
    assert errors(json.loads(json.dumps(yaml.safe_load(dump_config(parse_config(raw)))))) == []


def test_short_forms_fit_it() -> None:
    short = RUNS[0] | {"rounds": 3, "data": {"kind": "digits"}, "source": {"limit": 5, "size": 8}}
    assert parse_text(yaml.safe_dump(short)).source.kind == "digits"
    assert errors(short) == []
    assert errors(short | {"rounds": 0}) == ["$.rounds"]


def test_every_kind_of_every_section_fits_it() -> None:
    for raw, _ in keys._full_configurations():
        assert errors(raw) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("zzz", 1),
        ("sampling.num_acepted", 1),
        ("training.learning_rate", 0),
        ("training.checkpoint", "first"),
        ("ratio.kind", "nonsense"),
        ("proposal.parameters.rotation.uniform", [1]),
        ("envelope", {"kind": "fixed"}),
    ],
)
def test_what_the_configuration_refuses_does_not_fit_it(path: str, value: object) -> None:
    raw = copy.deepcopy(RUNS[0])
    *parents, leaf = path.split(".")
    node = raw
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    assert errors(raw) != []


def test_the_key_reference_is_up_to_date() -> None:
    command = "rsf schema config --markdown > rsf_dist/config/README.md"
    assert README.read_text(encoding="utf-8") == reference.config_markdown(), f"regenerate it: {command}"
    assert command in README.read_text(encoding="utf-8")


def test_the_key_reference_has_every_key_once_a_section() -> None:
    lines = reference.config_markdown().splitlines()
    assert sum(line.startswith("- `") for line in lines) == sum(
        len(model.model_fields) for model in keys.models_there_are()
    )
    assert max(map(len, lines)) <= 120
    headings = [line for line in lines if line.startswith("## ")]
    assert len(set(headings)) == len(headings)
    for heading in ("## `sampling.pool`", "## `ratio[product]`", "## `model`", "## `target[shifted].shift`"):
        assert heading in headings


def test_a_line_of_the_key_reference() -> None:
    text = reference.config_markdown()
    assert "- `num_accepted` (integer above 0): Rows to accept and store. May be left out" in text
    assert "- `validation_fraction` (number above 0 and below 1; default `0.1`): Share of the rows" in text
    assert "- `max_components` (integer at least 1 and at most 1000; default `3`): " in text
