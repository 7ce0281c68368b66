"""Every key of the configuration, walked from its models, with values that it must not take."""

from __future__ import annotations

import functools
import math
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any, get_args

from pydantic import BaseModel

import rsf_dist.config
from bad_input.case import Case, changed
from rsf_dist.config.load import parse_config
from rsf_dist.config.proposal import ParameterName
from rsf_dist.config.run import RunConfig

BASE: dict[str, Any] = {
    "output": "runs/one",
    "code_folder": "code",
    "source": {"kind": "npz", "root": "source.npz", "size": [8, 8], "classes": ["a", "b"], "limit": 9},
    "target": {"kind": "digits"},
    "sampling": {"num_accepted": 100, "budget": {"max_seconds": 9.0, "max_proposals": 5000}},
    "proposal": {"parameters": {"rotation": {"uniform": [-1, 1]}, "noise": {"normal": [0, 0.1]}},
                 "class_prior": [0.5, 0.5], "transforms": [{"name": "RandomErasing", "options": {"p": 0.5}}]},
    "envelope": {"kind": "budget", "acceptance": 0.1},
    "pretrain": {},
    "evaluation": {"test": {"kind": "digits"}, "feature_network": {"name": "resnet18"}},
}  # fmt: skip
SECTIONS: dict[str, list[dict[str, Any]]] = {
    "proposal": [
        {"kind": "custom", "factory": "a:b"},
        {"kind": "generator", "factory": "a:b", "latent_dim": 8, "class_prior": [0.5, 0.5]},
        {"kind": "dataset", "images": {"kind": "digits"}},
    ],
    "ratio": [
        {"kind": "classifier", "max_log_ratio": 2.0, "network": {"width": 8}},
        {"kind": "label_shift", "target_prior": [0.5, 0.5]},
        {"kind": "density", "parameters": {"rotation": {"uniform": [0, 1]}}},
        {"kind": "reward", "score": "a:b", "max_score": 1.0},
        {"kind": "verifier", "passes": "a:b"},
        {"kind": "custom", "factory": "a:b"},
        {"kind": "product", "factors": [{"kind": "verifier", "passes": "a:b"}, {"kind": "reward", "score": "a:b"}]},
    ],
    "envelope": [
        {"kind": "fixed", "log_m": 1.0},
        {"kind": "certified"},
        {"kind": "pilot"},
        {"kind": "adaptive"},
        {"kind": "budget", "acceptance": 0.1},
        {"kind": "custom", "factory": "a:b"},
    ],
    "task": [{"kind": "custom", "factory": "a:b"}],
    "source": [
        {"kind": "idx", "root": "a"},
        {"kind": "image_folder", "root": "a"},
        {"kind": "coco", "root": "a", "annotations": "a.json"},
        {"kind": "voc", "root": "a"},
        {"kind": "yolo", "root": "a"},
        {"kind": "mask_folder", "root": "a", "masks": "b"},
        {"kind": "table", "file": "a.csv"},
        {"kind": "parquet", "root": "a"},
        {"kind": "torchvision", "name": "FakeData"},
    ],
}
"""Besides the defaults: each kind of each section, once."""
SHIFTED_TARGET: dict[str, Any] = {
    "data": {"kind": "npz", "root": "source.npz", "size": [8, 8], "classes": ["a", "b"], "channels": 1},
    "target": {"kind": "shifted", "base": {"limit": 9}, "shift": {
        **{name: {"mean": 0.5, "sd": 0.1} for name in get_args(ParameterName)}, "prior": [0.5, 0.5]}},
    "evaluation": {"test": {"kind": "shifted", "base": {}}, "oracle": {"kind": "shifted", "base": {}},
                   "arms": ["one_shot", "oracle"]},
}  # fmt: skip
"""Sections that go together: a target domain made from photographs."""


@functools.cache
def cases() -> tuple[Case, ...]:
    """Return the cases of all keys, made once a process."""
    return tuple(_cases())


def _cases() -> Iterator[Case]:
    """Each key once with each value that it must not take; each section once with keys that it does not have."""
    seen: set[tuple[str, type[BaseModel]]] = set()
    for raw, full in _full_configurations():
        for path, section in _sections(full, ""):
            if (path, type(section)) in seen:
                continue
            seen.add((path, type(section)))
            for key, value in _bad_pairs(path, section):
                yield _case(raw, key, value)


def models_walked() -> set[type[BaseModel]]:
    """Return the models that the cases go through."""
    return {type(section) for _, full in _full_configurations() for _, section in _sections(full, "")}


def models_there_are() -> set[type[BaseModel]]:
    """The models of the configuration's sections: those in its schema, without the bases that they share."""
    modules = [
        import_module(f"rsf_dist.config.{module.name}") for module in pkgutil.iter_modules(rsf_dist.config.__path__)
    ]
    classes = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    sections = {"RunConfig", *RunConfig.model_json_schema()["$defs"]}
    return {model for model in classes if issubclass(model, BaseModel) and model.__name__ in sections}


def _full_configurations() -> list[tuple[dict[str, Any], RunConfig]]:
    sections = [{}, *({name: section} for name, kinds in SECTIONS.items() for section in kinds)]
    return [(BASE | section, parse_config(BASE | section)) for section in [*sections, SHIFTED_TARGET]]


def _sections(node: Any, path: str) -> Iterator[tuple[str, BaseModel]]:
    """The models within a configuration, with their places in the file."""
    inner: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(node, BaseModel):
        yield path, node
        inner = iter(node)
    elif isinstance(node, dict):
        inner = iter(node.items())
    elif isinstance(node, tuple):
        inner = iter(enumerate(node))
    for name, value in inner:
        yield from _sections(value, f"{path}.{name}".lstrip("."))


def _bad_pairs(path: str, section: BaseModel) -> Iterator[tuple[str, Any]]:
    start = f"{path}." if path else ""
    keys, models = _described_keys(type(section))
    for name, about in keys.items():
        for value in _bad_values(name, about, models):
            yield start + name, value
    yield f"{start}zzz", 1
    yield f"{start}{max(keys, key=len)[:-1]}", 1  # the longest key, misspelt
    yield f"{start}{next(iter(keys)).upper()}", 1


@functools.cache
def _described_keys(section: type[BaseModel]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schemas of a section's keys, and those of the sections within it by name."""
    schema = section.model_json_schema()
    models = schema.get("$defs", {})
    return _resolved(schema, models)["properties"], models


def _bad_values(name: str, about: dict[str, Any], models: dict[str, Any]) -> Iterator[Any]:
    choices = list(_choices(about))
    if {"type": "null"} not in choices:
        yield None
    about = next(choice for choice in choices if choice.get("type") != "null")
    about = _resolved(about, models)
    if name == "mean":  # a number, or a list of them
        yield from ([], ["much"], [0.1, math.nan], [math.inf], [[0.1]], [None], [True])
        about = about["oneOf"][0]
    if "oneOf" in about:
        about = {"type": "object"}
    if name in {"factory", "score", "passes"}:
        yield from ("checks", "checks:", ":sharp", "my checks:sharp", "checks:sharp()", "__import__('os'):system")
    if "enum" in about or "const" in about:
        yield from ("nonsense", "", -1, [1], {"a": 1})
    else:
        sound = {"mean": [1.0], "rounds": 3, "size": 3, "input_size": 3}  # where a shorter way to say it is taken too
        yield from (bad for bad in _OF_TYPE[about["type"]](about) if name not in sound or bad != sound[name])


def _choices(about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "anyOf" not in about:
        yield about
    for choice in about.get("anyOf", ()):
        yield from _choices(choice)


def _resolved(about: dict[str, Any], models: dict[str, Any]) -> dict[str, Any]:
    return models[about["$ref"].rpartition("/")[2]] if "$ref" in about else about


def _bad_integers(about: dict[str, Any]) -> Iterator[Any]:
    yield from ("many", "", 1.5, True, [1], {"a": 1}, math.nan, math.inf, -math.inf, 10**30, -1)
    if "exclusiveMinimum" in about:
        yield 0


def _bad_numbers(about: dict[str, Any]) -> Iterator[Any]:
    yield from ("much", "", True, [1.0], {"a": 1}, math.nan, math.inf, -math.inf, "1 e 5")
    if about.get("exclusiveMinimum") == 0:
        yield from (0, -1.0)
    elif about.get("minimum") == 0:
        yield -0.5
    if "exclusiveMaximum" in about:
        yield about["exclusiveMaximum"]


def _bad_strings(about: dict[str, Any]) -> Iterator[Any]:
    yield from (3, 2.5, True, [], ["word"], {"a": 1})
    if "minLength" in about:
        yield ""


def _bad_lists(about: dict[str, Any]) -> Iterator[Any]:
    yield from (3, "word", {"a": 1}, True, [{"b": [1]}], [[1]], [None])


def _bad_flags(about: dict[str, Any]) -> Iterator[Any]:
    yield from (3, "maybe", [True], {"a": 1}, math.nan)


def _bad_sections(about: dict[str, Any]) -> Iterator[Any]:
    yield from (3, "word", True, [], [{"kind": 1}], {"1": {"2": 3}}) if "properties" in about else (3, "word", True, [])


_OF_TYPE = {
    "integer": _bad_integers,
    "number": _bad_numbers,
    "string": _bad_strings,
    "array": _bad_lists,
    "boolean": _bad_flags,
    "object": _bad_sections,
}


def _case(raw: dict[str, Any], key: str, value: Any) -> Case:
    return Case(f"{key}={value!r:.30}", key, lambda folder: changed(raw, {key: value}), seconds=5.0)
