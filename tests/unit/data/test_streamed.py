"""Arrays that are too large for memory: the same images as when they are read as a whole."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from annotated_files import config

from rsf_dist.data import packing
from rsf_dist.data.images import load_images
from rsf_dist.data.packing import Packing
from rsf_dist.data.sources import idx, list_images, npz
from rsf_dist.data.sources.streamed import StreamedImages
from rsf_dist.errors import InputError

GREY = np.random.default_rng(0).integers(256, size=(50, 6, 5), dtype=np.uint8)
LABELS = np.arange(50, dtype=np.uint8) % 3


@pytest.fixture
def large(monkeypatch) -> None:
    for module in (idx, npz):
        monkeypatch.setattr(module, "LARGE_BYTES", 1)
    monkeypatch.setattr(packing, "LEAST_DECODED", 1)
    monkeypatch.setattr(packing, "BLOCK_BYTES", 7 * 6 * 5)


def write_idx(folder: Path, images: bytes, suffix: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    header = bytes([0, 0, 8, 3]) + np.array(GREY.shape, ">i4").tobytes()
    of_labels = bytes([0, 0, 8, 1]) + np.array([50], ">i4").tobytes() + LABELS.tobytes()
    for name, data in (("images-idx3", header + images), ("labels-idx1", of_labels)):
        path = folder / f"train-{name}-ubyte{suffix}"
        path.write_bytes(gzip.compress(data) if suffix else data)
    return folder


def sources(folder: Path):
    colours = np.stack([GREY, 255 - GREY, GREY], axis=1)
    np.savez(folder / "grey.npz", images=GREY, labels=LABELS)
    np.savez_compressed(folder / "colours.npz", images=colours, labels=LABELS, classes=np.array(["a", "b", "c"]))
    np.savez(folder / "by columns.npz", images=np.asfortranarray(GREY))
    yield from (config("npz", root=folder / f"{name}.npz") for name in ("grey", "colours", "by columns"))
    yield config("npz", root=folder / "colours.npz", size=(4, 4), channels=1, start=3, limit=20)
    yield config("idx", root=write_idx(folder / "plain", GREY.tobytes()))
    yield config("idx", root=write_idx(folder / "gz", GREY.tobytes(), ".gz"), limit=17)


def test_large_arrays_give_the_images_that_small_ones_give(tmp_path, request):
    expected = [load_images(source) for source in sources(tmp_path)]
    request.getfixturevalue("large")
    for source, one in zip(sources(tmp_path), expected, strict=True):
        for found in (load_images(source), load_images(source, packing=Packing([tmp_path / "cache"]))):
            assert torch.equal(found.images, one.images)
            assert found.digest() == one.digest()
            assert tuple(found.ids) == one.ids


def test_images_are_read_in_any_order(large, tmp_path):
    source = config("npz", root=tmp_path / "grey.npz")
    np.savez(tmp_path / "grey.npz", images=GREY)
    read = list_images(source).read
    assert isinstance(read, StreamedImages)
    assert torch.equal(read([9, 2, 2, 40])["image"][:, 0], torch.from_numpy(GREY[[9, 2, 2, 40]]))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("change", "length"), [(-1, 1499), (1, 1501)])
def test_a_file_of_another_length_is_refused_before_it_is_read(change, length, suffix, large, tmp_path):
    pixels = GREY.tobytes() + b"\0"
    root = write_idx(tmp_path, pixels[: GREY.size + change], suffix)
    with pytest.raises(InputError, match="is cut short or goes on") as caught:
        list_images(config("idx", root=root))
    assert caught.value.value == f"{length} bytes"


def test_a_damaged_archive_is_refused_and_nothing_is_left(large, tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images=GREY)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[900:1100] = b"\0" * 200
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(InputError, match="is not an npz file of plain arrays"):
        load_images(config("npz", root=tmp_path / "a.npz"), packing=Packing([tmp_path / "cache"]))
    assert [path for path in (tmp_path / "cache").glob("*") if path.suffix != ".lock"] == []


def test_packing_a_large_array_holds_a_block_of_it(tmp_path):
    """64 MiB of images; the whole array in memory would be seen."""
    images = np.zeros((64, 1024, 1024), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=images)
    del images
    tracemalloc.start()
    try:
        found = load_images(config("npz", root=tmp_path / "a.npz"), packing=Packing([tmp_path / "cache"]))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == 64
    assert most < 56 * 2**20
