import pickle
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from rsf_dist.config.model import ModelConfig, OptimizerConfig
from rsf_dist.errors import InputError
from rsf_dist.models.networks import ImageNetwork, head_name, in_pieces
from rsf_dist.models.optimization import descend
from rsf_dist.models.spec import NetworkSpec, load_network, save_network
from rsf_dist.runtime import user_code

SMALL = NetworkSpec(ModelConfig(width=4), num_outputs=3, channels=1, classes=("a", "b", "c"))


def images(channels=1, size=8, n=5):
    shape = (n, channels, size, size)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def resnet(num_outputs=3, **options):
    return NetworkSpec(ModelConfig(name="resnet18", **options), num_outputs, channels=3)


def refusal(spec):
    with pytest.raises(InputError) as caught:
        spec.build()
    assert "\n" not in str(caught.value)
    return caught.value


def equal_weights(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 28)])
def test_small_cnn(channels, size):
    network = NetworkSpec(ModelConfig(width=4), 7, channels).build().eval()
    assert network(images(channels, size)).shape == (5, 7)


def test_weights_follow_from_the_seed_alone():
    torch.manual_seed(1)
    first = SMALL.build(seed=5)
    torch.manual_seed(2)
    assert equal_weights(first, SMALL.build(seed=5))
    assert not equal_weights(first, SMALL.build(seed=6))


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    undisturbed = torch.rand(2)
    torch.manual_seed(1)
    SMALL.build(seed=5)
    assert torch.equal(torch.rand(2), undisturbed)


def test_preprocessing_by_hand():
    # An image of 51 is 51/255 = .2; with mean .5 and sd .25 the network sees (.2 - .5)/.25 = -1.2 in each channel.
    network = ImageNetwork(nn.Identity(), 3, mean=(0.5,) * 3, std=(0.25,) * 3)
    seen = network(torch.full((2, 1, 4, 4), 51, dtype=torch.uint8))
    assert seen.shape == (2, 3, 4, 4)
    assert torch.allclose(seen, torch.tensor(-1.2))
    resized = ImageNetwork(nn.Identity(), 1, input_size=(6, 10))(torch.full((1, 1, 4, 4), 51, dtype=torch.uint8))
    assert resized.shape == (1, 1, 6, 10)
    assert torch.allclose(resized, torch.tensor(0.2))


def test_resnet_with_a_head_of_ones_own():
    network = resnet(input_size=(32, 32)).build().eval()
    assert network.network.fc.out_features == 3
    assert network(images(channels=1)).shape == (5, 3)
    assert network.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert network.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_save_and_load(tmp_path):
    network = SMALL.build(seed=3)
    network.train()
    network(images())  # moves batch norm's running statistics away from their beginning
    save_network(network, SMALL, tmp_path / "deep" / "er")
    loaded = load_network(tmp_path / "deep" / "er")
    assert equal_weights(loaded, network)
    assert not loaded.training
    assert torch.equal(loaded(images()), network.eval()(images()))


def test_save_and_load_resnet_without_the_weights_it_was_built_from(tmp_path):
    spec = resnet(weights="IMAGENET1K_V1", input_size=(32, 32))
    network = resnet(input_size=(32, 32)).build(seed=3)
    save_network(network, spec, tmp_path, "network")
    assert equal_weights(load_network(tmp_path, "network"), network)


def test_spec_through_json():
    assert NetworkSpec.from_json(SMALL.to_json()) == SMALL


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_from_a_file(tmp_path, suffix):
    network = SMALL.build(seed=3)
    path = tmp_path / f"model.{suffix}"
    if suffix == "pt":
        torch.save({"state_dict": network.network.state_dict(), "epoch": 3}, path)
    else:
        save_network(network, SMALL, tmp_path)
    config = ModelConfig(width=4, weights=str(path))
    assert equal_weights(NetworkSpec(config, 3, 1).build(seed=9), network)


def test_head_of_another_shape_is_new_and_the_rest_is_loaded(tmp_path):
    source = resnet(num_outputs=10).build(seed=3)
    save_network(source, resnet(num_outputs=10), tmp_path)
    spec = resnet(num_outputs=4, weights=str(tmp_path / "model.safetensors"))
    network = spec.build(seed=9)
    assert torch.equal(network.network.layer4[1].conv2.weight, source.network.layer4[1].conv2.weight)
    assert network.network.fc.weight.shape == (4, 512)
    assert torch.equal(network.network.fc.weight, spec.build(seed=9).network.fc.weight)


def test_head_of_the_same_shape_is_loaded(tmp_path):
    source = SMALL.build(seed=3)
    save_network(source, SMALL, tmp_path)
    network = NetworkSpec(ModelConfig(width=4, weights=str(tmp_path / "model.safetensors")), 3, 1).build(seed=9)
    assert torch.equal(network.network[-1].weight, source.network[-1].weight)


def test_weights_of_another_model(tmp_path):
    save_network(resnet().build(), resnet(), tmp_path)
    path = str(tmp_path / "model.safetensors")
    error = refusal(NetworkSpec(ModelConfig(width=4, weights=path), 3, 1))
    assert error.field == "weights"
    assert error.rule.startswith("does not fit the network: the file lacks 0.weight, 0.bias, 1.weight and ")


@pytest.mark.parametrize("change", [{"width": 8}, {"channels": 3}])
def test_weights_of_the_same_model_in_another_size(tmp_path, change):
    save_network(SMALL.build(), SMALL, tmp_path)
    config = ModelConfig(width=change.get("width", 4), weights=str(tmp_path / "model.safetensors"))
    assert "does not fit" in refusal(NetworkSpec(config, 3, change.get("channels", 1))).rule


class Bomb:
    detonated = False

    def __reduce__(self):
        return setattr, (Bomb, "detonated", True)


@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=2))])
def test_a_pickled_object_is_refused_and_never_run(tmp_path, save):
    path = tmp_path / "model.pt"
    save({"state_dict": Bomb()}, path)
    error = refusal(NetworkSpec(ModelConfig(width=4, weights=str(path)), 3, 1))
    assert error.rule.startswith("cannot be read as weights")
    assert not Bomb.detonated


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_weights_file_absent_or_garbage(tmp_path, name):
    spec = NetworkSpec(ModelConfig(width=4, weights=str(tmp_path / name)), 3, 1)
    assert refusal(spec).rule == "no such file"
    (tmp_path / name).write_bytes(b"garbage")
    assert refusal(spec).rule.startswith("cannot be read as weights")


def test_pt_file_of_a_bare_tensor(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "model.pt")
    spec = NetworkSpec(ModelConfig(width=4, weights=str(tmp_path / "model.pt")), 3, 1)
    assert refusal(spec).rule == "holds no tensors by name"


def test_unknown_network_and_unknown_weights():
    assert refusal(NetworkSpec(ModelConfig(name="resnet19"), 3, 3)).field == "name"
    error = refusal(resnet(weights="IMAGENET9"))
    assert error.field == "weights"
    assert "IMAGENET1K_V1" in error.remedy


def test_network_without_a_linear_head():
    with pytest.raises(InputError, match="its last layer is not linear"):
        head_name(nn.Sequential(nn.Conv2d(3, 3, 1)))


@pytest.mark.parametrize("spec", [SMALL, resnet(input_size=(32, 32))])
def test_freeze_backbone_trains_only_the_head(spec):
    network = spec.build().freeze_backbone()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    head = "network." + head_name(network.network)
    network.train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(images(spec.channels)).square().sum().backward()
    optimizer.step()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"{head}.weight", f"{head}.bias"}  # batch norm's statistics are not among them


def test_an_unfrozen_network_moves_everywhere():
    network = SMALL.build()
    before = network.state_dict()["network.1.running_mean"].clone()
    network.train()
    network(images())
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert not torch.equal(network.state_dict()["network.1.running_mean"], before)


MLP = NetworkSpec(ModelConfig(name="mlp", width=8, depth=2, dropout=0.0), 1, channels=3)


def numbers(n=5, d=3):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def test_mlp_layer_by_layer():
    layers = MLP.build().network
    assert [type(layer).__name__ for layer in layers] == ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert [tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Linear)] == [(8, 3), (8, 8), (1, 8)]
    deep = NetworkSpec(ModelConfig(name="mlp", width=4, depth=4, dropout=0.25), 7, channels=2).build()
    assert sum(isinstance(layer, nn.Linear) for layer in deep.network) == 5
    assert {layer.p for layer in deep.network if isinstance(layer, nn.Dropout)} == {0.25}
    assert deep.eval()(numbers(d=2)).shape == (5, 7)


def test_mlp_takes_numbers_of_any_type_as_they_are():
    network = MLP.build().eval()
    whole = torch.arange(15).reshape(5, 3)
    assert torch.equal(network(whole), network(whole.double()))
    assert not torch.equal(network(whole), network(whole / 255))


def test_mlp_by_hand():
    # Weights of 1, biases of 0, one layer of 5: 5 relu(1 + 2 - 1) = 10; and relu(-3) = 0
    network = NetworkSpec(ModelConfig(name="mlp", width=5, depth=1, dropout=0.0), 1, 3).build()
    for layer in network.network:
        if isinstance(layer, nn.Linear):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    assert network(torch.tensor([[1.0, 2.0, -1.0], [-1.0, -1.0, -1.0]])).flatten().tolist() == [10.0, 0.0]


def test_mlp_save_and_load(tmp_path):
    network = MLP.build(seed=3)
    save_network(network, MLP, tmp_path)
    loaded = load_network(tmp_path)
    assert type(loaded) is type(network)
    assert torch.equal(loaded(numbers()), network.eval()(numbers()))


@pytest.mark.parametrize(
    ("spec", "rows", "width"),
    [(SMALL, images(), 64), (MLP, numbers(), 8), (resnet(input_size=(32, 32)), images(), 512)],
)
def test_features_are_what_the_head_is_given(spec, rows, width):
    network = spec.build().eval()
    features = network.features(rows)
    assert features.shape == (5, width)
    assert torch.equal(network.head(features), network(rows))
    assert len(network.head._forward_pre_hooks) == 0


def test_features_leave_no_hook_behind_where_they_fail():
    network = MLP.build()
    with pytest.raises(RuntimeError):
        network.features(numbers(d=4))
    assert len(network.head._forward_pre_hooks) == 0


@pytest.mark.parametrize(("spec", "rows"), [(SMALL, images(n=70)), (MLP, numbers(n=70))])
def test_a_row_has_one_value_whatever_it_is_scored_with(spec, rows):
    network = spec.build().eval()
    together = in_pieces(network, rows)
    some = torch.tensor([69, 3, 40])
    assert torch.equal(in_pieces(network, rows[some]), together[some])
    assert torch.equal(in_pieces(network, rows[5:6]), together[5:6])
    assert torch.equal(in_pieces(network, torch.cat([rows] * 70)), torch.cat([together] * 70))  # more than one piece


@pytest.mark.xfail(
    reason="where a layer has 5, 6, 7, 9 or 10 inputs, some processors round by a row's place in the piece"
)
@pytest.mark.parametrize("width", [5, 10])
def test_a_row_has_one_value_whatever_its_networks_width(width):
    network = NetworkSpec(ModelConfig(name="mlp", width=width, depth=2, dropout=0.0), 1, channels=3).build().eval()
    rows = numbers(n=3000)
    assert torch.equal(in_pieces(network, rows[::2]), in_pieces(network, rows)[::2])


@pytest.mark.parametrize(("name", "rows"), [("small_cnn", images(n=70)), ("mlp", numbers(n=70, d=1))])
def test_bfloat16_is_of_the_layers_before_the_head(name, rows, tmp_path):
    spec = NetworkSpec(ModelConfig(name=name, precision="bfloat16"), num_outputs=2, channels=1)
    network, full = spec.build().eval(), replace(spec, config=ModelConfig(name=name)).build().eval()
    assert equal_weights(network, full)  # in float32
    logits = in_pieces(network, rows)
    assert logits.dtype == network.features(rows).dtype == torch.float32
    assert torch.allclose(logits, full(rows), rtol=0.05, atol=0.05)  # 8 bits of mantissa
    assert not torch.allclose(logits, full(rows), rtol=1e-4, atol=1e-4)
    # The head is of float32: hardly two rows have the same logit; and so it is where it is fitted on stored features.
    assert len(logits[:, 0].unique()) > 60
    assert torch.equal(network.head(network.features(rows)), network(rows))
    assert torch.equal(in_pieces(network, rows[3:7]), logits[3:7])
    save_network(network, spec, tmp_path)
    assert torch.equal(in_pieces(load_network(tmp_path), rows), logits)


def test_bfloat16_learns():
    network = NetworkSpec(ModelConfig(width=4, dropout=0.0, precision="bfloat16"), 2, 1).build()
    rows, label = images(n=32), torch.arange(32) % 2
    config = OptimizerConfig(steps=60, learning_rate=0.02)
    losses = []

    def next_loss():
        losses.append(nn.functional.cross_entropy(network(rows), label))
        return losses[-1]

    descend(network, config, next_loss)
    assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())
    assert losses[-1].item() < 0.5 * losses[0].item()


def test_pieces_are_of_one_size():
    # 2^18 numbers at once, from 32 to 4,096 rows: 65,536 numbers a row would be 4 rows, 8 x 8 = 64 all 4,096
    sizes = []

    def count(rows):
        sizes.append(len(rows))
        return rows

    for n, numbers_a_row, expected in [(40, 65_536, [32, 32]), (5000, 64, [4096, 4096]), (600, 1000, [256, 256, 256])]:
        sizes.clear()
        rows = torch.arange(n).expand(numbers_a_row, n).T
        assert torch.equal(in_pieces(count, rows), rows)
        assert sizes == expected


def test_what_comes_out_of_pieces_can_be_learned_from():
    features = in_pieces(SMALL.build().eval().features, images()).clone()
    nn.Linear(64, 1)(features).sum().backward()


@pytest.mark.parametrize(
    ("spec", "rows"),
    [(SMALL, images(n=0)), (MLP, numbers(n=0)), (resnet(input_size=(32, 32)), images(channels=3, n=0))],
)
def test_no_rows_in_pieces(spec, rows):
    assert in_pieces(spec.build().eval(), rows).shape == (0, spec.num_outputs)


OWN = """
import torch
from torch import nn


def network(num_outputs, channels, hidden=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, hidden), nn.Linear(hidden, num_outputs))


class Colour(nn.Module):
    in_channels = 3

    def __init__(self, num_outputs, channels):
        super().__init__()
        self.last = nn.Linear(3, num_outputs)

    def forward(self, x):
        return self.last(x.mean(dim=(2, 3)))


def headless(num_outputs, channels):
    return nn.Conv2d(channels, num_outputs, 1)


def nothing(num_outputs, channels):
    return None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    user_code.allow_folder(tmp_path)
    yield lambda name, num_outputs=2, channels=1, **config: NetworkSpec(
        ModelConfig(name=f"my_networks:{name}", **config), num_outputs, channels
    )
    sys.modules.pop("my_networks", None)


def test_a_network_of_ones_own(own, tmp_path):
    spec = own("network", options={"hidden": 5})
    network = spec.build(seed=3)
    assert network.head.in_features == 5
    assert network.eval()(images()).shape == (5, 2)
    assert equal_weights(network, spec.build(seed=3))
    assert not equal_weights(network, spec.build(seed=4))
    save_network(network, spec, tmp_path / "saved")
    assert torch.equal(load_network(tmp_path / "saved")(images()), network(images()))


def test_a_network_of_ones_own_takes_weights_from_a_file(own, tmp_path):
    source = own("network").build(seed=3)
    save_network(source, own("network"), tmp_path)
    loaded = own("network", weights=str(tmp_path / "model.safetensors")).build(seed=9)
    assert equal_weights(loaded, source)


def test_a_network_of_ones_own_sees_images_on_the_scale_0_to_1(own):
    network = own("Colour").build()
    nn.init.ones_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    # grey of 51 repeated to its three channels: .2 + .2 + .2
    assert network(torch.full((1, 1, 4, 4), 51, dtype=torch.uint8)).tolist() == [pytest.approx([0.6, 0.6])]


def test_networks_of_ones_own_that_are_refused(own):
    assert refusal(own("nothing")).rule == "gives a NoneType"
    assert "no class or function absent" in refusal(own("absent")).rule
    assert "unexpected keyword argument 'deep'" in refusal(own("network", options={"deep": 1})).rule
    assert refusal(own("network", weights="IMAGENET1K_V1")).field == "weights"
    with pytest.raises(InputError, match="its last layer is not linear"):
        own("headless").build().freeze_backbone()


def test_an_unknown_network_is_told_of_every_kind():
    assert "mlp" in refusal(NetworkSpec(ModelConfig(name="resnet19"), 3, 3)).remedy


def test_a_stride_brings_large_images_to_fewer_places():
    # 224 / 7 = 32 a side, which the pooling layer halves before the third convolution
    network = NetworkSpec(ModelConfig(stride=7, width=4), num_outputs=2, channels=3).build()
    seen = []
    for layer in network.network:
        layer.register_forward_hook(lambda layer, _, output: seen.append((type(layer).__name__, output.shape[2:])))
    assert network(torch.zeros(2, 3, 224, 224, dtype=torch.uint8)).shape == (2, 2)
    assert [tuple(shape) for name, shape in seen if name == "Conv2d"] == [(32, 32), (32, 32), (16, 16)]
    assert network.network[0].kernel_size == (15, 15)  # neighbours overlap


def test_a_stride_of_one_is_the_network_as_it_was():
    assert NetworkSpec(ModelConfig(), 2, 3).build().network[0].kernel_size == (3, 3)
