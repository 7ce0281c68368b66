"""Networks by name: small ones of this package, torchvision's, and a user's own by import path.

A builder makes the network of a configuration with its published weights, if it has them, and otherwise with weights
drawn from torch's global generator.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch import nn

from rsf_dist.config.model import ModelConfig
from rsf_dist.errors import InputError
from rsf_dist.models.networks import ImageNetwork, Network, replace_head
from rsf_dist.models.weights import names_file
from rsf_dist.runtime import user_code

Builder = Callable[[ModelConfig, int, int], Network]
"""A function of a configuration, the number of outputs and the number of channels (or of numbers in a row)."""

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def find_builder(name: str) -> Builder:
    """Return the builder of the networks of this name; every unknown name is torchvision's."""
    return user_network if user_code.SEPARATOR in name else ARCHITECTURES.get(name, torchvision_network)


def published_weights(config: ModelConfig) -> str | None:
    """Return the name of weights that torchvision publishes. None means that the configuration names a file or none."""
    if config.weights is None or find_builder(config.name) is not torchvision_network:
        return None
    return None if names_file(config.weights) else config.weights


def small_cnn(config: ModelConfig, num_outputs: int, channels: int) -> ImageNetwork:
    """Build three convolutions with batch norm and a linear head."""
    width = config.width

    def block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 2 * stride + 1, stride=stride, padding=stride)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    layers = nn.Sequential(
        *block(channels, width, config.stride),
        *block(width, 2 * width),
        nn.MaxPool2d(2),
        *block(2 * width, 4 * width),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(config.dropout),
        nn.Linear(16 * width, num_outputs),
    )
    return ImageNetwork(layers, channels, config.input_size)


def mlp(config: ModelConfig, num_outputs: int, channels: int) -> Network:
    """Build a multilayer perceptron for rows of `channels` numbers."""
    units = [channels, *[config.width] * config.depth]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(units):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(config.dropout)]
    return Network(nn.Sequential(*layers, nn.Linear(units[-1], num_outputs)))


ARCHITECTURES: dict[str, Builder] = {"small_cnn": small_cnn, "mlp": mlp}
"""The builders of this package's own networks."""


def user_network(config: ModelConfig, num_outputs: int, channels: int) -> ImageNetwork:
    """Call the user's function `package.module:function`. Raises InputError if it does not return a torch module."""
    arguments = {"num_outputs": num_outputs, "channels": channels}
    module = user_code.call(config.name, "name", arguments, config.options)
    if not isinstance(module, nn.Module):
        raise InputError("name", config.name, f"gives a {type(module).__name__}", "return a torch module")
    return ImageNetwork(module, getattr(module, "in_channels", channels), config.input_size)


def torchvision_network(config: ModelConfig, num_outputs: int, channels: int) -> ImageNetwork:
    """Build torchvision's classification model of this name, with a new head.

    The network has three channels, whatever the images have.

    Raises:
        InputError: torchvision has no such model or weights, or the weights cannot be downloaded.
    """
    network: Any = _torchvision_model(config.name, published_weights(config))
    for name in ("AuxLogits", "aux1", "aux2"):  # heads of Inception and GoogLeNet for training from scratch
        if getattr(network, name, None) is not None:
            setattr(network, name, None)
            network.aux_logits = False
    replace_head(network, num_outputs)
    return ImageNetwork(network, 3, config.input_size, _IMAGENET_MEAN, _IMAGENET_STD)


def _torchvision_model(name: str, weights: str | None) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        known = "small_cnn, mlp, an import path, or one of torchvision.models.list_models(), e.g. resnet18"
        raise InputError("name", name, "no such network", f"use {known}")
    try:
        return models.get_model(name, weights=weights)
    except (KeyError, ValueError) as err:
        available = [entry.name for entry in models.get_model_weights(name)]
        remedy = f"use one of {', '.join(available)}, or the path of a file that exists"
        raise InputError("weights", weights, f"{name} has no such weights", remedy) from err
    except OSError as err:
        remedy = "download them where there is a network and give the file's path"
        raise InputError("weights", weights, f"could not be downloaded ({err})", remedy) from err
