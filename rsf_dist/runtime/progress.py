"""The progress that a run shows: nothing, plain lines, or a bar on a terminal."""

from __future__ import annotations

import sys
import time

import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

_PLAIN_SECONDS = 5.0


class Progress:
    """A receiver of a run's progress; this one shows nothing."""

    def say(self, text: str) -> None:
        """Show a finished step, or a warning."""

    def count(self, what: str, done: int, total: int) -> None:
        """Show how much of a step is done; the step ends at done >= total."""

    def close(self) -> None:
        """Stop showing progress, and leave the screen as it is."""


class PlainLines(Progress):
    """Lines on standard error, for logs: one for each step, and a count every few seconds."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._last = self._started

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        print(f"[{time.monotonic() - self._started:6.1f} s] {text}", file=sys.stderr, flush=True)

    def count(self, what: str, done: int, total: int) -> None:
        """Print a line, at most every five seconds."""
        if time.monotonic() - self._last >= _PLAIN_SECONDS:
            self._last = time.monotonic()
            self.say(f"{what}: {done:,} of {total:,}")


class Terminal(Progress):
    """Rich's progress bar beneath the finished steps."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}/{task.total:,.0f}"))
        self._bars = rich.progress.Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
        self._bars.start()
        self._task = self._bars.add_task("", total=1, visible=False)

    def say(self, text: str) -> None:
        """Print a line above the bar, which is hidden until the next count."""
        self._bars.update(self._task, visible=False)
        self._bars.console.print(
            f"[dim][{time.monotonic() - self._started:6.1f} s][/dim] {escape(text)}", highlight=False
        )

    def count(self, what: str, done: int, total: int) -> None:
        """Move the bar."""
        self._bars.update(self._task, description=what, completed=min(done, total), total=total, visible=True)

    def close(self) -> None:
        """Remove the bar."""
        self._bars.stop()


def for_this_terminal() -> Progress:
    """Return a bar if standard error is a terminal, else plain lines."""
    return Terminal() if sys.stderr.isatty() else PlainLines()
