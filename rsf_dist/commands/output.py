"""What commands print: progress on standard error, the result on standard output."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rsf_dist.errors import StatisticalRefusal

if TYPE_CHECKING:
    from rsf_dist.runs.pipeline import RunResult
    from rsf_dist.runtime.progress import Progress


@contextlib.contextmanager
def progress_shown() -> Iterator[Progress]:
    """Show progress on this terminal, and keep standard output for the result alone."""
    from rsf_dist.runtime.progress import for_this_terminal

    progress = for_this_terminal()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield progress
    finally:
        progress.close()


def show(result: RunResult, as_json: bool) -> None:
    """Print the result: the arms' accuracies, and the place of the report."""
    if as_json:
        print(json.dumps({"output": result.store.uri, **result.report.model_dump(mode="json")}, indent=2))
        return
    from rsf_dist.report.text import format_report

    print(format_report(result.report))
    print(f"report: {result.store.uri}/report.html")


def refuse_red(result: RunResult, strict: bool) -> None:
    """Raise StatisticalRefusal if that is wanted of a run whose trust card is red."""
    red = sorted({name for names in result.report.red for name in names})
    if strict and red:
        raise StatisticalRefusal(
            f"the trust card is red: {', '.join(red)}",
            f"see {result.store.uri}/report.html; all files are kept",
        )
