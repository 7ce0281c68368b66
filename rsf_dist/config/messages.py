"""Pydantic's errors in the user's words: field, value, rule, remedy."""

from __future__ import annotations

import difflib
import re
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
        return _unknown_key(field, location[-1], first["input"], _keys_at(root, tagged[:-1]))
    if first["type"] == "missing":
        return InputError(field, "(absent)", "is required", "add it")
    rule = one_line(first["msg"].removeprefix("Value error, "))
    value = first["input"] if not isinstance(first["input"], dict) else "{…}"
    return InputError(field, value, rule[0].lower() + rule[1:], "correct it")


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


def _keys_at(root: type[BaseModel], location: Sequence[str]) -> list[str]:
    models = [root]
    for part in location:
        if part.startswith(TAG):
            models = [model for model in models if part == TAG + ",".join(kinds(model))]
            continue
        models = [
            inner
            for model in models
            if part in model.model_fields
            for inner in _models_in_field(model.model_fields[part])
        ] or models
    return sorted({name for model in models for name in model.model_fields})


def kinds(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the kinds that a union's member stands for."""
    return get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()


def _models_in_field(field: FieldInfo) -> list[type[BaseModel]]:
    return [model for part in (field.annotation, *field.metadata) for model in _models_in(part)]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, Kinds):
        return list(annotation.models)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def one_line(text: object) -> str:
    """Return the text without its line breaks."""
    return " ".join(str(text).split())
