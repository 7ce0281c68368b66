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
_WAITS = {  # for a number, or for a size
    "aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", "aten::nonzero", "aten::masked_select"
}  # fmt: skip
_TAKE_INDICES = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"}
_TAKE_NO_SCALARS = {"aten::cat", "aten::stack"}  # of another device; others do


class Held(Tensor):
    """A tensor that says that it is at PLACE."""

    @staticmethod
    def __new__(cls, held: Tensor) -> Held:
        """Return a tensor of the same shape, strides and type."""
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
    """While it lasts, tensors go to PLACE and back.

    sent, crossed: shapes of the tensors that went there and that came back, and among the latter the names of what made
    the CPU wait for a number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[int, ...]] = []
        self.crossed: list[tuple[int, ...] | str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = function.overloadpacket._qualified_op_name, (args, kwargs or {})
        tensors = [one for one in tree_leaves(given) if isinstance(one, Tensor)]
        named = [one for one in tree_leaves(given) if isinstance(one, torch.device)]
        from_there = any(isinstance(one, Held) for one in tensors)
        here_args, here_kwargs = tree_map(_here, given)
        result = function(*here_args, **here_kwargs)
        if name in _MOVES:
            return self._moved(result, from_there, named[0] == PLACE if named else from_there)
        if not from_there:
            return tree_map(_there, result) if named and named[0] == PLACE else result
        _require_one_place(name, tensors, args)
        if name in _WAITS or (name in _TAKE_INDICES and any(isinstance(one, Held) for one in _masks(args[1]))):
            self.crossed.append(name)
        if not isinstance(result, Tensor) and name in _WAITS:
            return result
        if name.endswith("_") and isinstance(tensors[0], Held):  # in place
            return tensors[0]
        return tree_map(_there, result)

    def _moved(self, result: Tensor, from_there: bool, lands_there: bool) -> Tensor:
        if from_there and not lands_there:
            self.crossed.append(tuple(result.shape))
        if lands_there and not from_there:
            self.sent.append(tuple(result.shape))
        return _there(result) if lands_there else result


def _require_one_place(name: str, tensors: list[Tensor], args: Any) -> None:
    """AssertionError where a GPU would refuse."""
    if name in _TAKE_INDICES:  # those may be on the CPU, if the others are not
        values = [one for one in (args[0], *args[2:3]) if one.ndim]
        if isinstance(args[0], Held):
            tensors = values
    elif name not in _TAKE_NO_SCALARS:
        tensors = [one for one in tensors if one.ndim or isinstance(one, Held)]
    apart = [list(one.shape) for one in tensors if not isinstance(one, Held)]
    if apart:
        raise AssertionError(f"{name}: {apart} on the CPU, the others elsewhere")


def _masks(indices: Any) -> list[Tensor]:
    return [one for one in indices if isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8)]


def _here(value: Any) -> Any:
    if isinstance(value, Held):
        return value.held
    return _HERE if isinstance(value, torch.device) else value


def _there(value: Any) -> Any:
    return Held(value) if isinstance(value, Tensor) and not isinstance(value, Held) else value
