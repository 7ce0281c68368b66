"""`rsf run` as a user runs it: a process of its own, against the session's cluster of two nodes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import numpy as np
import psutil
import pytest
import ray
import torch
import yaml
from faults import all_took, committed, stepping_run, steps_taken_again
from processes import own_processes

import rsf_dist as rsf
from rsf_dist import cli
from rsf_dist.config.load import parse_config
from rsf_dist.report import report_json
from rsf_dist.report.arm_texts import ARMS
from rsf_dist.runs import pipeline, preparation
from rsf_dist.runs.rounds import stored_sampler
from rsf_dist.runs.verification import verify
from rsf_dist.runtime.progress import Progress
from rsf_dist.sampling.stream import Cursor

pytestmark = pytest.mark.ray
ray.cloudpickle.register_pickle_by_value(faults)  # the workers cannot import a test module

RSF = [sys.executable, "-c", "from rsf_dist.cli import main; main()"]
Files = dict[str, dict[str, tuple[bytes, int]]]
"""By folder and name: a file's bytes, and the time when it was written."""


def rsf_command(*arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*RSF, *map(str, arguments)], capture_output=True, text=True, timeout=500, **options)


@pytest.fixture
def rsf_here(monkeypatch, capsys) -> Callable[..., Any]:
    """The `rsf` command in this process, which is on the session's cluster already; returns what it prints."""

    def run(*arguments: object, exit_code: int = 0) -> Any:
        monkeypatch.setattr("sys.argv", ["rsf", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert ended.value.code == exit_code, printed.err
        return printed

    return run


@pytest.fixture
def config_file(small_run: dict, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(small_run))
    return path


def test_the_main_job_on_two_nodes(config_file: Path, small_run: dict, ray_address: str, rsf_here) -> None:
    small_run["training"]["num_workers"] = 2
    config_file.write_text(yaml.safe_dump(small_run))
    done = rsf_command("run", config_file, "--address", ray_address, "--json")
    assert done.returncode == 0, done.stderr
    output = Path(small_run["output"])
    for name in ("config.yaml", "manifest.json", "rounds/000/ratio/ratio.json", "model.safetensors", "model.json",
                 "report.json", "report.html", "figures/comparison.png", "figures/accepted.png"):  # fmt: skip
        assert (output / name).stat().st_size > 0, name
    assert list(output.glob("rounds/000/accepted/chunk-*.parquet"))
    assert list(output.glob("checkpoints/*/checkpoint*"))
    report = json.loads((output / "report.json").read_text())
    assert json.loads(done.stdout)["rounds"] == report["rounds"]
    assert report["rounds"][0]["sampling"]["num_accepted"] == 256
    assert set(report["evaluation"]["arms"]) == {"pretrained", "one_shot"}

    # The disk that was asked for beforehand was enough for rows, models and checkpoints.
    config = parse_config(small_run)
    inputs = preparation.load_inputs(config)
    files = [file for kind in ("parquet", "safetensors", "pt") for file in output.rglob(f"*.{kind}")]
    headers = 8 * 2**10 * len(files)  # more than these tiny models' own numbers take
    forecast = preparation.forecast_bytes(config, inputs, training=True)
    assert forecast / 10 < sum(file.stat().st_size for file in files) < forecast + headers

    # The accuracy that it reports is that of the model that it leaves.
    test = inputs.test
    model = pipeline.RunResult(rsf.RunStore(output), report_json.read(rsf.RunStore(output))).load_model()
    accuracy = float((model(test.images).argmax(1) == test.labels).float().mean())
    assert report["evaluation"]["arms"]["one_shot"] == [pytest.approx(accuracy)]
    used = rsf.load_model(output)
    assert used.classes == inputs.source.classes
    assert torch.equal(used(test.images[:9]), model(test.images[:9]))

    # Once more, all is there already; in two steps, the rows are the same.
    again = rsf_here("run", config_file, "--json")
    assert "fine-tuning" not in again.err
    assert json.loads(again.out)["evaluation"] == report["evaluation"]
    halves = Path(f"{output}-2")
    rsf_here("sample", config_file, f"output={halves}", "training.num_workers=1")  # starts sooner than two
    fingerprint = json.loads((halves / "report.json").read_text())["rounds"][0]["fingerprint"]
    assert fingerprint == report["rounds"][0]["fingerprint"]
    assert ARMS["one_shot"].label in rsf_here("train", halves).out
    assert np.isfinite(json.loads((halves / "report.json").read_text())["evaluation"]["arms"]["one_shot"][0])

    # The report can be drawn again without Ray and without the inputs.
    page = (output / "report.html").read_text()
    (output / "report.html").unlink()
    assert rsf_command("report", output).returncode == 0
    assert (output / "report.html").read_text() == page


@pytest.mark.soak
def test_two_seeds(small_run: dict, tmp_path: Path) -> None:
    small_run["num_seeds"] = 2
    small_run["evaluation"]["source_test"] = {"kind": "digits", "start": 1400}
    small_run["training"] |= {"steps": 5, "num_workers": 1}
    result = rsf.run(parse_config(small_run))
    arms = result.report.evaluation.arms
    assert {arm: len(values) for arm, values in arms.items()} == dict.fromkeys(arms, 2)
    assert list(arms) == ["pretrained", "one_shot"]
    assert len(result.report.evaluation.source["one_shot"]) == 2
    assert result.report.seeds == [0, 1]
    reports = [json.loads((tmp_path / "run" / "seeds" / f"00{n}" / "report.json").read_text()) for n in (0, 1)]
    assert [report["evaluation"]["arms"]["one_shot"][0] for report in reports] == arms["one_shot"]
    assert reports[0]["rounds"][0]["fingerprint"] != reports[1]["rounds"][0]["fingerprint"]
    assert (tmp_path / "run" / "report.html").exists()

    # Either seed and what is said of both are verified; a better number, written where it is read, is found.
    assert verify(small_run["output"], num_chunks=1).wrong == ()
    result.report.evaluation.arms["one_shot"][1] = 0.99
    report_json.write(result.store, result.report)
    assert verify(small_run["output"], num_chunks=1).wrong == (
        "the run's report.json differs from its seeds' in evaluation",
    )


def test_training_while_sampling(small_run: dict, soak: bool) -> None:
    small_run["sampling"]["mode"] = "stream"
    arms = ["pretrained", *(["random"] if soak else []), "one_shot"]
    small_run["evaluation"]["arms"] = arms
    result = rsf.run(parse_config(small_run))
    stored = result.report.rounds[0].sampling
    for arm in arms[1:]:
        stream = result.report.training[arm].stream
        assert stream.rows == 20 * 32  # steps * batch_size, each used once
        assert stream.trainer_waited_seconds + stream.sampler_waited_seconds > 0
    assert stream.num_proposed > 20 * 32 / 0.3  # accepted by rejection, at some 10 %
    if soak:
        assert result.report.training["random"].stream.num_proposed == 20 * 32
    assert stored.num_accepted == 256
    assert set(result.report.evaluation.arms) == set(arms)

    # The rows are those that storing would have given after the stored ones.
    store = rsf.RunStore(small_run["output"])
    config = parse_config(small_run)
    seed_run = next(pipeline.seed_runs(config, preparation.prepare(config), store, Progress()))
    sampler = stored_sampler(seed_run, 0)
    sampler.store = None
    whole = sampler.sample(256 + 20 * 32)
    cursor = Cursor.after(rsf.AcceptedSet.load(store))
    for start in range(256, 256 + 20 * 32, 32):
        cursor = cursor.moved(whole.ledger[start : start + 32], whole.report.log_m)
    assert stream.digest == cursor.digest


def test_a_ratio_fitted_through_ray_train(small_run: dict) -> None:
    small_run["ratio"] |= {"num_workers": 2, "cpus": 0.5}
    small_run["ratio"]["optimizer"]["steps"] = 150
    config = parse_config(small_run)
    result = pipeline.sample(config)
    assert result.report.rounds[0].ratio.quality.auc > 0.75
    assert result.report.rounds[0].sampling.num_accepted == 256


def test_what_the_cluster_cannot_hold_is_one_line_and_exit_code_2(
    config_file: Path, small_run: dict, ray_address: str
) -> None:
    """The command reports it as a user sees it; the next test does the same in this process."""
    done = rsf_command("run", config_file, "sampling.pool={min_actors: 64}", "--address", ray_address)
    assert done.returncode == 2, done.stderr
    assert "needs 64 × 1 CPU; the cluster has 2 × 2 CPU on 2 node(s)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (Path(small_run["output"]) / "config.yaml").exists()  # nothing was begun


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.num_workers=8", "Ray Data needs a whole CPU"),
        ("ratio.gpus=1", "needs 1 × (1 CPU, 1 GPU)"),
        ("ratio.cpus=3", "needs 1 × 3 CPU; the cluster has 2 × 2 CPU"),
        ("proposal.class_prior=[1, 2]", "must be 10 probabilities"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_begun(
    override: str, message: str, config_file: Path, small_run: dict, rsf_here
) -> None:
    said = rsf_here("run", config_file, override, exit_code=2).err
    assert message in said
    assert said.count("\n") == 1
    assert not (Path(small_run["output"]) / "config.yaml").exists()


def test_a_run_that_accepts_nothing_ends_with_exit_code_3(config_file: Path, rsf_here) -> None:
    overrides = ["envelope={kind: fixed, log_m: 50}", "sampling.budget.max_proposals=4096"]
    said = rsf_here("run", config_file, *overrides, exit_code=3).err
    assert "0 of 256 rows accepted" in said
    assert "lower log M" in said


@pytest.mark.parametrize("by", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
def test_a_stopped_run_loses_nothing_and_goes_on_with_other_resources(by, config_file: Path, small_run: dict) -> None:
    """In the middle of sampling: what was committed is not drawn again, and the rows are as if nothing was."""
    small_run["sampling"]["num_accepted"] = 1_000_000
    config_file.write_text(yaml.safe_dump(small_run))
    store = rsf.RunStore(small_run["output"])
    before = stop(config_file, by, "ray::MapWorker", lambda: committed(store) > 0)
    small_run["sampling"]["pool"] = {"max_actors": 2}
    chunks, config = committed(store), parse_config(small_run)
    assert 0 < len(before["rounds/000/accepted"]) <= chunks
    with pipeline.open_run(config, Progress()) as (_, opened, inputs):  # as a run does: it holds the lock
        sampler = stored_sampler(next(pipeline.seed_runs(config, inputs, opened, Progress())), 0)
        wanted = sum(shard.rows for shard in store.manifest().rounds[0].shards) + 1_000
        again = sampler.sample(wanted)
    assert committed(store) > chunks
    assert_kept(before, store)
    sampler.store = None
    assert again.fingerprint == sampler.sample(wanted).fingerprint


@pytest.mark.soak
def test_termination_stops_cleanly_and_loses_nothing(config_file: Path, small_run: dict, tmp_path: Path) -> None:
    """SIGTERM 50 steps after a checkpoint: run again, it takes these steps again and makes nothing else anew."""
    log = tmp_path / "log"
    small_run["training"] |= {"steps": 300, "evaluate_every": 100, "num_workers": 2}
    small_run |= stepping_run(tmp_path, log, holds_at=150)
    config_file.write_text(yaml.safe_dump(small_run))
    before = stop(config_file, signal.SIGTERM, "ray::RayTrainWorker", lambda: all_took(log, 150, ranks=2))
    again = pipeline.run(parse_config(small_run))
    assert steps_taken_again(log, kills=1, every=100, last=300) == 50
    evaluations = again.report.training["one_shot"].evaluations
    assert [evaluation["step"] for evaluation in evaluations] == [100, 200, 300]
    assert before["rounds/000/accepted"]
    assert before["rounds/000/ratio"]
    assert_kept(before, again.store)


def stop(config_file: Path, by: signal.Signals, worker: str, ready: Callable[[], object]) -> Files:
    """`rsf run`, on a cluster of its own, stopped when it is ready: exit code 130, no traceback, no process left.

    What it has committed by then, with all that it had just before.
    """
    store = rsf.RunStore(parse_config(yaml.safe_load(config_file.read_text())).output)
    process = subprocess.Popen(
        [*RSF, "run", str(config_file)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background it would be ignored
    )
    try:
        wait_until(lambda: ready() or process.poll() is not None, seconds=150)
        assert own_processes(worker, process.pid)
        children = psutil.Process(process.pid).children(recursive=True)
        before = kept_files(store)
        process.send_signal(by)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.rstrip().endswith("error: interrupted; the same command goes on from there")
    assert len(children) > 5
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert not Path(store.path("lock.json")).exists()
    assert_kept(before, store)
    return kept_files(store)


def kept_files(store: rsf.RunStore) -> Files:
    """Return the files that the manifest lists."""
    manifest, found = store.manifest(), defaultdict(dict)
    names = [shard.path for progress in manifest.rounds.values() for shard in progress.shards]
    names += [f"{folder}/{name}".lstrip("/") for folder, files in manifest.folders.items() for name in files]
    for file in (Path(store.path(name)) for name in names):
        folder = file.parent.relative_to(store.root).as_posix()
        found[folder][file.name] = file.read_bytes(), file.stat().st_mtime_ns
    return found


def assert_kept(before: Files, store: rsf.RunStore) -> None:
    """All of it is listed still, byte for byte, and was not written again: what is drawn again is written again."""
    now = kept_files(store)
    for folder, files in before.items():
        changed = [name for name, file in files.items() if now[folder].get(name) != file]
        assert not changed, folder


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a node a folder of its own")
def test_a_node_local_folder_is_refused_before_anything_is_drawn(
    config_file: Path, tmp_path: Path, ray_address: str, small_run: dict
) -> None:
    """A third node, whose /tmp-like run folder is its own by a mount namespace, joins and leaves again."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    script = f"mount -t tmpfs none {hidden} && exec ray start --address={ray_address} --num-cpus=1 --block"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    probe = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", str(hidden)], capture_output=True)
    if probe.returncode:
        pytest.skip("mount namespaces are not permitted here")
    node = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_nodes(3)
        done = rsf_command("run", config_file, f"output={hidden}/run", "--address", ray_address)
        assert done.returncode == 2, done.stderr
        assert "1 of the cluster's 3 nodes cannot see this folder" in done.stderr
        assert not (hidden / "run" / "config.yaml").exists()
    finally:
        for child in psutil.Process(node.pid).children(recursive=True):
            child.kill()
        node.kill()
        node.wait()
        wait_for_nodes(2)


def wait_for_nodes(count: int) -> None:
    wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == count, seconds=90)


def wait_until(true: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.5)
