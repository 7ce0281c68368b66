"""Folders of images that hold what is no image, or whose folders are no classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bad_input.case import Case, Changes
from bad_input.pictures import BROKEN_FILES, PNG, image_bytes, sixteen_bits

Spoil = Callable[[Path], object]


def a_folder(folder: Path, extra: dict[str, bytes]) -> Path:
    """A folder of forty sound images, and what else is named."""
    root = folder / "pictures"
    root.mkdir()
    for number in range(40):
        (root / f"{number:02d}.png").write_bytes(PNG)
    for name, data in extra.items():
        (root / name).write_bytes(data)
    return root


def _target_with(name: str, data: bytes) -> Callable[[Path], Changes]:
    return lambda folder: {"target": {"kind": "image_folder", "root": str(a_folder(folder, {name: data}))}}


def _spoiled_folder(spoil: Spoil, key: str = "target", **options: Any) -> Callable[[Path], Changes]:
    def changes(folder: Path) -> Changes:
        root = a_folder(folder, {})
        spoil(root)
        return {key: {"kind": "image_folder", "root": str(root), **options}}

    return changes


def _in_classes(root: Path) -> None:
    for number, file in enumerate(sorted(root.iterdir())):
        (root / "ab"[number % 2]).mkdir(exist_ok=True)
        file.rename(root / "ab"[number % 2] / file.name)


def _in_parts(root: Path) -> None:
    _in_classes(root)
    for part in ("train", "val"):
        (root / part).mkdir()
    for name, part in (("a", "train"), ("b", "val")):
        (root / name).rename(root / part / name)


def _with_an_empty_class(root: Path) -> None:
    _in_classes(root)
    (root / "c").mkdir()


def _with_a_link_for_a_class(root: Path) -> None:
    _in_classes(root)
    (root / "c").symlink_to("nowhere")


def _with_latin_names(root: Path) -> None:
    _in_classes(root)
    os.rename(root / "a", os.fsencode(root) + b"/caf\xe9")


def _of_other_formats(root: Path) -> None:
    for file in root.iterdir():
        file.rename(file.with_suffix(".heic"))


def _of_twelve_bits(root: Path) -> None:
    for file in root.iterdir():
        file.write_bytes(sixteen_bits(4095))


def _holding_a_run(root: Path) -> None:
    (root / "run").mkdir()
    for name in ("config.yaml", "manifest.json", "x.png"):
        (root / "run" / name).write_bytes(PNG)


def _with_a_stray(root: Path) -> None:
    _in_classes(root)
    (root / "stray.png").write_bytes(PNG)


def _linked_to_itself(root: Path) -> None:
    _in_classes(root)
    (root / "a" / "again").symlink_to(root)


def _emptied(root: Path) -> None:
    for file in root.iterdir():
        file.unlink()


def _with_another_size(root: Path) -> None:
    (root / "x.png").write_bytes(image_bytes(size=9))


_X, _TEST = "{folder}/pictures/x.png", "evaluation.test"
FOLDERS: dict[str, tuple[str, Callable[[Path], Changes]]] = {
    "is empty": ("target.root", _spoiled_folder(_emptied)),
    "holds a link to nothing": (_X, _spoiled_folder(lambda root: (root / "x.png").symlink_to("no"))),
    "holds a link to itself": (_X, _spoiled_folder(lambda root: (root / "x.png").symlink_to("x.png"))),
    "holds a pipe": (_X, _spoiled_folder(lambda root: os.mkfifo(root / "x.png"))),
    "holds a folder that leads back": ("target.root", _spoiled_folder(_linked_to_itself)),
    "holds an image beside class folders": ("source.root", _spoiled_folder(_with_a_stray, "source")),
    "holds another size": ("target.size", _spoiled_folder(_with_another_size)),
    "holds colours, the source greys": ("target", _spoiled_folder(lambda root: None)),
    "holds other sizes than the source": ("target", _spoiled_folder(lambda root: None, size=[9, 9], channels=1)),
    "has classes that are not listed": ("source.root", _spoiled_folder(_in_classes, "source", classes=["a", "c"])),
    "has an empty class folder": ("source.root", _spoiled_folder(_with_an_empty_class, "source")),
    "has a link to nothing for a class": ("source.root", _spoiled_folder(_with_a_link_for_a_class, "source")),
    "has a class whose name is no UTF-8": ("source.root", _spoiled_folder(_with_latin_names, "source")),
    "is one level too high": ("source.root", _spoiled_folder(_in_parts, "source")),
    "holds formats that are not read": ("target.root", _spoiled_folder(_of_other_formats)),
    "holds twelve bits in sixteen": ("target.bits", _spoiled_folder(_of_twelve_bits, channels=1)),
    "is brighter than its bits": ("{folder}/pictures/00.png", _spoiled_folder(_of_twelve_bits, channels=1, bits=10)),
    "holds the directory of a run": ("target.root", _spoiled_folder(_holding_a_run)),
    "has no labels for the source": ("source", _spoiled_folder(lambda root: None, "source", channels=1)),
    "has no labels for the test": (_TEST, _spoiled_folder(lambda root: None, _TEST, channels=1)),
    "has other classes": (_TEST, _spoiled_folder(_in_classes, _TEST, channels=1)),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them, each once."""
    for name, (file, data) in BROKEN_FILES.items():
        yield Case(f"one image of many is {name}", f"{{folder}}/pictures/{file}", _target_with(file, data))
    for name, (field, changes) in FOLDERS.items():
        yield Case(f"the image folder {name}", field, changes)
