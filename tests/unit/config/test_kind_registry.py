"""The open union of kinds: members that are added later, and the errors that a closed union gives."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ValidationError

from rsf_dist.config.base import StrictModel
from rsf_dist.config.kinds import Kinds
from rsf_dist.config.messages import first_error


class Shape(StrictModel):
    kind: str


def registry(default: str | None = None) -> tuple[Kinds[Shape], type[BaseModel]]:
    kinds = Kinds[Shape]("shape", default)

    @kinds.register
    class Circle(Shape):
        kind: Literal["circle"] = "circle"
        radius: float = 1.0

    @kinds.register
    @kinds.holder
    class Group(Shape):
        kind: Literal["group"]
        parts: tuple[Annotated[Shape, kinds], ...]

    @kinds.holder
    class Drawing(StrictModel):
        shape: Annotated[Shape, kinds]

    return kinds, Drawing


def error_of(model: type[BaseModel], raw: dict) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(raw)
    return str(first_error(caught.value, model))


def square(kinds: Kinds[Shape]) -> None:
    @kinds.register
    class Square(Shape):
        kind: Literal["square"]
        side: float


def test_a_kind_added_later_is_taken_at_the_top_and_within_another_kind():
    kinds, drawing = registry()
    raw = {"shape": {"kind": "group", "parts": [{"kind": "circle"}, {"kind": "square", "side": 2}]}}
    assert "must be one of circle, group" in error_of(drawing, raw)  # the negative control: not registered yet
    square(kinds)
    made = drawing.model_validate(raw)
    assert [part.kind for part in made.shape.parts] == ["circle", "square"]
    assert drawing.model_validate(made.model_dump()) == made


def test_errors_name_places_without_tags_and_suggest_kinds_and_keys():
    kinds, drawing = registry()
    square(kinds)
    unknown_kind = error_of(drawing, {"shape": {"kind": "sqare", "side": 1}})
    assert "shape.kind" in unknown_kind
    assert "must be one of circle, group, square" in unknown_kind
    assert "did you mean square?" in unknown_kind
    part = {"kind": "group", "parts": [{"kind": "square", "sid": 1}]}
    unknown_key = error_of(drawing, {"shape": part})
    assert "shape.parts.0.sid" in unknown_key
    assert "did you mean side?" in unknown_key
    assert "shape.kind" in error_of(drawing, {"shape": {}})


def test_a_default_kind_may_be_left_out():
    _, drawing = registry(default="circle")
    assert drawing.model_validate({"shape": {"radius": 3}}).shape.radius == 3


def test_the_json_schema_lists_every_kind():
    kinds, drawing = registry()
    square(kinds)
    assert {"Circle", "Group", "Square"} <= drawing.model_json_schema()["$defs"].keys()


def test_a_kind_is_registered_once_and_must_name_itself():
    kinds, _ = registry()

    class Disc(Shape):
        kind: Literal["circle"]

    with pytest.raises(TypeError, match=r"shape\.kind=circle is .*Circle already"):
        kinds.register(Disc)
    with pytest.raises(TypeError, match="needs a field that names its kind"):
        kinds.register(Shape)
