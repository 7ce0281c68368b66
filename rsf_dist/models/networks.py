"""Networks with their preprocessing, their heads, and scoring in pieces of one size.

A network for images takes them as uint8 [n, channels, height, width] and brings them itself to what its layers expect.
So no caller can scale or normalise them differently in training, in scoring and in use.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from rsf_dist.config.base import PositiveInt
from rsf_dist.config.images import Bits, Resize
from rsf_dist.data.pixels import require_images
from rsf_dist.errors import InputError
from rsf_dist.runtime.device import device, scaled_for_gpu

_PIECE_NUMBERS, _FEWEST_ROWS, _MOST_ROWS = 2**18, 32, 4096  # of one piece: bounded memory, few calls


@dataclass(frozen=True)
class ExpectedImages:
    """The size of the images that a network was trained on, and how others are brought to it.

    Args:
        size: height and width in pixels.
        resize: `cover` crops what lies outside, `fit` leaves bars, `stretch` changes the aspect ratio.
        bits: bits that were used of files with 16 bits a channel. None means as many as a file's type says.
    """

    size: tuple[PositiveInt, PositiveInt]
    resize: Resize = "cover"
    bits: Bits | None = None


class Network(nn.Module):
    """A network from rows to logits float32 [n, num_outputs], whose last linear layer is the head.

    Attributes:
        network: the layers.
        frozen_backbone: whether all layers but the head stay as they are.
        precision: the arithmetic of all layers but the head, as ModelConfig.precision.
        classes: names of the outputs; empty for a ratio's network.
        channels: channels of the images that the network was built for; for rows of numbers, numbers in a row.
        input_size: [height, width] that images are resized to. None means that they are not resized.
        expects: the images that it was trained on. None means that this is not known.
    """

    input_size: tuple[int, int] | None = None
    expects: ExpectedImages | None = None

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.classes: tuple[str, ...] = ()
        self.channels = 0
        self.frozen_backbone = False
        self.precision = "float32"

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits, float32 [n, num_outputs], of rows of numbers [n, d]."""
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
        """Return how many numbers the first layer receives for each of these rows."""
        return rows.shape[1:].numel()

    def features(self, rows: Tensor) -> Tensor:
        """Return the head's inputs, float32 [n, features]."""
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self(rows)
        finally:
            hook.remove()
        return seen[0].float()

    def freeze_backbone(self) -> Network:
        """Leave only the head trainable; batch-norm statistics stay as they are."""
        self.frozen_backbone = True
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        return self

    def train(self, mode: bool = True) -> Network:
        """Set the mode as nn.Module does, except that a frozen backbone stays in evaluation mode."""
        super().train(mode and not self.frozen_backbone)
        return self


class ImageNetwork(Network):
    """A network for images, with their preprocessing.

    Args:
        network: float images [n, in_channels, height, width] -> [n, num_outputs].
        in_channels: channels that the first layer takes. Grey images are repeated to this number.
        input_size: [height, width] in pixels that images are resized to (bilinear, antialiased). None means that they
            are not resized.
        mean: subtracted from each channel, on the scale 0 to 1.
        std: divides each channel after that.
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
        """Return how many numbers the first layer receives for each image, after resizing."""
        return self.in_channels * torch.Size(self.input_size or rows.shape[2:]).numel()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 [n, num_outputs], of uint8 images [n, channels, height, width].

        Raises:
            InputError: the images are of another type, or no batch.
        """
        require_images(images)
        x = images.float() / 255
        if x.shape[1] == 1:
            x = x.expand(-1, self.in_channels, -1, -1)
        if self.input_size is not None:
            x = nn.functional.interpolate(x, self.input_size, mode="bilinear", antialias=True)
        return self._through((x - self.mean) / self.std)


def in_pieces(function: Callable[[Tensor], Tensor], rows: Tensor, numbers_per_row: int | None = None) -> Tensor:
    """Apply a function to rows in pieces of one size, the last one filled up with copies of its first row.

    Kernels round differently for batches of different sizes. With pieces of one size a row's value is the same whatever
    rows it is scored with. (Some processors still differ for layers of 5 to 10 inputs, whose kernels round by a row's
    position.) A piece has 2^18 numbers, but at least 32 rows; four times as many on a GPU; and never more than 4,096
    rows.

    Args:
        function: rows -> one value or vector a row.
        rows: [n, …].
        numbers_per_row: size of a row inside the function. None means the row's own size.

    Returns:
        The function's values, [n, …], on the function's device.
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
    """Raise InputError unless the model has batch-norm layers, whose statistics arm `batch_norm` replaces."""
    if not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules()):
        remedy = "leave this arm out of evaluation.arms (for rsf compare: of --arms)"
        raise InputError("evaluation.arms", "batch_norm", "the model has no batch norm layers", remedy)


def head_name(network: nn.Module) -> str:
    """Return the name of the last linear layer. Raises InputError if there is none."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        kind = type(network).__name__
        raise InputError("name", kind, "its last layer is not linear", "choose a model with a linear head")
    return linear[-1]


def replace_head(network: nn.Module, num_outputs: int) -> None:
    """Put a new linear layer of `num_outputs` outputs in the head's place."""
    old = network.get_submodule(head_name(network))
    assert isinstance(old, nn.Linear)
    _set_head(network, nn.Linear(old.in_features, num_outputs))


def use_bfloat16(network: Network) -> None:
    """Compute all layers but the head in bfloat16."""
    network.precision = "bfloat16"
    old = network.head
    if type(old) is nn.Linear:  # a user's own subclass may do more
        head = _Float32Linear(old.in_features, old.out_features, old.bias is not None)
        head.weight, head.bias = old.weight, old.bias
        _set_head(network.network, head)


class _Float32Linear(nn.Linear):
    """A linear layer that autocast leaves in float32: the 8 bits of bfloat16 are too few for the logit of a ratio."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return the layer's outputs in float32."""
        with torch.autocast(rows.device.type, enabled=False):
            return super().forward(rows.float())


def _set_head(network: nn.Module, head: nn.Module) -> None:
    parent, _, leaf = head_name(network).rpartition(".")
    setattr(network.get_submodule(parent), leaf, head)
