"""Weights as training scripts save them: under keys, behind prefixes, beside copies, of older versions."""

import argparse
import os
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rsf_dist.config.model import ModelConfig
from rsf_dist.errors import InputError
from rsf_dist.models import weights
from rsf_dist.models.architectures import torchvision_network
from rsf_dist.models.spec import NetworkSpec, load_network, save_network
from rsf_dist.runtime import user_code

SMALL = NetworkSpec(ModelConfig(width=4), num_outputs=3, channels=1)
SOURCE = SMALL.build(seed=3).network
STATE = SOURCE.state_dict()
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pth.tar", ".PTH", ".weights", "")


def network_with(path: Path, num_outputs: int = 3) -> nn.Module:
    weights.TAKEN.clear()
    return NetworkSpec(ModelConfig(width=4, weights=str(path)), num_outputs, channels=1).build(seed=9).network


def loaded(content: object, folder: Path, name: str = "w.pt", num_outputs: int = 3) -> nn.Module:
    torch.save(content, folder / name)
    return network_with(folder / name, num_outputs)


def refused(content: object, folder: Path, spec: NetworkSpec = SMALL) -> InputError:
    torch.save(content, folder / "w.pt")
    config = spec.config.model_copy(update={"weights": str(folder / "w.pt")})
    with pytest.raises(InputError) as caught:
        NetworkSpec(config, spec.num_outputs, spec.channels).build(seed=9)
    assert "\n" not in str(caught.value)
    assert caught.value.field == "weights"
    return caught.value


def same(network: nn.Module, state: dict = STATE) -> bool:
    own = network.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def said() -> str:
    (line,) = weights.TAKEN
    return line


def behind(prefix: str, state: dict = STATE) -> dict:
    return {prefix + key: value for key, value in state.items()}


def shifted(state: dict = STATE) -> dict:
    return {key: value + 1 for key, value in state.items()}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (STATE, ""),
        ({"model": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(4)}}}, "epoch": 3}, "model"),
        ({"model_state_dict": STATE, "loss": torch.tensor(0.5)}, "model_state_dict"),
        ({"state_dict": STATE}, "state_dict"),
        ({"any name": STATE}, "any name"),
        ({"ema": STATE}, "ema"),
        ({"checkpoint": {"model": STATE}}, "checkpoint.model"),
        (behind("module."), "module"),
        (behind("model."), "model"),
        (behind("backbone."), "backbone"),
        (behind("network."), "network"),
        (behind("_orig_mod."), "_orig_mod"),
        (behind("module._orig_mod.model.net."), "module._orig_mod.model.net"),
        ({"state_dict": behind("model.") | {"criterion.weight": torch.ones(3)}}, "state_dict.model"),
        ({"model": behind("d.encoder_k.", shifted()) | behind("d.encoder_q.")}, "model.d.encoder_q"),
        ({"model_ema": shifted(), "model": STATE}, "model"),
        ({"state_dict_ema": shifted(), "state_dict": STATE}, "state_dict"),
        (AveragedModel(SOURCE).state_dict(), "module"),
        ({key: nn.Parameter(value) if value.is_floating_point() else value for key, value in STATE.items()}, ""),
    ],
)
def test_the_tensors_are_found_wherever_a_script_put_them(content: dict, place: str, tmp_path: Path) -> None:
    assert same(loaded(content, tmp_path))
    assert said().startswith(f"weights {tmp_path}/w.pt: 23 tensors taken" + (f" from `{place}`" if place else ""))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_taken_whatever_its_suffix(suffix: str, tmp_path: Path) -> None:
    assert same(loaded({"state_dict": STATE}, tmp_path, f"w{suffix}"))


@pytest.mark.parametrize("suffix", [".safetensors", ".SafeTensors"])
def test_safetensors_with_a_prefix(suffix: str, tmp_path: Path) -> None:
    save_file(behind("module."), tmp_path / f"w{suffix}")
    assert same(network_with(tmp_path / f"w{suffix}"))


@pytest.mark.parametrize("name", ["w.ckpt", "w.bin", "w.pth.tar", "no/w", "~/no.pt", "timm/resnet18", "w-1"])
def test_a_path_without_a_file_is_told_as_a_missing_file(name: str) -> None:
    config = ModelConfig(name="resnet18", weights=name)
    with pytest.raises(InputError, match="no such file; correct the path"):
        NetworkSpec(config, 2, 3).build()


def test_a_name_that_torchvision_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="resnet18 has no such weights; use one of IMAGENET1K_V1, or the path"):
        NetworkSpec(ModelConfig(name="resnet18", weights="w"), 2, 3).build()


def test_a_folder_and_an_address_are_told_for_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; name the file in it"):
        network_with(tmp_path)
    with pytest.raises(InputError, match="is not a file on this machine; download it"):
        NetworkSpec(ModelConfig(weights="https://example.com/w.pth"), 2, 1).build()


@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1", "DEFAULT"])
def test_names_of_torchvision_are_no_paths_unless_there_is_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not weights.names_file(name)
    Path(name).touch()
    assert weights.names_file(name)


class Settings:
    """An object of a training script's own."""

    ran = False

    def __setstate__(self, state: dict) -> None:
        Settings.ran = True


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        ({"hyper_parameters": Settings()}, "Settings"),
        ({"path": Path("x")}, "PosixPath"),
    ],
)
def test_objects_beside_the_tensors_are_named_and_never_made(beside: dict, named: str, tmp_path: Path) -> None:
    err = refused({"state_dict": STATE} | beside, tmp_path)
    assert named in err.rule
    assert "torch.save(c['state_dict'], 'weights.pt')" in err.remedy
    assert not Settings.ran


def test_objects_in_a_file_of_torch_before_1_6_are_named(tmp_path: Path) -> None:
    content = {"state_dict": STATE, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "w.pth.tar", _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"cannot be read as weights, because it also holds argparse\.Namespace"):
        network_with(tmp_path / "w.pth.tar")
    torch.save({"state_dict": STATE}, tmp_path / "w.pth.tar", _use_new_zipfile_serialization=False)
    assert same(network_with(tmp_path / "w.pth.tar"))


def test_what_the_remedy_says_to_type_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    err = refused({"state_dict": STATE, "args": argparse.Namespace(lr=0.1)}, tmp_path)
    typed = err.remedy.partition("alone: ")[2].rpartition(" (c.state_dict")[0]
    exec(typed, {"torch": torch})
    assert same(network_with(tmp_path / "weights.pt"))


def test_a_head_for_other_classes_is_left_out_and_named(tmp_path: Path) -> None:
    network = loaded({"model": STATE}, tmp_path, num_outputs=5)
    assert torch.equal(network[0].weight, SOURCE[0].weight)
    assert network[-1].weight.shape == (5, 64)
    assert said().endswith(
        "w.pt: 21 tensors taken from `model`; left out: 13.weight, 13.bias (another number of classes)"
    )


def test_a_head_of_several_layers_is_left_out(tmp_path: Path) -> None:
    spec = NetworkSpec(ModelConfig(name="resnet18"), 2, 3)
    state = spec.build(seed=3).network.state_dict()
    body = {key: value for key, value in state.items() if not key.startswith("fc.")}
    head = {"fc.0.weight": torch.ones(8, 512), "fc.2.weight": torch.ones(4, 8)}
    torch.save(behind("module.encoder_q.", body | head), tmp_path / "moco.pth.tar")
    weights.TAKEN.clear()
    network = replaced(spec, tmp_path / "moco.pth.tar").build(seed=9).network
    assert torch.equal(network.conv1.weight, state["conv1.weight"])
    assert said().endswith(
        "120 tensors taken from `module.encoder_q`; left out: fc.0.weight, fc.2.weight (not of this network); "
        "not in the file: fc.weight, fc.bias"
    )


def replaced(spec: NetworkSpec, path: Path) -> NetworkSpec:
    config = spec.config.model_copy(update={"weights": str(path)})
    return NetworkSpec(config, spec.num_outputs, spec.channels)


def test_copies_that_would_fit_as_well_are_named(tmp_path: Path) -> None:
    loaded({"model": STATE, "model_ema": shifted(), "teacher": shifted()}, tmp_path)
    assert said().endswith("would fit as well: `model_ema`, `teacher`")


def test_names_on_both_sides_are_told_where_more_than_the_head_differs(tmp_path: Path) -> None:
    renamed = {key.replace("0.weight", "first.weight"): value for key, value in STATE.items()}
    assert refused(renamed, tmp_path).rule == (
        "does not fit the network: the file lacks 0.weight, and has first.weight, which the network lacks"
    )
    wider = NetworkSpec(ModelConfig(width=8), 3, 1).build().network.state_dict()
    rule = refused(wider, tmp_path).rule
    assert "the file has 0.weight [8, 1, 3, 3] instead of [4, 1, 3, 3], 0.bias [8] instead of [4], " in rule
    assert " and 15 more" in rule


def test_a_deeper_network_of_the_same_beginning_is_refused(tmp_path: Path) -> None:
    state = NetworkSpec(ModelConfig(name="resnet34"), 2, 3).build().network.state_dict()
    rule = refused({"model": state}, tmp_path, NetworkSpec(ModelConfig(name="resnet18"), 2, 3)).rule
    assert "has layer1.2.conv1.weight" in rule
    assert "which the network lacks" in rule


def test_the_network_is_taken_among_others_that_hold_its_names(tmp_path: Path) -> None:
    """A resnet34 has every tensor of a resnet18, and more."""
    spec, other = (NetworkSpec(ModelConfig(name=name), 2, 3) for name in ("resnet18", "resnet34"))
    state = spec.build(seed=3).network.state_dict()
    torch.save({"teacher": other.build().network.state_dict(), "student": state}, tmp_path / "w.pt")
    assert same(replaced(spec, tmp_path / "w.pt").build(seed=9).network, state)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.ones(2)], torch.ones(2), {"a": {"b": "x"}}, 3])
def test_a_file_without_named_tensors(content: object, tmp_path: Path) -> None:
    assert refused(content, tmp_path).rule == "holds no tensors by name"


def test_tables_that_hold_themselves_are_searched_to_an_end(tmp_path: Path) -> None:
    content: dict = {"model": STATE}
    content["self"] = content
    assert same(loaded(content, tmp_path))


def test_files_without_num_batches_tracked(tmp_path: Path) -> None:
    older = {key: value for key, value in STATE.items() if "num_batches_tracked" not in key}
    assert len(older) == len(STATE) - 3
    assert same(loaded(older, tmp_path))


def torchvision_file(name: str, folder: Path) -> tuple[dict, ModelConfig]:
    """Return the state_dict that a torchvision network saves, with random weights, and where it will be written."""
    from torchvision import models

    torch.manual_seed(3)
    return models.get_model(name, weights=None).state_dict(), ModelConfig(name=name, weights=str(folder / "w.pth"))


def test_densenets_published_names(tmp_path: Path) -> None:
    state, config = torchvision_file("densenet121", tmp_path)
    older = OrderedDict()
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            old = key
            for layer in ("norm1", "norm2", "conv1", "conv2"):
                old = old.replace(f".{layer}.", f".{layer[:-1]}.{layer[-1]}.") if "denselayer" in key else old
            older[old] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in older
    torch.save(older, config.weights)
    network = NetworkSpec(config, 5, 3).build(seed=9).network
    own = network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items() if not key.startswith("classifier"))


@pytest.mark.parametrize(("name", "heads"), [("googlenet", ("aux1", "aux2")), ("inception_v3", ("AuxLogits",))])
def test_heads_for_training_alone_are_dropped_and_images_scaled_as_published(
    name: str, heads: tuple[str, ...], tmp_path: Path
) -> None:
    state, config = torchvision_file(name, tmp_path)
    assert all(any(key.startswith(head) for key in state) for head in heads)
    torch.save(state, config.weights)
    spec = NetworkSpec(config, 5, 3)
    network = spec.build(seed=9)
    own = network.network.state_dict()
    assert not any(key.startswith(heads) for key in own)
    assert all(torch.equal(own[key], state[key]) for key in own if not key.startswith("fc."))
    assert network.network.transform_input
    save_network(network, spec, tmp_path / "saved")
    assert load_network(tmp_path / "saved").network.transform_input
    plain = NetworkSpec(ModelConfig(name=name), 5, 3)
    unscaled = plain.build()
    assert not unscaled.network.transform_input  # the control
    save_network(unscaled, plain, tmp_path / "plain")
    assert not load_network(tmp_path / "plain").network.transform_input


def test_a_vision_transformers_older_names_are_torchs_to_know(tmp_path: Path) -> None:
    spec = NetworkSpec(ModelConfig(name="vit_b_32"), 2, 3)
    layers = torchvision_network(spec.config, 2, 3).network
    state = layers.state_dict()
    older = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value for key, value in state.items()
    }
    torch.save(older, tmp_path / "w.pth")
    assert same(replaced(spec, tmp_path / "w.pth").build(seed=9).network, state)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("versions", [True, False])
def test_a_network_that_asks_for_its_version(prefix: str, versions: bool, tmp_path: Path) -> None:
    spec = NetworkSpec(ModelConfig(name="mnasnet0_5"), 2, 3)
    layers = spec.build(seed=3).network
    state = (nn.ModuleDict({"module": layers}) if prefix else layers).state_dict()
    torch.save(state if versions else dict(state), tmp_path / "w.pth")
    assert same(replaced(spec, tmp_path / "w.pth").build(seed=9).network, layers.state_dict())


def test_a_part_that_the_network_does_not_have_is_no_head_for_training(tmp_path: Path) -> None:
    assert "aux1.weight" in refused(dict(STATE) | {"aux1.weight": torch.ones(1)}, tmp_path).rule


def test_a_network_of_ones_own_behind_prefixes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_weighted.py").write_text(
        "from torch import nn\n\n\ndef network(num_outputs, channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, num_outputs))\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    user_code.allow_folder(tmp_path)
    spec = NetworkSpec(ModelConfig(name="my_weighted:network"), 2, 1)
    state = spec.build(seed=3).network.state_dict()
    torch.save({"state_dict": behind("net.module.", state)}, tmp_path / "w.ckpt")
    assert same(replaced(spec, tmp_path / "w.ckpt").build(seed=9).network, state)
    sys.modules.pop("my_weighted", None)


def test_a_damaged_checkpoint_is_not_told_as_one_with_objects(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pt")
    os.truncate(tmp_path / "w.pt", 100)
    with pytest.raises(InputError, match=r"cannot be read as weights \("):
        network_with(tmp_path / "w.pt")


def test_names_in_a_file_cannot_control_the_terminal(tmp_path: Path) -> None:
    loaded({"\x1b[2J\n": STATE}, tmp_path)
    assert said().isprintable()
    assert len(refused({"x" * 10_000: torch.ones(1)}, tmp_path).rule) < 300
