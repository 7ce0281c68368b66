"""Weights that do not fit, that are none, or that are a program."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save, save_file

from bad_input.case import Case, Changes, noise
from bad_input.pictures import Trap
from rsf_dist.config.model import ModelConfig
from rsf_dist.models.spec import NetworkSpec

Write = Callable[[Path], object]


def _state(width: int = 4) -> dict[str, torch.Tensor]:
    network = NetworkSpec(ModelConfig(width=width), num_outputs=2, channels=1).build()
    return {name: value.contiguous() for name, value in network.network.state_dict().items()}


def _without_the_first() -> dict[str, torch.Tensor]:
    return dict(list(_state().items())[1:])


def _with_nan() -> dict[str, torch.Tensor]:
    state = _state()
    next(iter(state.values())).view(-1)[0] = torch.nan
    return state


def _saved() -> bytes:
    file = io.BytesIO()
    torch.save(_state(), file)
    return file.getvalue()


def _claim(length: int) -> bytes:
    header = json.dumps({"x": {"dtype": "F32", "shape": [length], "data_offsets": [0, 4 * length]}}).encode()
    return struct.pack("<Q", len(header)) + header


WEIGHTS: dict[str, tuple[str, Write]] = {
    "of a wider model": ("w.safetensors", lambda path: save_file(_state(width=8), path)),
    "of another model": ("w.safetensors", lambda path: save_file({"fc.weight": torch.zeros(2, 3)}, path)),
    "without the first layer": ("w.safetensors", lambda path: save_file(_without_the_first(), path)),
    "with a layer too many": ("w.safetensors", lambda path: save_file(_state() | {"x": torch.zeros(1)}, path)),
    "of no tensor": ("w.safetensors", lambda path: save_file({}, path)),
    "with a NaN": ("w.safetensors", lambda path: save_file(_with_nan(), path)),
    "that are empty": ("w.safetensors", lambda path: path.write_bytes(b"")),
    "cut short": ("w.safetensors", lambda path: path.write_bytes(save(_state())[:-100])),
    "cut in their header": ("w.safetensors", lambda path: path.write_bytes(save(_state())[:50])),
    "that are noise": ("w.safetensors", lambda path: path.write_bytes(noise(900))),
    "whose header has no end": ("w.safetensors", lambda path: path.write_bytes(b"\xff" * 8 + b"{}")),
    "that claim a terabyte": ("w.safetensors", lambda path: path.write_bytes(_claim(2**38))),
    "that are a pickle, renamed": ("w.safetensors", lambda path: torch.save(_state(), path)),
    "that are safetensors, renamed": ("w.pt", lambda path: save_file(_state(), path)),
    "that are a pickle with code": ("w.pt", lambda path: path.write_bytes(pickle.dumps(Trap(path.parent / "trapped")))),
    "that are an archive with code": ("w.pt", lambda path: torch.save({"x": Trap(path.parent / "trapped")}, path)),
    "that are a whole model": ("w.pt", lambda path: torch.save(torch.nn.Linear(2, 2), path)),
    "that are a list": ("w.pt", lambda path: torch.save([torch.zeros(2)], path)),
    "that are a number": ("w.pt", lambda path: torch.save(3, path)),
    "of no tensor, in .pt": ("w.pt", lambda path: torch.save({}, path)),
    "of words": ("w.pt", lambda path: torch.save({"0.weight": "x"}, path)),
    "with a NaN, in .pt": ("w.pth", lambda path: torch.save({"state_dict": _with_nan()}, path)),
    "cut short, in .pt": ("w.pt", lambda path: path.write_bytes(_saved()[:-200])),
    "in a folder": ("w.pt", lambda path: path.mkdir()),
    "that are not there": ("w.pt", lambda path: None),
}  # fmt: skip
NAMES = ("DEFAULT", "w", "~no_such_user_at_all/w.pt", "x" * 5000, "a\0b", "https://example.com/w.safetensors")


def _written(file: str, write: Write, key: str = "model.weights") -> Callable[[Path], Changes]:
    def changes(folder: Path) -> Changes:
        write(folder / file)
        return {"ratio": {"network": {"width": 4}}, "envelope": {"kind": "pilot"}, key: str(folder / file)}

    return changes


def cases() -> Iterator[Case]:
    """Weights of the model, and some of other networks."""
    for name, (file, write) in WEIGHTS.items():
        yield Case(f"weights {name}", "model.weights", _written(file, write))
    for name in NAMES:
        yield Case(
            f"weights by the name {name:.20}", "model.weights", lambda folder, name=name: {"model.weights": name}
        )
    yield Case("weights of a torchvision model that has no such", "model.weights", _of_resnet)
    for key in ("ratio.network.weights", "evaluation.feature_network.weights"):
        yield Case(f"weights of another model for {key}", key, _written(*WEIGHTS["of another model"], key))


def _of_resnet(folder: Path) -> Changes:
    return {"model": {"name": "resnet18", "weights": "IMAGENET1K_V9"}}
