"""`rsf inspect`: of a configuration, and of a path without one."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from bad_input.case import changed, sound_run
from data.annotated_files import box, coco, image, yolo
from PIL import Image


@pytest.fixture
def rsf(rsf_here, monkeypatch, tmp_path):
    """`rsf inspect` in this process and in an empty folder; returns its exit code and what it printed."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return partial(rsf_here, "inspect")


def written(tmp_path: Path, **changes) -> Path:
    """Write a sound configuration with changes, keys with __ for dots."""
    raw = changed(sound_run(tmp_path), {key.replace("__", "."): value for key, value in changes.items()})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    return tmp_path / "run.yaml"


def folders(root: Path, **counts: int) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        for each in range(count):
            image(root / name / f"{each}.png", 8 + number, 8 + each)
    return root


def test_a_sound_configuration_gives_counts_proposals_and_a_sheet_without_ray(rsf, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))
    done = rsf(written(tmp_path))
    assert done.returncode == 0
    assert "source: 40 images (npz " in done.stdout
    assert "target: 40 images, unlabelled (npz " in done.stdout
    assert "nothing suspicious was found" in done.stdout
    assert done.stdout.endswith("contact sheet: run.inspect.png\n")
    with Image.open("run.inspect.png") as sheet:
        # Three panels of three rows, each a title and a margin, and the margins of the sheet.
        tile = 148 // 8 * 8
        assert sheet.height == 3 * (34 + 3 * (tile + 18 + 6) + 16) + 2 * 16
    assert not (tmp_path / "run").exists()


def test_json_holds_every_set_finding_and_the_sheet(rsf, tmp_path):
    found = json.loads(rsf(written(tmp_path, target__root=str(tmp_path / "source.npz")), "--json").stdout)
    source = found["sets"]["source"]
    assert source["images_by_class"] == {"0": 20, "1": 20}
    assert source["sizes"] == [{"height": 8, "width": 8, "count": 40}]
    assert source["config"]["kind"] == "npz"
    assert [(finding["where"], finding["refused"]) for finding in found["findings"]] == [("target", False)]
    assert found["findings"][0]["examples"] == ["0 is 0", "1 is 1", "2 is 2"]
    assert (found["sheet"], found["refused"]) == ("run.inspect.png", False)


def test_every_set_is_looked_at_though_one_cannot_be_read_and_the_exit_code_says_so(rsf, tmp_path):
    done = rsf(written(tmp_path, target__root="absent.npz", evaluation__test={"kind": "npz", "root": "absent.npz"}))
    assert done.returncode == 2
    assert "target: cannot be listed" in done.stdout
    assert "a run would refuse" in done.stdout
    for section in ("target", "evaluation.test"):
        assert f"  - {section}.root=absent.npz: does not exist; correct the path" in done.stdout
    assert "source: 40 images" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target__limit": 7}, "target=7 images: a ratio needs"),
        ({"target__size": 12}, "target=(1, 12, 12): images must be [channels, height, width] = (1, 8, 8)"),
        ({"source__classes": ["a", "b", "c"], "proposal__class_prior": [1, 1, 1]}, "class_prior"),
        ({"proposal": {"kind": "custom", "factory": "ratios_of_mine:absent"}}, "proposal.factory"),
    ],
)
def test_what_a_run_would_refuse_is_told_as_the_run_tells_it(rsf, tmp_path, changes, told):
    done = rsf(written(tmp_path, **changes))
    assert done.returncode == 2
    assert told in done.stdout


def photographs(root: Path, *sizes: list[int]) -> dict[str, object]:
    """Write thirty images of two classes of these sizes, height and width, in turns."""
    for number in range(30):
        height, width = sizes[number % len(sizes)]
        pixels = np.full((height, width, 3), 8 * number + len(root.name), np.uint8)
        path = root / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return {"kind": "image_folder", "root": str(root)}


LARGE, OTHER, SMALL = [520, 390], [600, 800], [40, 30]


@pytest.mark.parametrize(
    ("source", "target", "keys", "told"),
    [
        ([LARGE], [OTHER], {}, "target=(3, 600, 800): images must be [channels, height, width] = (3, 520, 390)"),
        ([SMALL], [LARGE], {}, "target=(3, 520, 390): images must be [channels, height, width] = (3, 40, 30)"),
        ([LARGE], [SMALL], {}, "target=(3, 40, 30): images must be [channels, height, width] = (3, 520, 390)"),
        ([LARGE], [OTHER], {"size": 64}, "target=(3, 64, 64): images must be [channels, height, width] = (3, 520"),
        ([LARGE], [LARGE], {"channels": 1}, "target=(1, 520, 390): images must be"),
        ([LARGE], [LARGE, SMALL], {"channels": 1}, "target=(1, 520, 390): images must be"),
        ([LARGE], [OTHER], {"size": LARGE}, None),
        ([LARGE], [LARGE], {}, None),
    ],
)
def test_sets_whose_samples_are_scaled_are_compared_as_a_run_reads_them(rsf, tmp_path, source, target, keys, told):
    sets = {"source": photographs(tmp_path / "source", *source)}
    sets["target"] = photographs(tmp_path / "of target", *target) | keys
    done = rsf(written(tmp_path, **sets))
    assert done.returncode == (0 if told is None else 2), done.stdout
    assert (told or "") in done.stdout
    assert ("images must be" in done.stdout) == (told is not None)


def test_a_large_test_set_is_compared_with_the_source_s_size_and_classes(rsf, tmp_path):
    source = photographs(tmp_path / "source", LARGE)
    test = photographs(tmp_path / "of test", OTHER)
    sets = {"source": source, "target": photographs(tmp_path / "of target", LARGE)}
    done = rsf(written(tmp_path, **sets, evaluation__test=test))
    assert done.returncode == 2
    assert "evaluation.test=(3, 600, 800): images must be" in done.stdout
    (tmp_path / "of test" / "b").rename(tmp_path / "of test" / "c")
    done = rsf(written(tmp_path, **sets, evaluation__test=test))
    assert (done.returncode, "evaluation.test=c: not among the source's classes" in done.stdout) == (2, True)


def test_a_wrong_configuration_is_refused_as_by_a_run(rsf, tmp_path):
    path = written(tmp_path, proposal__parameters={"rotation": {"uniform": [-30, 30]}})
    done = rsf(path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "30 degrees are 0.5236" in done.stderr
    assert rsf(path, "proposal.parameters.rotation.uniform=[-0.5,0.5]").returncode == 0
    assert "no such file" in rsf(tmp_path / "absent.yaml").stderr


def test_boxes_as_a_source_are_refused_and_drawn_all_the_same(rsf, tmp_path):
    keys = {key: str(value) for key, value in coco(tmp_path / "coco", [box(1, [1, 1, 9, 9])]).items()}
    done = rsf(written(tmp_path, source={"kind": "coco", **keys}))
    assert done.returncode == 2
    assert "source.kind=coco: gives boxes or masks, which no task uses yet" in done.stdout
    assert "source: 2 images, with boxes" in done.stdout
    assert Path("run.inspect.png").exists()


def test_a_made_target_is_shown_with_the_photographs_that_it_is_made_from(rsf, tmp_path):
    base = {"kind": "npz", "root": str(tmp_path / "source.npz")}
    target = {"kind": "shifted", "base": base, "num_images": 50, "shift": {"brightness": {"mean": 0.5}}}
    done = rsf(written(tmp_path, target=target))
    assert "target.base: 40 images" in done.stdout
    assert done.returncode == 0


def test_a_pool_is_looked_at_as_what_is_trained_on(rsf, tmp_path):
    path = written(tmp_path)
    images = np.load(tmp_path / "target.npz")["images"][:9]
    np.savez(tmp_path / "pool.npz", images=images, labels=np.zeros(9, int), classes=["0"], depth=np.arange(9))
    pool = {"kind": "npz", "root": str(tmp_path / "pool.npz"), "attributes": ["depth"]}
    raw = yaml.safe_load(path.read_text()) | {"proposal": {"kind": "dataset", "images": pool}}
    path.write_text(yaml.safe_dump(raw | {"sampling": {"top_k": 4}}))
    found = rsf(path).stdout
    assert "proposal.images: 9 images (npz" in found
    assert "  height x width  8 x 8 (9)\n" in found
    assert "proposal.images: no image of 1: 1 of 2 classes are not trained" in found
    assert "target: 9 of 40 images are in proposal.images, too (first: 0 is 0)" in found


def test_a_folder_needs_no_configuration_and_overrides_are_keys_of_its_image_set(rsf, tmp_path):
    root = folders(tmp_path / "photos", cat=3, dog=4)
    done = rsf(root)
    assert done.returncode == 0
    assert "images: 7 images (image_folder" in done.stdout
    assert "  cat           3\n  dog           4\n" in done.stdout
    assert "set `size: [height, width]`" in done.stdout
    assert "set `size" not in rsf(root, "size=8").stdout
    assert "images: 2 images of 7" in rsf(root, "limit=2").stdout
    assert Path("photos.inspect.png").exists()


def test_the_sheet_is_never_put_among_the_images(rsf, tmp_path, monkeypatch):
    root = folders(tmp_path / "photos", cat=2, dog=2)
    done = rsf(root, "--output", root / "cat" / "sheet.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"sheet.png: would become an image of {root}; name a file elsewhere" in done.stderr
    monkeypatch.chdir(root / "dog")
    assert "--output=dog.inspect.png: would become an image of ." in rsf(".").stderr
    assert rsf(".", "--output", tmp_path / "sheet.png").returncode == 0
    assert len(list(root.rglob("*.png"))) == 4


def test_splits_stand_beside_each_other_and_shared_images_are_told(rsf, tmp_path):
    for part in ("train", "val"):
        folders(tmp_path / "set" / part, cat=2, dog=3)
    (tmp_path / "set" / "val" / "dog" / "2.png").unlink()
    found = rsf(tmp_path / "set").stdout
    assert f"  {'':5}  {'train':>8}  {'val':>8}\n  cat           2         2\n  dog           3         2\n" in found
    assert "val: 4 of 4 images are in train, too (first: cat/0.png is cat/0.png)" in found


def test_the_yaml_of_yolo_is_no_configuration(rsf, tmp_path):
    yolo(tmp_path, "0 .5 .5 .5 .5")
    done = rsf(tmp_path / "data.yaml", "--output", tmp_path / "sheet.png")
    assert done.returncode == 0
    assert "train: 2 images, with boxes" in done.stdout
    assert (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sizee=8"], "error: sizee=8: unknown key; did you mean size?"),
        (["size"], "error: override=size: must be key=value"),
        (["limit=0"], "error: limit=0: "),
        (["--output", "sheet.jpg"], "error: --output=sheet.jpg: must be a PNG file in a folder that is there"),
        (["--output", "absent/sheet.png"], "error: --output=absent/sheet.png: must be a PNG file"),
    ],
)
def test_bad_words_after_a_path_are_named_as_they_were_typed(rsf, tmp_path, words, told):
    done = rsf(folders(tmp_path / "photos", cat=2, dog=2), *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(told)
    assert list(Path().iterdir()) == []


def test_a_path_without_images_is_refused_with_what_was_looked_for(rsf, tmp_path):
    assert "does not exist" in rsf(tmp_path / "absent").stderr
    (tmp_path / "empty").mkdir()
    done = rsf(tmp_path / "empty")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "holds no image set; looked for" in done.stderr


def test_arrays_and_files_of_the_same_pictures_are_compared_by_pixels(rsf, tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(20, 8, 8), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        (tmp_path / "target").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "target" / f"{number:02d}.png")
    np.savez(tmp_path / "mine.npz", images=pixels, labels=np.arange(20) % 2)
    sets = {"source": {"kind": "npz", "root": str(tmp_path / "mine.npz")}}
    sets["target"] = {"kind": "image_folder", "root": str(tmp_path / "target"), "channels": 1, "start": 5}
    done = rsf(written(tmp_path, **sets), "target.start=5")
    assert "target: 15 of 15 images are in source, too (first: 05.png is 5)" in done.stdout
