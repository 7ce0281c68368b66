"""The description from which a network is built again, and networks on disk: model.safetensors and model.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rsf_dist.config.model import ModelConfig
from rsf_dist.models.architectures import find_builder, published_weights
from rsf_dist.models.networks import ExpectedImages, Network, use_bfloat16
from rsf_dist.models.weights import SCALES_AGAIN, load_matching, read_weights


@dataclass(frozen=True)
class NetworkSpec:
    """The plain values that a network is built from, written as model.json beside its weights.

    A function of the user's own, `config.name` = "package.module:function", is called with num_outputs, channels and
    `config.options`. If the module that it returns has an attribute `in_channels`, grey images are repeated to that
    number. Other preprocessing is up to the module. Its last linear layer counts as the head.

    Args:
        config: the network's name, sizes and first weights.
        num_outputs: logits a row.
        channels: channels of the images; for an mlp, numbers in a row.
        classes: names of the outputs; empty for a ratio's network.
        images: the images that the network is trained on. None means that model.json does not say it.
    """

    config: ModelConfig
    num_outputs: int
    channels: int
    classes: tuple[str, ...] = ()
    images: ExpectedImages | None = None

    def build(self, seed: int = 0) -> Network:
        """Build the network with `config.weights`, and all other weights drawn from `seed`. Raises InputError."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = find_builder(self.config.name)(self.config, self.num_outputs, self.channels)
        if self.config.precision == "bfloat16":
            use_bfloat16(network)
        if self.config.weights is not None and published_weights(self.config) is None:
            load_matching(network, read_weights(self.config.weights), self.config.weights)
        network.classes, network.channels, network.expects = self.classes, self.channels, self.images
        return network

    def to_json(self) -> str:
        """Return the text of model.json."""
        described = {"num_outputs": self.num_outputs, "channels": self.channels, "classes": list(self.classes)}
        images = {} if self.images is None else {"images": asdict(self.images)}
        return json.dumps({"model": self.config.model_dump(mode="json"), **described, **images}, indent=2)

    @staticmethod
    def from_json(text: str) -> NetworkSpec:
        """Read the text of model.json; `config.weights` is dropped, because the file beside it has the weights."""
        raw: dict[str, Any] = json.loads(text)
        config = ModelConfig(**{**raw["model"], "weights": None})
        images = ExpectedImages(**raw["images"]) if "images" in raw else None  # earlier versions did not say it
        return NetworkSpec(config, raw["num_outputs"], raw["channels"], tuple(raw["classes"]), images)


def save_network(network: nn.Module, spec: NetworkSpec, folder: Path, name: str = "model") -> None:
    """Write `name`.safetensors and `name`.json into `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    save_file(weights, folder / f"{name}.safetensors")
    described = json.loads(spec.to_json())
    if _scales_again(network):
        described[SCALES_AGAIN] = True
    (folder / f"{name}.json").write_text(json.dumps(described, indent=2) + "\n")


def load_network(folder: Path, name: str = "model") -> Network:
    """Return the network that `save_network` wrote, in evaluation mode."""
    text = (folder / f"{name}.json").read_text()
    network = NetworkSpec.from_json(text).build()
    network.load_state_dict(read_weights(str(folder / f"{name}.safetensors")))
    if json.loads(text).get(SCALES_AGAIN):
        setattr(network.network, SCALES_AGAIN, True)
    return network.eval()


def _scales_again(network: nn.Module) -> bool:
    """Return True for a GoogLeNet or Inception with torchvision's weights, which it sets this attribute for."""
    return getattr(getattr(network, "network", None), SCALES_AGAIN, False) is True
