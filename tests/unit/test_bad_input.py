"""Each of some two and a half thousand mistakes of a user ends in one line that names the field.

In this process, through the command itself, up to where a cluster would be joined.
"""

import contextlib
import functools
import hashlib
import itertools
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer.main
import yaml
from bad_input import folders, keys, outputs, pictures, texts, users, weights
from bad_input.case import CODE, Case, Dumper, changed, sound_run, write_config

from rsf_dist import cli
from rsf_dist.builders import preflight
from rsf_dist.config.images import ImageFolderConfig
from rsf_dist.config.load import dump_config, parse_config
from rsf_dist.data.images import load_images
from rsf_dist.errors import InputError, RsfError
from rsf_dist.runs import pipeline, preparation

KEYS = {
    key: list(cases)
    for key, cases in itertools.groupby(sorted(keys.cases(), key=lambda case: case.field), lambda case: case.field)
}
OTHERS = [case for module in (texts, pictures, folders, weights, users, outputs) for case in module.cases()]


class Reached(BaseException):
    """The command came to where it joins a cluster: nothing was refused."""


@pytest.fixture(scope="module", autouse=True)
def command_built_once() -> Iterator[None]:
    """Typer builds the command anew for every call, which takes as long as most of the cases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.main.get_command", functools.cache(typer.main.get_command))
        yield


def children() -> set[str]:
    """Return the ids of the processes that this one has started and that still run."""
    tasks = Path("/proc/self/task")
    found = set((tasks / str(os.getpid()) / "children").read_text().split())
    for task in tasks.iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread has ended meanwhile
            found |= set((task / "children").read_text().split())
    return found


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Joining a cluster raises Reached instead; what the command sets in this process is undone."""

    def reached(*args: object, **options: object) -> None:
        raise Reached

    monkeypatch.setattr("ray.init", reached)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # tests on a cluster may have come before
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules, handler = set(sys.modules), signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    for name in set(sys.modules) - modules:
        if str(CODE) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def reported_error(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, command: str = "run"
) -> RsfError:
    """Return the error of `rsf run` for its arguments: one line on standard error, nothing else, exit code 2 or 3."""
    monkeypatch.setattr(sys, "argv", ["rsf", command, *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as exited:
        cli.main()
    err = exited.value.__context__
    assert isinstance(err, RsfError)
    out, said = capsys.readouterr()
    lines = [line for line in said.splitlines() if not line.endswith(f"resuming the run in {Path.cwd()}/run")]
    lines = [line for line in lines if not re.match(r"\[ *[\d.]+ s\] using ", line)]  # what the user's paths led to
    assert lines == [f"error: {err}"]
    assert lines[0].isprintable()
    assert out == ""
    assert exited.value.code == err.exit_code in (2, 3)
    return err


def require_about(err: RsfError, field: str, rule: str = "") -> None:
    """The error message names the field, or a key below it, with a rule and a remedy."""
    assert isinstance(err, InputError)
    assert err.field == field or err.field.startswith((f"{field}.", f"{field}/")), str(err)
    assert err.rule.strip()
    assert err.remedy.strip()
    assert rule in err.rule


def contents(folder: Path) -> dict[str, str]:
    """Each file's SHA-256."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def an_earlier_run(raw: dict, folder: Path) -> dict[str, str]:
    """A run of this configuration, before its inputs were spoiled; of one that can be none, a folder of files."""
    (folder / "rounds/000/accepted").mkdir(parents=True)
    (folder / "rounds/000/accepted/chunk-000000.parquet").write_bytes(b"rows")
    with contextlib.suppress(InputError):
        parse_config(raw)
        (folder / "config.yaml").write_text(yaml.dump(raw, Dumper=Dumper))  # a tenth of what a run writes
    return contents(folder)


@pytest.mark.parametrize("key", KEYS)
def test_a_key(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """One of its values through the command, the others through what the command calls first."""
    first, *others = KEYS[key]
    path = write_config(first, tmp_path, dict(first.spoil(tmp_path)))
    require_about(reported_error([str(path)], monkeypatch, capsys), key)
    for case in others:
        started = time.monotonic()
        with pytest.raises(InputError) as caught:
            parse_config(dict(case.spoil(tmp_path)))
        assert time.monotonic() - started < case.seconds
        require_about(caught.value, key)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_a_file_or_code(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "STEP_SECONDS", case.user_seconds)
    sound = sound_run(tmp_path)
    changes = case.spoil(tmp_path)
    path = write_config(case, tmp_path, changed(sound, changes))
    run = tmp_path / "run"
    before = an_earlier_run(changed(sound, changes if case.earlier is None else case.earlier), run)
    running = children()
    started = time.monotonic()
    err = reported_error([str(path), *case.arguments], monkeypatch, capsys)
    assert time.monotonic() - started < case.seconds
    require_about(err, case.field.format(folder=tmp_path))
    assert contents(run) == before
    assert not (tmp_path / "trapped").exists()
    assert not Path(texts.SENTINEL).exists()
    assert children() == running


def test_there_are_as_many_cases_as_are_claimed() -> None:
    assert len(OTHERS) >= 300
    assert len(keys.cases()) >= 1_500
    assert keys.models_walked() == keys.models_there_are()
    assert len({case.name for case in OTHERS}) == len(OTHERS)


def test_the_run_that_the_cases_spoil_is_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(sound_run(tmp_path)))
    monkeypatch.setattr(sys, "argv", ["rsf", "run", str(path)])
    with pytest.raises(Reached):
        cli.main()


@pytest.mark.parametrize(
    "sections",
    [
        {"ratio": {"kind": "custom", "factory": "ratios_of_mine:Sound"}, "envelope": {"kind": "pilot"}},
        {"proposal": {"kind": "custom", "factory": "proposals_of_mine:Sound"}},
        {"proposal": {"kind": "generator", "factory": "proposals_of_mine:sound_generator", "latent_dim": 2}},
        {"proposal": {"kind": "custom", "factory": "proposals_of_mine:Moves"}, "rounds": 2},
        {"rounds": {"num_rounds": 2, "num_accepted": 15}},
        {"rounds": {"num_rounds": 2, "num_accepted": 10**9}},
        {"rounds": {"num_rounds": 2, "class_prior": {"network": {"name": "envelopes_and_tasks_of_mine:network"}}}},
        {"evaluation": {"arms": ["batch_norm"]}},
        {"envelope": {"kind": "custom", "factory": "envelopes_and_tasks_of_mine:Envelope"}},
        {"task": {"kind": "custom", "factory": "envelopes_and_tasks_of_mine:Task"}},
        {"model": {"name": "envelopes_and_tasks_of_mine:network"}},
    ],
)
def test_code_that_keeps_its_contract_passes(sections: dict, tmp_path: Path) -> None:
    preparation.prepare(parse_config(sound_run(tmp_path) | sections))


@pytest.mark.parametrize("arm", ["pseudo_labels", "oracle"])
def test_arms_of_target_images_have_no_parameters(arm: str, tmp_path: Path) -> None:
    sound = sound_run(tmp_path)
    task = {"kind": "custom", "factory": "envelopes_and_tasks_of_mine:Turned"}
    preparation.prepare(parse_config(sound | {"task": task}))
    arms = {
        "evaluation": {"test": sound["source"], "arms": [arm]} | ({arm: sound["source"]} if arm == "oracle" else {})
    }
    with pytest.raises(InputError, match=rf"evaluation\.arms={arm}: the task needs \['rotation'\], which target"):
        preparation.prepare(parse_config(sound | {"task": task} | arms))


@pytest.mark.parametrize("name", pictures.SOUND_FILES)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_unusual_image_is_read(name: str, channels: int, tmp_path: Path) -> None:
    file, data = pictures.SOUND_FILES[name]
    config = ImageFolderConfig(root=str(folders.a_folder(tmp_path, {file: data})), channels=channels)
    found = load_images(config)
    assert found.images.shape == (41, channels, 8, 8)
    if name == "16 bits":
        assert found.images[-1].unique().tolist() == [255]


def test_sixteen_bits_are_scaled_rather_than_cut_off(tmp_path: Path) -> None:
    root = folders.a_folder(tmp_path, {"x.png": pictures.sixteen_bits(128 * 257)})
    found = load_images(ImageFolderConfig(root=str(root), channels=1))
    assert found.images[-1].unique().tolist() == [128]


def test_images_are_found_through_links_and_not_in_hidden_folders(tmp_path: Path) -> None:
    root = folders.a_folder(tmp_path, {})
    (tmp_path / "classes" / ".cache").mkdir(parents=True)
    (tmp_path / "classes" / ".cache" / "x.png").write_bytes(b"")
    for name in "ab":
        (tmp_path / "classes" / name).symlink_to(root)
    found = load_images(ImageFolderConfig(root=str(tmp_path / "classes")))
    assert found.labels is not None
    assert found.labels.tolist() == [0] * 40 + [1] * 40


@pytest.mark.parametrize("answers", [True, False])
def test_a_store_that_does_not_answer_or_refuses(
    answers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """pyarrow tries a server that is not there three times, six seconds in all."""
    with outputs.forbidding_server() as port:
        output = outputs.S3.format(port=port if answers else outputs.port_of_nobody())
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(sound_run(tmp_path) | {"output": output}))
        started = time.monotonic()
        err = reported_error([str(path)], monkeypatch, capsys)
    assert time.monotonic() - started < 20
    require_about(err, "output", "ACCESS_DENIED" if answers else "NETWORK_CONNECTION")


def test_debug_shows_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "config.yaml"
    score = {"kind": "reward", "score": "ratios_of_mine:fails"}
    path.write_text(yaml.safe_dump(sound_run(tmp_path) | {"ratio": score, "envelope": {"kind": "pilot"}}))
    monkeypatch.setattr(sys, "argv", ["rsf", "run", str(path), "--debug"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert 'ratios_of_mine.py", line' in said  # the user's own line is among it
    assert said.splitlines()[-1].startswith("error: ratio.score=ratios_of_mine:fails: fails (RuntimeError: no such")


TOLD = [
    f"using {path} from {CODE / path.partition(':')[0]}.py"
    for path in ("ratios_of_mine:bright", "proposals_of_mine:Sound", "envelopes_and_tasks_of_mine:network")
]


@pytest.mark.parametrize("command", ["run", "sample", "plan", "train", "verify"])
def test_the_command_tells_what_its_import_paths_led_to(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """On standard error, each once, and before a cluster is joined; of a run without any nothing."""
    proposal = {"kind": "custom", "factory": "proposals_of_mine:Sound"}
    model = {"name": "envelopes_and_tasks_of_mine:network"}
    sound = sound_run(tmp_path)
    own = sound | {"proposal": proposal, "model": model}
    none = sound | {"code_folder": None, "ratio": {}, "envelope": {"kind": "pilot"}}
    for raw, told in ((own, TOLD), (none | {"output": str(tmp_path / "other")}, [])):
        lines = said_of(command, raw, tmp_path, monkeypatch, capsys)
        using = [line.partition("] ")[2] for line in lines if "using " in line]
        assert sorted(using) == sorted(told)


def said_of(
    command: str, raw: dict, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> list[str]:
    """The command's lines on standard error, up to where a cluster would be joined; of a verification, its end."""
    config, run = folder / "config.yaml", Path(raw["output"])
    config.write_text(yaml.safe_dump(raw))
    if command in ("train", "verify"):
        run.mkdir()
        (run / "config.yaml").write_text(dump_config(parse_config(raw)))
    monkeypatch.setattr(sys, "argv", ["rsf", command, str(run if command in ("train", "verify") else config)])
    capsys.readouterr()
    with pytest.raises(SystemExit if command == "verify" else Reached):
        cli.main()
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("command", ["run", "sample", "train"])
def test_a_disk_that_is_nearly_full_is_refused_before_anything_is_drawn_or_written(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The cluster counts as joined; with room, the same command comes to its first draw."""
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    raw = sound_run(tmp_path)
    config.write_text(yaml.safe_dump(raw))
    if command == "train":
        run.mkdir()
        (run / "config.yaml").write_text(dump_config(parse_config(raw)))
    argument, before = str(run if command == "train" else config), contents(run)

    def draw(*given: object) -> None:
        raise Reached

    monkeypatch.setattr(pipeline, "connect", lambda *given: contextlib.nullcontext())
    monkeypatch.setattr(pipeline, "check_cluster", lambda *given, **options: None)
    monkeypatch.setattr(pipeline, "seed_runs", draw)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**10))
    monkeypatch.chdir(tmp_path)
    err = reported_error([argument], monkeypatch, capsys, command)
    require_about(err, "output", "its disk has 0 MiB left, and the run may take")
    assert err.exit_code == 2
    assert contents(run) == before
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**40))
    monkeypatch.setattr(sys, "argv", ["rsf", command, argument])
    with pytest.raises(Reached):
        cli.main()
