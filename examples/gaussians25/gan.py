"""The grid of 25 Gaussians, and a small GAN that learns it imperfectly.

The generator and the discriminator have three hidden layers of 100 units each. The latent space has two dimensions.
The losses are those of the non-saturating GAN (Goodfellow et al. 2014). R1, a penalty on the discriminator's gradient
at real rows (Mescheder, Geiger & Nowozin, ICML 2018), keeps the generator from losing modes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim.lr_scheduler import LambdaLR

from rsf_dist.runtime.rng import Stage, Streams

SD, LATENT = 0.05, 2
CENTRES = torch.cartesian_prod(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0))
_WIDTH, _BATCH, _LEARNING_RATE, _R1 = 100, 256, 1e-3, 0.1


def real(n: int, generator: torch.Generator) -> Tensor:
    """Draw n rows of the mixture, float32 [n, 2]."""
    centre = CENTRES[torch.randint(len(CENTRES), (n,), generator=generator)]
    return centre + SD * torch.randn(n, 2, generator=generator)


@dataclass(frozen=True)
class Gan:
    """A generator and its discriminator.

    Args:
        generator: latent [n, LATENT] -> x [n, 2].
        discriminator: x [n, 2] -> logit of being real [n, 1].
    """

    generator: nn.Module
    discriminator: nn.Module


def train_gan(steps: int, seed: int) -> Gan:
    """Train each network for `steps` steps. The learning rate falls to zero over the second half."""
    streams = Streams(seed, Stage.PRETRAIN)
    draws = streams.torch()
    with streams.torch_global():
        gan = Gan(_network(LATENT, 2), _network(2, 1))
    optimizers = [torch.optim.Adam(net.parameters(), _LEARNING_RATE, (0.5, 0.999)) for net in vars(gan).values()]
    schedules = [LambdaLR(optimizer, lambda step: min(1, 2 - 2 * step / steps)) for optimizer in optimizers]
    for _ in range(steps):
        with torch.no_grad():
            fake = gan.generator(torch.randn(_BATCH, LATENT, generator=draws))
        _step(optimizers[1], _discriminator_loss(gan.discriminator, real(_BATCH, draws), fake))
        fake = gan.generator(torch.randn(_BATCH, LATENT, generator=draws))
        _step(optimizers[0], softplus(-gan.discriminator(fake)).mean())
        for schedule in schedules:
            schedule.step()
    return gan


def _discriminator_loss(discriminator: nn.Module, x: Tensor, fake: Tensor) -> Tensor:
    x.requires_grad_()
    logit = discriminator(x)
    (gradient,) = torch.autograd.grad(logit.sum(), x, create_graph=True)
    r1 = gradient.square().sum(dim=1).mean() / 2
    return softplus(-logit).mean() + softplus(discriminator(fake)).mean() + _R1 * r1


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _network(inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for units in (inputs, _WIDTH, _WIDTH):
        layers += [nn.Linear(units, _WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(_WIDTH, outputs))
