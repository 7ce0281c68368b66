"""The errors that rsf_dist raises on purpose, in words that the user can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class RsfError(Exception):
    """The base of every error that rsf_dist raises on purpose; `exit_code` is the command's exit code."""

    exit_code = 1


class InputError(RsfError):
    """The user's input breaks a rule. Exit code 2.

    Args:
        field: the wrong input in the user's own words: a key or an argument of the thing at hand, which `located`
            extends to its place in the configuration. Empty for the thing itself.
        value: the value of the field.
        rule: the rule that the value breaks.
        remedy: the change to make.
        absolute: True if the field needs no place: a file, a column of rows, a key of another section. `located` leaves
            such a field as it is.
    """

    exit_code = 2

    def __init__(self, field: str, value: object, rule: str, remedy: str, absolute: bool = False):
        super().__init__(field, value, rule, remedy)
        self.field, self.value, self.rule, self.remedy, self.absolute = field, value, rule, remedy, absolute

    def __reduce__(self) -> tuple[Any, ...]:
        # Not from self.args: Ray Data appends advice of its own to them before it sends an error on.
        return type(self), (self.field, self.value, self.rule, self.remedy, self.absolute)

    def __str__(self) -> str:
        named = f"{self.field}={_short(self.value)}" if self.field else _short(self.value)
        return _one_line(f"{named}: {self.rule}; {self.remedy}")


class StatisticalRefusal(RsfError):
    """The input is well formed, but its statistics allow no trustworthy result. Exit code 3.

    Args:
        finding: the finding that rules a result out.
        remedy: the change to make.
        key: the key to change, which `located` extends to its place in the configuration. It is printed wherever
            finding and remedy say `{key}`. Empty where they name none.
        absolute: True if the key is complete, so that `located` leaves it as it is.
    """

    exit_code = 3

    def __init__(self, finding: str, remedy: str, key: str = "", absolute: bool = False):
        super().__init__(finding, remedy, key, absolute)
        self.finding, self.remedy, self.key, self.absolute = finding, remedy, key, absolute

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.finding, self.remedy, self.key, self.absolute)

    def __str__(self) -> str:
        text = f"{self.finding}; {self.remedy}"
        return _one_line(text.replace("{key}", self.key) if self.key else text)


class Shortfall(StatisticalRefusal):
    """The budget ended before enough rows were accepted."""


class ClusterFailure(RsfError):
    """A machine or process that was working died. Committed work is kept. Exit code 1.

    Args:
        what: Ray's own words about the failure.
    """

    def __init__(self, what: str):
        super().__init__(what)
        self.what = what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what,)

    def __str__(self) -> str:
        return _one_line(f"the cluster failed ({_short(self.what, 300)}); run it again: it goes on")


@contextmanager
def located(section: str, absolute: bool = False) -> Iterator[None]:
    """Put the section in front of the field of an InputError, and of the key of a refusal, that leaves the block.

    The code that checks a thing names the fault within that thing ("name"). Its caller knows where the thing stands in
    the configuration ("ratio.network"), and the user reads both ("ratio.network.name"). Blocks may be nested.

    Args:
        section: the place of the thing, a dotted key. An empty section adds nothing.
        absolute: True if the section is the whole place, to which blocks around this one add nothing.
    """
    try:
        yield
    except InputError as err:
        if not err.absolute:
            err.field, err.absolute = _joined(section, err.field), absolute
        raise
    except StatisticalRefusal as err:
        if err.key and not err.absolute:
            err.key, err.absolute = _joined(section, err.key), absolute
        raise


def _joined(section: str, key: str) -> str:
    return ".".join(part for part in (section, key) if part)


def _one_line(text: str) -> str:
    """Return the text on one line, without characters that would control a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))


def _short(value: object, limit: int = 120) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
