"""The folders of a command's packed image sets, and the settings by which errors name them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from bad_input.case import sound_run

from rsf_dist.builders.image_packing import packing_for
from rsf_dist.config.load import parse_config
from rsf_dist.config.run import RunConfig
from rsf_dist.data import packing
from rsf_dist.data.images import load_images
from rsf_dist.errors import InputError
from rsf_dist.runtime.progress import Progress

IN_BUCKET = "s3://bucket/run?endpoint_override=localhost:1&region=x"
"""A run's directory that is a URI."""


@pytest.fixture
def temporary(monkeypatch, tmp_path) -> Path:
    """The folder for temporary files; every image set is large."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(packing, "LEAST_DECODED", 1)
    return folder


def run_of(tmp_path: Path, **changes: object) -> RunConfig:
    return parse_config(sound_run(tmp_path) | changes)


def load(config: RunConfig, keeps: bool = False) -> list[str]:
    """Load the source, and return what was said: a line only where it is packed anew."""
    said: list[str] = []
    with packing_for(config, Saying(said), join=None, keeps=keeps) as packed:
        load_images(config.source, packing=packed)
    return [line for line in said if line.startswith("packing")]


class Saying(Progress):
    """A progress that collects its lines."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self.said = said

    def say(self, message: str) -> None:
        self.said.append(message)


def packed_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("image.bin"))


@pytest.mark.parametrize("keeps", [True, False])
def test_of_an_output_that_is_a_uri_a_second_command_finds_the_packed_set(keeps, temporary, tmp_path):
    config = run_of(tmp_path, output=IN_BUCKET)
    assert len(load(config, keeps)) == 1
    assert len(packed_below(temporary)) == 1
    assert load(config, keeps=False) == []


def test_a_command_that_keeps_nothing_leaves_neither_the_run_s_directory_changed_nor_temporary_files(
    temporary, tmp_path
):
    config = run_of(tmp_path)
    assert len(load(config)) == 1
    assert packed_below(tmp_path) == []  # nor below the folder for temporary files
    assert list(temporary.glob("rsf_dist-*")) == []  # the folder that commands share
    assert len(load(config, keeps=True)) == 1  # of the run itself, in its directory
    (packed,) = packed_below(tmp_path / "run")
    before = packed.parent.stat().st_mtime_ns
    assert load(config) == []
    assert packed.parent.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "keeps", "field"),
    [
        ({}, False, "TMPDIR"),
        ({}, True, "output"),
        ({"output": IN_BUCKET}, False, "TMPDIR"),
        ({"output": IN_BUCKET}, True, "TMPDIR"),
        ({"data": {"cache": "cache"}}, False, "data.cache"),
    ],
)
def test_a_full_disk_is_named_by_the_setting_that_chooses_it(changes, keeps, field, temporary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = run_of(tmp_path, **changes)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: type("usage", (), {"free": 0}))
    with pytest.raises(InputError, match="its disk has 0 MiB left") as caught:
        load(config, keeps)
    assert caught.value.field == field
