"""Networks, and how they are fitted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    model_validator,
)

from rsf_dist.config.base import NonEmptyStr, NonNegative, PositiveFloat, PositiveInt, Size, StrictModel


class ModelConfig(StrictModel):
    """A network and the weights that it starts from."""

    name: NonEmptyStr = "small_cnn"
    """`small_cnn` (three convolutions, for tiny images), the name of a torchvision classification model, `mlp` (for
    rows of numbers instead of images), or the import path `package.module:function` of a function of your own. The
    function is called with num_outputs, channels and `options`. It returns a torch module for float images
    [n, channels, h, w] on the scale 0 to 1, see `rsf_dist.models.spec.NetworkSpec`."""
    options: dict[str, Any] = {}
    """Keyword arguments of a function of your own."""
    width: PositiveInt = 16
    """Channels of small_cnn's first layer, or units of mlp's hidden layers; best a multiple of 16. The cost grows with
    its square."""
    depth: PositiveInt = 3
    """Number of mlp's hidden layers."""
    stride: PositiveInt = 1
    """Stride of small_cnn's first layer in pixels; its kernel grows along. 7 brings images of 224 x 224 pixels to
    32 x 32, and the cost falls with its square."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout probability before small_cnn's head, and after each of mlp's hidden layers. Raising it fits few rows less
    closely."""
    weights: NonEmptyStr | None = None
    """Path of a file (.safetensors, or of torch.save with any suffix), or the name of torchvision weights (which
    torchvision downloads). A checkpoint may hold more than the network: the tensors that fit best are taken, and a line
    says which. A head of another shape is replaced. null means random weights, or the weights that a function of your
    own loads."""
    input_size: Size | None = None
    """[height, width] in pixels that images are resized to in the network. One number means a square. null means that
    they are not resized."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the layers' arithmetic in training, scoring and use. `bfloat16` uses torch's autocast, which is
    faster on a GPU that supports it. Weights and the last linear layer stay in float32, because a logit of 8 bits gives
    a coarse log ratio."""

    @model_validator(mode="after")
    def _only_functions_take_options(self) -> ModelConfig:
        if self.options and ":" not in self.name:
            raise ValueError(f"options are for a function of your own; {self.name} takes none")
        return self


class OptimizerConfig(StrictModel):
    """The fitting of a network, counted in optimizer steps."""

    algorithm: Literal["adamw", "sgd"] = "adamw"
    """`adamw`, or `sgd` without momentum."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate over time. `cosine`: linear warm-up, then cosine decay to zero. `constant`: no change."""
    steps: PositiveInt = 400
    """Number of optimizer steps. The cost grows in proportion."""
    batch_size: PositiveInt = 64
    """Rows in each step, over all workers together. The cost grows in proportion."""
    learning_rate: PositiveFloat = 1e-3
    """Largest learning rate of the schedule. Lower it if the loss is not finite."""
    weight_decay: NonNegative = 0.01
    """Weight decay, decoupled with `adamw`. Raising it fits few rows less closely."""
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the steps in which the learning rate of schedule `cosine` rises to its largest value."""
