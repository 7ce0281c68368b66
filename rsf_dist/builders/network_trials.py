"""Trials of a network before the run starts: whether it takes the images, and the batches it is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rsf_dist.errors import InputError, RsfError
from rsf_dist.models.networks import ImageNetwork

_SIZES = (8, 16, 28, 32, 64, 96, 128, 192, 224, 256, 299, 384, 518)


@dataclass(frozen=True)
class Fit:
    """The batches that a network is to be trained on.

    Args:
        key: the key of the batch size.
        batch_size: rows of a batch.
        workers: the workers that share a batch.
    """

    key: str
    batch_size: int
    workers: int = 1


def pass_images(network: nn.Module, images: Tensor, name: str) -> object:
    """Return what a network gives for images, in evaluation mode.

    Raises:
        InputError: the network takes images of another size only. Other errors are raised as they are.
    """
    with torch.inference_mode():
        try:
            return network.eval()(images)
        except RsfError:
            raise
        except Exception as err:  # torch and the user's code raise any exception
            size = _size_that_passes(network, images)
            if size is None:
                raise
            configured = network.input_size if isinstance(network, ImageNetwork) else None
            shown, given = ("null", images.shape[2:]) if configured is None else (list(configured), configured)
            rule = f"{name} does not take images of {given[0]} x {given[1]} pixels ({type(err).__name__}: {err})"
            raise InputError("input_size", shown, rule, f"resize them: [{size}, {size}] passes") from err


def _size_that_passes(network: nn.Module, images: Tensor) -> int | None:
    """Return a size in pixels that the images can be resized to, or None if the size is not what is wrong."""
    if not isinstance(network, ImageNetwork):
        return None
    configured = network.input_size
    try:
        for size in _SIZES:
            network.input_size = (size, size)
            with suppress(Exception):
                network(images)
                return size
    finally:
        network.input_size = configured
    return None


def try_training(step: Callable[[], object], name: str) -> None:
    """Compute a loss, or logits, in training mode. Raises InputError where nothing can be trained by it."""
    with torch.random.fork_rng(devices=[]):  # dropout
        made = step()
    if not isinstance(made, Tensor):
        rule = f"gives a {type(made).__name__} in training mode"
        raise InputError("", name, rule, "give one tensor of logits in both modes")
    if not made.requires_grad:
        rule = "has no parameter that can be trained"
        raise InputError("", name, rule, "leave requires_grad of some parameters on")


def try_single_rows(step: Callable[[], object], fits: Iterable[Fit]) -> None:
    """Refuse batches of one row a worker where a step on one row fails, as batch norm's does.

    Args:
        step: computes a loss, or its logits, on one row in training mode.
        fits: the batches of the run.

    Raises:
        InputError: it names the batch size of the first fit that cannot work.
    """
    single = [fit for fit in fits if fit.batch_size // fit.workers == 1]
    if not single:
        return
    try:
        with torch.random.fork_rng(devices=[]):  # dropout
            step()
    except RsfError:
        raise
    except Exception as err:  # torch and the user's code raise any exception
        fit = single[0]
        rule = f"leaves each worker one row a step, on which the network cannot be trained ({err})"
        raise InputError(fit.key, fit.batch_size, rule, f"raise it to {2 * fit.workers} or more") from err
