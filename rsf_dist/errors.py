"""What can go wrong, as the user should read it: which field, what it was, the rule it broke, what to do."""

from __future__ import annotations

from typing import Any


class RsfError(Exception):
    """Base of every error that rsf_dist raises on purpose; `exit_code` is what the command returns."""

    exit_code = 1


class InputError(RsfError):
    """The user's input breaks a rule. Exit code 2.

    Args:
        field: what is wrong, in the user's own words (a config key, an argument, a file).
        value: the value found there.
        rule: the rule it breaks.
        remedy: what to change.
    """

    exit_code = 2

    def __init__(self, field: str, value: object, rule: str, remedy: str):
        super().__init__(field, value, rule, remedy)
        self.field, self.value, self.rule, self.remedy = field, value, rule, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        # Not from args, which Ray Data appends advice of its own to before it sends an error on.
        return type(self), (self.field, self.value, self.rule, self.remedy)

    def __str__(self) -> str:
        return _one_line(f"{self.field}={_short(self.value)}: {self.rule}; {self.remedy}")


class StatisticalRefusal(RsfError):
    """The input is well formed, but its statistics do not allow a result to be trusted. Exit code 3."""

    exit_code = 3

    def __init__(self, finding: str, remedy: str):
        super().__init__(finding, remedy)
        self.finding, self.remedy = finding, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.finding, self.remedy)

    def __str__(self) -> str:
        return _one_line(f"{self.finding}; {self.remedy}")


class Shortfall(StatisticalRefusal):
    """The budget ends before the rows are there."""


class ClusterFailure(RsfError):
    """A part of the cluster died on which the work was. What was committed is kept. Exit code 1."""

    def __init__(self, what: str):
        super().__init__(what)
        self.what = what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what,)

    def __str__(self) -> str:
        return _one_line(f"the cluster failed ({_short(self.what, 300)}); run it again: it goes on")


def _one_line(text: str) -> str:
    """Without line ends, and without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))


def _short(value: object, limit: int = 120) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
