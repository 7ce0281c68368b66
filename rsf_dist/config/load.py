"""From YAML and overrides to a checked RunConfig, and back to YAML.

`load_config` turns each of pydantic's complaints into one InputError that names the field, the value, the rule and a
remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)

from rsf_dist.config import safe_yaml
from rsf_dist.config.messages import first_error, one_line
from rsf_dist.config.run import RunConfig
from rsf_dist.errors import InputError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The YAML at `path`, with `key.sub=value` overrides (values are read as YAML), checked.

    Relative paths in the file are relative to where the command runs. Raises InputError.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(safe_yaml.MAX_CHARACTERS + 1)  # a device has no end
    except FileNotFoundError as err:
        raise InputError("config", path, "no such file", "correct the path") from err
    except (OSError, ValueError) as err:  # ValueError: bytes that are no text, a path that can be none
        raise InputError("config", path, f"cannot be read ({err})", "name a YAML file") from err
    return parse_text(text, overrides, str(path))


def parse_text(text: str, overrides: Sequence[str] = (), path: str = "config.yaml") -> RunConfig:
    """As `load_config`, of a file's text; `path` names it in errors."""
    try:
        raw = safe_yaml.read(text)
    except ValueError as err:
        raise InputError("config", path, f"is not YAML ({one_line(err)})", "correct the syntax there") from err
    if not isinstance(raw, dict):
        raise InputError("config", path, "must hold keys and values", "see the examples")
    for override in overrides:
        _apply(raw, override)
    return parse_config(raw)


def parse_config(raw: dict[str, Any]) -> RunConfig:
    """Check a configuration given as nested dicts. Raises InputError for the first thing that is wrong."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as err:
        raise first_error(err, RunConfig) from None


def dump_config(config: RunConfig) -> str:
    """The resolved configuration, every default spelt out, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


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
        value = safe_yaml.read(text)
        short = key == "rounds" and type(value) is int and isinstance(node.get(leaf), dict)
        node[leaf] = {**node[leaf], "num_rounds": value} if short else value
    except ValueError as err:
        raise InputError("override", override, f"its value is not YAML ({one_line(err)})", "quote it") from err
