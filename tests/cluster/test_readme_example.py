"""The Python example of the first page runs as it is printed there."""

from pathlib import Path

import pytest
from markdown_blocks import fenced_blocks

README = Path(__file__).parents[2] / "README.md"

pytestmark = pytest.mark.ray


def test_the_python_example_of_the_first_page_runs(capsys):
    shown, _ = fenced_blocks(README, "python")  # the other one needs no cluster
    exec(compile(shown, "README.md", "exec"), {})
    assert float(capsys.readouterr().out.split()[0]) == pytest.approx(0.5, abs=0.02)  # 10,000 rows: 4 sd are 0.014
