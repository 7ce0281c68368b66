"""The base class of the configuration's sections, and the types of numbers and names that several sections share."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

LARGEST_COUNT = 10**12  # larger counts are typing errors, and would not fit the integers of files and tensors
Fraction = Annotated[float, Field(gt=0, lt=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = NonNegative
PositiveInt = Annotated[int, Field(gt=0, le=LARGEST_COUNT)]
Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]

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


def _square(value: Any) -> Any:
    return (value, value) if type(value) in (int, float) else value


_PIXELS = {"type": "integer", "exclusiveMinimum": 0, "maximum": LARGEST_COUNT}
_HEIGHT_AND_WIDTH = {"type": "array", "prefixItems": [_PIXELS, _PIXELS], "minItems": 2, "maxItems": 2}

Size = Annotated[
    tuple[PositiveInt, PositiveInt],
    BeforeValidator(_square),
    WithJsonSchema({"anyOf": [_HEIGHT_AND_WIDTH, _PIXELS]}),
]
"""Height and width in pixels. One number is both."""

NonEmptyStr = Annotated[str, Field(min_length=1)]


def _import_path(path: str) -> str:
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), name]):
        raise ValueError("must be an import path, package.module:name")
    return path


ImportPath = Annotated[str, AfterValidator(_import_path)]
"""`package.module:name` of a class or function of the user's own, see `rsf_dist.runtime.user_code`."""


def refusal(rule: str, remedy: str, key: str = "", value: Any = None) -> PydanticCustomError:
    """Return the error that a validator raises where it knows what to type.

    Args:
        rule: the rule that the value breaks.
        remedy: what to type.
        key: the wrong key, named from the section that the validator checks. Empty for the section itself.
        value: the key's value. It has no effect without `key`.
    """
    return PydanticCustomError(REFUSAL, "{rule}", {"rule": rule, "remedy": remedy, "key": key, "value": value})


def finite_float(value: Any) -> float | None:
    """Return a number as a float. None means that the value is no number, or none that a finite float can be."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return None
    return number if math.isfinite(number) else None


REFUSAL = "refusal"
"""The type of a validator's own error among pydantic's."""


class StrictModel(BaseModel):
    """A section of the configuration: immutable, and unknown keys are refused.

    The docstring under a field is the field's description in the JSON Schema and in the key reference.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _reject_what_pydantic_converts(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes `true` for 1, and YAML takes an unquoted yes, no, on or off for a flag; pydantic takes a set
        # for a list, in an order that changes from process to process
        if isinstance(value, (set, frozenset)):
            raise refusal("must not be a set, whose items have no order", "write a list, [a, b]")
        if isinstance(value, int) and finite_float(int(value)) is None:
            raise refusal("has too many digits", "give a smaller number")
        annotation = cls.model_fields[str(info.field_name)].annotation
        values = value if isinstance(value, list) else [value]
        if annotation is not bool and any(isinstance(element, bool) for element in values):
            rule = "must not be true or false (yes, no, on and off need quotes to be words)"
            raise refusal(rule, 'write the value itself, a word in quotes, e.g. "yes"')
        return value

    @classmethod
    def spelt_out(cls, value: Any) -> str | None:
        """Return the section as it should be written, for a value that stands in its place. None means no idea."""
        return None
