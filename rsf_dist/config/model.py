"""Networks, and how they are fitted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    model_validator,
)

from rsf_dist.config.base import NonEmptyStr, PositiveFloat, PositiveInt, StrictModel


class ModelConfig(StrictModel):
    """A network.

    name: `small_cnn` (three convolutions, for tiny images), the name of a torchvision classification model, `mlp` (for
        float rows in place of images), or the import path `package.module:function` of one of your own: the function
        gets num_outputs, channels and `options`, and returns a torch module for float images [n, channels, h, w] on the
        scale 0 to 1; see `NetworkSpec`.
    options: keyword arguments for a function of your own.
    width: channels of small_cnn's first layer, units of mlp's hidden layers, best a multiple of 16; cost grows with
        its square.
    depth: hidden layers of mlp.
    dropout: of small_cnn's head, after each of mlp's hidden layers.
    weights: a local .safetensors or .pt file, or the name of torchvision weights (downloaded by torchvision); a head of
        another shape is replaced. None: random weights, or those that a function of your own loads.
    input_size: [height, width] that images are resized to in the network; None: as they are.
    precision: of the layers' arithmetic, in training, scoring and use alike: `float32`; or `bfloat16`, by torch's
        autocast, faster where a GPU has it. Weights stay float32 and so does the last linear layer's arithmetic, for a
        logit of 8 bits makes a coarse log ratio.
    """

    name: NonEmptyStr = "small_cnn"
    options: dict[str, Any] = {}
    width: PositiveInt = 16
    depth: PositiveInt = 3
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    weights: NonEmptyStr | None = None
    input_size: tuple[PositiveInt, PositiveInt] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _options_have_a_taker(self) -> ModelConfig:
        if self.options and ":" not in self.name:
            raise ValueError(f"options are for a function of your own; {self.name} takes none")
        return self


class OptimizerConfig(StrictModel):
    """How to descend, counted in optimizer steps.

    algorithm: `adamw`, or `sgd` without momentum.
    schedule: `cosine`, linear warm-up and decay to zero; or `constant`.
    steps: optimizer steps. batch_size: rows a step, over all workers together.
    learning_rate: at its highest. weight_decay: decoupled with adamw.
    warmup_fraction: of the steps, in which the learning rate rises to its highest.
    """

    algorithm: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "constant"] = "cosine"
    steps: PositiveInt = 400
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
