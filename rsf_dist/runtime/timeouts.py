"""A limit of time for code that is not ours: a ratio that waits for a server must not keep a run waiting for ever.

In a process's main thread a timer interrupts whatever runs, unless it is C code that does not come back to Python.
No other thread can be interrupted, and Ray Data calls its actors in one; there, `call_with_timeout` runs the code in a
thread that it stops waiting for, and that ends with the process.
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


_AGAIN_SECONDS = 1.0  # for code that catches what interrupts it


class _Expired(BaseException):
    """Not an Exception, which the code that hangs may be catching."""


@contextmanager
def time_limit(
    seconds: float, field: str, value: object = "(as configured)", remedy: str = "fix what hangs there"
) -> Iterator[None]:
    """InputError unless the block ends within `seconds`; it says where the block was.

    Does nothing where Python has no timers (Windows), and outside of the main thread: see `call_with_timeout`.

    Args:
        seconds: positive.
        field, value, remedy: as InputError has them.
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
        if outer:  # a limit around this one: late, if it ran out meanwhile, rather than never
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - started), 0.001))


def call_with_timeout(
    function: Callable[[], _T],
    seconds: float,
    field: str,
    value: object = "(as configured)",
    remedy: str = "fix what hangs there",
) -> _T:
    """What the function gives, in whatever thread this is. Raises InputError where it takes more than `seconds`.

    Args:
        function: what may hang.
        seconds, field, value, remedy: as for `time_limit`.
    """
    (answer,) = map_with_timeout([(value, function)], seconds, field, remedy)
    return answer


def map_with_timeout(
    calls: Sequence[tuple[object, Callable[[], _T]]],
    seconds: float,
    field: str,
    remedy: str = "fix what hangs there",
) -> Iterator[_T]:
    """Call one function after another with a timeout each.

    They share a thread, whose start costs as much as a small chunk.

    Args:
        calls: (value, function) each.
        seconds: for each.
    """
    if _can_interrupt():
        for value, function in calls:
            with time_limit(seconds, field, value, remedy):
                answer = function()
            yield answer
        return
    answers: SimpleQueue[_Answer[_T]] = SimpleQueue()
    functions, unwanted = [function for _, function in calls], threading.Event()
    thread = threading.Thread(target=_answer_all, args=(answers, functions, unwanted), daemon=True)
    thread.start()
    try:
        for value, _ in calls:
            try:
                found = answers.get(timeout=seconds)
            except Empty:
                frame = sys._current_frames().get(thread.ident or 0)
                raise _too_slow(seconds, field, value, remedy, _place(frame)) from None
            if found.error is not None:
                raise found.error
            yield cast(_T, found.given)
    finally:
        unwanted.set()


@dataclass(frozen=True)
class _Answer(Generic[_T]):
    given: _T | None
    error: BaseException | None = None


def _answer_all(
    answers: SimpleQueue[_Answer[_T]], functions: Sequence[Callable[[], _T]], unwanted: threading.Event
) -> None:
    for function in functions:
        if unwanted.is_set():
            return
        try:
            answers.put(_Answer(function()))
        except BaseException as err:  # whatever it is, it belongs to who waits
            answers.put(_Answer(None, err))
            return


def _can_interrupt() -> bool:
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return "code that is not Python"
    return f"{frame.f_code.co_name}() of {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _too_slow(seconds: float, field: str, value: object, remedy: str, where: str) -> InputError:
    return InputError(field, value, f"did not end within {seconds:g} s, and was in {where} then", remedy)
