"""The way of packed images to nodes that do not see their folder: through Ray, from the node that wrote them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ray

from rsf_dist.cluster.ray_workarounds import unwrapped
from rsf_dist.cluster.shared_storage import on_node
from rsf_dist.data import mapped

_PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class FromNode:
    """A fetch of folders from a node; see `rsf_dist.data.mapped.Fetch`."""

    node: str

    def __call__(self, folder: str, to: Path) -> None:
        """Copy a folder's files. Raises ClusterFailure where the node is gone, and InputError where the files are."""
        with unwrapped():
            files: dict[str, int] = ray.get(on_node(partial(_sizes, folder), self.node))
            for name in sorted(files, key=lambda name: name == mapped.META):  # which comes last
                with (to / name).open("wb") as file:
                    for start in range(0, files[name], _PIECE_BYTES):
                        file.write(ray.get(on_node(partial(_piece, f"{folder}/{name}", start), self.node)))


def offer_packed_images() -> None:
    """Let the nodes of the cluster fetch packed images, which they do not see, from the node of this process."""
    mapped.offer(_from_here)


def _from_here() -> FromNode | None:
    return FromNode(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else None


def _sizes(folder: str) -> dict[str, int]:
    with _there(folder):
        return {name: os.path.getsize(f"{folder}/{name}") for name in os.listdir(folder)}


def _piece(path: str, start: int) -> bytes:
    with _there(path), open(path, "rb") as file:
        file.seek(start)
        return file.read(_PIECE_BYTES)


@contextmanager
def _there(path: str) -> Iterator[None]:
    """Raise InputError where the files are gone: an OSError would look like one of the node that fetches them."""
    try:
        yield
    except OSError as err:
        raise mapped.gone(Path(path)) from err
