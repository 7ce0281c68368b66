"""A run to take results over from, and all that the stages of a run depend on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from rsf_dist.config.run import RunConfig
from rsf_dist.errors import InputError
from rsf_dist.runs.made_with import MadeWith
from rsf_dist.runs.run_folder import CONFIG, seed_folder, stored_config, stored_digests
from rsf_dist.storage.run_store import RunStore


@dataclass(frozen=True)
class Basis:
    """All that the stages of a run depend on, but for the seed.

    Args:
        config: the configuration.
        digests: of the image sets, by name.
        made_with: the record of libraries and contents.
    """

    config: RunConfig
    digests: Mapping[str, str] = field(default_factory=dict)
    made_with: MadeWith = field(default_factory=dict)


@dataclass(frozen=True)
class EarlierRun:
    """A run to take results over from.

    Args:
        store: its directory, which is only read.
        basis: all that its stages depend on.
    """

    store: RunStore
    basis: Basis

    def at_seed(self, seed: int) -> tuple[RunStore, str] | None:
        """Return the directory of a seed, and its folder within the run's; None where the run has no such seed."""
        config = self.basis.config
        if not 0 <= seed - config.seed < config.num_seeds:
            return None
        folder = seed_folder(seed - config.seed, config.num_seeds)
        return self.store.at(folder), folder


def find_earlier(uri: str, output: str) -> EarlierRun:
    """Return the run in a directory, to take results over from.

    Raises:
        InputError: the directory holds no run, a run of another version, or is the output itself.
    """
    try:
        return _opened(RunStore(uri), output)
    except InputError as err:
        if err.field == "--from":
            raise
        rule = err.rule if err.field == "output" else f"its {err.field} {err.rule}"
        raise InputError("--from", uri, rule, "name another run, or leave --from out") from err


def _opened(store: RunStore, output: str) -> EarlierRun:
    manifest = store.manifest()
    if not store.exists(CONFIG):
        raise InputError("--from", store.uri, "holds no run", "name the directory of an rsf run, or leave --from out")
    if _same_place(store, RunStore(output)):
        remedy = "name another output; or leave --from out, and an unchanged configuration goes on there"
        raise InputError("--from", store.uri, "is the output itself", remedy)
    return EarlierRun(store, Basis(stored_config(store), stored_digests(store) or {}, manifest.made_with))


def _same_place(one: RunStore, other: RunStore) -> bool:
    if one.is_local and other.is_local:
        return os.path.realpath(one.root) == os.path.realpath(other.root)
    return one.uri.rstrip("/") == other.uri.rstrip("/")
