"""The first configuration: it loads, and names sizes, networks and budgets that fit the images."""

import re
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from data.annotated_files import image, on_its_side, voc, voc_object
from PIL import Image

from rsf_dist.builders.inputs import load_inputs
from rsf_dist.commands.first import PresetName, TaskName, init
from rsf_dist.config import size_rules
from rsf_dist.config.load import load_config, parse_text
from rsf_dist.config.run import RunConfig
from rsf_dist.data.sources import found_files
from rsf_dist.errors import InputError
from rsf_dist.starting import choices, found_images
from rsf_dist.starting import first_config as starting
from rsf_dist.starting.choices import PRESETS
from rsf_dist.starting.first_config import first_config
from rsf_dist.starting.found_images import FoundImages


@pytest.fixture(autouse=True)
def _in_a_folder_without_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def folder(name: str, *sizes: tuple[int, int], classes: tuple[str, ...] = ("ant", "bee"), each: int = 20) -> str:
    """Write `each` images a class, of the sizes (height, width) in turn, and return the folder."""
    for number in range(each * len(classes)):
        image(Path(name) / classes[number % len(classes)] / f"{number}.png", *sizes[number % len(sizes)])
    return name


def grey_npz(name: str, *shape: int, labelled: bool = True) -> str:
    images = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    np.savez(name, images=images, **({"labels": np.arange(len(images)) % 3} if labelled else {}))
    return name


def shape_of(config: RunConfig) -> tuple[int, ...]:
    """Read the images as the run does, and return the shape that all have."""
    return tuple(load_inputs(config).source.images.shape[1:])


def parameters(config: RunConfig) -> dict:
    return config.model_dump(mode="json", exclude_none=True)["proposal"]["parameters"]


def test_photographs_of_many_sizes_with_a_target_in_folders_of_cameras():
    source = folder("photos", (100, 120), (120, 98), (97, 130))
    target = folder("seen", (110, 140), classes=("camera 1", "camera 2"))
    config = parse_text(first_config(source, target, folder("test", (110, 140), classes=("bee",), each=2)))
    assert shape_of(config) == (3, 96, 96)
    assert config.ratio.network.stride == config.model.stride == 3  # 96 / 32
    assert parameters(config) == size_rules.PHOTOGRAPH_PARAMETERS
    assert config.output == "runs/seen"
    assert config.evaluation.test.root == "test"
    assert config.rounds.num_rounds == 2
    assert config.image_defaults((3, 96, 96)) == {"sampling.chunk_size": 2048}


def test_a_folder_of_thumbnails():
    config = parse_text(first_config(folder("a", (28, 28)), folder("b", (28, 28), classes=(".",), each=40)))
    assert shape_of(config) == (3, 28, 28)
    assert config.source.size is None
    assert (config.ratio.network.name, config.ratio.network.stride) == ("small_cnn", 1)
    assert parameters(config)["rotation"] == {"uniform": [-0.4, 0.4]}
    assert config.evaluation.test is None


def test_an_npz_file():
    config = parse_text(first_config(grey_npz("a.npz", 60, 20, 20), grey_npz("b.npz", 40, 20, 20, labelled=False)))
    assert shape_of(config) == (1, 20, 20)
    assert (config.source.kind, config.source.size, config.source.channels) == ("npz", None, None)
    assert config.output == "runs/b"


@pytest.mark.parametrize(
    ("source", "target", "shape"),
    [
        ([(120, 160)], [(120, 160)], (96, 128)),  # one size, larger than a preset's: its form stays
        ([(64, 80)], [(64, 80)], (64, 80)),
        ([(64, 80)], [(80, 64)], (64, 64)),
        ([(50, 70), (70, 50)], [(90, 90)], (32, 32)),  # 50, rounded down to a multiple of 32
        ([(20, 24)], [(120, 160)], (20, 20)),
        ([(200, 200)] * 9 + [(40, 40)], [(200, 200)], (96, 96)),  # a few small ones do not decide
    ],
)
def test_all_images_are_brought_to_one_size(source, target, shape):
    config = parse_text(first_config(folder("a", *source), folder("b", *target)))
    assert shape_of(config)[1:] == shape


def test_photographs_that_stand_on_their_side_are_measured_upright():
    folder("a", (80, 120))
    for number in range(40):
        on_its_side(Path("b") / f"{number}.jpg", 6, height=120, width=80)
    config = parse_text(first_config("a", "b"))
    assert config.source.size is None  # as all of them are 80 x 120
    assert shape_of(config) == (3, 80, 120)


@pytest.mark.parametrize(("grey", "channels"), [(("a", "b"), 1), (("a",), 3), (("b",), 3)])
def test_grey_files_have_one_channel_where_all_are_grey(grey, channels):
    for name in ("a", "b"):
        folder(name, (16, 16))
        for file in Path(name).rglob("*.png") if name in grey else ():
            Image.open(file).convert("L").save(file)
    assert shape_of(parse_text(first_config("a", "b"))) == (channels, 16, 16)


def write_table(folder: str) -> str:
    rows = [f"{file},{file.parent.name}" for file in Path(folder).rglob("*.png")]
    Path("table.csv").write_text("\n".join(["path,label", *rows]))
    return "table.csv"


def write_parquet(folder: str) -> str:
    files = list(Path(folder).rglob("*.png"))
    columns = {"image": [file.read_bytes() for file in files], "label": [file.parent.name for file in files]}
    pq.write_table(pa.table(columns), "images.parquet")
    return "images.parquet"


@pytest.mark.parametrize("written", [str, write_table, write_parquet])
@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 1), ("I;16", 1), ("RGB", 3), ("RGBA", 3)])
def test_files_are_measured_by_their_headers_wherever_they_are_named(written, mode, channels, monkeypatch):
    source, target = folder("a", (12, 16)), folder("b", (12, 16))
    for file in [*Path(source).rglob("*.png"), *Path(target).rglob("*.png")]:
        Image.open(file).convert("L" if mode == "I;16" else mode).convert(mode).save(file)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("an image was decoded"))
    assert parse_text(first_config(written(source), target)).source.channels == (1 if channels == 1 else None)


def test_a_folder_is_walked_to_recognise_it_and_to_list_it_and_not_again(monkeypatch):
    source, target = folder("a", (8, 8)), folder("b", (8, 8))
    walked, of = [], found_files.FoundFiles
    monkeypatch.setattr(found_files, "FoundFiles", lambda root: walked.append(str(root)) or of(root))
    first_config(source, target)
    assert walked == ["a", "a", "b", "b"]


def test_grey_arrays_go_with_coloured_files():
    config = parse_text(first_config(grey_npz("a.npz", 60, 16, 16), folder("b", (16, 16))))
    assert shape_of(config) == (3, 16, 16)


def test_grey_tensors_of_a_table_go_with_coloured_files():
    columns = {"image": [np.zeros((16, 16), np.uint8).tolist()] * 40, "label": [0, 1] * 20}
    pq.write_table(pa.table(columns), "tensors.parquet")
    config = parse_text(first_config("tensors.parquet", folder("b", (16, 16))))
    inputs = load_inputs(config)
    assert inputs.source.images.shape[1:] == inputs.target.images.shape[1:] == (3, 16, 16)


def test_budgets_follow_the_number_of_images():
    target = folder("b", (8, 8))
    few = parse_text(first_config(grey_npz("few.npz", 60, 8, 8), target))
    assert few.sampling.num_accepted == 200
    assert (few.pretrain.steps, few.pretrain.batch_size) == (100, 32)
    many = parse_text(first_config(grey_npz("many.npz", 420, 8, 8), target))
    assert many.sampling.num_accepted == 500
    # 420 images 8 times are 52.5 batches of 64, 500 rows 62.5: both below the least number of steps
    assert (many.pretrain.steps, many.pretrain.batch_size, many.training.steps) == (100, 64, 100)
    thorough = parse_text(first_config("many.npz", target, preset="thorough"))
    assert (thorough.pretrain.steps, thorough.training.steps) == (140, 160)  # 131.25 and 156.25, rounded up


def test_a_set_that_does_not_fit_into_memory_is_taken_whole(monkeypatch):
    """A million images of 3 x 96 x 96 are 26 GiB, which a run packs on disk."""

    def many(path: str) -> FoundImages:
        found = found_images.find_labelled(path)
        return replace(found, listing=replace(found.listing, ids=range(10**6)))

    monkeypatch.setattr(starting, "find_labelled", many)
    config = parse_text(first_config(folder("a", (96, 96)), folder("b", (96, 96))))
    assert config.sampling.num_accepted == 500  # the most of a preset, as there are so many
    assert config.source.limit is None


def test_published_weights_are_used_where_they_have_been_downloaded(tmp_path):
    arguments = folder("a", (64, 64)), folder("b", (64, 64))
    without = first_config(*arguments)
    assert parse_text(without).model.weights is None
    assert re.search(r"^# model: \{name: resnet18, weights: IMAGENET1K_V1\}", without, re.MULTILINE)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"")
    model = parse_text(first_config(*arguments)).model
    assert (model.name, model.weights) == ("resnet18", "IMAGENET1K_V1")


def test_weights_that_cannot_be_looked_up_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "x" * 300)  # is looked up with an error, as in a locked folder
    assert not choices.published_weights_are_here()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("sizes", [((60, 90), (90, 60)), ((100, 120), (120, 98))])  # become thumbnails, photographs
def test_the_text_is_short_and_has_comments(preset, sizes):
    text = first_config(folder("a", *sizes), folder("b", (110, 140)), "a", preset)
    lines = text.splitlines()
    assert 10 <= sum(1 for line in lines if line and not line.startswith("#")) <= 20
    assert sum("#" in line for line in lines) >= 8
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", ["yes", "a: b", "#1", "Ü & ö", "it's", "[0]", "- x"])
def test_folders_of_any_name_are_read_back(name):
    config = parse_text(first_config(folder(name, (8, 8)), folder("b", (8, 8))))
    assert config.source.root == name


def test_the_output_is_a_folder_that_is_not_there_yet():
    arguments = folder("a", (8, 8)), folder("b", (8, 8))
    for taken, free in (("runs/b", "runs/b-2"), ("runs/b-2", "runs/b-3")):
        Path(taken).mkdir(parents=True)
        assert parse_text(first_config(*arguments)).output == free


def test_the_output_of_a_target_in_a_folder_above_has_its_name(monkeypatch):
    folder("seen", (8, 8))
    folder("seen/mine/source", (8, 8))
    monkeypatch.chdir("seen/mine")
    assert parse_text(first_config("source", "..")).output == "runs/seen"


def refusal(*arguments: str) -> str:
    with pytest.raises(InputError) as caught:
        first_config(*arguments)
    return str(caught.value)


def test_what_cannot_be_used_is_refused():
    source, target = folder("a", (8, 8)), folder("b", (8, 8))
    flat, few, alone = (folder(name, (8, 8), classes=(inner,)) for name, inner in (("f", "."), ("g", "."), ("h", "x")))
    assert refusal("nowhere", target).startswith("SOURCE.path=nowhere: does not exist")
    assert refusal(source, "nowhere").startswith("TARGET.path=nowhere: does not exist")
    assert refusal(flat, target).startswith("SOURCE=f: holds images without labels")
    assert refusal(alone, target).startswith("SOURCE=x: is the only class")
    assert refusal(source, few).startswith("TARGET=g: holds 20 images, and a ratio needs 30 or more")
    assert refusal(source, target, flat).startswith("TEST=f: holds images without labels")
    other = folder("other", (8, 8), classes=("wasp", "bee"))
    assert refusal(source, target, other).startswith("TEST=wasp: not among the source's classes, ant, bee")


def test_boxes_and_files_that_are_no_images_are_refused(tmp_path):
    target = folder("b", (8, 8))
    image(tmp_path / "boxes" / "JPEGImages" / "a.png")
    voc(tmp_path / "boxes", "a", voc_object("ant", 1, 1, 9, 9))
    assert "gives boxes or masks, which no task uses yet" in refusal("boxes", target)
    (Path("b") / "ant" / "0.png").write_bytes(b"no image")
    assert re.search(r"ant/0\.png=8 bytes: is not a readable image", refusal("b", target))


def make(output: Path, force: bool = False) -> None:
    init("a", "b", None, output, TaskName.CLASSIFICATION, PresetName.QUICK, force)


def test_a_file_that_exists_is_overwritten_only_by_force(capsys):
    folder("a", (8, 8)), folder("b", (8, 8))
    output = Path("mine.yaml")
    make(output)
    assert capsys.readouterr().out == "wrote mine.yaml; next: rsf inspect mine.yaml, then rsf run mine.yaml\n"
    written = output.read_text()
    assert load_config(output) == parse_text(written)
    output.write_text("mine")
    with pytest.raises(InputError, match=r"--output=mine\.yaml: exists; .* --force"):
        make(output)
    assert output.read_text() == "mine"
    make(output, force=True)
    assert output.read_text() == written


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("no/where.yaml", "cannot be written (No such file or directory)"),
        ("x" * 300, "cannot be written (File name too long)"),  # is looked up with an error, as in a locked folder
        ("a/ant/0.png/mine.yaml", "cannot be written (Not a directory)"),
        ("null\0byte.yaml", "cannot be written (embedded null byte)"),
        ("a", "is no file"),
        ("/dev/null", "is no file"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_in_one_line(output, reason):
    folder("a", (8, 8)), folder("b", (8, 8))
    with pytest.raises(InputError) as caught:
        make(Path(output), force=True)
    assert f": {reason}; name a file" in str(caught.value)
    with pytest.raises(InputError):
        make(Path(output))
    assert not Path("/dev/null").is_file()
    assert {path.name for path in Path().iterdir()} == {"a", "b"}  # no draft is left


def test_a_full_disk_leaves_the_old_file(monkeypatch):
    folder("a", (8, 8)), folder("b", (8, 8))
    output = Path("mine.yaml")
    output.write_text("mine")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # no file may grow beyond 100 bytes
    try:
        with pytest.raises(InputError, match=r"--output=mine\.yaml: cannot be written \(File too large\)"):
            make(output, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert output.read_text() == "mine"


def test_a_link_is_written_through():
    folder("a", (8, 8)), folder("b", (8, 8))
    Path("kept.yaml").write_text("mine")
    Path("mine.yaml").symlink_to("kept.yaml")
    make(Path("mine.yaml"), force=True)
    assert Path("mine.yaml").is_symlink()
    assert load_config(Path("kept.yaml")).output == "runs/b"


def test_nothing_is_written_where_something_is_wrong():
    folder("a", (8, 8))
    with pytest.raises(InputError):
        make(Path("mine.yaml"))
    assert not Path("mine.yaml").exists()


def test_the_presets_are_those_that_the_command_offers():
    assert [preset.value for preset in PresetName] == list(PRESETS)
    assert yaml.safe_load(first_config(folder("a", (8, 8)), folder("b", (8, 8))))["rounds"]["num_rounds"] == 2
