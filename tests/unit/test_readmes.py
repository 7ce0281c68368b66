"""The READMEs are right: their code runs, their links lead somewhere, their commands exist."""

import re
from pathlib import Path

import pytest
import torch
from markdown_blocks import fenced_blocks
from typer.main import get_command

import rsf_dist as rsf
from rsf_dist.cli import app
from rsf_dist.config.model import ModelConfig
from rsf_dist.models.networks import ExpectedImages
from rsf_dist.storage.run_store import RunStore
from rsf_dist.tasks import ClassificationTask

ROOT = Path(__file__).parents[2]
READMES = sorted(path for path in ROOT.rglob("README.md") if ".venv" not in path.parts)


PACKAGE = [path for path in READMES if "rsf_dist" in path.relative_to(ROOT).parts and fenced_blocks(path, "python")]


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_code_block_within_the_package_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in fenced_blocks(path, "python"):
        exec(compile(block, str(path), "exec"), names)


def test_the_package_shows_code_where_it_is_extended_and_where_a_model_is_used():
    assert {path.parent.name for path in PACKAGE} >= {"rsf_dist", "outputs"}


def test_the_first_page_loads_the_model_of_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = ClassificationTask(("cat", "dog"), ModelConfig(width=4), channels=1, images=ExpectedImages((8, 9)))
    RunStore("runs/mine").commit_folder("", lambda folder: task.save(task.build_model(0), folder))
    _, shown = fenced_blocks(ROOT / "README.md", "python")
    exec(compile(shown, "README.md", "exec"), {"rsf": rsf, "images": torch.zeros(1, 1, 8, 9, dtype=torch.uint8)})
    assert capsys.readouterr().out.startswith("('cat', 'dog') tensor([[0.")


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
