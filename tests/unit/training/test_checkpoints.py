"""Only whole checkpoints of a run's folder count; local folders, no cluster."""

import json
from pathlib import Path

import pytest
import ray

from rsf_dist.cluster.ray_workarounds import remove_refused_snapshot
from rsf_dist.training.checkpoints import SEAL, RunFolder, seal


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (10, 20, 30):
        folder = tmp_path / "run" / f"checkpoint_{step}"
        folder.mkdir(parents=True)
        (folder / "model.bin").write_bytes(bytes([step]) * 100)
        seal(folder, step, {"metrics": {"accuracy": step}})
    return tmp_path / "run"


def steps(run: Path) -> list[int]:
    return [saved.step for saved in RunFolder.of(str(run.parent), run.name).newest_first()]


def test_the_newest_first(run: Path):
    assert steps(run) == [30, 20, 10]
    newest = RunFolder.of(str(run.parent), "run").newest()
    assert newest is not None
    assert newest.described == {"metrics": {"accuracy": 30}}
    assert Path(newest.checkpoint.path) == run / "checkpoint_30"


def test_what_is_damaged_does_not_count(run: Path):
    model = run / "checkpoint_30" / "model.bin"
    model.write_bytes(model.read_bytes()[:-1])
    assert steps(run) == [20, 10]
    (run / "checkpoint_20" / "model.bin").unlink()
    assert steps(run) == [10]
    (run / "checkpoint_10" / SEAL).write_text('{"step": 10')
    assert steps(run) == []
    (run / "checkpoint_10" / SEAL).unlink()
    assert RunFolder.of(str(run.parent), "run").newest() is None
    assert RunFolder.of(str(run.parent), "nowhere").newest() is None


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ({"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_10"}]}, True),
        ({"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_40"}]}, False),
        ({"checkpoint_results": [], "ray_version": "1.0"}, False),
        ('{"checkpoint_results": [', False),
        ("[]", False),
    ],
)
def test_rays_list_stays_only_where_ray_would_take_it(text, stays: bool, run: Path):
    path = run / "checkpoint_manager_snapshot.json"
    path.write_text(text if isinstance(text, str) else json.dumps({"ray_version": ray.__version__} | text))
    folder = RunFolder.of(str(run.parent), "run")
    remove_refused_snapshot(folder.filesystem, folder.path)
    assert path.exists() is stays
    remove_refused_snapshot(folder.filesystem, folder.path)  # nothing there is nothing to forget
