"""Networks: a small CNN, a torchvision model or one's own by name, local or published weights, a head to measure.

A network for images takes them as uint8 [n, channels, height, width] and brings them itself to what its layers expect,
so that whoever calls cannot scale or normalise them differently in training, in scoring and in use.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsf_dist.config.model import ModelConfig
from rsf_dist.errors import InputError
from rsf_dist.runtime import user_code
from rsf_dist.runtime.device import device, scaled_for_gpu

_PIECE_NUMBERS, _FEWEST_ROWS, _MOST_ROWS = 2**18, 32, 4096  # scored at once: bounded memory, few calls


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Network(nn.Module):
    """Rows -> logits float32 [n, num_outputs], by `network`, whose last linear layer is the head.

    Its layers but the head compute in `precision`, as of ModelConfig.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.frozen_backbone = False
        self.precision = "float32"

    def forward(self, rows: Tensor) -> Tensor:
        """Logits float32 [n, num_outputs] of float rows [n, d]."""
        return self._through(rows.float())

    def _through(self, inputs: Tensor) -> Tensor:
        if self.precision == "float32":
            return self.network(inputs)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return self.network(inputs).float()

    @property
    def head(self) -> nn.Module:
        """The last linear layer."""
        return self.network.get_submodule(head_name(self.network))

    def numbers_per_row(self, rows: Tensor) -> int:
        """How many numbers the first layer is given for each of these rows."""
        return rows.shape[1:].numel()

    def features(self, rows: Tensor) -> Tensor:
        """What the head is given, [n, features]."""
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self(rows)
        finally:
            hook.remove()
        return seen[0].float()

    def freeze_backbone(self) -> Network:
        """Leave only the head trainable; batch norm's statistics stay as they are."""
        self.frozen_backbone = True
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        return self

    def train(self, mode: bool = True) -> Network:
        """As nn.Module's, except that a frozen backbone stays in evaluation mode."""
        super().train(mode and not self.frozen_backbone)
        return self


class ImageNetwork(Network):
    """A network with its preprocessing.

    Args:
        network: float images [n, in_channels, height, width] -> [n, num_outputs].
        in_channels: what the first layer takes; grey images are repeated to it.
        input_size: [height, width] images are resized to (bilinear, antialiased); None: as they are.
        mean, std: the normalisation of each channel, on the scale 0 to 1.
    """

    def __init__(
        self,
        network: nn.Module,
        in_channels: int,
        input_size: tuple[int, int] | None = None,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
    ):
        super().__init__(network)
        self.in_channels = in_channels
        self.input_size = input_size
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def numbers_per_row(self, rows: Tensor) -> int:
        """As Network's, after resizing."""
        return self.in_channels * torch.Size(self.input_size or rows.shape[2:]).numel()

    def forward(self, images: Tensor) -> Tensor:
        """Logits float32 [n, num_outputs] of uint8 images [n, channels, height, width]."""
        x = images.float() / 255
        if x.shape[1] == 1:
            x = x.expand(-1, self.in_channels, -1, -1)
        if self.input_size is not None:
            x = nn.functional.interpolate(x, self.input_size, mode="bilinear", antialias=True)
        return self._through((x - self.mean) / self.std)


@dataclass(frozen=True)
class NetworkSpec:
    """What is needed to build a network again: plain values, written as model.json beside its weights.

    A function of the user's own, `config.name` = "package.module:function", is called with num_outputs, channels and
    `config.options`. Where the module that it returns has an attribute `in_channels`, grey images are repeated to it;
    whatever else its layers expect is for the module to do. Its last linear layer counts as the head.

    Args:
        config: which network.
        num_outputs: logits a row.
        channels: of the images it is given; for an mlp, numbers a row.
        classes: names of the outputs; empty for a ratio's.
    """

    config: ModelConfig
    num_outputs: int
    channels: int
    classes: tuple[str, ...] = ()

    def build(self, seed: int = 0) -> Network:
        """The network with `config.weights`, what they do not give drawn from `seed`. Raises InputError."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if user_code.SEPARATOR in self.config.name:
                network: Network = self._users_own()
            elif self.config.name in _OWN:
                network = _OWN[self.config.name](self)
            else:
                network = self._torchvision()
        if self.config.precision == "bfloat16":
            network.precision = "bfloat16"
            _keep_head_in_float32(network)
        if self.config.weights is not None and not self._published_weights:
            _load_matching(network, _read_weights(self.config.weights), self.config.weights)
        return network

    def to_json(self) -> str:
        """For model.json."""
        described = {"num_outputs": self.num_outputs, "channels": self.channels, "classes": list(self.classes)}
        return json.dumps({"model": self.config.model_dump(mode="json"), **described}, indent=2)

    @staticmethod
    def from_json(text: str) -> NetworkSpec:
        """The inverse of `to_json`; the weights are those of the file beside it, not the ones it was built from."""
        raw: dict[str, Any] = json.loads(text)
        config = ModelConfig(**{**raw["model"], "weights": None})
        return NetworkSpec(config, raw["num_outputs"], raw["channels"], tuple(raw["classes"]))

    @property
    def _published_weights(self) -> str | None:
        """The name of weights that torchvision publishes, where `config.weights` is no file."""
        weights, torchvisions = self.config.weights, self.config.name not in _OWN
        if weights is None or not torchvisions or user_code.SEPARATOR in self.config.name:
            return None
        return None if Path(weights).suffix in {".safetensors", ".pt", ".pth"} else weights

    def _users_own(self) -> ImageNetwork:
        given = {"num_outputs": self.num_outputs, "channels": self.channels}
        module = user_code.call(self.config.name, "model.name", given, self.config.options)
        if not isinstance(module, nn.Module):
            raise InputError(
                "model.name", self.config.name, f"gives a {type(module).__name__}", "return a torch module"
            )
        return ImageNetwork(module, getattr(module, "in_channels", self.channels), self.config.input_size)

    def _mlp(self) -> Network:
        units = [self.channels, *[self.config.width] * self.config.depth]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(units):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(self.config.dropout)]
        return Network(nn.Sequential(*layers, nn.Linear(units[-1], self.num_outputs)))

    def _small_cnn(self) -> ImageNetwork:
        width, channels = self.config.width, self.channels

        def block(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]

        layers = nn.Sequential(
            *block(channels, width),
            *block(width, 2 * width),
            nn.MaxPool2d(2),
            *block(2 * width, 4 * width),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(self.config.dropout),
            nn.Linear(16 * width, self.num_outputs),
        )
        return ImageNetwork(layers, channels, self.config.input_size)

    def _torchvision(self) -> ImageNetwork:
        from torchvision import models

        name, weights = self.config.name, self._published_weights
        if name not in models.list_models(module=models):
            known = "small_cnn, mlp, an import path, or one of torchvision.models.list_models(), e.g. resnet18"
            raise InputError("model.name", name, "no such network", f"use {known}")
        try:
            network = models.get_model(name, weights=weights)
        except (KeyError, ValueError) as err:
            available = [entry.name for entry in models.get_model_weights(name)]
            remedy = f"use one of {', '.join(available)} or a local .safetensors file"
            raise InputError("model.weights", weights, f"{name} has no such weights", remedy) from err
        except OSError as err:
            remedy = "download them where there is a network and give the file's path"
            raise InputError("model.weights", weights, f"could not be downloaded ({err})", remedy) from err
        for name in ("AuxLogits", "aux1", "aux2"):  # heads of Inception and GoogLeNet for training from scratch
            if getattr(network, name, None) is not None:
                setattr(network, name, None)
                network.aux_logits = False
        _replace_head(network, self.num_outputs)
        return ImageNetwork(network, 3, self.config.input_size, _IMAGENET_MEAN, _IMAGENET_STD)


_OWN: dict[str, Callable[[NetworkSpec], Network]] = {"small_cnn": NetworkSpec._small_cnn, "mlp": NetworkSpec._mlp}


def in_pieces(function: Callable[[Tensor], Tensor], rows: Tensor, numbers_per_row: int | None = None) -> Tensor:
    """`function` of rows [n, …], in pieces of one size, the last one filled up with its first row.

    A piece has 2^18 numbers, `numbers_per_row` (None: as they are) being those of a row, but no less than 32 rows;
    four times as many on a GPU; and never more than 4,096 rows.
    Kernels for batches of different sizes round differently; so a row's value is the same whatever it is scored with.
    (Seen otherwise on some processors for layers of 5 to 10 inputs, whose kernels round by a row's place.)
    """
    if not len(rows):
        return function(rows.to(device()))
    numbers = numbers_per_row or max(1, rows[:1].numel())
    size = 2 ** int(
        np.log2(np.clip(scaled_for_gpu(_PIECE_NUMBERS) // numbers, scaled_for_gpu(_FEWEST_ROWS), _MOST_ROWS))
    )
    with torch.inference_mode():
        pieces = []
        for piece in rows.split(size):
            filled = torch.cat([piece, piece[:1].expand(size - len(piece), *piece.shape[1:])])
            pieces.append(function(filled.to(device()))[: len(piece)])
        return torch.cat(pieces)


def require_batch_norm(model: nn.Module) -> None:
    """InputError where the model has no batch norm layers, whose statistics an arm of the evaluation takes anew."""
    if not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules()):
        remedy = "leave out (rsf compare: by --arms)"
        raise InputError("evaluation.arms", "batch_norm", "the model has no batch norm layers", remedy)


def save_network(network: nn.Module, spec: NetworkSpec, folder: Path, name: str = "model") -> None:
    """Write `name`.safetensors and `name`.json into `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()},
              folder / f"{name}.safetensors")  # fmt: skip
    (folder / f"{name}.json").write_text(spec.to_json() + "\n")


def load_network(folder: Path, name: str = "model") -> Network:
    """The network that `save_network` wrote, in evaluation mode."""
    spec = NetworkSpec.from_json((folder / f"{name}.json").read_text())
    network = spec.build()
    network.load_state_dict(_read_weights(str(folder / f"{name}.safetensors")))
    return network.eval()


def head_name(network: nn.Module) -> str:
    """The name of the last linear layer. Raises InputError where there is none."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        kind = type(network).__name__
        raise InputError("model.name", kind, "its last layer is not linear", "choose a model with a linear head")
    return linear[-1]


def _replace_head(network: nn.Module, num_outputs: int) -> None:
    old = network.get_submodule(head_name(network))
    assert isinstance(old, nn.Linear)
    _set_head(network, nn.Linear(old.in_features, num_outputs))


def _set_head(network: nn.Module, head: nn.Module) -> None:
    parent, _, leaf = head_name(network).rpartition(".")
    setattr(network.get_submodule(parent), leaf, head)


class _Float32Linear(nn.Linear):
    """A layer that autocast leaves alone: bfloat16 has 8 bits, too few for the logit that a log ratio is made of."""

    def forward(self, rows: Tensor) -> Tensor:
        """As nn.Linear's."""
        with torch.autocast(rows.device.type, enabled=False):
            return super().forward(rows.float())


def _keep_head_in_float32(network: Network) -> None:
    old = network.head
    if type(old) is nn.Linear:  # a class of somebody's own may do more
        head = _Float32Linear(old.in_features, old.out_features, old.bias is not None)
        head.weight, head.bias = old.weight, old.bias
        _set_head(network.network, head)


def _read_weights(path: str) -> dict[str, Tensor]:
    try:
        file = Path(path).expanduser()
        found = file.is_file()
    except (OSError, RuntimeError):  # a name that can be none, the home of someone who has none
        found = False
    if not found:
        raise InputError("model.weights", path, "no such file", "correct the path")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as err:  # each format has errors of its own; whatever they are, the file is at fault
        rule = f"cannot be read as weights ({type(err).__name__})"
        raise InputError(
            "model.weights", path, rule, "give a .safetensors file or a .pt file of plain tensors"
        ) from err
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else {}
    return {key: value for key, value in loaded.items() if isinstance(value, Tensor)}


def _load_matching(network: Network, weights: Mapping[str, Tensor], path: str) -> None:
    """Load all weights but those of a head of another shape."""
    weights = {key.removeprefix("module.").removeprefix("network."): value for key, value in weights.items()}
    head = head_name(network.network)
    own = network.network.state_dict()
    kept = {
        key: value
        for key, value in weights.items()
        if not (key.rpartition(".")[0] == head and key in own and own[key].shape != value.shape)
    }
    wrong = [key for key in kept if key not in own or own[key].shape != kept[key].shape]
    wrong += [key for key in own if key not in kept and key.rpartition(".")[0] != head]
    if wrong:
        remedy = "use weights of this very network; only its head may differ"
        raise InputError("model.weights", path, f"does not fit the network at {wrong[0]}", remedy)
    broken = [key for key, value in kept.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise InputError("model.weights", path, f"holds NaN or infinite numbers at {broken[0]}", "use sound weights")
    network.network.load_state_dict(kept, strict=False)
