"""Mapped tensors: references when they travel, ordinary tensors when they are computed with."""

from __future__ import annotations

import copy
import operator
import os
import pickle
import tempfile
import weakref
from collections import deque
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch.nn import functional

from rsf_dist.data import filling, mapped
from rsf_dist.data.batch import take_rows
from rsf_dist.data.images import ImageSet
from rsf_dist.data.mapped import MappedTensor, Reference
from rsf_dist.data.packed import Beside, open_packed, write_packed
from rsf_dist.errors import InputError

COUNT = 50
PIXELS = torch.randint(256, (COUNT, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "packed"
    path.mkdir()
    write_packed(path, [{"image": PIXELS}], Beside([str(number) for number in range(COUNT)]))
    return path


@pytest.fixture(params=["small", "large"])
def images(folder: Path, request, monkeypatch) -> torch.Tensor:
    """Give the images as a small file, and as a large one, whose rows are read without mapping them."""
    if request.param == "large":
        monkeypatch.setattr(mapped, "_HELD_BYTES", 1)
    return open_packed(folder).columns["image"]


VIEWS = {
    "all": lambda images: images,
    "slice": lambda images: images[7:19],
    "every third": lambda images: images[::3],
    "one": lambda images: images[4],
    "other shape": lambda images: images.view(COUNT, -1)[:, 5:70],
    "transposed": lambda images: images.transpose(2, 3),
    "piece": lambda images: images.split(16)[3],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_a_view_travels_as_a_reference(view, images):
    found = view(images)
    assert isinstance(found, MappedTensor)
    data = pickle.dumps(found)
    assert len(data) < 500
    again = pickle.loads(data)
    assert isinstance(again, MappedTensor)
    assert torch.equal(again, view(PIXELS))


@pytest.mark.parametrize(
    "compute",
    [
        lambda images: images[torch.tensor([3, 1])],
        lambda images: images[images[:, 0, 0, 0] > 9],
        lambda images: images[torch.tensor([-1, 1])],
        lambda images: images[torch.tensor([], dtype=torch.int64)],
        lambda images: images[torch.tensor([[3, 1], [4, 4]])],
        lambda images: images[7:][torch.tensor([3, 1])],
        lambda images: images[::2][torch.tensor([3, 1])],
        lambda images: images[4][torch.tensor([2, 0])],
        lambda images: images.transpose(2, 3)[torch.tensor([3, 1])],
        lambda images: images.index_select(1, torch.tensor([2, 1])),
        lambda images: images.index_select(0, torch.tensor([3, 1])),
        lambda images: take_rows(images, torch.tensor([3, 1])),
        lambda images: images.float() / 255,
        lambda images: torch.cat([images, images]),
        lambda images: torch.stack(list(images)),
        lambda images: torch.nn.functional.interpolate(images.float(), scale_factor=2),
        lambda images: images.clone(),
        lambda images: images.sum(),
        lambda images: 255 - images,
    ],
)
def test_what_is_computed_is_an_ordinary_tensor(compute, images):
    found = compute(images)
    assert type(found) is torch.Tensor
    assert torch.equal(found, compute(PIXELS))


def test_positions_that_there_are_not_are_refused_as_ever(images):
    for rows in (torch.tensor([COUNT]), torch.zeros(COUNT + 1, dtype=torch.bool)):
        with pytest.raises(IndexError):
            images[rows]


def test_a_dtype_that_is_another_view_of_the_bytes_travels_by_value(images):
    found = pickle.loads(pickle.dumps(images.view(torch.int32)))
    assert torch.equal(found, PIXELS.view(torch.int32))


def test_copies_are_references_too(images):
    assert copy.deepcopy(images) is images
    assert len(pickle.dumps(ImageSet(images, notes=("n",)))) < 1_000


IN_PLACE = [
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow),
    *(operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift),
]


@pytest.mark.parametrize(
    "write",
    [
        lambda images: images.__setitem__(0, 0),
        lambda images: images[0].mul_(2),
        lambda images: images.view(-1).fill_(0),
        lambda images: images[3:].zero_(),
        *(lambda images, change=change: change(images, 1) for change in IN_PLACE),
        lambda images: operator.iand(images[:2], 1),
        lambda images: operator.ixor(images.data, 255),
        lambda images: torch.add(images.clone(), 1, out=images),
        lambda images: torch.add(torch.ones(()), 1, out=images[0]),
        lambda images: torch.max(images.clone(), 0, out=(images[0], torch.empty(0, dtype=torch.int64))),
        lambda images: functional.relu(images[:1], inplace=True),
        lambda images: functional.relu(images[:1], True),
        lambda images: functional.relu(input=images[:1], inplace=True),
        lambda images: functional.threshold(images, 1, 2, True),
        lambda images: functional.dropout(images, inplace=True),
        lambda images: torch.nn.ReLU(inplace=True)(images),
        lambda images: functional.relu_(images),
        lambda images: torch.relu_(input=images),
        lambda images: next(iter(images)).add_(1),
        lambda images: images.unbind()[1].neg_(),
        lambda images: torch._foreach_add_([images.clone(), images], 1),
        lambda images: torch.nn.init.ones_(images),
        lambda images: torch.ops.aten.add_.Tensor(images, torch.ones(())),
        lambda images: torch.broadcast_tensors(images[:1], images[1:2])[1].neg_(),
    ],
)
def test_writing_is_refused_in_one_line(write, images):
    with pytest.raises(InputError, match="change a copy") as caught:
        write(images)
    assert "\n" not in str(caught.value)
    assert torch.equal(images, PIXELS)


@pytest.mark.parametrize("array", [lambda images: images.numpy(), np.asarray, lambda images: images[3].numpy()])
def test_arrays_cannot_be_written_to_either(array, images):
    with pytest.raises(ValueError, match="read-only"):
        array(images)[0] = 1
    array(images.clone())[0] = 1


def test_what_other_libraries_take_over_is_a_copy(images):
    torch.from_dlpack(images).zero_()
    assert torch.equal(images, PIXELS)


@pytest.mark.parametrize(
    "reading",
    [
        lambda images: functional.relu(images),
        lambda images: functional.relu(images, inplace=False),
        lambda images: images ^ 255,
        lambda images: ~images,
        lambda images: torch.empty_like(PIXELS).copy_(images),
        lambda images: torch.add(images, 1, out=torch.empty(0, dtype=torch.uint8)),
        lambda images: torch.zeros(PIXELS.shape).add_(images),
    ],
)
def test_reading_is_not_taken_for_writing(reading, images):
    assert torch.equal(reading(images), reading(PIXELS))


def test_a_folder_that_is_gone_or_another_is_refused_in_one_line(images, folder):
    data = pickle.dumps(images)
    mapped._files.cache_clear()
    folder.rename(folder.with_name("moved"))
    with pytest.raises(InputError, match="is gone, or holds other images"):
        pickle.loads(data)
    folder.mkdir()
    write_packed(folder, [{"image": PIXELS}], Beside(["x"] * COUNT))
    with pytest.raises(InputError, match="is gone, or holds other images"):
        pickle.loads(data)


class Copying:
    """A fetch that copies files within this machine, and counts."""

    def __init__(self, hidden: Path):
        self.hidden, self.times = hidden, 0

    def __call__(self, folder: str, to: Path) -> None:
        self.times += 1
        for file in self.hidden.iterdir():
            (to / file.name).write_bytes(file.read_bytes())


def test_a_node_that_does_not_see_the_folder_fetches_it_once(images, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    hidden = folder.with_name("on another node")
    fetch = Copying(hidden)
    reference = Reference(str(folder), images._reference.identity, fetch)
    folder.rename(hidden)
    for _ in range(2):
        mapped._files.cache_clear()  # as in another process
        assert torch.equal(MappedTensor.of(reference, "image"), PIXELS)
    assert fetch.times == 1
    assert oct(os.stat(tmp_path / f"rsf_dist-{os.getuid()}").st_mode)[-3:] == "700"


def test_the_cluster_s_fetch_goes_along_with_what_is_pickled(images, monkeypatch):
    monkeypatch.setattr(mapped, "_offers", [])
    assert pickle.loads(pickle.dumps(images))._reference.fetch is None
    mapped.offer(lambda: print)
    assert pickle.loads(pickle.dumps(images))._reference.fetch is print


def test_somebody_else_s_folder_for_temporary_files_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"rsf_dist-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="TMPDIR"):
        filling.local_folder()


def test_a_folder_for_temporary_files_that_cannot_be_is_refused_in_one_line(tmp_path, monkeypatch):
    (tmp_path / f"rsf_dist-{os.getuid()}").touch()
    for folder in (tmp_path, tmp_path / "absent", tmp_path / ("a" * 300)):
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with pytest.raises(InputError, match="TMPDIR") as caught:
            filling.local_folder()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stops", ["full", "short"])
def test_a_fetch_that_fails_on_this_node_names_its_folder(stops, tmp_path, monkeypatch):
    def fetch(folder: str, to: Path) -> None:
        (to / "meta.json").touch()
        if stops == "full":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(InputError, match=r"TMPDIR=.*No space left|TMPDIR=.*cut short") as caught:
        Reference("/nowhere", "0" * 32, fetch).here()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*/fetched/0*"))


def test_maps_end_with_the_last_use_of_their_folder(images):
    files = weakref.ref(mapped._files(images._reference.folder, images._reference.identity, None))
    mapped._files.cache_clear()
    assert files() is None


def own_mib() -> float:
    """Memory that only this process has, pages of files included that no other process maps."""
    return psutil.Process().memory_full_info().uss / 2**20


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's account of memory")
def test_pages_that_were_read_are_given_back(tmp_path):
    """192 MiB of images, all read: a plain map keeps them as the process's own, a mapped tensor 64 MiB at most."""
    count, shape = 192, (1, 1024, 1024)
    write_packed(tmp_path, [{"image": torch.zeros(1, *shape, dtype=torch.uint8)}] * count, Beside(["x"] * count))
    images = open_packed(tmp_path).columns["image"]
    plain = mapped._files(images._reference.folder, images._reference.identity, None).column("image")
    taken = own_mib()
    for rows in torch.arange(count).split(8):
        plain.index_select(0, rows)
    assert own_mib() - taken > 150
    mapped._Pages.count(2**40)  # gives them back
    for read in (
        (images.index_select(0, rows) for rows in torch.randperm(count).split(2)),
        (piece.float().sum() for piece in images.split(2)),
        (image.sum() for image in images),
        (piece.numpy().sum() for piece in images.split(2)),
        (piece.contiguous().numpy().data.tobytes() for piece in images.split(2)),
        (torch.equal(piece, piece.clone()) for piece in images.split(2)),
        (piece.view(-1)[::4096].tolist() for piece in images.split(2)),
        (piece.max(0) for piece in images.split(2)),
    ):
        deque(read, maxlen=0)
        assert own_mib() - taken < 130
