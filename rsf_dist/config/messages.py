"""Pydantic's complaints in the user's own words: field, value, rule, remedy."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from rsf_dist.config.kinds import TAG, Kinds
from rsf_dist.errors import InputError

RENAMED = {
    "code": "code_folder",
    "target.num_unlabelled": "target.num_images",
    "rounds.broad_share": "rounds.defensive_share",
    "rounds.warm_steps": "rounds.warm_start_steps",
    "rounds.min_gain": "rounds.min_auc_gain",
    "training.keep": "training.checkpoint",
    "evaluation.judge": "evaluation.feature_network",
}
"""Keys of earlier versions and what they are called now."""


def first_error(error: ValidationError, root: type[BaseModel]) -> InputError:
    """Of a configuration that should be a `root`: the first thing wrong with it."""
    # A misspelt key that is required is both unknown and missing; the spelling is what to mend.
    found = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    # Pydantic puts a union's chosen kind among the keys; the file has no such key.
    tagged = [str(part) for part in found["loc"]]
    location = [part for part in tagged if not part.startswith(TAG)]
    field = ".".join(location) or "config"
    if found["type"].startswith("union_tag"):
        return _kind_error(field, found)
    if found["type"] == "extra_forbidden":
        if field in RENAMED:
            return InputError(field, found["input"], "this key has a new name", f"write {RENAMED[field]}")
        known = _keys_at(root, tagged[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return InputError(field, found["input"], "unknown key", remedy)
    if found["type"] == "missing":
        return InputError(field, "(absent)", "is required", "add it")
    rule = one_line(found["msg"].removeprefix("Value error, "))
    value = found["input"] if not isinstance(found["input"], dict) else "{…}"
    return InputError(field, value, rule[0].lower() + rule[1:], "correct it")


def _kind_error(field: str, found: Any) -> InputError:
    given = found["input"]
    if not isinstance(given, dict):
        return InputError(field, given, "must hold keys and values, `kind` among them", "see the examples")
    if given.get("kind") is None:
        return InputError(f"{field}.kind", "(absent)", "is required", "add it")
    kinds = [kind.strip("' ").removeprefix(TAG) for kind in found["ctx"]["expected_tags"].split(",")]
    close = difflib.get_close_matches(str(given["kind"]), kinds, n=1)
    remedy = f"did you mean {close[0]}?" if close else "choose one of these"
    return InputError(f"{field}.kind", given["kind"], f"must be one of {', '.join(kinds)}", remedy)


def _keys_at(root: type[BaseModel], location: Sequence[str]) -> list[str]:
    models = [root]
    for part in location:
        if part.startswith(TAG):
            models = [model for model in models if part[len(TAG) :] in get_args(model.model_fields["kind"].annotation)]
            continue
        models = [
            inner
            for model in models
            if part in model.model_fields
            for inner in _models_in_field(model.model_fields[part])
        ] or models
    return sorted({name for model in models for name in model.model_fields})


def _models_in_field(field: FieldInfo) -> list[type[BaseModel]]:
    return [model for part in (field.annotation, *field.metadata) for model in _models_in(part)]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, Kinds):
        return list(annotation.models)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def one_line(text: object) -> str:
    """The text without its line breaks."""
    return " ".join(str(text).split())
