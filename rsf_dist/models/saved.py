"""The fine-tuned model of a run, for use without the rest of the package."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rsf_dist.config import safe_yaml
from rsf_dist.errors import InputError, RsfError
from rsf_dist.models.networks import Network
from rsf_dist.models.spec import NetworkSpec, load_network
from rsf_dist.storage.run_store import RunStore

_FILES = ("model.json", "model.safetensors")
_PLACES = ("", "seeds/000")  # of a run of one seed, and of a run of several


class OwnCodeRefused(InputError):
    """A model names code of the user's own, which may not run."""


def load_model(path: str | os.PathLike[str], own_code: bool = False, seed: int | None = None) -> Network:
    """Load a fine-tuned model, on the CPU and in evaluation mode.

    The model maps uint8 images [n, channels, height, width] to logits [n, number of classes]. Its attributes `classes`,
    `channels` and `expects` (size, resize, bits) say what it was made for. `input_size` is the size that it resizes
    images to itself. `network` is the plain module, whose state_dict has the names of torchvision.

    Args:
        path: a run's directory, or any folder with model.json and model.safetensors; a local path or a URI. Other
            arms' models lie in `models/random`, … within a seed's directory.
        own_code: True allows a network by import path. Its code runs, and model.json chooses what is called; so it must
            come from someone whom you trust.
        seed: the seed of a run whose model is loaded. None means the first.

    Raises:
        InputError: there is no model, or its files are damaged or another program's.
        OwnCodeRefused: it needs `own_code`.
    """
    uri = re.sub(r"/?model\.(json|safetensors)$", "", str(path)) or "."
    run = RunStore(uri)
    for place in _PLACES if seed is None else (_place_of(run, seed),):
        store = run.at(place)
        if store.exists(_FILES[0]):
            load = partial(_load, own_code=own_code)
            return store.load_folder("", load) if store.is_listed("") else _load_unlisted(store, load)
    begun = run.exists("config.yaml")
    rule = "is a run that has no model yet" if begun else "holds no model.json"
    remedy = f"train it: rsf train {uri}" if begun else "name a run's directory, or a folder with model.json"
    raise InputError("path", str(path), rule, remedy)


def _place_of(run: RunStore, seed: int) -> str:
    """Return the folder of a seed within a run. Raises InputError where the run has no such seed."""
    try:
        config = safe_yaml.read(run.read("config.yaml").decode())
        first, count = config["seed"], config["num_seeds"]
        seeds = list(range(first, first + count))
    except (ValueError, TypeError, KeyError) as err:
        raise InputError("path", run.uri, f"its config.yaml is damaged ({err})", "restore it") from err
    if seed not in seeds:
        rule = f"is no seed of this run, whose seeds are {', '.join(map(str, seeds))}"
        raise InputError("seed", seed, rule, "name one of these")
    return "" if count == 1 else f"seeds/{seeds.index(seed):03d}"


def _load_unlisted(store: RunStore, load: Callable[[Path], Network]) -> Network:
    """Load the files of a folder that no manifest lists: another arm's model, or a copy."""
    with TemporaryDirectory() as folder:
        for name in _FILES:
            (Path(folder) / name).write_bytes(store.read(name))
        return load(Path(folder))


def _load(folder: Path, own_code: bool) -> Network:
    try:
        name = NetworkSpec.from_json((folder / _FILES[0]).read_text()).config.name
        if ":" in name and not own_code:
            rule = "names code of one's own, which would run"
            raise OwnCodeRefused(
                "model.json", name, rule, "pass own_code=True if you trust whoever wrote it", absolute=True
            )
        return load_network(folder)
    except RsfError:
        raise
    except Exception as err:  # JSON, pydantic and torch have errors of their own
        rule = f"does not describe a network and the weights beside it ({type(err).__name__}: {err})"
        remedy = "restore both files; a model of a task of your own is loaded by that task's `load`"
        raise InputError("model.json", "(its content)", rule, remedy) from err
