"""Image sets from torchvision.datasets: splits, options, labels without decoding, and nothing downloaded unasked."""

import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from test_images import write_idx

from rsf_dist.config.images import TorchvisionDatasetConfig
from rsf_dist.data.images import ImageSet, load_images
from rsf_dist.data.sources import list_images, torchvision_dataset
from rsf_dist.errors import InputError

FAKE = {"size": 6, "image_size": [3, 4, 5], "num_classes": 3}
DIGITS = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)


def load(name: str, root: Path | None = None, **keys) -> ImageSet:
    return load_images(TorchvisionDatasetConfig(name=name, root=None if root is None else str(root), **keys))


def refusal(name: str, root: Path | None = None, **keys) -> InputError:
    with pytest.raises(InputError) as caught:
        load(name, root, **keys)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Return a root with three training images, of the digits 2, 0, 9, and a test image, of digit 1."""
    write_idx(tmp_path / "MNIST" / "raw", DIGITS, np.array([2, 0, 9]))
    write_idx(tmp_path / "MNIST" / "raw", DIGITS[:1], np.array([1]), prefix="t10k")
    return tmp_path


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*given, **options):
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(socket, "create_connection", refuse)


def test_mnist_is_as_torchvision_reads_it(mnist):
    images = load("MNIST", mnist)
    assert images.images.numpy().tolist() == DIGITS[:, None].tolist()
    assert images.labels.tolist() == [2, 0, 9]
    assert images.classes[:2] == ("0 - zero", "1 - one")
    assert load("MNIST", mnist, split="train").labels.tolist() == [2, 0, 9]
    assert load("MNIST", mnist, split="test").labels.tolist() == [1]
    assert load("MNIST", mnist, options={"train": False}).labels.tolist() == [1]
    assert load("MNIST", mnist, channels=3, size=(14, 14)).images.shape == (3, 3, 14, 14)
    assert load("MNIST", mnist, classes=tuple("abcdefghij")).classes == tuple("abcdefghij")


def test_a_data_set_that_lists_no_labels_is_read_for_them():
    images = load("FakeData", options=FAKE)
    expected = torchvision.datasets.FakeData(6, (3, 4, 5), 3)
    assert images.labels.tolist() == [expected[row][1] for row in range(6)]
    for row in range(6):
        assert images.images[row].permute(1, 2, 0).tolist() == np.asarray(expected[row][0]).tolist()
    assert load("FakeData", options=FAKE, channels=1).images.shape == (6, 1, 4, 5)


def test_images_of_files_are_decoded_only_when_taken(tmp_path):
    for number, name in enumerate(["cat/a.png", "dog/b.png", "dog/c.png"], start=1):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (3, 2), (10 * number,) * 3).save(tmp_path / name)
    (tmp_path / "dog" / "c.png").write_text("no image")
    config = TorchvisionDatasetConfig(name="ImageFolder", root=str(tmp_path))
    listing = list_images(config)
    assert listing.classes == ("cat", "dog")
    assert listing.labels.tolist() == [0, 1, 1]
    read = pickle.loads(pickle.dumps(listing.read))
    assert read([1, 0])["image"][:, 0, 0, 0].tolist() == [20, 10]
    err = refusal("ImageFolder", tmp_path)
    assert err.field == "ImageFolder image 2"
    assert "cannot be read" in err.rule


def test_nothing_is_downloaded_unless_asked_for(tmp_path, monkeypatch):
    asked = []

    class Remembering(torchvision.datasets.FakeData):
        def __init__(self, root, download=True):
            asked.append(download)
            super().__init__(3)

    monkeypatch.setattr(torchvision.datasets, "MNIST", Remembering)
    load("MNIST", tmp_path)
    load("MNIST", tmp_path, download=True)
    assert asked == [False, True]


def test_files_that_are_not_there_are_refused_and_not_downloaded(tmp_path):
    for name in ("MNIST", "CIFAR10", "EMNIST", "SEMEION", "SBU"):  # the last two download by default
        err = refusal(name, tmp_path, **({"split": "letters"} if name == "EMNIST" else {}))
        assert err.field == "root"
        assert "download: true" in err.remedy
    assert list(tmp_path.iterdir()) == []
    assert "does not exist" in refusal("MNIST", tmp_path / "none").rule


@pytest.mark.parametrize(
    ("name", "keys", "field", "rule"),
    [
        ("Mnist", {}, "name", "is no data set of torchvision.datasets"),
        ("utils", {}, "name", "is no data set of torchvision.datasets"),
        ("__class__", {}, "name", "is no data set of torchvision.datasets"),
        ("LSUN", {}, "name", "unpickles files"),
        ("DatasetFolder", {}, "name", "is no data set of torchvision.datasets"),
        ("wrap_dataset_for_transforms_v2", {}, "name", "is no data set of torchvision.datasets"),
        ("FakeData", {"options": {"sizes": 3}}, "options.sizes", "has no such option"),
        ("FakeData", {"options": {"transform": "x"}}, "options.transform", "has no such option"),
        ("FakeData", {"options": {"size": "x"}}, "options", "refuses its options"),
        ("FakeData", {"split": "train"}, "split", "has no splits"),
        ("FakeData", {"download": True}, "download", "cannot download FakeData"),
        ("MNIST", {}, "root", "is required by MNIST"),
    ],
)
def test_what_a_data_set_does_not_have_is_refused(name, keys, field, rule):
    err = refusal(name, **keys)
    assert err.field == field
    assert rule in err.rule


def test_a_misspelt_name_is_told_the_nearest():
    assert refusal("fashion_mnist").remedy == "did you mean FashionMNIST?"
    assert "choose one of ImageFolder, FakeData" in refusal("zzzzzzzzzzzz").remedy


def test_splits_are_those_of_the_class(mnist):
    assert refusal("MNIST", mnist, split="val").field == "split"
    err = refusal("SVHN", mnist, split="val")
    assert "Valid values are" in err.rule
    assert "known here: num_classes" not in refusal("MNIST", mnist, options={"x": 1}).remedy
    assert refusal("EMNIST", mnist, split="letters", options={"x": 1}).remedy == "known here: split, train"


def stand_in(monkeypatch, items, **attributes):
    """Let FakeData hold these items and attributes."""
    made = type("FakeData", (torch.utils.data.Dataset,), {
        "__init__": lambda self: None, "__getitem__": lambda self, row: items[row], "__len__": lambda self: len(items),
        **attributes,
    })  # fmt: skip
    monkeypatch.setattr(torchvision.datasets, "FakeData", made)


BLACK = Image.new("RGB", (3, 2))


@pytest.mark.parametrize("target", [{"boxes": [1]}, BLACK, "a caption", torch.zeros(40), 0.5, torch.tensor(0.5)])
def test_a_data_set_without_one_class_an_image_is_refused(monkeypatch, target):
    stand_in(monkeypatch, [(BLACK, target)])
    err = refusal("FakeData")
    assert err.field == "FakeData image 0"
    assert "an image and its class's number" in err.rule


def test_a_class_s_number_below_zero_is_named_by_its_image(monkeypatch):
    stand_in(monkeypatch, [(BLACK, 0), (BLACK, -2)])
    err = refusal("FakeData")
    assert (err.field, err.value) == ("FakeData image 1", -2)


def unlabelled(**keys) -> ImageSet:
    return load_images(TorchvisionDatasetConfig(name="FakeData", **keys), labelled=False)


@pytest.mark.parametrize("target", [{"boxes": [1]}, "a caption", -2, None, torch.tensor(0.5)])
def test_labels_that_are_not_wanted_are_not_looked_at(monkeypatch, target):
    stand_in(monkeypatch, [(BLACK, 0), (BLACK, target)])
    assert (unlabelled().labels, len(unlabelled())) == (None, 2)
    stand_in(monkeypatch, [(BLACK, 0), (BLACK, 0), (BLACK, 1)])
    assert unlabelled(limit=2).ids == ("0", "2")
    assert unlabelled(limit=2, classes=("a",)).ids == ("0", "1")


def test_what_is_no_pair_is_refused(monkeypatch):
    stand_in(monkeypatch, [(BLACK, BLACK, 1)])
    assert "an image and its class's number" in refusal("FakeData").rule
    with pytest.raises(InputError, match="must be an image and its class's number"):
        unlabelled()


@pytest.mark.parametrize("label", [-1, None])
def test_images_without_any_label_are_unlabelled(monkeypatch, label):
    stand_in(monkeypatch, [(BLACK, label), (BLACK, label)])
    assert load("FakeData").labels is None


def test_listed_labels_are_held_against_those_of_the_images(monkeypatch):
    stand_in(monkeypatch, [(BLACK, 0), (BLACK, 1)], targets=[0, 1])
    assert load("FakeData").labels.tolist() == [0, 1]
    stand_in(monkeypatch, [(BLACK, 0), (BLACK, 1)], targets=[1, 0])
    err = refusal("FakeData")
    assert err.field == "FakeData image 0"
    assert "another class" in err.rule


@pytest.mark.parametrize("name", ["targets", "labels", "_labels", "y"])
def test_labels_are_listed_without_reading_an_image(monkeypatch, name):
    stand_in(monkeypatch, [None, None], **{name: [1, 0]})  # items that could not be read
    listing = list_images(TorchvisionDatasetConfig(name="FakeData"))
    assert listing.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("error", "field", "rule"),
    [
        (MemoryError(), "root", "do not fit into this machine's memory"),
        (OSError("broken"), "FakeData image 0", "cannot be read (broken)"),
    ],
)
def test_lack_of_memory_is_no_fault_of_the_file(monkeypatch, error, field, rule):
    def fail(self, row):
        raise error

    stand_in(monkeypatch, [None, None], targets=[1, 0], __getitem__=fail)
    found = refusal("FakeData")
    assert (found.field, found.rule) == (field, rule)


def test_grey_and_coloured_images_need_channels(monkeypatch):
    stand_in(monkeypatch, [(BLACK, 0), (BLACK.convert("L"), 1)])
    assert refusal("FakeData").field == "channels"
    assert load("FakeData", channels=1).images.shape == (2, 1, 2, 3)
    stand_in(monkeypatch, [(BLACK.convert("I"), 0)])
    assert "mode I" in str(refusal("FakeData"))


def test_names_of_several_words_and_names_twice(monkeypatch):
    """ImageNet's names are lists of synonyms, and two of its classes are called crane."""
    stand_in(monkeypatch, [(BLACK, 2)], classes=[("tench", "Tinca tinca"), ("crane",), ("crane",)])
    assert load("FakeData").classes == ("tench, Tinca tinca", "crane (1)", "crane (2)")


def test_every_class_s_arguments_can_be_told():
    """The classes of the installed torchvision; those with **kwargs have the arguments of their base."""
    datasets = torchvision.datasets
    for name in datasets.__all__:
        if isinstance(getattr(datasets, name), type):
            torchvision_dataset._parameters(getattr(datasets, name))
    assert {"root", "split", "train", "download"} <= set(torchvision_dataset._parameters(datasets.EMNIST))
