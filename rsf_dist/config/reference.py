"""The configuration described for people and editors: its JSON Schema, and the key reference in README.md.

Both are made from the models: types, defaults and the docstring under each field.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rsf_dist.config.base import LARGEST_COUNT
from rsf_dist.config.fields import kinds
from rsf_dist.config.images import IMAGE_KINDS
from rsf_dist.config.kinds import Kinds
from rsf_dist.config.run import RunConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_COLUMNS = 120

_PREFACE = """\
# The keys of a run's YAML file

Made from the models in this folder by `rsf schema config --markdown > rsf_dist/config/README.md`; do not edit it.

A heading is the place of a section in the file: `sampling.pool` is the key `pool` of the section `sampling`,
`ratio[product]` is a `ratio` of kind `product`, and `*` is any name or number. On the command line an override has the
same path: `rsf run config.yaml sampling.pool.max_actors=4`. Its value is read as YAML, except that a key of type text
takes its text as it stands: `output="runs/a #2"`. A key without a default is required. Editors with a YAML language
server complete and explain keys: run `rsf schema config > config.schema.json` and begin the file with
`# yaml-language-server: $schema=config.schema.json`.
"""


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of a run's YAML file, with what `config.load` spells out before validation."""
    schema = RunConfig.model_json_schema()
    _allow_keys_from_data(schema)
    rounds, num_rounds = schema["properties"]["rounds"], schema["$defs"]["RoundsConfig"]["properties"]["num_rounds"]
    _allow_top_k_alone(schema["$defs"]["SamplingConfig"])
    number = {key: num_rounds[key] for key in ("type", "minimum", "maximum")}
    rounds["anyOf"] = [{"$ref": rounds.pop("$ref")}, number]
    return {"$schema": DIALECT, **schema}


def _allow_top_k_alone(sampling: dict[str, Any]) -> None:
    """Require num_accepted or top_k, which stands for both."""
    del sampling["required"]
    sampling["anyOf"] = [{"required": ["num_accepted"]}, {"required": ["top_k"]}]


def _allow_keys_from_data(schema: dict[str, Any]) -> None:
    """Let image sets leave keys out, which `data` may give; without a kind, a set may be of several."""
    models = schema["$defs"]
    for model in IMAGE_KINDS.models:
        models[model.__name__].pop("required", None)
    keys = [key for section in (schema, *models.values()) for key in section["properties"].values()]
    for union in [*keys, *(choice for key in keys for choice in key.get("anyOf", []))]:
        if {"$ref": f"#/$defs/{IMAGE_KINDS.models[0].__name__}"} in union.get("oneOf", []):
            union["anyOf"] = union.pop("oneOf")


def config_markdown() -> str:
    """Return the key reference: every section of the configuration with its keys, in the order of the file."""
    sections = [_section(model, paths) for model, paths in _in_order_of_the_file(_models_and_paths())]
    return "\n".join([_PREFACE, *sections])


def _models_and_paths() -> dict[type[BaseModel], list[str]]:
    """Return each model with the paths at which it may stand, the shortest first."""
    paths: dict[type[BaseModel], list[str]] = {}
    waiting: list[tuple[type[BaseModel], str]] = [(RunConfig, "")]
    for model, path in waiting:
        if model not in paths:
            for name, field in model.model_fields.items():
                waiting += _models_of_key(field, f"{path}.{name}".lstrip("."))
        paths.setdefault(model, []).append(path)
    return paths


def _models_of_key(field: FieldInfo, path: str) -> list[tuple[type[BaseModel], str]]:
    """Return the models that a key's section can be, with their paths; if there are several, a path names the kind."""
    members = [member for part in (field.annotation, *field.metadata) for member in _members(part, path)]
    return [(model, _with_kind(at, model) if len(members) > 1 else at) for model, at in members]


def _in_order_of_the_file(paths: dict[type[BaseModel], list[str]]) -> list[tuple[type[BaseModel], list[str]]]:
    tops = ["", *RunConfig.model_fields]
    return sorted(paths.items(), key=lambda item: tops.index(item[1][0].partition(".")[0].partition("[")[0]))


def _members(part: Any, path: str) -> Iterator[tuple[type[BaseModel], str]]:
    """Yield the models in a part of a field's type, and their paths; `*` is an item of a list or a dictionary."""
    if isinstance(part, Kinds):
        yield from ((model, path) for model in part.models)
    elif isinstance(part, type) and issubclass(part, BaseModel) and not _is_base_of_kinds(part):
        yield part, path
    inner = f"{path}.*" if get_origin(part) in (tuple, list, dict) else path
    for argument in get_args(part):
        yield from _members(argument, inner)


def _is_base_of_kinds(model: type[BaseModel]) -> bool:
    return "kind" in model.model_fields and model.model_fields["kind"].annotation is str


def _with_kind(path: str, model: type[BaseModel]) -> str:
    return f"{path}[{kinds(model)[0]}]" if len(kinds(model)) == 1 else path


def _section(model: type[BaseModel], paths: list[str]) -> str:
    heading = f"## `{paths[0]}`" if paths[0] else "## The whole file"
    about = [_wrapped(paragraph) for paragraph in (model.__doc__ or "").split("\n\n")]
    also = [_wrapped("Also " + ", ".join(f"`{path}`" for path in paths[1:]) + ".")] if paths[1:] else []
    schema = model.model_json_schema()
    schema = schema.get("$defs", {}).get(model.__name__, schema)  # a model that holds itself is among its definitions
    keys = [_key(name, field, schema["properties"][name]) for name, field in model.model_fields.items()]
    return "\n\n".join([heading, *about, *also, "\n".join(keys)]) + "\n"


def _key(name: str, field: FieldInfo, schema: dict[str, Any]) -> str:
    facts = "; ".join(fact for fact in (_type(schema), _default(field)) if fact)
    return _wrapped(f"- `{name}` ({facts}): {field.description or ''}", indent="  ")


def _default(field: FieldInfo) -> str:
    """Return the default in words; a section whose keys all have their own defaults has none worth saying."""
    value = field.default
    if isinstance(value, BaseModel):
        kind = {"kind": kinds(type(value))[0]} if len(kinds(type(value))) == 1 else {}
        value = kind | value.model_dump(mode="json", exclude_defaults=True)
        return "default " + _code(value) if value else ""
    return "" if field.is_required() else "default " + _code(value)


def _code(value: Any) -> str:
    if isinstance(value, dict):
        return "`{" + ", ".join(f"{key}: {json.dumps(inner).strip(chr(34))}" for key, inner in value.items()) + "}`"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def _type(schema: dict[str, Any]) -> str:
    """Return a value's type in words, from its JSON Schema."""
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices and all("$ref" in choice for choice in choices):
        return "section with a `kind`"
    if choices:
        return ", or ".join(map(_type, choices))
    if "$ref" in schema:
        return "section"
    if "enum" in schema or "const" in schema:
        return " or ".join(_code(value) for value in schema.get("enum", [schema.get("const")]))
    return _TYPES[schema["type"]](schema)


def _number(schema: dict[str, Any]) -> str:
    word = schema["type"]
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    bounds = [f"at least {low}" if low is not None else "", f"above {above}" if above is not None else ""]
    bounds += [f"at most {high}" if high not in (None, LARGEST_COUNT) else "", f"below {below}" if below else ""]
    return " ".join([word, " and ".join(bound for bound in bounds if bound)]).strip()


def _list(schema: dict[str, Any]) -> str:
    if "prefixItems" in schema:
        return "[" + ", ".join(map(_type, schema["prefixItems"])) + "]"
    return f"list of {_type(schema['items'])}"


_TYPES = {
    "null": lambda schema: "null",
    "boolean": lambda schema: "true or false",
    "string": lambda schema: "text",
    "object": lambda schema: "keys and values",
    "integer": _number,
    "number": _number,
    "array": _list,
}


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()), _COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
