"""The lines of a run, on a terminal and in a log."""

import pytest

from rsf_dist.runtime.progress import PlainLines, Progress, Terminal


@pytest.mark.parametrize("kind", [Terminal, PlainLines])
def test_a_line_is_shown_as_it_is_said(kind: type[Progress], capsys: pytest.CaptureFixture) -> None:
    progress = kind()
    progress.say("weights [old]/w.pt: `[/bold]`")  # brackets are rich's markup
    progress.close()
    assert "] weights [old]/w.pt: `[/bold]`" in capsys.readouterr().err
