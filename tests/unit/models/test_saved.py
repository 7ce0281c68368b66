"""The model of a run, loaded for use from its directory."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import rsf_dist as rsf
from rsf_dist.config.model import ModelConfig
from rsf_dist.errors import InputError
from rsf_dist.models.networks import ExpectedImages
from rsf_dist.models.spec import NetworkSpec, save_network
from rsf_dist.runtime import user_code
from rsf_dist.storage.run_store import RunStore

SPEC = NetworkSpec(ModelConfig(width=4, input_size=(12, 10)), num_outputs=2, channels=1, classes=("cat", "dog"))
IMAGES = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def store_model(folder: Path, seed: int = 3) -> torch.Tensor:
    """Put a model into a run's directory as a run does, and return its logits for IMAGES."""
    network = SPEC.build(seed)
    RunStore(folder).commit_folder("", lambda scratch: save_network(network, SPEC, scratch))
    return network.eval()(IMAGES)


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        rsf.load_model(path)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_model_of_a_run_with_its_classes_channels_and_size(tmp_path: Path) -> None:
    logits = store_model(tmp_path / "run")
    for path in ("run", "run/", "run/model.json", "run/model.safetensors"):
        model = rsf.load_model(f"{tmp_path}/{path}")
        assert torch.equal(model(IMAGES), logits)
        assert not model.training
        assert (model.classes, model.channels, model.input_size) == (("cat", "dog"), 1, (12, 10))
    assert torch.equal(rsf.load_model((tmp_path / "run").as_uri())(IMAGES), logits)


def test_the_plain_module_has_torchvisions_names(tmp_path: Path) -> None:
    from torchvision import models

    spec = NetworkSpec(ModelConfig(name="resnet18"), 2, 3, ("cat", "dog"))
    save_network(spec.build(seed=3), spec, tmp_path)
    plain = models.resnet18(num_classes=2)
    plain.load_state_dict(rsf.load_model(tmp_path).network.state_dict())  # strict
    saved = load_file(tmp_path / "model.safetensors")
    assert torch.equal(plain.conv1.weight, saved["network.conv1.weight"])


def test_of_several_seeds_the_first_unless_one_is_named(tmp_path: Path) -> None:
    first, second = (store_model(tmp_path / f"run/seeds/{number:03d}", seed=number) for number in range(2))
    assert torch.equal(rsf.load_model(tmp_path / "run")(IMAGES), first)
    assert torch.equal(rsf.load_model(tmp_path / "run/seeds/001")(IMAGES), second)
    assert not torch.equal(first, second)


def test_a_seed_by_its_number_in_the_configuration(tmp_path: Path) -> None:
    logits = [store_model(tmp_path / f"run/seeds/{number:03d}", seed=number) for number in range(2)]
    (tmp_path / "run" / "config.yaml").write_text("seed: 7\nnum_seeds: 2\n")
    for seed, expected in ((7, logits[0]), (8, logits[1]), (None, logits[0])):
        assert torch.equal(rsf.load_model(tmp_path / "run", seed=seed)(IMAGES), expected)
    store_model(tmp_path / "one")
    (tmp_path / "one" / "config.yaml").write_text("seed: 3\nnum_seeds: 1\n")
    assert rsf.load_model(tmp_path / "one", seed=3).classes == ("cat", "dog")
    for folder, seed, told in (("run", 9, "whose seeds are 7, 8"), ("one", 0, "whose seeds are 3")):
        with pytest.raises(InputError, match=told):
            rsf.load_model(tmp_path / folder, seed=seed)
    for text in ("seed: 7", "[]", "seed: x\nnum_seeds: 2", "{"):
        (tmp_path / "run" / "config.yaml").write_text(text)
        with pytest.raises(InputError, match=r"its config\.yaml is damaged"):
            rsf.load_model(tmp_path / "run", seed=7)


def test_the_images_that_it_was_trained_on(tmp_path: Path) -> None:
    for images in (ExpectedImages((8, 9)), ExpectedImages((224, 320), "fit", bits=12), None):
        spec = replace(SPEC, images=images)
        save_network(spec.build(), spec, tmp_path / "model")
        assert rsf.load_model(tmp_path / "model").expects == images
    assert "images" not in json.loads((tmp_path / "model" / "model.json").read_text())  # as earlier versions wrote it


@pytest.mark.parametrize("images", [3, {}, {"size": 8}, {"size": [8, 0]}, {"size": [8, 8], "resize": "crop"}])
def test_a_model_json_with_damaged_images(images: object, tmp_path: Path) -> None:
    save_network(SPEC.build(), SPEC, tmp_path)
    described = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(described | {"images": images}))
    assert refused(tmp_path).field == "model.json"


def test_a_copy_without_a_manifest_and_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = store_model(tmp_path / "run")
    (tmp_path / "copy").mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(tmp_path / "run" / name, tmp_path / "copy")
    assert torch.equal(rsf.load_model(tmp_path / "copy")(IMAGES), logits)
    monkeypatch.chdir(tmp_path / "copy")
    assert torch.equal(rsf.load_model("model.json")(IMAGES), logits)


def test_where_there_is_no_model(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent").rule == refused(tmp_path).rule == "holds no model.json"
    (tmp_path / "config.yaml").touch()
    assert refused(tmp_path).rule == "is a run that has no model yet"
    assert f"rsf train {tmp_path}" in refused(tmp_path).remedy


def test_a_model_whose_weights_were_replaced_since(tmp_path: Path) -> None:
    store_model(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    assert "differs from its SHA-256" in refused(tmp_path).rule


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "{", json.dumps({"model": 3}), SPEC.to_json().replace('"width": 4', '"width": 8')]
)
def test_a_model_json_that_does_not_belong_to_the_weights(text: str, tmp_path: Path) -> None:
    save_network(SPEC.build(), SPEC, tmp_path)
    (tmp_path / "model.json").write_text(text)
    assert refused(tmp_path).field == "model.json"


def test_a_model_json_without_weights(tmp_path: Path) -> None:
    save_network(SPEC.build(), SPEC, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert refused(tmp_path).field == "model.safetensors"


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (IMAGES / 255, r"image=torch.float32: must be uint8 \[n, .*\(images \* 255\)\.round\(\)\.to\(torch.uint8\)"),
        (IMAGES.double(), r"image=torch.float64: must be uint8"),
        (IMAGES.bool(), r"image=torch.bool: must be uint8"),
        (IMAGES.int(), r"image=torch.int32: must be uint8"),
        (IMAGES[0], r"image=\[1, 8, 8\]: must be \[n, .*images\[None\]"),
    ],
)
def test_images_that_would_be_scaled_wrongly_are_refused(images: torch.Tensor, told: str, tmp_path: Path) -> None:
    store_model(tmp_path)
    with pytest.raises(InputError, match=told):
        rsf.load_model(tmp_path)(images)


def test_code_that_a_folder_names_runs_only_where_it_is_trusted(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "nets_of_theirs.py").write_text(
        "import pathlib, torch\n"
        "def build(num_outputs, channels):\n"
        "    pathlib.Path(__file__).with_name('ran').touch()\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_outputs))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    user_code.allow_folder(tmp_path)
    spec = NetworkSpec(ModelConfig(name="nets_of_theirs:build"), 2, 1, ("cat", "dog"))
    save_network(spec.build(), spec, tmp_path / "run")
    (tmp_path / "ran").unlink()
    assert "own_code=True" in refused(tmp_path / "run").remedy
    assert not (tmp_path / "ran").exists()
    assert rsf.load_model(tmp_path / "run", own_code=True)(IMAGES).shape == (3, 2)
    assert (tmp_path / "ran").exists()


def test_what_the_refusal_says_to_type_gives_the_same_logits(tmp_path: Path) -> None:
    logits, images = store_model(tmp_path), IMAGES / 255
    assert torch.equal(rsf.load_model(tmp_path)((images * 255).round().to(torch.uint8)), logits)
