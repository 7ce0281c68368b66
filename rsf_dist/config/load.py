"""Read a configuration from YAML and overrides, check it, and write it back.

`load_config` turns pydantic's first error into one InputError that names the key, the value, the rule and a remedy.
Three things are spelt out before validation: overrides, the keys of `data`, and `rounds: 5` for `rounds.num_rounds: 5`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rsf_dist.config import safe_yaml
from rsf_dist.config.fields import fields_at, takes_null, takes_only_text
from rsf_dist.config.images import IMAGE_KINDS, DataConfig, ImagesKind
from rsf_dist.config.messages import first_error, one_line
from rsf_dist.config.run import RunConfig
from rsf_dist.errors import InputError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check the YAML file at `path`.

    Args:
        path: relative paths in the file are relative to the working directory, not to the file.
        overrides: each `key.sub=value`. They come after the file's own keys. A value is read as YAML, except that the
            value of a key that only takes text is this text as it stands.

    Raises:
        InputError: the first thing that is wrong.
    """
    return parse_config(read_file(path, overrides))


def read_file(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the file's keys and values with the overrides, unchecked. Raises InputError where they are no YAML."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(safe_yaml.MAX_CHARACTERS + 1)  # a device has no end
    except FileNotFoundError as err:
        raise InputError("config", path, "no such file", "correct the path") from err
    except (OSError, ValueError) as err:  # ValueError: bytes that are no text, a path that can be none
        raise InputError("config", path, f"cannot be read ({err})", "name a YAML file") from err
    return _with_overrides(text, overrides, str(path))


def parse_text(text: str, overrides: Sequence[str] = (), path: str = "config.yaml") -> RunConfig:
    """Check a configuration given as YAML text; `path` names the file in errors. Raises InputError."""
    return parse_config(_with_overrides(text, overrides, path))


def image_set_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the keys of an image set that are given as `key=value`, each read as in a configuration's image sets.

    Raises:
        InputError: one of them is no `key=value`.
    """
    raw: dict[str, Any] = {}
    for override in overrides:
        if "=" not in override:
            raise InputError("override", override, "must be key=value", "write e.g. limit=100")
        _apply(raw, f"source.{override}")
    return dict(raw.get("source", {}))


def _with_overrides(text: str, overrides: Sequence[str], path: str) -> dict[str, Any]:
    try:
        raw = safe_yaml.read(text)
    except safe_yaml.UnclearNumber as err:
        raise InputError("config", path, str(err), err.remedy) from err
    except ValueError as err:
        raise InputError(
            "config", path, f"is not YAML ({one_line(err)})", "correct the syntax there, or put a text in quotes"
        ) from err
    if not isinstance(raw, dict):
        raise InputError("config", path, "must hold keys and values", "see the examples")
    for override in overrides:
        _apply(raw, override)
    return raw


def parse_config(raw: dict[str, Any]) -> RunConfig:
    """Check a configuration given as nested dicts, as a file holds it. Raises InputError."""
    try:
        return RunConfig.model_validate(_with_data(_with_rounds(raw)))
    except ValidationError as err:
        raise first_error(err, RunConfig) from None


def parse_images(keys: dict[str, Any], overrides: Sequence[str] = ()) -> ImagesKind:
    """Check an image set by itself. The overrides are keys of it, e.g. size=224. Raises InputError."""
    raw: dict[str, Any] = {"source": dict(keys)}
    others = {"output": "none", "target": {"kind": "digits"}, "sampling": {"num_accepted": 1}}
    try:
        for override in overrides:
            _apply(raw, f"source.{override}")
        return parse_config(raw | others).source
    except InputError as err:
        place = "source."
        value = err.value.removeprefix(place) if isinstance(err.value, str) else err.value
        raise InputError(err.field.removeprefix(place), value, err.rule, err.remedy) from err


def dump_config(config: RunConfig) -> str:
    """Return the resolved configuration as YAML, every default spelt out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def filled(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with the values of some keys, each named from the root. Raises InputError."""
    if not values:
        return config
    raw = config.model_dump(mode="json")
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node: Any = raw
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node[parent]
        node[leaf] = value
    return parse_config(raw)


def _with_data(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with the keys of `data` in every image set that does not have them itself."""
    data, proposal, evaluation = raw.get("data"), raw.get("proposal"), raw.get("evaluation")
    if not isinstance(data, dict):
        return raw
    defaults = {key: data[key] for key in DataConfig.model_fields if key != "cache" and data.get(key) is not None}
    if isinstance(evaluation, dict):
        raw = raw | {"evaluation": _with_filled_sets(evaluation, ("test", "source_test", "oracle"), defaults)}
    if isinstance(proposal, dict):
        raw = raw | {"proposal": _with_filled_sets(proposal, ("images",), defaults)}
    return _with_filled_sets(raw, ("source", "target"), defaults)


def _with_filled_sets(section: dict[str, Any], names: Sequence[str], defaults: dict[str, Any]) -> dict[str, Any]:
    return section | {name: _filled(section[name], defaults) for name in names if isinstance(section.get(name), dict)}


def _filled(images: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return an image set with the defaults that its kind has a key for."""
    if images.get("kind") == "shifted":
        return _with_filled_sets(images, ("base",), defaults)
    model = IMAGE_KINDS.find(images.get("kind", defaults.get("kind")))
    return {key: value for key, value in defaults.items() if model is None or key in model.model_fields} | images


def _with_rounds(raw: dict[str, Any]) -> dict[str, Any]:
    return raw | {"rounds": _rounds_section(raw["rounds"])} if "rounds" in raw else raw


def _rounds_section(value: Any, section: Any = None) -> Any:
    """Return `rounds` as a section: a number is its num_rounds, and leaves the other keys of `section` as they are."""
    if type(value) is not int:
        return value
    return (section if isinstance(section, dict) else {}) | {"num_rounds": value}


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError("override", override, "must be key=value", "write e.g. training.steps=100")
    *parents, leaf = key.split(".")
    node = raw
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise InputError("override", override, f"{parent} is a value, not a section", "correct the key")
    try:
        value = _value(key, text)
    except safe_yaml.UnclearNumber as err:
        raise InputError("override", override, str(err).partition(": ")[2], err.remedy) from err
    except ValueError as err:
        raise InputError("override", override, f"its value is not YAML ({one_line(err)})", "quote it") from err
    node[leaf] = _rounds_section(value, node.get(leaf)) if key == "rounds" else value


def _value(key: str, text: str) -> Any:
    """Return an override's value. A shell has quoted the text once, so a text need not be quoted for YAML again."""
    fields = fields_at(RunConfig, key.split("."))
    if fields and all(map(takes_only_text, fields)):
        return _text(text.strip(), null=any(map(takes_null, fields)))  # of some kinds, where kinds share a key
    value = safe_yaml.read(text)
    if isinstance(value, str) and not fields:  # below `options`, anything goes
        return _text(text.strip(), null=False)
    return value


def _text(text: str, null: bool) -> str | None:
    """Return the text as it stands, without quotes around it; None where it is YAML's null and `null` allows this."""
    if null and text in _NULLS:
        return None
    if text[:1] not in ("'", '"'):
        return text
    try:
        unquoted = safe_yaml.read(text)
    except ValueError:  # quotes that are part of the text
        return text
    return unquoted if isinstance(unquoted, str) else text


_NULLS = ("", "~", "null", "Null", "NULL")
