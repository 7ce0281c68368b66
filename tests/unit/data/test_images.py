import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from rsf_dist.config.images import IMAGE_KINDS
from rsf_dist.data.images import ImageSet, load_images
from rsf_dist.errors import InputError


def load(kind, root=None, **options):
    given = options if root is None else {"root": str(root), **options}
    return load_images(IMAGE_KINDS.find(kind)(kind=kind, **given))


def refusal(kind, root=None, **options):
    with pytest.raises(InputError) as caught:
        load(kind, root, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def idx(array):
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder, images, labels, prefix="train", pack=lambda data: data, suffix=""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
    (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))


def write_image(path, value, size=(4, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], value).save(path)


IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([2, 0, 1])


def test_digits():
    digits = load("digits")
    raw = load_digits()
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.dtype == torch.uint8
    # scikit-learn's digits run from 0 to 16; 16 becomes 255 and 8 becomes 127.5, rounded to the even 128
    assert digits.images[raw.images[:, None] == 16].unique().tolist() == [255]
    assert digits.images[raw.images[:, None] == 8].unique().tolist() == [128]
    assert digits.labels.tolist() == raw.target.tolist()
    assert digits.classes == tuple("0123456789")


def test_start_and_limit():
    everything, part = load("digits"), load("digits", start=5, limit=3)
    assert torch.equal(part.images, everything.images[5:8])
    assert torch.equal(part.labels, everything.labels[5:8])
    assert len(load("digits", start=1790)) == 7
    assert len(load("digits", start=1790, limit=100)) == 7
    assert refusal("digits", start=1797).field == "start"


@pytest.mark.parametrize("where", ["", "FashionMNIST/raw", "MNIST/raw"])
@pytest.mark.parametrize(("pack", "suffix"), [(lambda data: data, ""), (gzip.compress, ".gz")])
def test_idx(tmp_path, where, pack, suffix):
    write_idx(tmp_path / where, IMAGES, LABELS, pack=pack, suffix=suffix)
    write_idx(tmp_path / where, IMAGES[:1], LABELS[1:2], prefix="t10k", pack=pack, suffix=suffix)
    train = load("idx", tmp_path)
    assert torch.equal(train.images, torch.from_numpy(IMAGES)[:, None])
    assert train.labels.tolist() == [2, 0, 1]
    assert train.classes == ("0", "1", "2")
    assert load("idx", tmp_path, split="test").labels.tolist() == [0]
    assert load("idx", tmp_path, classes=("a", "b", "c", "d")).classes == ("a", "b", "c", "d")


def test_idx_label_outside_of_the_classes(tmp_path):
    write_idx(tmp_path, IMAGES, LABELS)
    error = refusal("idx", tmp_path, classes=("a", "b"))
    assert (error.field, error.value) == ("labels", 2)


def test_idx_with_a_label_too_few(tmp_path):
    write_idx(tmp_path, IMAGES, LABELS[:2])
    assert refusal("idx", tmp_path).rule == "`labels` must be integers of shape [3]"


def test_idx_files_absent(tmp_path):
    assert "holds no train-images-idx3-ubyte" in refusal("idx", tmp_path).rule
    assert refusal("idx", tmp_path / "absent").rule == "does not exist"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x08",
        b"\x00\x00\x08\x03\x00\x00",
        b"\x00\x00\x0d\x01\x00\x00\x00\x00",
        idx(IMAGES)[:-1],
        idx(IMAGES) + b"\x00",
    ],
)
def test_idx_file_that_is_none_or_cut_short(tmp_path, data):
    write_idx(tmp_path, IMAGES, LABELS)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    assert refusal("idx", tmp_path).field.endswith("train-images-idx3-ubyte")


@pytest.mark.parametrize(
    "spoil", [lambda data: b"junk", lambda data: data[:-12], lambda data: data[:12] + 20 * b"\xff"]
)
def test_idx_archive_that_cannot_be_unpacked(tmp_path, spoil):
    write_idx(tmp_path, IMAGES, LABELS, pack=gzip.compress, suffix=".gz")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(spoil(gzip.compress(idx(IMAGES))))
    assert refusal("idx", tmp_path).field.endswith("train-images-idx3-ubyte.gz")


def test_npz(tmp_path):
    np.savez(tmp_path / "grey.npz", images=IMAGES, labels=LABELS.astype(np.int32), classes=np.array(["a", "b", "c"]))
    grey = load("npz", tmp_path / "grey.npz")
    assert torch.equal(grey.images, torch.from_numpy(IMAGES)[:, None])
    assert grey.labels.dtype == torch.int64
    assert grey.labels.tolist() == [2, 0, 1]
    assert grey.classes == ("a", "b", "c")
    np.savez(tmp_path / "rgb.npz", images=np.zeros((2, 3, 4, 5), np.uint8))
    rgb = load("npz", tmp_path / "rgb.npz")
    assert rgb.images.shape == (2, 3, 4, 5)
    assert rgb.labels is None


@pytest.mark.parametrize(
    ("arrays", "field"),
    [
        ({"pictures": IMAGES}, "root"),
        ({"images": IMAGES / 255}, "root"),
        ({"images": IMAGES[0]}, "root"),
        ({"images": np.zeros((2, 8, 9, 3), np.uint8)}, "root"),  # channels last
        ({"images": IMAGES, "labels": LABELS / 2}, "labels"),
        ({"images": IMAGES, "labels": LABELS[:2]}, "labels"),
        ({"images": IMAGES, "labels": LABELS - 1}, "labels"),
        ({"images": IMAGES, "labels": np.array(["cat", "dog", "cat"])}, "labels"),
        ({"images": IMAGES, "labels": LABELS, "classes": np.array(["a", "b"])}, "labels"),
        ({"images": IMAGES[:0]}, "root"),
        ({"images": np.array([{}], dtype=object)}, "root"),
    ],
)
def test_npz_of_wrong_arrays(tmp_path, arrays, field):
    np.savez(tmp_path / "a.npz", **arrays)
    assert refusal("npz", tmp_path / "a.npz").field == field


def test_npz_file_that_is_none(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES)
    whole = path.read_bytes()
    np.save(tmp_path / "array.npy", IMAGES)
    for data in (b"", b"text", whole[: len(whole) // 2], whole[:60] + b"\xff\xff" + whole[62:]):
        path.write_bytes(data)
        assert refusal("npz", path).rule.startswith("is not an npz file of plain arrays")
    assert refusal("npz", tmp_path / "array.npy").rule.startswith("is not an npz file of plain arrays")


def test_folder_of_class_folders(tmp_path):
    write_image(tmp_path / "dog" / "b.png", (9, 9, 9))
    write_image(tmp_path / "cat" / "a.PNG", (1, 2, 3))
    write_image(tmp_path / "dog" / "deeper" / "c.png", (7, 7, 7))
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    found = load("image_folder", tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [0, 1, 1]
    assert found.images.shape == (3, 3, 4, 6)
    assert found.images[:, :, 0, 0].tolist() == [[1, 2, 3], [9, 9, 9], [7, 7, 7]]


def test_classes_may_be_listed_in_another_order(tmp_path):
    write_image(tmp_path / "cat" / "a.png", (1, 1, 1))
    write_image(tmp_path / "dog" / "b.png", (9, 9, 9))
    found = load("image_folder", tmp_path, classes=("dog", "bird", "cat"))
    assert found.labels.tolist() == [2, 0]
    error = refusal("image_folder", tmp_path, classes=("dog", "bird"))
    assert (error.field, error.value) == ("root", "cat")


def test_flat_folder_is_unlabelled(tmp_path):
    write_image(tmp_path / "b.jpg", (200, 200, 200))
    write_image(tmp_path / "a.png", (10, 10, 10))
    found = load("image_folder", tmp_path)
    assert found.labels is None
    assert found.classes == ()
    assert found.images[:, 0, 0, 0].tolist() == [10, 200]


def test_folder_without_images(tmp_path):
    assert refusal("image_folder", tmp_path).rule == "holds no images"
    (tmp_path / "cat").mkdir()
    assert refusal("image_folder", tmp_path).rule == "holds no images"
    assert refusal("image_folder", tmp_path / "absent").rule == "does not exist"
    write_image(tmp_path / "a.png", (1, 1, 1))
    assert refusal("image_folder", tmp_path / "a.png").rule == "must be a folder"


def test_unreadable_images(tmp_path):
    write_image(tmp_path / "a.png", (1, 1, 1), size=(40, 40))
    whole = (tmp_path / "a.png").read_bytes()
    for data in (b"", b"no image", whole[: len(whole) // 2]):
        (tmp_path / "a.png").write_bytes(data)
        error = refusal("image_folder", tmp_path)
        assert error.field == str(tmp_path / "a.png")
        assert error.rule.startswith("is not a readable image: it is ")


def test_image_beside_class_folders(tmp_path):
    write_image(tmp_path / "cat" / "a.png", (1, 1, 1))
    write_image(tmp_path / "stray.png", (1, 1, 1))
    assert refusal("image_folder", tmp_path).value == "stray.png"


def test_mixed_sizes_need_a_size(tmp_path):
    write_image(tmp_path / "a.png", (50, 50, 50), size=(8, 12))
    write_image(tmp_path / "b.png", (90, 90, 90), size=(20, 10))
    error = refusal("image_folder", tmp_path)
    assert (error.field, error.value) == ("size", [20, 10])
    assert "a.png [8, 12]" in error.rule
    found = load("image_folder", tmp_path, size=(6, 9))
    assert found.images.shape == (2, 3, 6, 9)
    # covered, not padded: no pixel of another colour enters
    assert found.images[0].unique().tolist() == [50]
    assert found.images[1].unique().tolist() == [90]


def test_size_crops_the_middle_and_does_not_stretch(tmp_path):
    # 4 x 12: black, white, black columns of four each; the middle square of size 4 is all white
    pixels = np.zeros((4, 12), np.uint8)
    pixels[:, 4:8] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = load("image_folder", tmp_path, size=(4, 4), channels=1)
    assert found.images.unique().tolist() == [255]


def test_channels(tmp_path):
    write_image(tmp_path / "a.png", (255, 0, 0))
    write_image(tmp_path / "b.png", 100, mode="L")
    assert load("image_folder", tmp_path).images[:, :, 0, 0].tolist() == [[255, 0, 0], [100, 100, 100]]
    # Pillow's grey: .299 R + .587 G + .114 B, so red is 76
    assert load("image_folder", tmp_path, channels=1).images[:, :, 0, 0].tolist() == [[76], [100]]


def test_subset_and_requirements():
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    labelled = ImageSet(images, torch.tensor([0, 1, 0, 1]), ("a", "b"))
    assert labelled.subset(torch.tensor([1, 3])).labels.tolist() == [1, 1]
    assert labelled.require_labels().tolist() == [0, 1, 0, 1]
    with pytest.raises(InputError, match=r"^unlabelled images: needs labels"):
        ImageSet(images).require_labels()
    ImageSet(images).require_like(labelled)
    labelled.require_like(labelled)
    with pytest.raises(InputError, match=r"^b, a: classes must be the source's, a, b"):
        ImageSet(images, labelled.labels, ("b", "a")).require_like(labelled)
    with pytest.raises(InputError, match=r"^\(1, 2, 2\): .* \(3, 2, 2\)"):
        ImageSet(images).require_like(ImageSet(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)))


def test_a_set_is_summed_up_in_a_line():
    images = torch.zeros(1_200, 3, 4, 6, dtype=torch.uint8)
    assert ImageSet(images).summary() == "1,200 3-channel images of 4 x 6 pixels"
    labels = torch.tensor([0] * 1_000 + [1] * 200)
    assert ImageSet(images, labels, ("a", "b", "c")).summary().endswith(", 3 classes of 0 to 1,000 images")
    even = ImageSet(images[:4, :1], torch.tensor([0, 0, 1, 1]), ("a", "b"))
    assert even.summary() == "4 grey images of 4 x 6 pixels, 2 classes of 2 images"


def test_an_image_set_says_how_its_images_were_brought_to_their_size(tmp_path):
    write_image(tmp_path / "a.png", 3)
    found = load("image_folder", tmp_path, size=5, resize="fit", bits=12)
    for images in (found, found.subset(slice(0, 1))):
        assert (images.resize, images.bits) == ("fit", 12)
    assert (load("digits", limit=3).resize, load("digits", limit=3).bits) == ("cover", None)
