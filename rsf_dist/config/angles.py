"""Angles are in radians. Degrees, which other libraries take, show by numbers far beyond a full turn."""

from __future__ import annotations

import math
from typing import Any

from rsf_dist.config.base import finite_float, refusal

_LARGEST = 2 * math.pi * 1.01
"""A full turn, and room for a full turn that was rounded."""


def looks_like_degrees(value: Any) -> bool:
    """Return True if a number, or one in a list, is beyond a full turn either way."""
    numbers = _numbers(value)
    return bool(numbers) and max(map(abs, numbers)) > _LARGEST


def require_radians(key: str, value: Any) -> None:
    """Refuse angles beyond a full turn. The key is named from the section that is being checked."""
    if not looks_like_degrees(value):
        return
    rule = "is beyond a full turn, 6.2832, and rotation is in radians"
    largest = max(map(abs, _numbers(value)))
    remedy = f"{largest:g} degrees are {in_radians(largest)}: write {in_radians(value)}"
    raise refusal(rule, remedy, key, value)


def in_radians(degrees: Any) -> Any:
    """Return a number, or the numbers of a list, of degrees in radians, to four places."""
    if isinstance(degrees, (list, tuple)):
        return [in_radians(number) for number in degrees]
    return round(math.radians(degrees), 4)


def _numbers(value: Any) -> list[float]:
    """Return a number, or the numbers of a list, as floats; empty if anything in it is no finite number."""
    values = value if isinstance(value, (list, tuple)) else [value]
    numbers = [finite_float(number) for number in values]
    return [number for number in numbers if number is not None] if None not in numbers else []
