"""Read YAML as plain values: no tags that make objects, no repeated keys, no small text that is huge once read.

Numbers that YAML 1.1 reads otherwise than people do are refused: 010 would be 8, and 1:30 would be 90.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_CHARACTERS = 300_000

MAX_NODES = 100_000
"""Largest number of values and keys in one text. What an alias names counts again at each alias."""


_THIS_TEXT = 'in "<unicode string>", '
"""PyYAML's name of a text without a file, in front of a line's number."""


class UnclearNumber(ValueError):
    """A number that can be read in two ways; `remedy` says what to write instead."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(problem)
        self.remedy = remedy


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, made to refuse unclear numbers, and repeated keys instead of taking the last one."""

    def construct_yaml_int(self, node: Any) -> int:
        value = super().construct_yaml_int(node)
        _require_no_colon(node, value)
        if re.fullmatch(r"[-+]?0[0-9]+", digits := node.value.replace("_", "")) and int(digits) != value:
            raise UnclearNumber(_read_as(node, f"{value} (octal)"), f"write {int(digits)} or {value}, {_QUOTED}")
        return value

    def construct_yaml_float(self, node: Any) -> float:
        value = super().construct_yaml_float(node)
        _require_no_colon(node, value)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if any(key.value == earlier.value for earlier in keys[:number]):
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} is there twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


_QUOTED = "or put a text in quotes"


def _require_no_colon(node: Any, value: float) -> None:
    if ":" in node.value:
        raise UnclearNumber(_read_as(node, f"{value} (base 60)"), f"write {value}, {_QUOTED}")


def _read_as(node: Any, value: str) -> str:
    return f"line {node.start_mark.line + 1}: YAML reads {node.value} as {value}"


def read(text: str) -> Any:
    """Return the value that the text describes. Raises ValueError with a message for the user."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CHARACTERS:,} characters")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as err:
        raise ValueError(str(err).replace(_THIS_TEXT, "at ")) from err
    except (KeyError, AttributeError, IndexError, TypeError) as err:  # PyYAML's, if a tag does not fit its value
        raise ValueError("a tag (!!…) does not fit the value that it stands before") from err
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err


def _count(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the number of nodes once aliases are written out; each node is visited once."""
    if id(node) in sizes:
        if sizes[id(node)] == 0:  # the node is still being counted, so it lies within itself
            raise ValueError("an alias stands within what it names")
        return sizes[id(node)]
    sizes[id(node)] = 0
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    inner = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
    sizes[id(node)] = 1 + sum(_count(part, sizes) for part in inner)
    if sizes[id(node)] > MAX_NODES:
        raise ValueError(f"its aliases make more than {MAX_NODES:,} values")
    return sizes[id(node)]
