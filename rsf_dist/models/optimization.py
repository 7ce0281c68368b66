"""AdamW (or SGD) with linear warm-up and cosine decay (Loshchilov & Hutter 2017, 2019), stepped once a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from rsf_dist.config.model import OptimizerConfig
from rsf_dist.errors import StatisticalRefusal


def optimizer_and_schedule(model: nn.Module, config: OptimizerConfig) -> tuple[Optimizer, LRScheduler]:
    """Return an optimizer of the trainable parameters, and its schedule over `config.steps`."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    algorithm = {"adamw": AdamW, "sgd": SGD}[config.algorithm]
    optimizer = algorithm(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
    if config.schedule == "constant":
        return optimizer, ConstantLR(optimizer, factor=1.0)
    warmup = min(round(config.steps * config.warmup_fraction), config.steps - 1)
    decay = CosineAnnealingLR(optimizer, T_max=config.steps - warmup)
    if warmup == 0:
        return optimizer, decay
    rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return optimizer, SequentialLR(optimizer, [rise, decay], milestones=[warmup])


def descend(model: nn.Module, config: OptimizerConfig, next_loss: Callable[[], Tensor]) -> None:
    """Take `config.steps` optimizer steps in this process, and leave the model in evaluation mode.

    Args:
        model: what is fitted; its trainable parameters change.
        config: the optimizer and its schedule.
        next_loss: returns the loss of the next step, a scalar with its graph.

    Raises:
        StatisticalRefusal: a loss is not finite.
    """
    optimizer, schedule = optimizer_and_schedule(model, config)
    model.train()
    for _ in range(config.steps):
        loss = next_loss()
        if not torch.isfinite(loss):
            raise StatisticalRefusal("the loss is not finite", "lower {key}", key="learning_rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
