"""Registries of the kinds that a section of the configuration can have.

`ratio:`, `proposal:`, `envelope:` and `task:` are unions whose member is chosen by the key `kind`. The members come
from a registry, so that a class outside of this package can join them:

    @RATIO_KINDS.register
    class ToyRatioConfig(RatioKind):
        kind: Literal["toy"]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast, get_args

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

TAG = "kind="
"""The prefix of a union's tags in pydantic's error locations, which tells a kind from a key."""

Base = TypeVar("Base", bound=BaseModel)
Member = TypeVar("Member", bound=BaseModel)


class Kinds(Generic[Base]):
    """The open set of models that a section can be, each known by its `kind`.

    `Annotated[Base, kinds]` is the type of a field that holds a member of the set.

    Args:
        section: the section's name, for error messages.
        default: the kind of a section that names none. None means that `kind` is required.
        among: another open set, whose models this section can be, too.
    """

    def __init__(self, section: str, default: str | None = None, among: Kinds[Any] | None = None):
        self.section, self.default, self.among = section, default, among
        self._models: dict[str, type[Base]] = {}
        self._holders: list[type[BaseModel]] = []

    @property
    def models(self) -> tuple[type[Base], ...]:
        """The registered models, in the order of registration, after those of the other set."""
        return (*(self.among.models if self.among else ()), *self._models.values())

    def find(self, kind: object) -> type[Base] | None:
        """Return the model of this kind. None means that no model is registered for it."""
        return {kind_of(model): model for model in self.models}.get(kind) if isinstance(kind, str) else None

    def register(self, model: type[Member]) -> type[Member]:
        """Add a model, whose field `kind` must be a Literal of one word. Use it as a decorator.

        Raises:
            TypeError: the model has no such field, or another model has its kind.
        """
        kind = kind_of(model)
        known: type[BaseModel] = self._models.get(kind) or model
        if _name_of(known) != _name_of(model):
            raise TypeError(f"{self.section}.kind={kind} is {_name_of(known)} already; give {_name_of(model)} another")
        self._models[kind] = cast("type[Base]", model)
        self._rebuild()
        return model

    def forget(self, model: type[BaseModel]) -> None:
        """Remove a registered model, as a test does with its own."""
        del self._models[kind_of(model)]
        self._rebuild()

    def _rebuild(self) -> None:
        for holder in self._holders:
            holder.model_rebuild(force=True)

    def holder(self, model: type[Member]) -> type[Member]:
        """Rebuild this model, a field of which is of this type, whenever a kind is added. Use it as a decorator.

        Models are rebuilt in the order in which they come here: an inner one must come before an outer one.
        """
        self._holders.append(model)
        return model

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the tagged union of what is registered by now."""
        choices = {f"{TAG}{kind_of(model)}": handler.generate_schema(model) for model in self.models}
        return core_schema.tagged_union_schema(choices, discriminator=_tag_reader(self.default))


def _tag_reader(default: str | None) -> Callable[[Any], str | None]:
    def tag(raw: Any) -> str | None:
        kind = raw.get("kind", default) if isinstance(raw, dict) else getattr(raw, "kind", None)
        return None if kind is None else f"{TAG}{kind}"

    return tag


def kind_of(model: type[BaseModel]) -> str:
    """Return the kind that a model stands for. Raises TypeError where it names none."""
    field = model.model_fields.get("kind")
    words = get_args(field.annotation) if field else ()
    if len(words) != 1 or not isinstance(words[0], str):
        raise TypeError(f'{_name_of(model)} needs a field that names its kind: write e.g. kind: Literal["toy"]')
    return words[0]


def _name_of(model: type[BaseModel]) -> str:
    return f"{model.__module__}.{model.__qualname__}"
