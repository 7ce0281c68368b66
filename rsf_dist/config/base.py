"""What every section of the configuration is made of: strict models, and types of numbers and names."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

_LARGEST_COUNT = 10**12  # more is a slip of the pen, and would not fit the integers of files and tensors


Fraction = Annotated[float, Field(gt=0, lt=1)]


PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


PositiveInt = Annotated[int, Field(gt=0, le=_LARGEST_COUNT)]


Count = Annotated[int, Field(ge=0, le=_LARGEST_COUNT)]


NonEmptyStr = Annotated[str, Field(min_length=1)]


def _import_path(path: str) -> str:
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), name]):
        raise ValueError("must be an import path, package.module:name")
    return path


ImportPath = Annotated[str, AfterValidator(_import_path)]
"""`package.module:name` of a class or function of the user's own, see `rsf_dist.runtime.user_code`."""


class StrictModel(BaseModel):
    """A section of the configuration: immutable, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _flags_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes `true` for 1; and YAML takes an unquoted yes, no, on or off for a flag
        annotation = cls.model_fields[str(info.field_name)].annotation
        given = value if isinstance(value, list) else [value]
        if annotation is not bool and any(isinstance(one, bool) for one in given):
            raise ValueError("must not be true or false (yes, no, on and off need quotes to be words)")
        return value
