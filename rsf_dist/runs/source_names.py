"""The names of a run's source images, kept with its inputs: accepted rows know their image by its number."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rsf_dist.builders.image_packing import packing_for
from rsf_dist.config.run import RunConfig
from rsf_dist.data.images import ImageSet, load_images
from rsf_dist.data.sources import list_images
from rsf_dist.errors import InputError, located
from rsf_dist.runs.run_folder import INPUTS, stored_digests
from rsf_dist.runtime.progress import Progress
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


def kept_names(store: RunStore) -> SourceNames | None:
    """Return the names that a run keeps, or None where it keeps none, or the file is damaged."""
    text = store.find_file(INPUTS, NAMES)
    if text is None:
        return None
    raw = json.loads(text)
    return SourceNames(tuple(raw["classes"]), tuple(raw["ids"]))


def stored_names(store: RunStore, at: RunStore, config: RunConfig, progress: Progress) -> SourceNames:
    """Return the names that a run keeps, or those of its images where they are proven to be the same as then.

    Args:
        store: the run's directory.
        at: the directory of one of its seeds, whose model knows the classes.
        config: the run's configuration.
        progress: is told why no image has a name.

    Raises:
        InputError: not even the names of classes are known: the source images are not there any more, or differ.
    """
    kept = kept_names(store)
    if kept is not None:
        return kept
    progress.say("this run keeps no names of its source images, which are read again")
    try:
        return _names_of_unchanged_images(store, config, progress)
    except InputError as err:
        classes = config.source.classes or _classes_of_model(at)
        if not classes:
            raise
        progress.say(f"no row names its source image, which is not certain: {err}")
        return SourceNames(classes, ())


def _names_of_unchanged_images(store: RunStore, config: RunConfig, progress: Progress) -> SourceNames:
    """Read the images that proposals are made from. Raises InputError unless they are those that the run began with."""
    own = config.proposal.own_images
    section = "source" if own is None else "proposal.images"
    digest = (stored_digests(store) or {}).get("source" if own is None else "pool")
    if digest is None:
        rule = "cannot be compared with those that the run began with, of which it keeps no digest"
        raise InputError(section, "its images", rule, f"restore its folder {INPUTS}")
    with packing_for(config, progress, None, keeps=False) as packing, located(section):
        classes = None if own is None else list_images(config.source).classes
        images = load_images(own or config.source, classes=classes, packing=packing)
        if images.digest() != digest:
            raise InputError("", f"{len(images):,} images", "differ from those that the run began with", "restore them")
        return SourceNames.of(images)


def _classes_of_model(at: RunStore) -> tuple[str, ...]:
    """Return the classes of a seed's model, in the order of their numbers; none where it has not been trained."""
    text = at.find_file("", "model.json")
    return () if text is None else tuple(json.loads(text).get("classes", ()))
