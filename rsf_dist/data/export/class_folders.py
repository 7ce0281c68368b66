"""Image files in a folder for each class, or in one folder where images have no label."""

from __future__ import annotations

from typing import ClassVar

from rsf_dist.data.export.base import FileWriter, file_names, write_png
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError

_LONGEST = 255  # bytes of a folder's name, on usual file systems


class FolderWriter(FileWriter):
    """A writer of class folders, and of provenance.csv beside them. A class without images has no folder."""

    holds: ClassVar[frozenset[str]] = frozenset({"label"})

    def write_files(self, images: ImageSet) -> list[str]:
        """Write the images. Raises InputError for a class whose name can name no folder."""
        names = file_names(images, self.folder)
        if images.labels is not None:
            folders = [folder_of(images.classes[label]) for label in images.labels.tolist()]
            names = [f"{folder}/{name}" for folder, name in zip(folders, names, strict=True)]
        for name, image in zip(names, images.images, strict=True):
            write_png(image, self.folder / name)
        return names


def folder_of(name: str) -> str:
    """Return the name of a class's folder: its own. Raises InputError where no folder can have this name."""
    hidden = not name or name.startswith(".")  # hidden folders are passed over when they are read
    if hidden or not {"/", "\\", "\0"}.isdisjoint(name) or len(name.encode()) > _LONGEST:
        rule = "is a class whose name can name no folder"
        remedy = "export as parquet or huggingface, which keep names in a table"
        raise InputError("format", name, rule, remedy)
    return name
