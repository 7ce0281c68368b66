"""A user's own classes and functions by import path, `package.module:name`: imported, never evaluated.

They come from installed packages, or from the one folder that a configuration names as `code`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from rsf_dist.errors import InputError, RsfError

SEPARATOR = ":"


def allow_folder(folder: str | Path, field: str = "code") -> None:
    """Let modules of `folder` be imported, after everything that is installed. Raises InputError."""
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise InputError(field, folder, "is not a folder", "name the folder that holds your modules")
    if str(path) not in sys.path:
        sys.path.append(str(path))


def imported_from(folder: str | Path) -> list[ModuleType]:
    """The modules that were imported from the folder."""
    root = Path(folder).expanduser().absolute()
    found = [(module, getattr(module, "__file__", None)) for module in list(sys.modules.values())]
    return [module for module, file in found if file and root in Path(file).parents]


def load(path: str, field: str) -> Any:
    """What `path` names. Raises InputError: no such module or name, or the module's own code fails."""
    module_name, separator, name = path.partition(SEPARATOR)
    if not (separator and module_name and name):
        raise InputError(field, path, "is no import path", "write package.module:name")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as err:  # a user's module raises what it pleases
        rule = f"cannot be imported ({type(err).__name__}: {err})"
        remedy = "install its package where every node runs, or name its folder as `code`"
        raise InputError(field, path, rule, remedy) from err
    if not callable(getattr(module, name, None)):
        found = f"{module_name} ({getattr(module, '__file__', None) or 'built in'}) has no class or function {name}"
        raise InputError(field, path, found, "correct the name")
    return getattr(module, name)


def call(path: str, field: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """What `load(path)` gives for what we give and for the user's options, both by keyword. Raises InputError."""
    function = load(path, field)
    twice = sorted(given.keys() & options.keys())
    if twice:
        raise InputError(field, path, f"is given {twice[0]} already", "leave it out of the options")
    try:
        return function(**given, **options)
    except RsfError:
        raise
    except Exception as err:
        rule = f"refuses its arguments ({type(err).__name__}: {err})"
        raise InputError(field, path, rule, "correct its options, or its code") from err
