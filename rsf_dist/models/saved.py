"""The fine-tuned model of a run, for use without the rest of the package."""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from rsf_dist.errors import InputError, RsfError
from rsf_dist.models.networks import Network
from rsf_dist.models.spec import load_network
from rsf_dist.storage.run_store import RunStore

_FILES = ("model.json", "model.safetensors")
_PLACES = ("", "seeds/000")  # of a run of one seed, and of a run of several


def load_model(path: str | os.PathLike[str]) -> Network:
    """Load a fine-tuned model, on the CPU and in evaluation mode.

    The model maps uint8 images [n, channels, height, width] to logits [n, number of classes]. Its attributes `classes`,
    `channels` and `input_size` say what it was made for, and `network` is the plain module, whose state_dict has the
    names of torchvision. A network by import path must be importable.

    Args:
        path: a run's directory, or any folder with model.json and model.safetensors; a local path or a URI. Of a run
            with several seeds the first seed's model is loaded; `seeds/001` within the run is the second seed.

    Raises:
        InputError: there is no model, its files are damaged, or they are another program's.
    """
    uri = re.sub(r"/?model\.(json|safetensors)$", "", str(path)) or "."
    run = RunStore(uri)
    for place in _PLACES:
        store = run.at(place)
        if store.exists(_FILES[0]):
            return store.load_folder("", _load) if store.is_listed("") else _load_unlisted(store)
    begun = run.exists("config.yaml")
    rule = "is a run that has no model yet" if begun else "holds no model.json"
    remedy = f"train it: rsf train {uri}" if begun else "name a run's directory, or a folder with model.json"
    raise InputError("path", str(path), rule, remedy)


def _load_unlisted(store: RunStore) -> Network:
    """Load the files of a folder that no manifest lists: another arm's model, or a copy."""
    with TemporaryDirectory() as folder:
        for name in _FILES:
            (Path(folder) / name).write_bytes(store.read(name))
        return _load(Path(folder))


def _load(folder: Path) -> Network:
    try:
        return load_network(folder)
    except RsfError:
        raise
    except Exception as err:  # JSON, pydantic and torch have errors of their own
        rule = f"does not describe a network and the weights beside it ({type(err).__name__}: {err})"
        remedy = "restore both files; a model of a task of your own is loaded by that task's `load`"
        raise InputError("model.json", "(its content)", rule, remedy) from err
