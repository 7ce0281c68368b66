"""Timeouts for code of the user's own: a ratio that waits for a server must not keep a run waiting for ever.

In a process's main thread a timer interrupts any code but C code that does not return to Python. No other thread can be
interrupted, and Ray Data calls its actors in another thread. There, `call_with_timeout` runs the code in a thread of
its own and stops waiting for this thread, which ends with the process.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Generic, TypeVar, cast

from rsf_dist.errors import InputError

_T = TypeVar("_T")
_AGAIN_SECONDS = 1.0  # between interrupts of code that catches the first one


class _Expired(BaseException):
    """The interrupt of code that takes too long. It is no Exception, because the code may catch those."""


@contextmanager
def time_limit(
    seconds: float, field: str, value: object = "(as configured)", remedy: str = "fix what hangs there"
) -> Iterator[None]:
    """Raise InputError, which says where the block was, unless the block ends within `seconds`.

    There is no limit where Python has no timers (Windows), nor outside of the main thread: see `call_with_timeout`.

    Args:
        seconds: positive.
        field: the field that the InputError names.
        value: the value that it names.
        remedy: the remedy that it names.
    """
    if not _can_interrupt():
        yield
        return
    where: list[str] = []

    def expire(_: int, frame: FrameType | None) -> None:
        where.append(_place(frame))
        raise _Expired

    handler = signal.signal(signal.SIGALRM, expire)
    started = time.monotonic()
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
    try:
        yield
    except _Expired:
        raise _too_slow(seconds, field, value, remedy, where[0]) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if outer:  # a limit around this one; if it has run out meanwhile, it comes late rather than never
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - started), 0.001))


def call_with_timeout(
    function: Callable[[], _T],
    seconds: float,
    field: str,
    value: object = "(as configured)",
    remedy: str = "fix what hangs there",
) -> _T:
    """Call a function that may hang, in any thread. Raises InputError if the call takes more than `seconds`.

    Args:
        function: the function, without arguments.
        seconds: positive.
        field: the field that the InputError names.
        value: the value that it names.
        remedy: the remedy that it names.
    """
    (result,) = map_with_timeout([(value, function)], seconds, field, remedy)
    return result


def map_with_timeout(
    calls: Sequence[tuple[object, Callable[[], _T]]],
    seconds: float,
    field: str,
    remedy: str = "fix what hangs there",
) -> Iterator[_T]:
    """Call one function after another, each with a timeout, and yield their results. Raises InputError.

    The calls share one thread, because starting a thread costs as much as a small chunk.

    Args:
        calls: for each call the InputError's value, and the function, without arguments.
        seconds: the limit of each call.
        field: the field that the InputError names.
        remedy: the remedy that it names.
    """
    if _can_interrupt():
        for value, function in calls:
            with time_limit(seconds, field, value, remedy):
                result = function()
            yield result
        return
    outcomes: SimpleQueue[_Outcome[_T]] = SimpleQueue()
    functions, unwanted = [function for _, function in calls], threading.Event()
    thread = threading.Thread(target=_call_all, args=(outcomes, functions, unwanted), daemon=True)
    thread.start()
    try:
        for value, _ in calls:
            try:
                outcome = outcomes.get(timeout=seconds)
            except Empty:
                frame = sys._current_frames().get(thread.ident or 0)
                raise _too_slow(seconds, field, value, remedy, _place(frame)) from None
            if outcome.error is not None:
                raise outcome.error
            yield cast(_T, outcome.result)
    finally:
        unwanted.set()


@dataclass(frozen=True)
class _Outcome(Generic[_T]):
    result: _T | None
    error: BaseException | None = None


def _call_all(
    outcomes: SimpleQueue[_Outcome[_T]], functions: Sequence[Callable[[], _T]], unwanted: threading.Event
) -> None:
    for function in functions:
        if unwanted.is_set():
            return
        try:
            outcomes.put(_Outcome(function()))
        except BaseException as err:  # any error is raised again in the thread that waits
            outcomes.put(_Outcome(None, err))
            return


def _can_interrupt() -> bool:
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return "code that is not Python"
    return f"{frame.f_code.co_name}() of {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _too_slow(seconds: float, field: str, value: object, remedy: str, where: str) -> InputError:
    return InputError(field, value, f"did not end within {seconds:g} s, and was in {where} then", remedy)
