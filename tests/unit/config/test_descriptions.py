"""Every key of the configuration says what it means, for the printed schema and the key reference."""

import pytest
from bad_input.keys import models_there_are
from pydantic import BaseModel

from rsf_dist.config.base import StrictModel

MODELS = sorted(models_there_are(), key=lambda model: model.__name__)


def undescribed(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if not (field.description or "").strip()]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_has_a_docstring_under_it(model: type[BaseModel]) -> None:
    assert undescribed(model) == []
    assert (model.__doc__ or "").strip()


def test_a_key_without_a_docstring_is_found() -> None:
    class Section(StrictModel):
        """A section."""

        told: int = 1
        """A number."""
        untold: int = 2

    class Inherited(Section):
        """A section that changes a default and does not say again what the key means."""

        told: int = 3

    assert undescribed(Section) == ["untold"]
    assert undescribed(Inherited) == ["told", "untold"]
