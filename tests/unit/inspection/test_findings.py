"""What a run and `rsf inspect` tell of image sets, and what they refuse."""

import numpy as np
import pytest
import torch
from bad_input.case import changed, sound_run

from rsf_dist.builders.inputs import Inputs, load_inputs
from rsf_dist.config.load import parse_config
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError
from rsf_dist.inspection.findings import (
    angle_findings,
    class_findings,
    image_findings,
    run_findings,
    sample_findings,
    shared_finding,
)
from rsf_dist.runs import preparation


def lines(findings) -> list[str]:
    return [finding.line() for finding in findings]


def noise(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def test_a_class_without_images_and_one_with_few_are_named():
    # The median of 40, 40 and 3 is 40; a tenth of it is 4.
    found = lines(class_findings("source", ("cat", "dog", "emu", "fox"), (40, 40, 0, 3)))
    assert found == [
        "source: no image of emu: 1 of 4 classes are not trained",
        "source: few images of fox (3); the median class has 40",
    ]


def test_classes_that_differ_by_less_than_ten_times_are_not_told():
    assert lines(class_findings("source", ("cat", "dog", "emu"), (40, 40, 4))) == []
    assert lines(class_findings("source", (), ())) == []


def test_images_that_are_all_alike_are_refused_where_they_are_trained_on():
    same = noise(1).expand(5, -1, -1, -1)
    for where, refused in (("source", True), ("target", True), ("evaluation.test", False)):
        (found,) = sample_findings(where, same)
        assert (found.refused, found.line()) == (refused, f"{where}: all of 5 images that were looked at are alike")
    assert list(sample_findings("source", same[:1])) == []
    assert list(sample_findings("source", noise(2))) == []


def test_images_that_are_all_dark_are_told_and_one_bright_pixel_is_enough_to_be_silent():
    dark = noise(4) % 16
    assert "no pixel of 4 images that were looked at is brighter than 15 of 255" in lines(sample_findings("x", dark))[0]
    dark[3, 0, 0, 0] = 16
    assert lines(sample_findings("x", dark)) == []


@pytest.mark.parametrize(
    ("rotation", "told"),
    [
        ({"uniform": [-5.0, 5.0]}, "uniform: spans 10, more than a full turn of 6.2832 radians; if degrees are meant"),
        ({"normal": [0.0, 2.0]}, "normal: spans 8, more than a full turn"),
        ({"uniform": [0.0, 6.2832]}, None),
        ({"uniform": [-3.15, 3.15]}, None),
        ({"normal": [0.0, 1.5]}, None),
    ],
)
def test_rotations_of_more_than_a_full_turn_may_be_degrees(rotation, told, tmp_path):
    raw = sound_run(tmp_path) | {"proposal": {"parameters": {"rotation": rotation}}}
    found = lines(angle_findings(parse_config(raw)))
    assert [line.startswith(f"proposal.parameters.rotation.{told}") for line in found] == ([True] if told else [])


def test_five_degrees_are_told_in_radians(tmp_path):
    raw = sound_run(tmp_path) | {"proposal": {"parameters": {"rotation": {"uniform": [-5, 5]}}}}
    assert "write -0.0873, 0.0873" in lines(angle_findings(parse_config(raw)))[0]


def test_a_made_target_is_looked_at_for_degrees_too(tmp_path):
    raw = sound_run(tmp_path)
    target = {"kind": "shifted", "base": raw["source"], "shift": {"rotation": {"mean": 0.1, "sd": 3.0}}}
    assert lines(angle_findings(parse_config(raw | {"target": target})))[0].startswith("target.shift.rotation.sd")


def test_shared_images_are_counted_with_the_first():
    (found,) = shared_finding("source", "target", [("a.png", "b.png"), ("c.png", "d.png")], 30, "beware")
    assert found.line() == "target: 2 of 30 images are in source, too (first: b.png is a.png); beware"
    assert found.examples == ("b.png is a.png", "d.png is c.png")
    assert list(shared_finding("source", "target", [], 30)) == []


def test_test_images_among_the_source_or_the_target_are_told_with_what_it_means():
    labels = torch.tensor([0, 1] * 10)
    source = ImageSet(noise(20), labels, ("a", "b"), ids=tuple(f"s{number}" for number in range(20)))
    target = ImageSet(noise(30, seed=1))
    test = ImageSet(torch.cat([noise(20)[3:4], noise(30, seed=1)[7:9]]), labels[:3], ("a", "b"))
    found = lines(image_findings(Inputs(source, target, test, None, None)))
    assert found == [
        "evaluation.test: 1 of 3 images are in source, too (first: image 0 is s3); the test images are trained on",
        "evaluation.test: 2 of 3 images are in target, too (first: image 1 is image 7); "
        "the ratio is fitted to test images",
    ]


def test_a_run_says_the_findings_and_begins_nothing_with_images_that_are_all_alike(tmp_path):
    raw = sound_run(tmp_path)
    config = parse_config(raw)
    assert lines(run_findings(config, load_inputs(config))) == []
    np.savez(tmp_path / "target.npz", images=np.full((40, 8, 8), 200, np.uint8))
    with pytest.raises(InputError, match=r"^target=\(its images\): all of 40 images that were looked at are alike"):
        preparation.prepare(config)


def test_a_source_that_is_the_target_is_told(tmp_path):
    raw = changed(sound_run(tmp_path), {"target.root": str(tmp_path / "source.npz")})
    config = parse_config(raw)
    (found,) = lines(run_findings(config, load_inputs(config)))
    assert found.startswith("target: 40 of 40 images are in source, too (first: 0 is 0); these images are no sample")
