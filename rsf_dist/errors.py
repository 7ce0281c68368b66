"""What can go wrong, as the user should read it: which field, what it was, the rule it broke, what to do."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
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


_DEATHS = {
    *("WorkerCrashedError", "RayActorError", "ActorDiedError", "ActorUnavailableError", "NodeDiedError"),
    *("OutOfMemoryError", "OutOfDiskError", "ObjectStoreFullError", "ObjectLostError", "OwnerDiedError"),
    *("ObjectReconstructionFailedError", "RaySystemError", "LocalRayletDiedError"),
    *("WorkerHealthCheckFailedError", "WorkerHealthCheckTimeoutError", "WorkerGroupStartupFailedError"),
    *("WorkerGroupStartupTimeoutError", "PreemptionError"),
}
"""Ray's errors that are about processes and machines, not about what they ran."""


def _one_line(text: str) -> str:
    """Without line ends, and without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))


def _short(value: object, limit: int = 120) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the error of ours that another process raised, in place of what it came wrapped in.

    Raises:
        ClusterFailure: in place of Ray's word that a process or a machine has died.
    """
    try:
        yield
    except Exception as err:
        ours = _find_ours(err) or _death(err)
        if ours is None or ours is err:
            raise
        # What the frames on its way had at hand, Ray Data's actors too, would live for as long as the error is held,
        # and then until Python looks for circles: Ray Data's tasks keep their errors, whose frames keep the tasks.
        traceback.clear_frames(err.__traceback__)
        err.__traceback__ = err.__context__ = err.__cause__ = None
        gc.collect()
        raise ours from None


def _find_ours(err: BaseException) -> RsfError | None:
    found = (inner for inner in _chain(err) if isinstance(inner, RsfError) and type(inner).__module__ == __name__)
    return next(found, None)


def _death(err: BaseException) -> ClusterFailure | None:
    found = (inner for inner in _chain(err) if type(inner).__name__ in _DEATHS and "ray." in type(inner).__module__)
    return next((ClusterFailure(f"{type(inner).__name__}: {inner}") for inner in found), None)


def _chain(err: BaseException) -> Iterator[BaseException]:
    """The error and those that it came from, or stands for; each once."""
    waiting, seen = [err], set()
    for one in waiting:
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        failures = getattr(one, "worker_failures", {}).values()  # Ray Train keeps one a rank
        context = None if one.__suppress_context__ else one.__context__
        within = (getattr(one, "cause", None), one.__cause__, context, *failures)
        waiting += [inner for inner in within if isinstance(inner, BaseException)]
