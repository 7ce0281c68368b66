"""A user's own classes and functions by import path, `package.module:name`: imported, never evaluated.

They come from installed packages, or from the one folder that a configuration names as `code_folder`, which is looked
into last: its modules take the place of none that is installed.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rsf_dist.errors import InputError, RsfError

SEPARATOR = ":"


FOLDER_VARIABLE = "RSF_DIST_CODE"
"""Names the `code` folder to worker processes, see `allow_named_folder`."""


LOADED: dict[str, str] = {}
"""The file of each import path that this process has loaded since `LOADED` was last cleared."""


def allow_folder(folder: str | Path, field: str = "code_folder") -> None:
    """Let modules of `folder` be imported, after everything that is installed. Raises InputError."""
    try:
        path = Path(folder).expanduser().absolute()
        found = path.is_dir()
    except (OSError, RuntimeError):  # a name that can be none, the home of someone who has none
        found = False
    if not found:
        raise InputError(field, folder, "is not a folder", "name the folder that holds your modules")
    if str(path) not in sys.path:
        sys.path.append(str(path))


def allow_named_folder() -> None:
    """`allow_folder` for a worker process. PYTHONPATH comes first, and a json.py there would take the place of json."""
    folder = os.environ.get(FOLDER_VARIABLE, "")
    if folder and Path(folder).is_dir():
        allow_folder(folder)


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
    remedy = "install its package where every node runs, or name its folder as `code_folder`"
    with reported_as(field, path, "cannot be imported", remedy):
        module = importlib.import_module(module_name)
    file = getattr(module, "__file__", None) or "(built in)"
    if not callable(getattr(module, name, None)):
        raise InputError(field, path, f"{module_name} {file} has no class or function {name}", "correct the name")
    LOADED[path] = file
    return getattr(module, name)


@contextmanager
def reported_as(field: str, value: object, what: str, remedy: str = "correct it") -> Iterator[None]:
    """Whatever the block raises, as an InputError of `field`: `what` (the error). Errors of ours are passed on."""
    try:
        yield
    except RsfError:
        raise
    except (Exception, SystemExit) as err:  # a user's code raises what it pleases
        raise InputError(field, value, f"{what} ({type(err).__name__}: {err})", remedy) from err


@dataclass(frozen=True)
class UserFunction:
    """A user's function with its options, whose failures name the import path."""

    function: Callable[..., Any]
    path: str
    field: str
    options: Mapping[str, Any]

    def __call__(self, *given: Any) -> Any:
        """Call it. Raises InputError."""
        with reported_as(self.field, self.path, "fails", "fix it, or correct its options"):
            return self.function(*given, **self.options)


def load_function(path: str, field: str, options: Mapping[str, Any]) -> UserFunction:
    """The function that `path` names, for later calls. Raises InputError."""
    return UserFunction(load(path, field), path, field, options)


def call(path: str, field: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """What `load(path)` gives for what we give and for the user's options, both by keyword. Raises InputError."""
    function = load(path, field)
    twice = sorted(given.keys() & options.keys())
    if twice:
        raise InputError(field, path, f"is given {twice[0]} already", "leave it out of the options")
    with reported_as(field, path, "refuses its arguments", "correct its options, or its code"):
        return function(**given, **options)
