"""The record of libraries and contents that a run's results rest on."""

import sys

import pytest
from bad_input.case import sound_run
from seed_runs import RecordingProgress

from rsf_dist.config.load import dump_config, parse_config
from rsf_dist.runs import pipeline
from rsf_dist.runs.made_with import contents_of, made_with, together
from rsf_dist.runtime import user_code
from rsf_dist.storage.run_store import RunStore


def record_of(folder, **sections):
    return made_with(parse_config(sound_run(folder) | sections))


def test_libraries_and_the_processor_are_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(user_code, "LOADED", {})
    record = record_of(tmp_path)
    assert {"python", "torch", "numpy", "scipy", "pyarrow", "rsf-dist", "processor", "accelerators"} <= record.keys()
    assert record["accelerators"] == "none"
    assert [name for name, value in record.items() if value is None] == [contents_of("ratios_of_mine:bright")]
    assert record == record_of(tmp_path)


def test_weights_count_by_their_contents(tmp_path):
    file = tmp_path / "w.safetensors"
    model = {"model": {"name": "resnet18", "weights": str(file)}}
    assert contents_of(str(file)) not in record_of(tmp_path, **model)  # torchvision's names are no files either
    digests = []
    for content in (b"a", b"b", b"a"):
        file.write_bytes(content)
        digests.append(record_of(tmp_path, **model)[contents_of(str(file))])
    assert digests[0] == digests[2] != digests[1]


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A folder with a module and one that it imports."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "my_ratio_of_reuse.py").write_text("from my_part_of_reuse import ratio\n")
    (folder / "my_part_of_reuse.py").write_text("def ratio(**options): return 1\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    monkeypatch.setattr(user_code, "LOADED", {})
    user_code.load("my_ratio_of_reuse:ratio", "factory")
    yield folder
    for name in ("my_ratio_of_reuse", "my_part_of_reuse"):
        sys.modules.pop(name, None)


def custom(folder, **options):
    ratio = {"kind": "custom", "factory": "my_ratio_of_reuse:ratio", "options": options}
    product = {"kind": "product", "factors": [ratio, {"kind": "verifier", "passes": "never_loaded:check"}]}
    return {"ratio": product, "code_folder": str(folder)}


OWN = contents_of("my_ratio_of_reuse:ratio")


def put(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


@pytest.mark.parametrize("name", ["my_part_of_reuse.py", "table.csv", "tables/of/angles.npy", "new.so"])
def test_code_counts_with_all_files_of_its_folder(name, code, tmp_path):
    before = record_of(tmp_path, **custom(code))[OWN]
    assert before is not None
    put(code / name, "def ratio(**options): return 2\n")
    after = record_of(tmp_path, **custom(code))[OWN]
    assert after not in (before, None)
    put(code / name, "def ratio(**options): return 3\n")
    assert record_of(tmp_path, **custom(code))[OWN] not in (before, after, None)


def test_a_file_of_code_that_moves_is_another(code, tmp_path):
    put(code / "a" / "table.csv", "1")
    before = record_of(tmp_path, **custom(code))[OWN]
    (code / "a").rename(code / "b")
    assert record_of(tmp_path, **custom(code))[OWN] != before


@pytest.mark.parametrize("name", ["__pycache__/my.pyc", "p/__pycache__/my.pyc", ".git/index", ".notes",
                                  "runs/old/log.txt", "runs/new/lock"])  # fmt: skip
def test_caches_hidden_files_and_runs_are_no_code(name, code, tmp_path):
    put(code / "runs" / "old" / "manifest.json", "{}")
    sections = custom(code) | {"output": str(code / "runs" / "new")}
    before = record_of(tmp_path, **sections)[OWN]
    put(code / name, "no code")
    assert record_of(tmp_path, **sections)[OWN] == before is not None


@pytest.mark.parametrize(("most", "value"), [("_MOST_FILES", 2), ("_MOST_BYTES", 80)])
def test_code_of_too_many_files_or_bytes_is_not_known(most, value, code, tmp_path, monkeypatch):
    monkeypatch.setattr(f"rsf_dist.runs.made_with.{most}", value)
    assert record_of(tmp_path, **custom(code))[OWN] is not None
    put(code / "more.txt", "more than the 80 bytes in two files that this test allows")
    assert record_of(tmp_path, **custom(code))[OWN] is None


def test_a_module_outside_of_folder_and_package_is_not_known(code, tmp_path):
    """Nothing tells which of the files beside it belong to it."""
    assert record_of(tmp_path, **custom(code) | {"code_folder": None})[OWN] is None


def test_a_file_that_an_option_names_is_looked_up_beside_the_code_too(code, tmp_path, monkeypatch):
    put(tmp_path / "data" / "table.csv", "1")
    name = contents_of("../data/table.csv")
    before = record_of(tmp_path, **custom(code, table="../data/table.csv"))[name]
    put(tmp_path / "data" / "table.csv", "2")
    after = record_of(tmp_path, **custom(code, table="../data/table.csv"))[name]
    assert len({before, after, None}) == 3
    put(tmp_path / "elsewhere" / "here" / "file", "")
    put(tmp_path / "elsewhere" / "data" / "table.csv", "3")  # of the same name from where the process runs
    monkeypatch.chdir(tmp_path / "elsewhere" / "here")
    assert record_of(tmp_path, **custom(code, table="../data/table.csv"))[name] not in (before, after, None)


def test_code_that_was_not_loaded_and_folders_are_not_known(code, tmp_path):
    record = record_of(
        tmp_path, **custom(code, table=str(tmp_path / "code" / "my_part_of_reuse.py"), root=str(tmp_path))
    )
    assert record[contents_of("never_loaded:check")] is None
    assert record[contents_of(str(tmp_path))] is None
    assert record[contents_of(str(code / "my_part_of_reuse.py"))] is not None


def test_a_package_counts_with_all_its_modules(tmp_path, monkeypatch):
    package = tmp_path / "package_of_reuse"
    package.mkdir()
    for name in ("__init__", "one", "two"):
        (package / f"{name}.py").write_text("")
    monkeypatch.setattr(user_code, "LOADED", {"package_of_reuse.one:f": str(package / "one.py")})
    sections = {"ratio": {"kind": "custom", "factory": "package_of_reuse.one:f"}}
    before = record_of(tmp_path, **sections)
    (package / "two.py").write_text("changed = True")
    after = record_of(tmp_path, **sections)
    assert after != before
    put(package / "tables" / "angles.csv", "1")
    assert record_of(tmp_path, **sections) not in (before, after)


def test_what_changed_while_a_run_was_made_is_not_known():
    before = {"torch": "1", "numpy": "1", "gone": "a", "unknown": None}
    now = {"torch": "2", "numpy": "1", "new": "b", "unknown": "c"}
    assert together(before, now) == {"torch": None, "numpy": "1", "gone": "a", "new": "b", "unknown": None}
    assert together({}, now) == now


def test_results_of_a_run_that_kept_no_record_are_not_known(tmp_path):
    config = parse_config(sound_run(tmp_path))
    begun, old = RunStore(tmp_path / "begun"), RunStore(tmp_path / "old")
    pipeline.record_made_with(begun, made_with(config))
    assert begun.manifest().made_with == made_with(config)
    old.write("config.yaml", dump_config(config))
    pipeline.record_made_with(old, made_with(config))
    assert set(old.manifest().made_with.values()) == {None}


def test_a_run_of_which_nothing_serves_is_refused_before_the_images_are_read_and_leaves_nothing(tmp_path, monkeypatch):
    old = RunStore(tmp_path / "old")
    raw = sound_run(tmp_path) | {"output": str(tmp_path / "new")}
    old.write("config.yaml", dump_config(parse_config(raw)))
    old.commit_folder("rounds/000/ratio", lambda folder: None)
    monkeypatch.setattr(pipeline, "connect", lambda *_: pytest.fail("the cluster was asked for"))
    monkeypatch.setattr(pipeline, "prepare", lambda *_: pytest.fail("the images were read"))
    with pytest.raises(pipeline.InputError, match=r"--from=.*/old: nothing of it serves this run: it does not record"):
        pipeline.run(parse_config(raw), reuse=str(tmp_path / "old"), progress=RecordingProgress())
    assert not (tmp_path / "new").exists()
