"""A case, and the run that it spoils."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CODE = Path(__file__).parent / "code"
Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast, where libyaml is there

Changes = Mapping[str, Any]
"""Dotted key -> value, laid over the run's configuration."""


@dataclass(frozen=True)
class Case:
    """Something wrong.

    Args:
        name: in the test's id.
        field: which the error message must name, or a key below it; `{folder}` stands for the case's folder.
        spoil: writes what is wrong into the case's folder, and says what the configuration changes.
        arguments: of the command, after the configuration's file.
        text: stands in place of the configuration's file.
        seconds: within which it must come.
        user_seconds: the limit set to the user's code.
        earlier: changes of the configuration that an earlier run in the same directory had; by default the case's own.
    """

    name: str
    field: str
    spoil: Callable[[Path], Changes] = lambda folder: {}
    arguments: tuple[str, ...] = ()
    text: str | bytes | None = None
    seconds: float = 10.0
    user_seconds: float = 60.0
    earlier: Changes | None = None


def changing(name: str, field: str, **changes: Any) -> Case:
    """A case in the configuration alone; keywords are dotted keys with __ for dots."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return Case(name, field, lambda folder: dotted)


def sound_run(folder: Path) -> dict[str, Any]:
    """A run that works, of few images: twenty of each of two classes, 8 × 8 grey."""
    images, others = np.random.default_rng(0).integers(256, size=(2, 40, 8, 8), dtype=np.uint8)
    np.savez(folder / "source.npz", images=images, labels=np.arange(40) % 2)
    np.savez(folder / "target.npz", images=others)
    return {
        "output": str(folder / "run"),
        "code_folder": str(CODE),
        "source": {"kind": "npz", "root": str(folder / "source.npz")},
        "target": {"kind": "npz", "root": str(folder / "target.npz")},
        "proposal": {"parameters": {"rotation": {"uniform": [-1.0, 1.0]}}},
        "ratio": {"kind": "reward", "score": "ratios_of_mine:bright", "max_score": 1.0},
        "envelope": {"kind": "certified"},
        "sampling": {"num_accepted": 8, "chunk_size": 64},
        "model": {"width": 4},
        "training": {"steps": 2, "batch_size": 8},
    }


def changed(raw: dict[str, Any], changes: Changes) -> dict[str, Any]:
    """The configuration with what the changes name in place; lists are reached by number."""
    raw = copy.deepcopy(raw)
    for key, value in changes.items():
        *parents, leaf = key.split(".")
        node: Any = raw
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
        node[int(leaf) if isinstance(node, list) else leaf] = value
    return raw


def write_config(case: Case, folder: Path, raw: dict[str, Any]) -> Path:
    """The file that the command is given."""
    path = folder / "config.yaml"
    if path.exists() or path.is_symlink():  # what is wrong is the file
        return path
    text = yaml.dump(raw, Dumper=Dumper) if case.text is None else case.text
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def noise(count: int, seed: int = 0) -> bytes:
    """Bytes that mean nothing."""
    return random.Random(seed).randbytes(count)
