"""The READMEs are right: their code runs, their links lead somewhere, their commands exist."""

import re
from pathlib import Path

import pytest
from markdown_blocks import fenced_blocks
from typer.main import get_command

from rsf_dist.cli import app

ROOT = Path(__file__).parents[2]
READMES = sorted(path for path in ROOT.rglob("README.md") if ".venv" not in path.parts)


def test_every_code_block_of_the_package_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    shown = fenced_blocks(ROOT / "rsf_dist" / "README.md", "python")
    assert len(shown) >= 2
    for block in shown:
        exec(compile(block, "rsf_dist/README.md", "exec"), names)


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path):
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", path.read_text()) if "://" not in link]
    assert not [link for link in links if not (path.parent / link).exists()]


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_left_to_fill_in(path):
    assert not re.search(r"@@|TODO|XXX", path.read_text())


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_command_that_a_readme_types_exists():
    known = set(get_command(app).commands)
    shown = "".join(block for path in READMES for block in fenced_blocks(path, ""))
    typed = set(re.findall(r"^rsf (\w+)", shown, re.MULTILINE))
    assert typed >= {"run", "plan", "verify"}
    assert typed <= known
