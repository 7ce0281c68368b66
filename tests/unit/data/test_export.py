"""Image sets written as files, and read back."""

import numpy as np
import pytest
import torch
from data.annotated_files import load

from rsf_dist.data.export import write_coco, write_masks, write_voc, write_yolo
from rsf_dist.data.images import ImageSet
from rsf_dist.errors import InputError

CLASSES = ("cat", "dog", "owl")


def pixels(count: int = 3, channels: int = 3) -> torch.Tensor:
    return torch.randint(256, (count, channels, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def boxed(crowd: bool = False) -> ImageSet:
    boxes = torch.tensor([[[0, 0, 16, 12], [1.3, 2.7, 5.1, 9]], [[0] * 4] * 2, [[3, 4, 5, 6], [0] * 4]])
    annotations = {"boxes": boxes, "box_label": torch.tensor([[2, 0], [-1, -1], [1, -1]])}
    if crowd:
        annotations["box_label"][0, 1] = -1
        annotations["box_crowd"] = torch.tensor([[-1, 0], [-1, -1], [-1, -1]])
    return ImageSet(pixels(), None, CLASSES, annotations, ("a/1.png", "b/1.png", "c.png"))


def masked(channels: int = 3) -> ImageSet:
    mask = np.random.default_rng(2).choice(np.array([0, 1, 2, 255], np.uint8), (3, 12, 16))
    return ImageSet(
        pixels(channels=channels), None, CLASSES, {"mask": torch.from_numpy(mask)}, ("0.png", "1.png", "2.png")
    )


def require_same(found: ImageSet, wanted: ImageSet) -> None:
    assert found.digest() == wanted.digest()
    assert found.ids == wanted.ids


@pytest.mark.parametrize("crowd", [False, True])
def test_coco_reads_back_what_was_written(crowd, tmp_path):
    write_coco(boxed(crowd), tmp_path)
    found = load("coco", root=tmp_path / "images", annotations=tmp_path / "annotations.json")
    require_same(found, boxed(crowd))


@pytest.mark.parametrize("channels", [1, 3])
def test_coco_reads_back_masks(channels, tmp_path):
    write_coco(masked(channels), tmp_path)
    files = {"root": tmp_path / "images", "annotations": tmp_path / "annotations.json"}
    require_same(load("coco", **files, masks=True, background=None, channels=channels), masked(channels))
    assert load("coco", **files).annotations["box_label"].max() == 2  # each region has its box, too


@pytest.mark.parametrize("crowd", [False, True])
def test_voc_reads_back_what_was_written(crowd, tmp_path):
    write_voc(boxed(crowd), tmp_path)
    require_same(load("voc", root=tmp_path, classes=CLASSES, split="all"), boxed(crowd))
    require_same(load("voc", root=tmp_path, classes=CLASSES), boxed(crowd))


def test_yolo_reads_back_what_was_written_up_to_rounding(tmp_path):
    write_yolo(boxed(), tmp_path)
    found = load("yolo", root=tmp_path)
    torch.testing.assert_close(found.annotations["boxes"], boxed().annotations["boxes"], atol=1e-5, rtol=0)
    assert torch.equal(found.annotations["box_label"], boxed().annotations["box_label"])
    assert torch.equal(found.images, boxed().images)
    assert found.classes == CLASSES
    with pytest.raises(InputError, match="cannot be written as YOLO"):
        write_yolo(boxed(crowd=True), tmp_path)


def test_masks_read_back_what_was_written(tmp_path):
    write_masks(masked(), tmp_path)
    require_same(load("mask_folder", root=tmp_path / "images", masks=tmp_path / "masks", classes=CLASSES), masked())


def test_images_without_names_are_numbered_and_equal_stems_stay_apart(tmp_path):
    images = boxed()
    write_coco(ImageSet(images.images, None, CLASSES, images.annotations), tmp_path / "numbered")
    assert sorted(path.name for path in (tmp_path / "numbered" / "images").iterdir()) == ["0.png", "1.png", "2.png"]
    ids = ("a.jpg", "a.bmp", "b.jpg")
    write_voc(ImageSet(images.images, None, CLASSES, images.annotations, ids), tmp_path / "stems")
    found = load("voc", root=tmp_path / "stems", split="all")
    assert found.ids == ("a.jpg.png", "a.bmp.png", "b.jpg.png")
    assert torch.equal(found.images, images.images)


def test_sets_without_what_a_format_holds_are_refused(tmp_path):
    for write in (write_voc, write_yolo, write_coco):
        with pytest.raises(InputError, match="need a column"):
            write(ImageSet(pixels()), tmp_path)
    with pytest.raises(InputError, match="need a column `mask`"):
        write_masks(boxed(), tmp_path)
    with pytest.raises(InputError, match="must be the path of a file below"):
        write_coco(ImageSet(pixels(1), None, (), {"mask": torch.zeros(1, 12, 16)}, ("../a.png",)), tmp_path)
