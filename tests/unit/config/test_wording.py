"""Every error that pydantic can raise for a key is told in words of our own."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from bad_input import keys
from pydantic_core import core_schema

from rsf_dist.config.base import REFUSAL
from rsf_dist.config.load import parse_config
from rsf_dist.config.run import RunConfig
from rsf_dist.config.wording import WORDS, Broken, words_of
from rsf_dist.errors import InputError

RAISED_BY = {
    "model": {"model_type"},
    "model-fields": {"model_type", "missing", "extra_forbidden", "invalid_key"},
    "str": {"string_type", "string_unicode"},
    "int": {"int_type", "int_parsing", "int_parsing_size", "int_from_float", "finite_number"},
    "float": {"float_type", "float_parsing"},
    "bool": {"bool_type", "bool_parsing"},
    "literal": {"literal_error"},
    "tuple": {"tuple_type", "missing", "too_long"},
    "list": {"list_type"},
    "dict": {"dict_type"},
    "tagged-union": {"union_tag_invalid", "union_tag_not_found"},
    "function-before": {"value_error", REFUSAL},
    "function-after": {"value_error", REFUSAL},
}
"""The error types of each kind of schema, in pydantic's lax mode."""

CONSTRAINTS = {
    "gt": {"greater_than"},
    "ge": {"greater_than_equal"},
    "lt": {"less_than"},
    "le": {"less_than_equal"},
}

SILENT = {"any", "nullable", "default", "model-field", "definitions", "definition-ref", "no-info", "with-info"}
"""The schemas that raise nothing themselves."""

TOLD_APART = {"missing", "extra_forbidden", "union_tag_invalid", "union_tag_not_found", "value_error"}
"""The error types that `messages` has words for, and validators' own words."""


def schemas(node: Any, seen: set[int]) -> Iterator[dict[str, Any]]:
    if id(node) in seen or not isinstance(node, (dict, list, tuple)):
        return
    seen.add(id(node))
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            yield node
        # a default, a literal's words and a model's own settings are no schemas
        inner = [value for key, value in node.items() if key not in ("default", "expected", "config", "metadata")]
    else:
        inner = list(node)
    for part in inner:
        yield from schemas(part, seen)


def raised(schema: dict[str, Any]) -> set[str]:
    kind = schema["type"]
    if kind in SILENT:
        return set()
    found = set(RAISED_BY[kind])  # a KeyError is a kind of schema that nobody has looked at
    for constraint, types in CONSTRAINTS.items():
        found |= types if constraint in schema else set()
    if "min_length" in schema:
        found |= {"string_too_short"} if kind == "str" else {"too_short"}
    assert not {"max_length", "pattern", "multiple_of", "strict"} & schema.keys()
    return found | ({"finite_number"} if schema.get("allow_inf_nan") is False else set())


def test_every_error_type_of_our_models_has_words():
    types = set().union(*map(raised, schemas(RunConfig.__pydantic_core_schema__, set())))
    assert types - TOLD_APART <= WORDS.keys()
    # and none has words in vain; `missing_item` is pydantic's `missing` in a list
    assert WORDS.keys() - {"missing_item"} == types - TOLD_APART
    assert WORDS.keys() - {"missing_item", REFUSAL} <= set(get_args(core_schema.ErrorType))


PYDANTIC = re.compile(
    r"[Ii]nput should|\bvalid\b|\binstance|dictionary|tuple|\bvalidation\b|unable to|Config\b|\[key\]|correct it"
)


def test_no_key_shows_words_of_pydantic():
    shown = []
    for case in keys.cases():
        with pytest.raises(InputError) as caught:
            parse_config(dict(case.spoil(Path())))
        error = caught.value
        if PYDANTIC.search(f"{error.field} {error.rule} {error.remedy}") and error.rule not in OWN:
            shown.append(str(error))
    assert not shown


OWN = {
    "must be an import path, package.module:name",
    "name exactly one of uniform, normal",
}
"""Rules of validators of ours, which have no remedy but to follow them."""


def test_the_words_of_pydantic_are_found():
    told = Broken("url_type", 3, {}, "URL input should be a string or URL")
    assert words_of(told) == ("uRL input should be a string or URL", "correct it")
    assert PYDANTIC.search(words_of(told)[0])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({1: 2}, "1=1: keys must be text; put the key in quotes"),
        ({"model": {"options": {1: 2}}}, 'model.options.1=1: keys must be text; put the key in quotes, "1"'),
        ({"model": {"options": [1]}}, "model.options=[1]: must hold keys and values; write {key: value}"),
        ({"source": {"kind": "npz", "root": b"\xff"}}, "source.root=b'\\xff': must be text; put it in quotes"),
        ({"seed": "9" * 5_000}, "seed=.*: has too many digits; give a smaller number"),
        ({"training": {"schedule": "cosin"}}, "must be 'cosine' or 'constant'; did you mean cosine?"),
        ({"evaluation": {"arms": "random"}}, "must be a list; write [random]"),
        ({"ratio": {"kind": "reward", "score": "a:b", "columns": "image"}}, "must be a list; write [image]"),
        ({"training": 3}, "training=3: must hold keys and values; known here: algorithm, "),
        ({"training": None}, "training=None: must hold keys and values; give a value, or leave the key out"),
        ({"sampling": {"num_accepted": None}}, "sampling.num_accepted=None: must be an integer; give a value"),
        ({"evaluation": {"arms": ["oracle"]}}, "go together; add its images as oracle, or leave the arm out"),
    ],
)
def test_what_is_told(raw, message):
    with pytest.raises(InputError) as caught:
        parse_config(keys.BASE | raw)
    assert re.search(re.escape(message).replace(r"\.\*", ".*"), str(caught.value))
