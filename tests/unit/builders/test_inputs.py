"""The image sets of a run, checked against each other: classes by name, targets without labels, and what is said."""

import os
from pathlib import Path

import numpy as np
import pytest
from bad_input.case import sound_run
from PIL import Image

from rsf_dist.builders.inputs import Inputs, load_inputs
from rsf_dist.config.load import parse_config
from rsf_dist.errors import InputError
from rsf_dist.inspection.findings import image_findings
from rsf_dist.runs import preparation
from rsf_dist.runtime.progress import Progress

FOLDERS = {"kind": "image_folder", "channels": 1}


def write_classes(root: Path, **counts: int) -> dict:
    """Write images of 8 x 8 pixels, so many in each folder, and return the configuration of their set."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("L", (8, 8), number).save(root / folder / f"{number}.png")
    return FOLDERS | {"root": str(root)}


@pytest.fixture
def run_with(tmp_path):
    """Return the inputs of a run whose source has the classes ant, bee and cat."""
    source = write_classes(tmp_path / "source", ant=3, bee=4, cat=5)

    def load(test=None, target=None, **sections):
        target = target or write_classes(tmp_path / "target", camera1=20, camera2=22)
        raw = {"output": "run", "source": source, "target": target, "sampling": {"num_accepted": 1}}
        return load_inputs(parse_config(raw | sections | ({"evaluation": {"test": test}} if test else {})))

    return load


def lines(inputs: Inputs) -> list[str]:
    return [finding.line() for finding in image_findings(inputs)]


def test_a_target_in_sub_folders_needs_no_class_of_the_source(run_with):
    inputs = run_with()
    assert inputs.target.labels is None
    assert len(inputs.target) == 42


def test_a_target_with_one_of_the_classes_and_images_beside_it_is_read(run_with, tmp_path):
    target = write_classes(tmp_path / "some", cat=30)
    os.rename(tmp_path / "some" / "cat" / "0.png", tmp_path / "some" / "0.png")
    assert len(run_with(target=target).target) == 30


def test_classes_listed_for_all_sets_do_not_bind_the_target(run_with):
    assert len(run_with(data={"classes": ["cat", "bee", "ant"]}).target) == 42


def test_a_test_that_lacks_a_class_is_matched_by_name_without_a_word(run_with, tmp_path):
    inputs = run_with(write_classes(tmp_path / "test", ant=2, cat=1))
    assert inputs.test.classes == inputs.source.classes == ("ant", "bee", "cat")
    assert inputs.test.labels.tolist() == [0, 0, 2]
    assert not any("no image of" in line for line in lines(inputs))


def test_a_test_that_lists_its_classes_in_another_order_is_matched_by_name(run_with, tmp_path):
    test = write_classes(tmp_path / "test", ant=1, bee=1, cat=1) | {"classes": ["cat", "bee", "ant"]}
    assert run_with(test).test.labels.tolist() == [0, 1, 2]


def test_a_class_that_the_source_lacks_is_refused_before_an_image_is_decoded(run_with, tmp_path):
    test = write_classes(tmp_path / "test", ant=2, wasp=1)
    (tmp_path / "test" / "ant" / "0.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"^evaluation\.test=wasp: not among .* ant, bee, cat; list all `classes`"):
        run_with(test)
    (tmp_path / "test" / "ant" / "0.png").unlink()
    listed = run_with(test, data={"classes": ["ant", "bee", "cat", "wasp"]})
    assert listed.test.labels.tolist() == [0, 3]
    assert "source: no image of wasp: 1 of 4 classes are not trained" in lines(listed)


def test_numbers_are_no_names_unless_classes_are_listed(run_with, tmp_path):
    np.savez(tmp_path / "test.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.array([2, 0, 1]))
    test = {"kind": "npz", "root": str(tmp_path / "test.npz")}
    with pytest.raises(InputError, match=r"^evaluation\.test=0, 1, 2: not among .*; list all `classes`"):
        run_with(test)
    assert run_with(test | {"classes": ["cat", "ant", "bee"]}).test.labels.tolist() == [1, 2, 0]


def test_a_made_target_may_lack_a_class_of_the_source(run_with, tmp_path):
    base = write_classes(tmp_path / "base", ant=9, cat=9)
    inputs = run_with({"kind": "shifted", "base": base}, {"kind": "shifted", "base": base})
    assert set(inputs.test.labels.tolist()) == {0, 2}


def test_what_was_passed_over_and_classes_that_a_limit_empties_are_said(run_with, tmp_path):
    for name in ("source/ant/a.heic", "source/cat/b.txt"):
        (tmp_path / name).write_bytes(b"")
    source = FOLDERS | {"root": str(tmp_path / "source"), "limit": 2}
    assert lines(run_with(source=source))[:2] == [
        "source: passed over 1 .heic (HEIC), e.g. ant/a.heic, 1 .txt, e.g. cat/b.txt",
        "source: no image of cat: 1 of 3 classes are not trained",
    ]


class Said(Progress):
    """Keeps the lines."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_a_run_says_the_notes_once(tmp_path):
    target = write_classes(tmp_path / "target", camera1=20, camera2=22)
    (tmp_path / "target" / "camera1" / "notes.txt").write_bytes(b"")
    said = Said()
    preparation.prepare(parse_config(sound_run(tmp_path) | {"target": target}), said)
    assert said.lines.count("target: passed over 1 .txt, e.g. camera1/notes.txt") == 1


@pytest.mark.parametrize("section", ["source", "test"])
def test_boxes_and_masks_are_refused_where_labels_are_needed_before_any_file_is_opened(run_with, section):
    boxes = {"kind": "coco", "root": "nowhere", "annotations": "nowhere.json"}
    with pytest.raises(InputError, match=rf"{section}\.kind=coco: gives boxes or masks, which no task uses yet; name"):
        run_with(**{section: boxes})
