"""Training of a model on labelled images in this process: pretraining, and the classifier of a class prior."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rsf_dist.config.model import OptimizerConfig
from rsf_dist.data.batch import take_rows
from rsf_dist.data.images import ImageSet
from rsf_dist.models.optimization import descend
from rsf_dist.runtime.device import device, seeded
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.tasks import Task


def fit_in_process(
    task: Task,
    images: ImageSet,
    config: OptimizerConfig,
    seed: int,
    initial: nn.Module | None = None,
) -> nn.Module:
    """Train the task's model on labelled images, in minibatches drawn with replacement.

    The model is trained on this process's device, and returned on the CPU.

    Args:
        task: the model and its loss.
        images: the labelled images.
        config: steps, batch size and learning rate.
        seed: of minibatches and dropout, and of parameters without given weights.
        initial: a model of the task to begin with, which is not changed. None means the task's own.
    """
    streams = Streams(seed, Stage.PRETRAIN)
    generator = streams.torch()
    model = (task.build_model(seed) if initial is None else copy.deepcopy(initial)).to(device())
    labels = images.require_labels()

    def next_loss() -> Tensor:
        rows = torch.randint(len(images), (config.batch_size,), generator=generator)
        batch = {"image": take_rows(images.images, rows).to(device()), "label": labels[rows].to(device())}
        return task.loss(model, batch).mean()

    with seeded(streams):  # dropout
        descend(model, config, next_loss)
    return model.cpu()
