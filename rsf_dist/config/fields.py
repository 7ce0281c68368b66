"""The fields of the models that a key of the file leads to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rsf_dist.config.kinds import TAG, Kinds


def models_at(root: type[BaseModel], location: Sequence[str]) -> list[type[BaseModel]]:
    """Return the models that the section at this place can be; several where the place does not tell its kind.

    Args:
        root: the model of the whole file.
        location: the keys that lead there, perhaps with the tags that pydantic puts among them.
    """
    models = [root]
    for part in location:
        if part.startswith(TAG):
            models = [model for model in models if part == TAG + ",".join(kinds(model))]
            continue
        fields = _named(models, part)
        if fields:  # otherwise the part is a number in a list, or a name in a dictionary of sections
            models = [inner for field in fields for inner in _models_in_field(field)]
    return models


def fields_at(root: type[BaseModel], location: Sequence[str]) -> list[FieldInfo]:
    """Return the fields that the key at this place can be. A number at the end stands for the list's own key."""
    names = list(location)
    while names and (names[-1].isdecimal() or names[-1].startswith(TAG)):
        names.pop()
    return _named(models_at(root, names[:-1]), names[-1]) if names else []


def _named(models: Sequence[type[BaseModel]], name: str) -> list[FieldInfo]:
    return [model.model_fields[name] for model in models if name in model.model_fields]


def takes_only_text(field: FieldInfo) -> bool:
    """Return True if every value of the field is a text, or null."""
    return all(_is_text(choice) for choice in choices(field) if choice is not type(None))


def takes_null(field: FieldInfo) -> bool:
    """Return True if null is among the field's values."""
    return type(None) in choices(field)


def choices(field: FieldInfo) -> tuple[Any, ...]:
    """Return the types that a value of the field can have."""
    annotation: Any = field.annotation
    members = () if get_origin(annotation) in (Literal, tuple, list, dict) else get_args(annotation)
    return tuple(_bare(member) for member in members or (annotation,))


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _is_text(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return all(isinstance(word, str) for word in get_args(annotation))
    return annotation is str


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
