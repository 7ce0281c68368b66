"""Small image sets with annotations, for the tests of their sources."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsf_dist.config.images import IMAGE_KINDS
from rsf_dist.data.images import ImageSet, load_images
from rsf_dist.data.sources import list_images
from rsf_dist.errors import InputError


def image(path: Path, height: int = 20, width: int = 40, **options: Any) -> None:
    """Write an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(height).integers(256, size=(height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def on_its_side(path: Path, orientation: int, height: int = 20, width: int = 40) -> None:
    """Write an image that is stored as height x width, and turned when it is shown."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image(path, height, width, exif=exif)


def config(kind: str, **options: Any) -> Any:
    given = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    model = IMAGE_KINDS.find(kind)
    assert model is not None
    return model.model_validate({"kind": kind, **given})


def load(kind: str, **options: Any) -> ImageSet:
    return load_images(config(kind, **options))


def notes(kind: str, **options: Any) -> str:
    return "\n".join(list_images(config(kind, **options)).notes)


def refusal(kind: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(kind, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def coco(folder: Path, annotations: list[dict[str, Any]] | None = None, **lists: Any) -> dict[str, Any]:
    """Write images 20 high and 40 wide and their JSON file; returns what a configuration needs.

    Without `images` there are a.png (id 1) and b.png (id 2); the categories are cat (3), dog (7), cow (90).
    """
    document = {
        "images": [
            {"id": number, "file_name": name, "height": 20, "width": 40}
            for number, name in [(1, "a.png"), (2, "b.png")]
        ],
        "categories": [{"id": number, "name": name} for number, name in [(90, "cow"), (3, "cat"), (7, "dog")]],
        "annotations": annotations,
        **lists,
    }
    if annotations is None:
        del document["annotations"]
    for name in ("a.png", "b.png"):
        image(folder / "images" / name)
    (folder / "coco.json").write_text(json.dumps(document))
    return {"root": folder / "images", "annotations": folder / "coco.json"}


def box(number: int, bbox: Any, category: Any = 3, image_id: Any = 1, **more: Any) -> dict[str, Any]:
    """An annotation of a box."""
    return {"id": number, "image_id": image_id, "category_id": category, "bbox": bbox, **more}


def voc(folder: Path, objects: str, size: str = "<size><width>40</width><height>20</height></size>") -> Path:
    """Write a.jpg with an XML file."""
    image(folder / "JPEGImages" / "a.jpg")
    (folder / "Annotations").mkdir(exist_ok=True)
    (folder / "Annotations" / "a.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    return folder


def voc_object(name: str, *corners: object, more: str = "") -> str:
    """An object of a VOC file."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, corners, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{inner}</bndbox></object>"


def yolo(folder: Path, lines: str, yaml: str = "names: [cat, dog]\ntrain: images/train\n") -> Path:
    """Write a.png with a text file, b.png without one, and data.yaml."""
    for name in ("a.png", "b.png"):
        image(folder / "images" / "train" / name)
    (folder / "labels" / "train").mkdir(parents=True, exist_ok=True)
    (folder / "labels" / "train" / "a.txt").write_text(lines)
    (folder / "data.yaml").write_text(yaml)
    return folder


def masks(folder: Path, *rows: Any, mode: str = "L", suffix: str = ".png") -> dict[str, Any]:
    """Write images 2 high and 3 wide with a mask each; returns what a configuration needs."""
    for number, numbers in enumerate(rows):
        image(folder / "images" / f"{number}.png", 2, 3)
        path = folder / "masks" / f"{number}{suffix}"
        path.parent.mkdir(exist_ok=True)
        picture = Image.fromarray(np.array(numbers, np.uint8))
        if mode == "P":
            picture.putpalette([200, 100, 50] * 256)  # colours that are all alike tell nothing: only the numbers do
        picture.save(path)
    return {"root": folder / "images", "masks": folder / "masks"}
