"""The packed image sets of a command: where they lie, and the cluster that decodes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rsf_dist.cluster.decoding import read_on_cluster
from rsf_dist.config.run import RunConfig
from rsf_dist.data.filling import local_folder, remove_unused, touch
from rsf_dist.data.packing import Block, Packing, read_here
from rsf_dist.data.source_files import SourceKey
from rsf_dist.data.sources.base import Listing
from rsf_dist.runtime.progress import Progress
from rsf_dist.storage.run_store import RunStore

PACKED = "inputs/packed"
"""The folder of packed image sets within a run's directory."""

Join = Callable[[], AbstractContextManager[None]]
"""A function that joins the cluster for the length of a block."""


@contextmanager
def packing_for(config: RunConfig, progress: Progress, join: Join | None, keeps: bool = True) -> Iterator[Packing]:
    """Give the packing of a command's image sets. The cluster is joined once there is something to decode.

    Args:
        config: the run's configuration. `data.cache` is the folder of packed sets; without it, they lie in the run's
            directory, or where this is a URI in this user's folder for temporary files.
        progress: receiver of messages.
        join: joins the cluster, which is left at the end of the block. None means that this process decodes.
        keeps: False leaves the run's directory as it is; what would be packed there is packed for this block alone, in
            the folder for temporary files.
    """
    with ExitStack() as stack:
        folders, setting = _folders(config)
        is_shared = setting == "TMPDIR"
        if not keeps and setting == "output":
            folders, setting = [Path(stack.enter_context(TemporaryDirectory())), *folders], "TMPDIR"
        joined: list[bool] = []

        def read(listing: Listing, runs: Sequence[Sequence[int]], key: SourceKey) -> Iterator[Block]:
            if join is not None and not joined:
                stack.enter_context(join())
                joined.append(True)
            return read_on_cluster(listing, runs, key)

        store = RunStore(config.output)
        runs = [Path(store.root)] if store.is_local else []
        packing = Packing(folders, setting, read_here if join is None else read, progress, runs)
        yield packing
        if is_shared:
            for folder in packing.used:
                touch(folder)
            remove_unused(folders[0])


def _folders(config: RunConfig) -> tuple[list[Path], str]:
    if config.data.cache is not None:
        return [Path(os.path.expanduser(config.data.cache)).absolute()], "data.cache"
    store = RunStore(config.output)
    if store.is_local:
        return [Path(store.path(PACKED))], "output"
    return [local_folder() / "packed"], "TMPDIR"


def packed_bytes(store: RunStore) -> int:
    """Return the bytes of the packed image sets in a run's directory."""
    files = Path(store.path(PACKED)).rglob("*.bin") if store.is_local else ()
    return sum(file.stat().st_size for file in files)


def prune(config: RunConfig, packing: Packing) -> None:
    """Remove packed sets that a run does not use any more from its own directory, for which it holds the lock."""
    if config.data.cache is None and RunStore(config.output).is_local:
        packing.prune()
