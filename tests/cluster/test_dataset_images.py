"""Image sets from Ray Datasets, in the datasets' order."""

import io

import numpy as np
import pytest
import ray
from PIL import Image

import rsf_dist as rsf

pytestmark = pytest.mark.ray

TENSORS = np.arange(4 * 3 * 2 * 5, dtype=np.uint8).reshape(4, 3, 2, 5)


def encoded(level: int, kind: str = "BMP") -> bytes:
    """Return the bytes of an image of 2 x 3. Those of a black BMP end with zeros."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (level,) * 3).save(file, kind)
    return file.getvalue()


def refusal(dataset: ray.data.Dataset, **options) -> rsf.InputError:
    with pytest.raises(rsf.InputError) as caught:
        rsf.images_from_dataset(dataset, **options)
    return caught.value


def test_tensors_and_whole_numbers():
    images = rsf.images_from_dataset(ray.data.from_numpy(TENSORS), image_column="data")
    assert images.images.numpy().tolist() == TENSORS.tolist()
    assert images.labels is None
    rows = [{"image": image, "label": label} for image, label in zip(TENSORS, [2, 0, 1, 0], strict=True)]
    images = rsf.images_from_dataset(ray.data.from_items(rows), channels=1)
    assert images.images.shape == (4, 1, 2, 5)
    assert images.labels.tolist() == [2, 0, 1, 0]
    assert images.classes == ("0", "1", "2")
    assert images.ids == ("0", "1", "2", "3")


def test_blocks_that_end_late_stay_in_their_order():
    def slow_first(rows: dict) -> dict:
        import time

        import numpy

        time.sleep(2.0 * (rows["id"][0] == 0))
        return {"image": numpy.full((1, 1, 2, 2), rows["id"][0], numpy.uint8), "label": numpy.array(["x"])}

    dataset = ray.data.range(4, override_num_blocks=4).map_batches(slow_first)
    assert rsf.images_from_dataset(dataset, classes=("y", "x")).images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_images_of_several_sizes_and_hugging_face_s_structs():
    rows = [
        {"image": {"bytes": encoded(7), "path": "a.bmp"}},
        {"image": {"bytes": encoded(9, "PNG"), "path": None}},
    ]
    assert rsf.images_from_dataset(ray.data.from_items(rows)).images[:, 0, 0, 0].tolist() == [7, 9]
    rows = [{"image": np.zeros((1, 2, 2), np.uint8)}, {"image": np.ones((1, 3, 3), np.uint8)}]
    dataset = ray.data.from_items(rows)
    err = refusal(dataset)
    assert err.field == "size"
    assert "dataset row 1" in err.rule
    assert rsf.images_from_dataset(dataset, size=(4, 4)).images[:, 0, 0, 0].tolist() == [0, 1]


def test_what_is_wrong_is_named_by_its_argument_or_row():
    rows = [{"image": encoded(1), "label": "x", "other": 1.5}, {"image": b"no image", "label": "", "other": 0.0}]
    dataset = ray.data.from_items(rows)
    assert refusal(dataset, image_column="img").field == "image_column"
    assert "but image, label, other" in refusal(dataset, label_column="lable").rule
    assert refusal(dataset).field == "dataset row 1 (the first is 0)"
    assert "is not a readable image" in refusal(dataset).rule
    sound = ray.data.from_items([row | {"image": encoded(1)} for row in rows])
    assert "has no label" in refusal(sound).rule
    assert refusal(sound, label_column="other").value == "1.5"
    assert refusal(sound, image_column="label").value == "str"
    assert refusal(sound, size=(0, 4)).field == "size.0"
    assert rsf.images_from_dataset(sound, label_column="").labels is None
    assert "holds no images" in refusal(sound.limit(0)).rule
