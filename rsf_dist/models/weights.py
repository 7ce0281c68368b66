"""Weights from files: read without running any code in them, and loaded into a network."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rsf_dist.errors import InputError
from rsf_dist.models.networks import Network, head_name
from rsf_dist.models.state_dicts import StateDict, find_state_dict, listed

TAKEN: dict[str, None] = {}
"""A line for each file that weights were taken from, in order; who shows them clears them first."""

SCALES_AGAIN = "transform_input"
"""The attribute of torchvision's GoogLeNet and Inception that says whether its weights expect images from -1 to 1."""


def names_file(weights: str) -> bool:
    """Return True if a configuration's `weights` is a path, and False if it is a name such as IMAGENET1K_V1."""
    is_name = weights.rpartition("_Weights.")[2].isidentifier()
    return not is_name or _is_file(Path(weights))


def read_weights(path: str) -> Mapping[str, Any]:
    """Read a .safetensors file, or a file of torch.save of any suffix: tensors by name, perhaps in tables by name.

    Raises:
        InputError: the file is absent, or cannot be read without running code.
    """
    file = _existing_file(path)
    try:
        if file.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as err:  # each format has errors of its own, and the file is at fault for all of them
        raise _unreadable(path, file, err) from err
    return loaded if isinstance(loaded, Mapping) else {}


def load_matching(network: Network, content: Mapping[str, Any], path: str) -> None:
    """Load a file's weights into a network, except those of a head of another shape, and note it in TAKEN.

    Raises:
        InputError: more than the head is missing, unknown or of another shape, or numbers are not finite; `path` names
            the file.
    """
    layers, own = network.network, network.network.state_dict()
    head = head_name(layers)
    found, alike = find_state_dict(content, own)
    if found is None:
        raise InputError("weights", path, "holds no tensors by name", "give a file of torch.save(model.state_dict())")
    reshaped = [key for key, value in found.tensors.items() if key in own and own[key].shape != value.shape]
    removed = [key for key in found.tensors if _was_removed(layers, key)]
    missing, unknown = _load(layers, found, {*reshaped, *removed}, path)
    left_out = [key for key in reshaped + unknown if _is_below(key, head)] + removed
    lacking = [key for key in missing if not _is_below(key, head) and key not in reshaped]
    lacking = [key for key in lacking if not key.endswith(".num_batches_tracked")]  # files older than torch 0.4.1
    misfits = [key for key in reshaped + unknown if key not in left_out]
    if lacking or misfits:
        remedy = "use weights of this very network; only its head may differ"
        raise InputError("weights", path, _difference(lacking, misfits, found, own), remedy)
    if removed and hasattr(layers, SCALES_AGAIN):
        setattr(layers, SCALES_AGAIN, True)  # as torchvision does for its published files, which have these heads
    new = [key for key in missing if _is_below(key, head) and key not in reshaped]
    _note(path, found, left_out, own, new, alike)


def _load(layers: nn.Module, found: StateDict, without: set[str], path: str) -> tuple[list[str], list[str]]:
    """Load tensors as torch does, without some, and return the names that are missing, and unknown ones."""
    kept = OrderedDict((key, value) for key, value in found.tensors.items() if key not in without)
    broken = [key for key, value in kept.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise InputError("weights", path, f"holds NaN or infinite numbers at {broken[0]}", "use sound weights")
    # By its modules' versions torch knows older names. A file without versions is taken for one of today's.
    kept._metadata = found.versions or {"": layers.state_dict()._metadata[""]}  # type: ignore[attr-defined]
    try:
        missing, unknown = layers.load_state_dict(kept, strict=False)
    except Exception as err:  # a module's own rules for older names
        rule = f"does not fit the network ({type(err).__name__}: {err})"
        raise InputError("weights", path, rule, "use weights of this very network") from err
    return missing, unknown


def _difference(lacking: list[str], misfits: list[str], found: StateDict, own: Mapping[str, Tensor]) -> str:
    shapes = [
        f"{key} {list(found.tensors[key].shape)} instead of {list(own[key].shape)}" for key in misfits if key in own
    ]
    unknown = [key for key in misfits if key not in own]
    parts = [f"lacks {listed(lacking)}"] * bool(lacking) + [f"has {listed(shapes)}"] * bool(shapes)
    parts += [f"has {listed(unknown)}, which the network lacks"] * bool(unknown)
    return f"does not fit the network: the file {', and '.join(parts)}"


def _note(
    path: str, found: StateDict, left_out: list[str], own: Mapping[str, Tensor], new: list[str], alike: list[StateDict]
) -> None:
    """Add the line of a file to TAKEN."""
    count = len(found.tensors) - len(left_out)
    parts = [
        f"weights {path}: {count:,} tensors taken" + (f" from {listed([f'`{found.label}`'])}" if found.label else "")
    ]
    of_head = [key for key in left_out if key in own]
    if of_head:
        same = all(own[key].shape[1:] == found.tensors[key].shape[1:] for key in of_head)
        parts.append(f"left out: {listed(of_head)} ({'another number of classes' if same else 'another shape'})")
    others = [key for key in left_out if key not in own] + list(found.outside)
    if others:
        parts.append(f"left out: {listed(others)} (not of this network)")
    if new:
        parts.append(f"not in the file: {listed(new)}")
    if alike:
        parts.append(f"would fit as well: {listed(f'`{one.label}`' for one in alike)}")
    TAKEN["; ".join(parts)] = None


def _is_below(key: str, module: str) -> bool:
    return key.startswith(f"{module}.")


def _was_removed(layers: nn.Module, key: str) -> bool:
    """Return True for a tensor of a part that the network had and was taken from it, as heads for training alone."""
    return getattr(layers, key.partition(".")[0], layers) is None


def _unreadable(path: str, file: Path, err: Exception) -> InputError:
    objects = _objects_in(file) or re.findall(r"GLOBAL ([\w.]+) was not", str(err))  # as torch says of older formats
    if not objects:
        rule = f"cannot be read as weights ({type(err).__name__})"
        return InputError("weights", path, rule, "give a .safetensors file, or one of torch.save(model.state_dict())")
    rule = f"cannot be read as weights, because it also holds {listed(objects)}: reading these could run code"
    how = f"c = torch.load({str(file)!r}, weights_only=False); torch.save(c['state_dict'], 'weights.pt')"
    remedy = f"if you trust the file, save its state_dict alone: {how} (c.state_dict() where c is a whole model)"
    return InputError("weights", path, rule, remedy)


def _objects_in(file: Path) -> list[str]:
    """Return the classes and functions that a file of torch.save would import, without importing them."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception:  # it is another format, or damaged
        return []


def _existing_file(path: str) -> Path:
    if "://" in path:
        raise InputError("weights", path, "is not a file on this machine", "download it, and give the file's path")
    try:
        file = Path(path).expanduser()
    except RuntimeError as err:  # its user has no home folder
        raise InputError("weights", path, "no such file", "correct the path") from err
    if _is_file(file):
        return file
    try:
        rule, remedy = ("is a folder", "name the file in it") if file.is_dir() else ("no such file", "correct the path")
    except (OSError, ValueError):
        rule, remedy = "no such file", "correct the path"
    raise InputError("weights", path, rule, remedy)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the text cannot be a path
        return False
