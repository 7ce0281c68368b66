"""The record of what a run's results rest on beside its configuration, its images and its seed.

Libraries, the kind of processor, and the contents of files and code that the configuration only names. Another run may
take results over where all of these are equal and known.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import torch

from rsf_dist.config.resume import leaves
from rsf_dist.config.run import RunConfig
from rsf_dist.runtime import user_code

MadeWith = Mapping[str, str | None]
"""Values by name; None stands for something that is not known, or changed while the run was made."""

ACCELERATORS = "accelerators"

_LIBRARIES = ("rsf-dist", "ray", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pyarrow")
_IMPORT_PATH_KEYS = ("factory", "score", "passes", "name")
_OF_RAY = "accelerator_type:"


def made_with(config: RunConfig) -> dict[str, str | None]:
    """Return the record for results that are made now, by this process and its cluster.

    The configuration's import paths must have been loaded. A folder that an option of the user's code names is not
    read; it counts as unknown.
    """
    named = {text: _digest_of(text, config.code_folder) for text in texts_naming_contents(leaves(config))}
    return {**_machine(), **{contents_of(text): digest for text, digest in named.items()}}


def contents_of(text: str) -> str:
    """Return the name under which the record has the contents that a text of the configuration names."""
    return f"contents of {text}"


def libraries_in(record: MadeWith) -> dict[str, str | None]:
    """Return the part of a record that every result rests on."""
    return {name: record.get(name) for name in _machine() if name != ACCELERATORS}


def together(before: MadeWith, now: MadeWith) -> dict[str, str | None]:
    """Return the record of results of which some were made before and some are made now."""
    return {**now, **{name: value if now.get(name, value) == value else None for name, value in before.items()}}


def _machine() -> dict[str, str | None]:
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    versions: dict[str, str | None] = {name: version(name) for name in _LIBRARIES}
    return {
        "python": platform.python_version(),
        **versions,
        "processor": processor,
        ACCELERATORS: ", ".join(_accelerators()) or "none",
    }


def _accelerators() -> list[str]:
    """Return the models of the cluster's GPUs, as Ray names them."""
    resources = ray.cluster_resources() if ray.is_initialized() else {}
    return sorted(name.removeprefix(_OF_RAY) for name in resources if name.startswith(_OF_RAY))


def texts_naming_contents(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield each text of the configuration that names contents: weights, import paths, and files given as options.

    Args:
        values: by their dotted keys.
    """
    for key, value in values.items():
        for place, text in items_in(value, key):
            if not isinstance(text, str):
                continue
            last = place.rpartition(".")[2]
            is_code = last in _IMPORT_PATH_KEYS and user_code.SEPARATOR in text
            if is_code or ((last == "weights" or ".options." in place) and _exists(text)):
                yield text


def items_in(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each text, number or null in a value of the configuration."""
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from items_in(item, f"{key}.{number}")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from items_in(item, f"{key}.{name}")
    else:
        yield key, value


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # a text that can be no path
        return False


def _digest_of(text: str, code_folder: str | None) -> str | None:
    """Return the SHA-256 of the contents that a text names; None where they are not known."""
    if text in user_code.LOADED:
        return _code_digest(Path(user_code.LOADED[text]), code_folder)
    path = Path(text).expanduser() if _exists(text) else None
    return _file_digest([path]) if path is not None and path.is_file() else None


def _code_digest(file: Path, code_folder: str | None) -> str | None:
    """Return the SHA-256 of a module's file and of all Python files in its package, or in the `code_folder`."""
    if not file.is_file():
        return None
    root = None if code_folder is None else Path(code_folder).expanduser().absolute()
    if root is not None and root in file.absolute().parents:
        return _file_digest(sorted(root.rglob("*.py")))
    package = _package_folder(file)
    return _file_digest([file] if package is None else sorted(package.rglob("*.py")))


def _package_folder(file: Path) -> Path | None:
    """Return the folder of the outermost package that a module lies in; None where it lies in none."""
    inside = [folder for folder in file.absolute().parents if (folder / "__init__.py").is_file()]
    return inside[-1] if inside else None


def _file_digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(f"{file.name}\0".encode())
            while block := opened.read(2**20):
                digest.update(block)
    return digest.hexdigest()
