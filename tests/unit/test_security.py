"""An untrusted file or folder cannot make the package do anything but its purpose."""

import ast
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from bad_input.case import sound_run
from bad_input.pictures import Trap

import rsf_dist
from rsf_dist import cli
from rsf_dist.cluster import connection
from rsf_dist.config import load, model, safe_yaml
from rsf_dist.errors import InputError
from rsf_dist.models.spec import load_network, save_network
from rsf_dist.runtime import user_code
from rsf_dist.tasks import ClassificationTask

PACKAGE = Path(rsf_dist.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
CLUSTERS = PACKAGE.parent / "clusters"

NEVER = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load",
    "cloudpickle.loads", "ray.cloudpickle.loads", "marshal.loads", "shelve.open", "joblib.load", "os.system",
    "os.popen", "subprocess.getoutput", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load",
    "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "tempfile.mktemp", "torch.hub.load", "torch.jit.load",
}  # fmt: skip
ONLY_WITH = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
NEVER_WITH = {("shell", True), ("allow_pickle", True), ("weights_only", False), ("trust_remote_code", True)}


def faults(source: str) -> Iterator[str]:
    """Calls that could run what a file says."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in NEVER - {"compile"}:
            yield ast.unparse(node)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {(word.arg, word.value.value) for word in node.keywords if isinstance(word.value, ast.Constant)}
            if name == "compile" or given & NEVER_WITH or (name in ONLY_WITH and ONLY_WITH[name] not in given):
                yield ast.unparse(node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_in_the_package_runs_what_a_file_says(path: Path) -> None:
    assert list(faults(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "exec(text)",
        "compile(text, 'x', 'exec')",
        "import pickle\npickle.load(file)",
        "load = pickle.loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "os.system(command)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_what_would_is_found(source: str) -> None:
    assert list(faults(source))


def test_nobody_imports_pickle() -> None:
    imported = {
        name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
    }
    assert not imported & {"pickle", "cloudpickle", "marshal", "shelve", "dill", "joblib"}


def test_modules_are_imported_by_name_in_one_place() -> None:
    """A user's come through `user_code.load`; `lazy_loader` loads those of `rsf_dist` itself."""
    importers = {path.name for path in SOURCES if "import_module" in path.read_text()}
    assert importers == {"user_code.py"}


def test_weights_that_are_a_program_do_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trapped"
    weights = tmp_path / "w.pt"
    torch.save({"0.weight": Trap(trap)}, weights)
    task = ClassificationTask(("a", "b"), model.ModelConfig(width=4, weights=str(weights)), channels=1)
    with pytest.raises(InputError, match="cannot be read as weights"):
        task.build_model(0)
    assert not trap.exists()
    torch.load(weights, weights_only=False)  # it would have
    assert trap.exists()


def test_a_models_own_file_that_is_a_program_does_not_run(tmp_path: Path) -> None:
    task = ClassificationTask(("a", "b"), model.ModelConfig(width=4), channels=1)
    save_network(task.build_model(0), task.spec, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "trapped")))
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_network(tmp_path)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("tag", ["object/apply:os.mkdir ['{path}']", "object/new:os.mkdir ['{path}']", "name:os.mkdir"])
def test_a_tag_of_yaml_runs_nothing(tag: str, tmp_path: Path) -> None:
    text = f"output: !!python/{tag.format(path=tmp_path / 'trapped')}\n"
    with pytest.raises(ValueError, match="could not determine a constructor for the tag"):
        safe_yaml.read(text)
    value = text.strip().partition(": ")[2]
    with pytest.raises(InputError, match="its value is not YAML"):
        load.parse_text("{}", [f"model.options={value}"])
    with pytest.raises(InputError, match=r"source=\(absent\)"):  # as an output it is a text, and no tag
        load.parse_text("{}", [f"output={value}"])
    assert not (tmp_path / "trapped").exists()
    if "apply" in tag:
        yaml.unsafe_load(text)  # it would have
        assert (tmp_path / "trapped").exists()


def test_what_is_small_as_text_stays_small() -> None:
    assert safe_yaml.read("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n")["c"] == {"x": 1, "y": 2}
    lines = ["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    with pytest.raises(ValueError, match="more than 100,000 values"):
        safe_yaml.read("\n".join(lines))


@pytest.fixture
def traps_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with modules that leave a trace when they are imported."""
    for name in ("lies_here", "json"):
        (tmp_path / f"{name}.py").write_text("import os\nos.mkdir('trapped')\nscore = print\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_installed_command_does_not_import_from_the_current_directory(traps_here: Path) -> None:
    """In a process of its own, which has not imported json yet."""
    command = Path(sys.executable).with_name("rsf")
    if not command.exists():
        pytest.skip("the command is not installed beside this Python")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(command), "schema", "config"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["properties"]
    assert not (traps_here / "trapped").exists()


def test_modules_of_the_current_directory_cannot_be_named(
    traps_here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    score = {"kind": "reward", "score": "lies_here:score", "max_score": 1.0}
    (traps_here / "config.yaml").write_text(yaml.safe_dump(sound_run(traps_here) | {"ratio": score}))
    monkeypatch.setattr(sys, "argv", ["rsf", "run", "config.yaml"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    signal.signal(signal.SIGTERM, handler)
    assert "ratio.score=lies_here:score: cannot be imported (ModuleNotFoundError" in capsys.readouterr().err
    assert not (traps_here / "trapped").exists()


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of its own, and one named like one of Python's."""
    (tmp_path / "sharp_checks.py").write_text("def sharp(batch):\n    return batch\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('taken for json')\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "sharp_checks", raising=False)
    return tmp_path


def test_the_folder_takes_the_place_of_nothing_in_workers_either(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = {}
    monkeypatch.setattr("ray.init", lambda **options: joined.update(options))
    connection._join("local", verbose=True, code_folder=str(code))
    environment = joined["runtime_env"]
    assert environment["env_vars"] == {user_code.FOLDER_VARIABLE: str(code)}  # PYTHONPATH would be looked into first
    assert environment["worker_process_setup_hook"] == "rsf_dist.runtime.user_code.allow_named_folder"
    monkeypatch.setenv(user_code.FOLDER_VARIABLE, str(code))
    user_code.allow_named_folder()  # as a worker does
    assert sys.path[-1] == str(code)
    script = (
        "import sys; from rsf_dist.runtime import user_code; user_code.allow_named_folder(); import json, sharp_checks"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd="/").returncode == 0


def test_a_worker_without_the_folder_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(sys.path)
    for folder in ("/no/such/folder", ""):
        monkeypatch.setenv(user_code.FOLDER_VARIABLE, folder)
        user_code.allow_named_folder()
    assert sys.path == before


def test_what_was_loaded_can_be_told(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_code, "LOADED", {})
    user_code.allow_folder(code)
    user_code.load("sharp_checks:sharp", "ratio.score")
    user_code.load("sharp_checks:sharp", "ratio.passes")
    user_code.load("math:sqrt", "ratio.score")
    with pytest.raises(InputError):
        user_code.load("sharp_checks:blunt", "ratio.score")
    assert list(user_code.LOADED) == ["sharp_checks:sharp", "math:sqrt"]
    assert user_code.LOADED["sharp_checks:sharp"] == str(code / "sharp_checks.py")


@pytest.mark.parametrize("name", ["local.yaml", "aws.yaml"])
def test_the_dashboard_listens_on_the_head_alone(name: str) -> None:
    """Ray's dashboard runs what it is sent."""
    text = (CLUSTERS / name).read_text()
    (start,) = (line for line in yaml.safe_load(text)["head_start_ray_commands"] if "ray start" in line)
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in text


def test_a_cluster_of_ones_own_has_no_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = {}
    monkeypatch.setattr("ray.init", lambda **options: joined.update(options))
    connection._join("local", verbose=True)
    assert joined["include_dashboard"] is False
