"""The rules that values break and their remedies, in words of our own for each of pydantic's error types.

`words_of` leaves an error type that no key of ours raises, as a user's own kind may, in pydantic's words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rsf_dist.config.angles import in_radians, looks_like_degrees
from rsf_dist.config.base import REFUSAL, finite_float

_MANY = 1e15
"""Integers above this are no longer exact as floats, and none is meant."""


@dataclass(frozen=True)
class Broken:
    """A value and the rule that it breaks.

    Args:
        kind: pydantic's name of the rule.
        value: the value.
        context: the rule's own numbers and words.
        message: pydantic's words.
        key: the last key of the value's place in the file.
        fields: the fields that the key can be.
        models: the sections that the key can be. Empty if it is none.
    """

    kind: str
    value: Any
    context: Mapping[str, Any]
    message: str
    key: str = ""
    fields: Sequence[FieldInfo] = ()
    models: Sequence[type[BaseModel]] = ()


def words_of(broken: Broken) -> tuple[str, str]:
    """Return the rule and the remedy."""
    if broken.kind not in WORDS:
        theirs = broken.message.removeprefix("Value error, ")
        return theirs[0].lower() + theirs[1:], "correct it"
    rule, remedy = WORDS[broken.kind]
    if broken.value is None and broken.kind != REFUSAL:
        required = any(found.is_required() for found in broken.fields)
        return rule(broken), "give a value" if required else "give a value, or leave the key out"
    return rule(broken), remedy(broken)


def _fixed(text: str) -> Callable[[Broken], str]:
    return lambda broken: text.format(**broken.context)


def _integer(broken: Broken) -> str:
    """Return an integer close to what was meant, where this can be told."""
    number = _as_number(broken.value)
    if number is None or abs(number) > _MANY:
        return "write digits alone, e.g. 100"
    low, high = math.floor(number), math.ceil(number)
    return f"write {low}" if low == high else f"write {low} or {high}"


def _number(broken: Broken) -> str:
    number = _as_number(broken.value)
    return "write e.g. 0.5" if number is None else f"write {number:g}"


def _as_number(value: Any) -> float | None:
    """Return the number that is meant by a percentage, a list of one, or a number with spaces, e.g. `1 000`."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        found = re.fullmatch(r"([-+]?[\d ]*\.?\d+(?:[eE][-+]?\d{1,2})?) ?(%?)", value.strip())
        value = float(found[1].replace(" ", "")) / (100 if found[2] else 1) if found else None
    return finite_float(value)


def _text(broken: Broken) -> str:
    if isinstance(broken.value, (list, tuple, set)):
        return "write one text, without brackets"
    return f'put it in quotes, "{broken.value}"' if not isinstance(broken.value, (dict, bytes)) else "put it in quotes"


def _literal(broken: Broken) -> str:
    words = re.findall(r"'([^']*)'", broken.context["expected"])
    close = get_close_matches(str(broken.value), words, n=1)
    return f"did you mean {close[0]}?" if close else "choose one of these"


def _list(broken: Broken) -> str:
    one = f"[{broken.value}]" if isinstance(broken.value, (str, int, float)) else "its items in brackets, [a, b]"
    return f"write {_form(broken) or one}"


def _form(broken: Broken) -> str:
    """Return a short list's items by their names, e.g. [low, high], which its description begins with."""
    for described in (found.description or "" for found in broken.fields):
        if form := re.search(r"\[\w+, \w+\]", described):
            return form[0]
    return ""


def _items(count: int) -> str:
    return f"{count} item" if count == 1 else f"{count} items"


def _section(broken: Broken) -> str:
    value, unit = broken.value, ""
    if broken.key == "rotation" and looks_like_degrees(value):
        value, unit = in_radians(value), ", in radians"
    for model in broken.models:
        if (written := getattr(model, "spelt_out", lambda _: None)(value)) is not None:
            return f"write {written}{unit}"
    known = sorted({name for model in broken.models for name in model.model_fields})
    return f"known here: {', '.join(known)}" if known else "write {key: value}"


_Words = tuple[Callable[[Broken], str], Callable[[Broken], str]]

_INTEGER: _Words = (_fixed("must be an integer"), _integer)
_NUMBER: _Words = (_fixed("must be a number"), _number)
_FLAG: _Words = (_fixed("must be true or false"), _fixed("write true or false"))
_TEXT: _Words = (_fixed("must be text"), _text)
_LIST: _Words = (_fixed("must be a list"), _list)
_SECTION: _Words = (_fixed("must hold keys and values"), _section)
_LARGER, _SMALLER = _fixed("give a larger number"), _fixed("give a smaller number")

WORDS: dict[str, _Words] = {
    REFUSAL: (_fixed("{rule}"), _fixed("{remedy}")),
    "missing_item": (_fixed("is too short a list"), _list),
    "int_type": _INTEGER,
    "int_parsing": _INTEGER,
    "int_parsing_size": (_fixed("has too many digits"), _SMALLER),
    "int_from_float": _INTEGER,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": (_fixed("must be finite"), _fixed("give a finite number")),
    "greater_than": (_fixed("must be greater than {gt}"), _LARGER),
    "greater_than_equal": (_fixed("must be greater than or equal to {ge}"), _LARGER),
    "less_than": (_fixed("must be less than {lt}"), _SMALLER),
    "less_than_equal": (_fixed("must be less than or equal to {le}"), _SMALLER),
    "bool_type": _FLAG,
    "bool_parsing": _FLAG,
    "string_type": _TEXT,
    "string_unicode": _TEXT,
    "string_too_short": (_fixed("must not be empty"), _fixed("give a text")),
    "literal_error": (_fixed("must be {expected}"), _literal),
    "tuple_type": _LIST,
    "list_type": _LIST,
    "too_short": (lambda broken: f"must have at least {_items(broken.context['min_length'])}", _fixed("add some")),
    "too_long": (lambda broken: f"must have {_items(broken.context['max_length'])}", _list),
    "dict_type": _SECTION,
    "model_type": _SECTION,
    "invalid_key": (_fixed("keys must be text"), _fixed("put the key in quotes")),
}
"""The rule and the remedy of each error type that a key of the package's own models can raise."""
