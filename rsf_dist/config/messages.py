"""Pydantic's errors in the user's words: field, value, rule, remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rsf_dist.config.base import REFUSAL
from rsf_dist.config.fields import fields_at, models_at
from rsf_dist.config.kinds import TAG
from rsf_dist.config.wording import Broken, words_of
from rsf_dist.errors import InputError

_KEY = "[key]"
"""Pydantic's mark of an error of a dictionary's key, at the end of its place."""

RENAMED = {
    "code": "code_folder",
    "target.num_unlabelled": "target.num_images",
    "rounds.broad_share": "rounds.defensive_share",
    "rounds.warm_steps": "rounds.warm_start_steps",
    "rounds.min_gain": "rounds.min_auc_gain",
    "training.keep": "training.checkpoint",
    "evaluation.judge": "evaluation.feature_network",
}
"""New names of keys that earlier versions called otherwise."""

REMOVED = {
    "ratio.relative_alpha": "take RelativeRatio with TargetMixtureProposal in Python, or leave the key out",
    "rounds.fine_tuned_features": "leave the key out",
}
"""Remedies for keys that earlier versions had."""

REMOVED_KINDS = {
    ("envelope", "drs"): "choose another kind; examples/gaussians25 has the method, as a ratio around the ratio",
}
"""Remedies for kinds that earlier versions had, by section and kind."""


def first_error(error: ValidationError, root: type[BaseModel]) -> InputError:
    """Return the first thing that is wrong with a configuration that should be a `root`."""
    # A misspelt key that is required is both unknown and missing; the spelling is what to fix.
    first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    # Pydantic puts a union's chosen kind among the keys; the file has no such key.
    tagged = [str(part) for part in first["loc"]]
    location = [part for part in tagged if not part.startswith(TAG)]
    field = ".".join(location) or "config"
    if first["type"].startswith("union_tag"):
        return _kind_error(field, first)
    if first["type"] == "extra_forbidden":
        known = sorted({name for model in models_at(root, tagged[:-1]) for name in model.model_fields})
        return _unknown_key(field, location[-1], first["input"], known)
    if location and location[-1] == _KEY:
        return _unknown_name(location[:-1], first)
    if first["type"] == "missing" and isinstance(first["input"], dict):
        return InputError(field, "(absent)", "is required", "add it")
    return _broken_rule(root, tagged, first)


def _broken_rule(root: type[BaseModel], tagged: Sequence[str], error: ErrorDetails) -> InputError:
    """Return the error of a value, in the words of its rule."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":  # an item of a list
        kind, tagged = "missing_item", tagged[:-1]
    fields = fields_at(root, tagged)
    key = next((part for part in reversed(tagged) if not part.startswith(TAG)), "")
    models = models_at(root, tagged) if kind == "model_type" else ()
    rule, remedy = words_of(Broken(kind, error["input"], context, error["msg"], key, fields, models))
    location = [part for part in tagged if not part.startswith(TAG)]
    value = error["input"]
    if kind == REFUSAL and context["key"]:
        location, value = [*location, context["key"]], context["value"]
    return InputError(".".join(location) or "config", _shown(value), one_line(rule), one_line(remedy))


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return "{…}"
    return list(value) if isinstance(value, tuple) else value


def _unknown_name(location: Sequence[str], error: ErrorDetails) -> InputError:
    """Return the error of a name in a dictionary: a text that is none of the names there are, or no text."""
    field, name = ".".join(location), error["input"]
    if error["type"] != "literal_error":
        return InputError(field, name, "keys must be text", f'put the key in quotes, "{name}"')
    return _unknown_key(field, str(name), name, re.findall(r"'([^']*)'", error["ctx"]["expected"]))


def _unknown_key(field: str, name: str, value: Any, known: Sequence[str]) -> InputError:
    if field in RENAMED:
        return InputError(field, value, "this key has a new name", f"write {RENAMED[field]}")
    if (known_as := re.sub(r"\.factors\.\d+", "", field)) in REMOVED:  # a factor's key stands in every ratio
        return InputError(field, value, "this key was removed", REMOVED[known_as])
    close = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
    return InputError(field, value, "unknown key", remedy)


def _kind_error(field: str, error: Any) -> InputError:
    section = error["input"]
    if not isinstance(section, dict):
        return InputError(field, section, "must hold keys and values, `kind` among them", "see the examples")
    if section.get("kind") is None:
        return InputError(f"{field}.kind", "(absent)", "is required", "add it")
    removed = REMOVED_KINDS.get((field, str(section["kind"])))
    if removed is not None:
        return InputError(f"{field}.kind", section["kind"], "this kind was removed", removed)
    kinds = [kind.strip("' ").removeprefix(TAG) for kind in error["ctx"]["expected_tags"].split(",")]
    close = difflib.get_close_matches(str(section["kind"]), kinds, n=1)
    remedy = f"did you mean {close[0]}?" if close else "choose one of these"
    return InputError(f"{field}.kind", section["kind"], f"must be one of {', '.join(kinds)}", remedy)


def one_line(text: object) -> str:
    """Return the text without its line breaks."""
    return " ".join(str(text).split())
