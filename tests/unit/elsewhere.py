"""A device that is none: its tensors hold their numbers on the CPU, but mix with the CPU's as little as a GPU's would.

What would run on a GPU runs here to the same bits, and what would cross to the CPU, or make it wait, is written down.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

PLACE = torch.device("meta")  # a name that torch knows everywhere
_HERE = torch.device("cpu")
_MOVES = {"aten::_to_copy", "aten::to"}
_WAITS = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"}  # give numbers to Python
_TAKE_INDICES = {"aten::index", "aten::index_put_"}  # of the CPU, as a GPU's do


class Held(Tensor):
    """A tensor that says that it is at PLACE."""

    @staticmethod
    def __new__(cls, held: Tensor) -> Held:
        """Of the same shape, strides and type."""
        strides, needs = held.stride(), held.requires_grad
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=strides, dtype=held.dtype, device=PLACE, requires_grad=needs
        )

    def __init__(self, held: Tensor):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} outside of `Elsewhere`")


class Elsewhere(TorchDispatchMode):
    """While it lasts, tensors go to PLACE and back. crossed: shapes of tensors that came back, names of what waited."""

    def __init__(self) -> None:
        super().__init__()
        self.crossed: list[tuple[int, ...] | str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = function.overloadpacket._qualified_op_name, (args, kwargs or {})
        tensors = [one for one in tree_leaves(given) if isinstance(one, Tensor)]
        named = [one for one in tree_leaves(given) if isinstance(one, torch.device)]
        there = [isinstance(one, Held) for one in tensors]
        args, kwargs = tree_map(_here, given)
        result = function(*args, **kwargs)
        if name in _MOVES:
            lands = named[0].type == PLACE.type if named else there[0]
            if there[0] and not lands:
                self.crossed.append(tuple(result.shape))
            return _there(result) if lands else result
        if name in _WAITS and any(there):
            self.crossed.append(name)
            return result
        if not any(there):
            return tree_map(_there, result) if named and named[0].type == PLACE.type else result
        apart = [list(one.shape) for one, is_there in zip(tensors, there, strict=True) if not is_there and one.ndim]
        if apart and name not in _TAKE_INDICES:
            raise AssertionError(f"{name}: {apart} on the CPU, the others elsewhere")
        if name.endswith("_") and isinstance(tensors[0], Held):  # in place
            return tensors[0]
        return tree_map(_there, result)


def _here(value: Any) -> Any:
    if isinstance(value, Held):
        return value.held
    return _HERE if isinstance(value, torch.device) else value


def _there(value: Any) -> Any:
    return Held(value) if isinstance(value, Tensor) and not isinstance(value, Held) else value
