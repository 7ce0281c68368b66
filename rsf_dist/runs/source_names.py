"""The names of a run's source images, kept with its inputs: accepted rows know their image by its number."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rsf_dist.config.run import RunConfig
from rsf_dist.data.images import ImageSet
from rsf_dist.data.sources import list_images
from rsf_dist.errors import located
from rsf_dist.storage.run_store import RunStore

NAMES = "source_names.json"
"""The file within the folder of a run's inputs."""


@dataclass(frozen=True)
class SourceNames:
    """The names that numbers in accepted rows stand for.

    Args:
        classes: by label.
        ids: of the images, by `base_index`.
    """

    classes: tuple[str, ...]
    ids: tuple[str, ...]

    @staticmethod
    def of(images: ImageSet) -> SourceNames:
        """Return the names of an image set."""
        return SourceNames(images.classes, tuple(images.ids))

    def save(self, folder: Path) -> None:
        """Write the file."""
        (folder / NAMES).write_text(json.dumps(asdict(self), ensure_ascii=False) + "\n", "utf-8")


def stored_names(store: RunStore, inputs: str, config: RunConfig) -> SourceNames:
    """Return the names that a run keeps; those of a run that keeps none are listed again, without decoding an image.

    Args:
        store: the run's directory.
        inputs: the folder of the run's inputs within it.
        config: the run's configuration.

    Raises:
        InputError: the source images are not there any more.
    """
    kept = store.find_folder(inputs, _read)
    if kept is not None:
        return kept
    images = config.proposal.own_images or config.source
    with located("source" if config.proposal.own_images is None else "proposal.images"):
        listing = list_images(images)
    taken = listing.take(images.start, images.limit)
    return SourceNames(listing.classes, tuple(listing.ids[position] for position in taken))


def _read(folder: Path) -> SourceNames | None:
    if not (folder / NAMES).exists():
        return None
    raw = json.loads((folder / NAMES).read_text("utf-8"))
    return SourceNames(tuple(raw["classes"]), tuple(raw["ids"]))
