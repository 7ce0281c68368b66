"""The user's own classes and functions, by import path `package.module:name`: imported, never evaluated.

They come from installed packages, or from the one folder that a configuration names as `code_folder`. The folder is
searched last, so that its modules replace no installed ones.
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
"""The environment variable that names the `code_folder` to worker processes; see `allow_named_folder`."""

LOADED: dict[str, str] = {}
"""The file of each import path that this process has loaded since `LOADED` was last cleared."""


def allow_folder(folder: str | Path, field: str = "code_folder") -> None:
    """Let modules of `folder` be imported, after all that is installed. Raises InputError if it is no folder."""
    try:
        path = Path(folder).expanduser().absolute()
        is_folder = path.is_dir()
    except (OSError, RuntimeError):  # a name that no folder can have, or the home of a user without one
        is_folder = False
    if not is_folder:
        raise InputError(field, folder, "is not a folder", "name the folder that holds your modules")
    if str(path) not in sys.path:
        sys.path.append(str(path))


def allow_named_folder() -> None:
    """Let modules of the folder that FOLDER_VARIABLE names be imported, in a worker process.

    PYTHONPATH would not do: it is searched first, so that a json.py in the folder would replace Python's own.
    """
    folder = os.environ.get(FOLDER_VARIABLE, "")
    if folder and Path(folder).is_dir():
        allow_folder(folder)


def imported_from(folder: str | Path) -> list[ModuleType]:
    """Return the modules that were imported from the folder."""
    root = Path(folder).expanduser().absolute()
    files = [(module, getattr(module, "__file__", None)) for module in list(sys.modules.values())]
    return [module for module, file in files if file and root in Path(file).parents]


def load(path: str, field: str) -> Any:
    """Return the class or function that an import path names.

    Args:
        path: `package.module:name`.
        field: the configuration's key, for errors.

    Raises:
        InputError: there is no such module or name, or the module's own code fails.
    """
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
def reported_as(
    field: str, value: object, what: str, remedy: str = "correct it", absolute: bool = False
) -> Iterator[None]:
    """Turn any error that the block raises into an InputError. An RsfError is raised as it is.

    Args:
        field: the field that the InputError names.
        value: the value that it names.
        what: the beginning of the InputError's rule; the error follows in brackets.
        remedy: the remedy that it names.
        absolute: True if the field needs no place in the configuration.
    """
    try:
        yield
    except RsfError:
        raise
    except (Exception, SystemExit) as err:  # the user's code may raise anything
        raise InputError(field, value, f"{what} ({type(err).__name__}: {err})", remedy, absolute) from err


@dataclass(frozen=True)
class UserFunction:
    """A function of the user's own with its options, whose failures name the import path."""

    function: Callable[..., Any]
    path: str
    field: str
    options: Mapping[str, Any]

    def __call__(self, *arguments: Any) -> Any:
        """Call the function with these arguments and its options. Raises InputError if it fails."""
        with reported_as(self.field, self.path, "fails", "fix it, or correct its options"):
            return self.function(*arguments, **self.options)


def load_function(path: str, field: str, options: Mapping[str, Any]) -> UserFunction:
    """Return the function that an import path names, for later calls. Raises InputError."""
    return UserFunction(load(path, field), path, field, options)


def call(path: str, field: str, given: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Call the class or function that an import path names, and return its result.

    Args:
        path: `package.module:name`.
        field: the configuration's key, for errors.
        given: arguments that rsf_dist passes, by keyword.
        options: arguments that the user passes, by keyword.

    Raises:
        InputError: an argument is passed by both, or the call fails.
    """
    function = load(path, field)
    twice = sorted(given.keys() & options.keys())
    if twice:
        raise InputError(field, path, f"is given {twice[0]} already", "leave it out of the options")
    with reported_as(field, path, "refuses its arguments", "correct its options, or its code"):
        return function(**given, **options)
