"""The command's words and exit codes, as far as they need no cluster."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator
from ray._private.ray_logging import LogDeduplicator

import rsf_dist
from rsf_dist import cli
from rsf_dist.config.reference import config_markdown

RSF = [sys.executable, "-c", "from rsf_dist.cli import main; main()"]


def rsf(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([*RSF, *map(str, arguments)], capture_output=True, text=True, timeout=120)


ONE_AFTER_THE_OTHER = """
import contextlib, io, json, sys
from rsf_dist.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["rsf", *words]
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    imported = [name for name in ("torch", "ray") if name in sys.modules]
    print(json.dumps([code, out.getvalue(), err.getvalue(), imported]))
"""


def rsf_of_each(commands: list[list[str]], before: str = "") -> list[tuple[subprocess.CompletedProcess, list[str]]]:
    """Run the commands in one process of their own; with each, tell which of torch and Ray it has imported by then.

    Args:
        commands: the words of each.
        before: Python code that the process runs first.
    """
    code = [sys.executable, "-c", before + ONE_AFTER_THE_OTHER, json.dumps(commands)]
    told = subprocess.run(code, stdout=subprocess.PIPE, text=True, timeout=120, check=True).stdout.splitlines()
    each = zip(commands, map(json.loads, told), strict=True)
    return [(subprocess.CompletedProcess(words, *done), imported) for words, (*done, imported) in each]


@pytest.fixture
def config_file(small_run: dict, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(small_run))
    return path


def refused(done: subprocess.CompletedProcess, *words: str) -> None:
    """One line on standard error, no traceback, exit code 2."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr


def test_help_names_every_command() -> None:
    started = time.monotonic()
    done = rsf("--help")
    assert time.monotonic() - started < 5  # 0.2 s where nothing else runs
    assert done.returncode == 0
    for command in ("run", "sample", "train", "report", "inspect", "demo"):
        assert f"\n  {command} " in done.stdout
    assert "...\n" not in done.stdout.split("Commands:")[1]  # no summary is cut


def test_what_needs_neither_torch_nor_ray_imports_neither(config_file: Path) -> None:
    commands = [["--help"], ["schema", "config"], ["run", str(config_file), "sampling.num_accepted=0"]]
    done = rsf_of_each(commands)
    assert [(one.returncode, imported) for one, imported in done] == [(0, []), (0, []), (2, [])]


def test_the_command_alone_prints_its_help(rsf_here) -> None:
    bare = rsf_here()
    assert (bare.returncode, bare.stderr) == (0, "")
    assert bare.stdout == rsf_here("--help").stdout


def test_the_version_is_printed(rsf_here) -> None:
    done = rsf_here("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"rsf {rsf_dist.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "config.yaml"], "the same command goes on from there"),
        (["compare", "config.yaml", "--seeds", "2"], "the same command goes on from there"),
        (["train", "runs/demo", "--json"], "the same command goes on from there"),
        (["demo"], "`rsf demo --output FOLDER` goes on"),  # by default it takes another folder each time
        (["plan", "config.yaml"], "the same command starts again from the beginning"),  # it keeps nothing
        (["verify", "runs/demo"], "the same command starts again from the beginning"),
    ],
)
def test_an_interrupted_command_says_whether_it_goes_on(words: list[str], told: str, rsf_here, monkeypatch) -> None:
    def interrupted(standalone_mode: bool) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    done = rsf_here(*words)
    assert done.returncode == 130
    assert done.stderr.startswith(f"error: interrupted; {told}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("words", "shown"), [((), False), (("--debug",), True)])
def test_the_end_of_ray_datas_actors_is_told_with_debug_alone(words, shown, rsf_here, monkeypatch) -> None:
    """By Ray's own setting, which takes nothing else away."""
    monkeypatch.setenv("RAY_DEDUP_LOGS_SKIP_REGEX", "of the test")  # so that it is put back
    monkeypatch.delenv("RAY_DEDUP_LOGS_SKIP_REGEX")
    rsf_here("schema", "config", *words)
    submit = "Task MapWorker(MapBatches(_Actor)).submit failed. There are infinite retries remaining, so the task will"
    lines = [
        f"{submit} be retried. Error: The actor is temporarily unavailable: RpcError: RPC error: Socket closed",
        f"{submit} be retried. Error: The actor is dead because it was killed by `ray.kill`.",
        f"{submit} be retried. Error: The actor is dead because its node has died.",
        "A worker died or was killed while executing a task by an unexpected system error.",
        "Task _map_task failed due to oom. There are infinite oom retries remaining, so the task will be retried.",
    ]
    filtered = LogDeduplicator(5, None, os.environ.get("RAY_DEDUP_LOGS_SKIP_REGEX"))
    (batch,) = filtered.deduplicate({"lines": lines, "pid": "raylet", "is_err": False})
    assert batch["lines"] == (lines if shown else lines[2:])


WITHOUT_HOME = """
import os, pwd
def nobody(number): raise KeyError(number)
pwd.getpwuid = nobody
os.environ.pop("HOME", None)
"""


def test_a_dead_address_in_the_environment_is_refused_in_one_line(config_file: Path, rsf_here, monkeypatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    started = time.monotonic()
    done = rsf_here("sample", config_file)
    assert time.monotonic() - started < 15
    (told,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert told.startswith("error: RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers there (")
    assert done.returncode == 2


def test_a_user_without_a_home_directory_is_told_so(config_file: Path) -> None:
    """In a process of its own, because Ray looks for the home directory when it is imported; help needs none."""
    config = str(config_file)
    commands = [["run", config, "--help"], ["verify", config, "--help"], ["run", config], ["verify", config]]
    *helped, run, verified = [done for done, _ in rsf_of_each(commands, before=WITHOUT_HOME)]
    assert [done.returncode for done in helped] == [0, 0]
    for done in (run, verified):
        refused(done, "HOME=(not set): ", "export HOME=FOLDER")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sampling.num_acepted=5", ("sampling.num_acepted", "unknown key", "did you mean num_accepted?")),
        ("sampling.num_accepted=0", ("sampling.num_accepted=0", "greater than 0")),
        ("sampling.num_accepted=many", ("sampling.num_accepted=many", "must be an integer")),
        ("training.learning_rate=.nan", ("training.learning_rate=nan", "finite")),
        ("training.batch_size", ("key=value",)),
    ],
)
def test_what_is_wrong_with_the_configuration(
    override: str, words: tuple[str, ...], config_file: Path, rsf_here
) -> None:
    refused(rsf_here("run", config_file, override), *words)


def test_missing_files_and_unknown_commands(tmp_path: Path, rsf_here) -> None:
    refused(rsf("run", tmp_path / "absent.yaml"), "no such file")
    assert rsf_here("rnu").returncode == 2
    assert rsf_here("run").returncode == 2


def test_what_is_wrong_with_the_images(config_file: Path, tmp_path: Path, rsf_here) -> None:
    refused(rsf_here("report", tmp_path / "absent"), "is not in this run's directory")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(rsf_here("run", config_file, f"target.root={empty}"), "target.root", "holds no images")
    refused(rsf_here("run", config_file, f"target.root={tmp_path / 'absent'}"), "target.root", "does not exist")
    labelled = tmp_path / "test.npz"
    np.savez(labelled, images=np.zeros((3, 8, 8), np.uint8), labels=np.array([0, 1, 10]))
    classes = json.dumps([str(digit) for digit in range(10)])
    outside = f"evaluation.test={{kind: npz, root: {labelled}, classes: {classes}}}"
    refused(rsf_here("run", config_file, outside), "evaluation.test.labels=10", "must lie in [0, 10)")


@pytest.mark.parametrize("command", ["run", "sample", "plan", "compare", "train", "report", "verify", "export"])
def test_a_run_of_an_older_version_is_refused_for_that(command: str, small_run: dict, tmp_path: Path, rsf_here) -> None:
    """And not for the keys of its config.yaml, which that version named otherwise; nothing is changed in it."""
    run = tmp_path / "old"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(small_run | {"rounds": {"num_rounds": 3, "broad_share": 0.1}}))
    for name in ("manifest.json", "manifest.previous.json"):
        (run / name).write_text(json.dumps({"version": 3, "folders": {}, "rounds": {"0": {"chunks": 3}}}))
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in run.iterdir()}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(small_run))
    words = [run] if command in ("train", "report", "verify", "export") else [config, f"output={run}"]
    words += ["--output", run] if command == "compare" else []
    done = rsf_here(command, *words)
    version = "(manifest version 3, and this version reads 4)"
    refused(done, f"output={run}: was written by an older version of rsf_dist {version}; name another directory, or")
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in run.iterdir()} == before


def test_debug_shows_where(tmp_path: Path, rsf_here) -> None:
    done = rsf_here("run", tmp_path / "absent.yaml", "--debug")
    assert "Traceback" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("file", ["config", "report", "manifest"])
def test_the_schema_of_a_file_is_printed(file: str, rsf_here) -> None:
    done = rsf_here("schema", file)
    assert (done.returncode, done.stderr) == (0, "")
    schema = json.loads(done.stdout)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"]


def test_the_key_reference_is_printed_and_there_is_none_of_other_files(rsf_here) -> None:
    assert rsf_here("schema", "config", "--markdown").stdout == config_markdown()
    refused(rsf_here("schema", "report", "--markdown"), "--markdown=report", "only config has a key reference")
    assert rsf_here("schema", "nonsense").returncode == 2
