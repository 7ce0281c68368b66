"""Weights from files: read without running any code in them, and matched with a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rsf_dist.errors import InputError
from rsf_dist.models.networks import Network, head_name


def read_weights(path: str) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors or .pt file. Raises InputError if the file is absent or not readable."""
    file = _existing_file(path)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as err:  # each format has errors of its own, and the file is at fault for all of them
        rule = f"cannot be read as weights ({type(err).__name__})"
        remedy = "give a .safetensors file or a .pt file of plain tensors"
        raise InputError("weights", path, rule, remedy) from err
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else {}
    return {key: value for key, value in loaded.items() if isinstance(value, Tensor)}


def load_matching(network: Network, weights: Mapping[str, Tensor], path: str) -> None:
    """Load all weights except those of a head of another shape.

    Raises:
        InputError: other weights are missing, unknown, of another shape or not finite; `path` names the file.
    """
    weights = {key.removeprefix("module.").removeprefix("network."): value for key, value in weights.items()}
    head = head_name(network.network)
    own = network.network.state_dict()
    kept = {
        key: value
        for key, value in weights.items()
        if not (key.rpartition(".")[0] == head and key in own and own[key].shape != value.shape)
    }
    misfits = [key for key in kept if key not in own or own[key].shape != kept[key].shape]
    misfits += [key for key in own if key not in kept and key.rpartition(".")[0] != head]
    if misfits:
        remedy = "use weights of this very network; only its head may differ"
        raise InputError("weights", path, f"does not fit the network at {misfits[0]}", remedy)
    broken = [key for key, value in kept.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise InputError("weights", path, f"holds NaN or infinite numbers at {broken[0]}", "use sound weights")
    network.network.load_state_dict(kept, strict=False)


def _existing_file(path: str) -> Path:
    try:
        file = Path(path).expanduser()
        if file.is_file():
            return file
    except (OSError, RuntimeError):  # the text cannot be a path, or its user has no home folder
        pass
    raise InputError("weights", path, "no such file", "correct the path")
