"""The base class of the configuration's sections, and the types of numbers and names that several sections share."""

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

_LARGEST_COUNT = 10**12  # larger counts are typing errors, and would not fit the integers of files and tensors
Fraction = Annotated[float, Field(gt=0, lt=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = NonNegative
PositiveInt = Annotated[int, Field(gt=0, le=_LARGEST_COUNT)]
Count = Annotated[int, Field(ge=0, le=_LARGEST_COUNT)]

_SMALLEST_SHARE = 0.0001  # of a CPU or GPU, that Ray can count
_LARGEST_SHARE = 10_000  # above any machine
_MOST_PROCESSES = 40_000  # actors in a cluster, up to which Ray is tested
ProcessCount = Annotated[int, Field(gt=0, le=_MOST_PROCESSES)]
"""A number of actors or workers."""
ProcessCountOrZero = Annotated[int, Field(ge=0, le=_MOST_PROCESSES)]
Cpus = Annotated[float, Field(ge=_SMALLEST_SHARE, le=_LARGEST_SHARE, allow_inf_nan=False)]
"""CPUs of one process."""


def _divisible_by_ray(gpus: float) -> float:
    if 0 < gpus < _SMALLEST_SHARE or (gpus > 1 and not gpus.is_integer()):
        raise ValueError(f"must be 0, a fraction of at least {_SMALLEST_SHARE}, or a whole number of GPUs")
    return gpus


Gpus = Annotated[float, Field(ge=0, le=_LARGEST_SHARE, allow_inf_nan=False), AfterValidator(_divisible_by_ray)]
"""GPUs of one process."""

Prior = tuple[NonNegative, ...]
"""One number a class, in the order of the classes."""

Size = tuple[PositiveInt, PositiveInt]
"""Height and width in pixels."""

NonEmptyStr = Annotated[str, Field(min_length=1)]


def _import_path(path: str) -> str:
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), name]):
        raise ValueError("must be an import path, package.module:name")
    return path


ImportPath = Annotated[str, AfterValidator(_import_path)]
"""`package.module:name` of a class or function of the user's own, see `rsf_dist.runtime.user_code`."""


class StrictModel(BaseModel):
    """A section of the configuration: immutable, and unknown keys are refused.

    The docstring under a field is the field's description in the JSON Schema and in the key reference.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _reject_bools(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes `true` for 1; and YAML takes an unquoted yes, no, on or off for a flag
        annotation = cls.model_fields[str(info.field_name)].annotation
        values = value if isinstance(value, list) else [value]
        if annotation is not bool and any(isinstance(element, bool) for element in values):
            raise ValueError("must not be true or false (yes, no, on and off need quotes to be words)")
        return value
