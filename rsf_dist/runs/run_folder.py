"""The files that say which run a directory holds: config.yaml, the images' digests, the folders of seeds."""

from __future__ import annotations

import json

from rsf_dist.config.load import parse_text
from rsf_dist.config.run import RunConfig
from rsf_dist.errors import InputError
from rsf_dist.storage.run_store import RunStore

CONFIG = "config.yaml"
INPUTS, DIGESTS = "inputs", "digests.json"


def stored_config(store: RunStore) -> RunConfig:
    """Return the configuration of an existing run, whose directory may have been moved since.

    The manifest's version is checked first: a run of another version is refused for that, not for the keys of its
    configuration.

    Raises:
        InputError: another version of rsf_dist wrote the run, or its config.yaml is missing or damaged.
    """
    store.manifest()
    text = store.read(CONFIG).decode()
    try:
        config = parse_text(text)
    except InputError as err:
        rule = f"its {CONFIG} does not fit this version of rsf_dist ({err})"
        raise InputError("output", store.uri, rule, "use the version that wrote it, or name another directory") from err
    return config.model_copy(update={"output": store.uri})


def stored_digests(store: RunStore) -> dict[str, str] | None:
    """Return the digests of the images that a run began with, by image set; None where it has not begun."""
    text = store.find_file(INPUTS, DIGESTS)
    return None if text is None else json.loads(text)


def seed_folder(number: int, num_seeds: int) -> str:
    """Return the folder of the number-th seed within the run's directory; it is empty where there is one seed."""
    return "" if num_seeds == 1 else f"seeds/{number:03d}"
