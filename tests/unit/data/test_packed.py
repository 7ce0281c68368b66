"""Packed image sets: the same images and digests as in memory, found again, safe to fill at once."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from pathlib import Path

import annotated_files as annotated
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from annotated_files import config
from PIL import Image

from rsf_dist.data import filling, images, packing
from rsf_dist.data.images import ImageSet, load_images
from rsf_dist.data.packed import Beside, open_packed, write_packed
from rsf_dist.data.packing import Packing
from rsf_dist.errors import InputError

PIXELS = torch.arange(12, dtype=torch.uint8).view(3, 1, 2, 2)


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch) -> None:
    monkeypatch.setattr(packing, "LEAST_DECODED", 1)
    monkeypatch.setattr(packing, "BLOCK_BYTES", 3 * 2 * 3 * 2)  # two images of 2 x 3 pixels


def write_images(root: Path, count: int, size: tuple[int, int] = (3, 2)) -> Path:
    """Write PNG files of two classes. Each has a level of its own."""
    for number in range(count):
        path = root / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number, 0, 255 - number)).save(path)
    return root


def write_idx(root: Path, pixels: np.ndarray) -> None:
    """Write images [n, h, w] as MNIST's files, with the labels 0, 1, 0, ..."""
    root.mkdir()
    arrays = {"images-idx3": pixels, "labels-idx1": np.arange(len(pixels), dtype=np.uint8) % 2}
    for name, array in arrays.items():
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
        (root / f"train-{name}-ubyte").write_bytes(header + array.tobytes())


def folder_of(root: Path, **options):
    return config("image_folder", root=root, **options)


def in_cache(tmp_path: Path) -> Packing:
    return Packing([tmp_path / "cache"], "data.cache")


def packed_names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock")


def assert_alike(found: ImageSet, expected: ImageSet) -> None:
    assert torch.equal(found.images, expected.images)
    assert found.digest() == expected.digest()
    again = ImageSet(found.images, found.labels, found.classes, found.annotations)  # computed, not remembered
    assert again.digest() == expected.digest()
    assert (found.labels is None) == (expected.labels is None)
    assert found.labels is None or torch.equal(found.labels, expected.labels)
    assert found.annotations.keys() == expected.annotations.keys()
    assert all(torch.equal(found.annotations[name], column) for name, column in expected.annotations.items())
    assert (found.classes, tuple(found.ids), found.notes) == (expected.classes, expected.ids, expected.notes)


def test_digests_are_those_of_existing_run_directories():
    masks = {"mask": torch.zeros(3, 2, 2, dtype=torch.uint8), "box_label": torch.zeros(3, 1, dtype=torch.int64)}
    digests = [
        ImageSet(PIXELS).digest(),
        ImageSet(PIXELS, torch.tensor([0, 1, 0]), ("a", "b")).digest(),
        ImageSet(PIXELS, None, ("a", "b"), masks).digest(),
    ]
    assert digests == [
        "209e3cfdeba79bbe9ec36e2c44e4fb074c3955ee746e5a029f99fc2f16f7253c",
        "7b3da974e362c862e93d86dc244e850a30ff7d4194bf4c9cb5fb299d813bf6b8",
        "60f06704e8401e87d8a7fb7b5834e174a31b1489125fa3eabb158120fcdeeeb5",
    ]


@pytest.mark.parametrize(
    ("labelled", "classes", "options"),
    [
        (True, None, {}),
        (True, ("b", "c", "a"), {}),
        (False, None, {}),
        (True, None, {"start": 1, "limit": 3}),
        (True, None, {"size": (4, 4), "channels": 1}),
    ],
)
def test_a_packed_set_is_the_one_that_is_read_into_memory(labelled, classes, options, tmp_path):
    source = folder_of(write_images(tmp_path / "images", 7), **options)
    expected = load_images(source, labelled, classes)
    assert_alike(load_images(source, labelled, classes, in_cache(tmp_path)), expected)
    assert_alike(load_images(source, labelled, classes, in_cache(tmp_path)), expected)
    assert len(packed_names(tmp_path)) == 1


def test_boxes_and_masks_are_packed_beside_the_images(tmp_path):
    boxes = [annotated.box(1, [1, 2, 10, 10]), annotated.box(2, [1, 2, 5, 5], 7), annotated.box(3, [0, 0, 9, 9], 90, 2)]
    for source in (
        config("coco", **annotated.coco(tmp_path / "coco", boxes)),
        config("yolo", root=annotated.yolo(tmp_path / "yolo", "0 0.5 0.5 0.5 0.5\n")),
    ):
        assert_alike(load_images(source, packing=in_cache(tmp_path)), load_images(source))
    masks = annotated.masks(tmp_path / "masks", *([[number, 1, 255]] * 2 for number in range(5)))
    source = config("mask_folder", **masks)
    assert_alike(load_images(source, packing=in_cache(tmp_path)), load_images(source))


def test_tables_npz_idx_and_parquet_are_packed_too(tmp_path):
    root = write_images(tmp_path / "images", 4)
    (tmp_path / "t.csv").write_text("path,label\nimages/a/00.png,x\nimages/b/01.png,y\n")
    np.savez(tmp_path / "a.npz", images=PIXELS.numpy(), labels=np.array([0, 1, 0]))
    write_idx(tmp_path / "mnist", PIXELS[:, 0].numpy())
    cells = [path.read_bytes() for path in sorted(root.rglob("*.png"))]
    pq.write_table(pa.table({"image": cells, "label": [1, 0, 0, 1]}), tmp_path / "a.parquet")
    sources = [
        config("table", file=tmp_path / "t.csv"),
        config("npz", root=tmp_path / "a.npz"),
        config("idx", root=tmp_path / "mnist"),
        config("parquet", root=tmp_path / "a.parquet"),
        config("torchvision", name="ImageFolder", root=root),
    ]
    for number, source in enumerate(sources):
        assert_alike(load_images(source, packing=in_cache(tmp_path)), load_images(source))
        assert len(packed_names(tmp_path)) == number + 1


def test_small_sets_are_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "LEAST_DECODED", 7 * 18 + 1)
    source = folder_of(write_images(tmp_path / "images", 7))
    assert type(load_images(source, packing=in_cache(tmp_path)).images) is torch.Tensor
    assert not (tmp_path / "cache").exists()

    # Few pixels of large files are packed as well: reading them takes the time.
    monkeypatch.setattr(packing, "LEAST_ENCODED", 1)
    assert type(load_images(source, packing=in_cache(tmp_path)).images) is not torch.Tensor


def test_a_second_command_neither_lists_nor_decodes(tmp_path, monkeypatch):
    source = folder_of(write_images(tmp_path / "images", 5))
    load_images(source, packing=in_cache(tmp_path))
    monkeypatch.setattr(images, "list_images", None)
    assert len(load_images(source, packing=in_cache(tmp_path))) == 5


@pytest.mark.parametrize(
    ("change", "packs_again"),
    [
        (lambda root: os.utime(root / "a" / "00.png", (1, 1)), True),
        (lambda root: write_images(root, 6), True),
        (lambda root: (root / "b" / "01.png").unlink(), True),
        (lambda root: (root / "a" / ".hidden").touch(), False),
        (lambda root: (root / "a" / "Thumbs.db").touch(), False),
    ],
)
def test_a_source_whose_files_changed_is_packed_again(change, packs_again, tmp_path):
    root = write_images(tmp_path / "images", 4)
    load_images(folder_of(root), packing=in_cache(tmp_path))
    change(root)
    assert_alike(load_images(folder_of(root), packing=in_cache(tmp_path)), load_images(folder_of(root)))
    assert len(packed_names(tmp_path)) == 1 + packs_again


def test_a_table_s_images_count_wherever_they_lie(tmp_path):
    write_images(tmp_path / "elsewhere", 2)
    (tmp_path / "tables").mkdir()
    path = tmp_path / "tables" / "t.csv"
    path.write_text(
        "".join(f"{line}\n" for line in ("path", *sorted(map(str, (tmp_path / "elsewhere").rglob("*.png")))))
    )
    source = config("table", file=path)
    before = load_images(source, packing=in_cache(tmp_path)).images.clone()
    Image.new("RGB", (3, 2), "white").save(tmp_path / "elsewhere" / "a" / "00.png")
    after = load_images(source, packing=in_cache(tmp_path)).images
    assert (before != after).flatten(1).any(1).tolist() == [True, False]


def test_a_kind_that_names_no_files_is_not_packed(tmp_path):
    assert type(load_images(config("digits", limit=9), packing=in_cache(tmp_path)).images) is torch.Tensor


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: shorten(folder / "meta.json"),
        lambda folder: (folder / "meta.json").write_text("[]"),
        lambda folder: shorten(folder / "image.bin"),
        lambda folder: (folder / "label.bin").unlink(),
        lambda folder: shorten(folder / "ids.arrow"),
    ],
)
def test_a_half_written_set_is_packed_again(damage, tmp_path):
    source = folder_of(write_images(tmp_path / "images", 5))
    load_images(source, packing=in_cache(tmp_path))
    (name,) = packed_names(tmp_path)
    damage(tmp_path / "cache" / name)
    assert open_packed(tmp_path / "cache" / name) is None
    assert_alike(load_images(source, packing=in_cache(tmp_path)), load_images(source))
    assert packed_names(tmp_path) == [name]
    assert not (tmp_path / "cache" / name / "replaced").exists()


def test_what_a_killed_writer_left_is_removed(tmp_path):
    source = folder_of(write_images(tmp_path / "images", 5))
    load_images(source, packing=in_cache(tmp_path))
    (name,) = packed_names(tmp_path)
    left, others = (tmp_path / "cache" / f"{one}.0123456789abcdef.filling" for one in (name, "another"))
    (tmp_path / "cache" / name).rename(left)
    others.mkdir()
    load_images(source, packing=in_cache(tmp_path))
    assert set(packed_names(tmp_path)) == {"another.0123456789abcdef.filling", name}


@pytest.mark.parametrize("locks", [True, False])
def test_two_that_fill_a_cache_at_once_get_the_same_set(locks, tmp_path, monkeypatch):
    def no_locks(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    if not locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    source = folder_of(write_images(tmp_path / "images", 6))
    reading, decoded = threading.Barrier(2, timeout=60), []

    def read(listing, runs, key):
        if not locks:
            reading.wait()  # both are at it
        decoded.append(len(runs))
        return packing.read_here(listing, runs, key)

    found: list[ImageSet] = []

    def load() -> None:
        found.append(load_images(source, packing=Packing([tmp_path / "cache"], read_blocks=read)))

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2  # an error in a thread is lost
    assert len(packed_names(tmp_path)) == 1
    assert len(decoded) == (1 if locks else 2)  # with locks, one waits for the other
    expected = load_images(source)
    for one in found:
        assert_alike(one, expected)


def refusal(source, packed: Packing) -> InputError:
    with pytest.raises(InputError) as caught:
        load_images(source, packing=packed)
    assert "\n" not in str(caught.value)
    return caught.value


def test_images_that_differ_from_block_to_block_are_refused_by_their_names(tmp_path):
    root = write_images(tmp_path / "images", 4)
    Image.new("RGB", (5, 5)).save(root / "b" / "99.png")
    err = refusal(folder_of(root), in_cache(tmp_path))
    assert (err.field, err.value) == ("size", [5, 5])
    assert "b/99.png differs in size from a/00.png [2, 3]" in err.rule
    assert packed_names(tmp_path) == []


def test_an_unreadable_image_leaves_nothing_behind(tmp_path):
    root = write_images(tmp_path / "images", 5)
    (root / "b" / "99.png").write_bytes(b"no image")
    assert "99.png" in refusal(folder_of(root), in_cache(tmp_path)).field
    assert packed_names(tmp_path) == []


def test_images_of_16_bits_are_looked_at_as_a_whole(tmp_path):
    """Blocks that are all dark prove nothing where another is bright."""
    levels = [100, 200, 300, 400, 60_000]
    for number, level in enumerate(levels):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 3), level, np.uint16)).save(tmp_path / "images" / f"{number}.png")
    source = folder_of(tmp_path / "images")
    assert_alike(load_images(source, packing=in_cache(tmp_path)), load_images(source))
    err = refusal(source.model_copy(update={"limit": 4}), in_cache(tmp_path))
    assert "brightest pixel of all 4 images with 16 bits is 400" in err.rule
    assert len(packed_names(tmp_path)) == 1


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path):
    root = write_images(tmp_path / "images", 4)

    def read(listing, runs, key):
        yield from packing.read_here(listing, runs, key)
        write_images(root, 5)

    err = refusal(folder_of(root), Packing([tmp_path / "cache"], read_blocks=read))
    assert "changed while they were read" in err.rule
    assert packed_names(tmp_path) == []


@pytest.mark.parametrize("cache_is_there", [True, False])
def test_an_image_that_joins_after_the_listing_is_not_left_out_for_good(cache_is_there, tmp_path, monkeypatch):
    root = write_images(tmp_path / "images", 4)
    if cache_is_there:
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "of another set").touch()

    def listed(*given):
        found = list_taken(*given)
        write_images(root, 5)
        return found

    list_taken = images.list_taken
    with monkeypatch.context() as patched:
        patched.setattr(images, "list_taken", listed)
        assert "changed while they were read" in refusal(folder_of(root), in_cache(tmp_path)).rule
    assert len(load_images(folder_of(root), packing=in_cache(tmp_path))) == 5


def test_files_that_torchvision_downloads_as_it_is_listed_are_packed(tmp_path, monkeypatch):
    def listed(config, *given):
        write_images(tmp_path / "images", 4)
        return list_taken(config.model_copy(update={"download": False}), *given)

    list_taken = images.list_taken
    monkeypatch.setattr(images, "list_taken", listed)
    (tmp_path / "images").mkdir()
    source = config("torchvision", name="ImageFolder", root=tmp_path / "images", download=True)
    assert len(load_images(source, packing=in_cache(tmp_path))) == 4
    monkeypatch.setattr(images, "list_taken", None)
    assert len(load_images(source, packing=in_cache(tmp_path))) == 4


def test_a_part_of_a_packed_set_has_a_digest_of_its_own(tmp_path):
    source = folder_of(write_images(tmp_path / "images", 5))
    part = slice(1, 4)
    found, expected = load_images(source, packing=in_cache(tmp_path)), load_images(source)
    assert found.subset(part).digest() == expected.subset(part).digest() != found.digest()


def test_what_does_not_fit_is_refused_before_decoding(tmp_path, monkeypatch):
    source = folder_of(write_images(tmp_path / "images", 4))

    def read(listing, runs, key):
        raise AssertionError("decoded")

    folder = Packing([tmp_path / "cache"], "data.cache", read)
    with monkeypatch.context() as full:
        full.setattr(packing.shutil, "disk_usage", lambda path: type("usage", (), {"free": 4 * 18 - 1}))
        err = refusal(source, folder)
        assert err.field == "data.cache"
        assert "its disk has 0 MiB left" in err.rule
    with monkeypatch.context() as full:
        full.setattr(packing.psutil, "virtual_memory", lambda: type("memory", (), {"available": 10}))
        assert "are needed to decode them" in refusal(source, folder).rule
    with monkeypatch.context() as full:
        monkeypatch.setattr(packing, "LEAST_DECODED", 2**40)
        full.setattr(images.psutil, "virtual_memory", lambda: type("memory", (), {"available": 4 * 18 - 1}))
        assert "once decoded, and this machine has 0 MiB left" in refusal(source, folder).rule
    (tmp_path / "file").touch()
    monkeypatch.setattr(packing, "LEAST_DECODED", 1)
    assert "cannot be written" in refusal(source, Packing([tmp_path / "file" / "cache"], "data.cache")).rule


def broken_disk(*given: object, **options: object):
    raise OSError(errno.EIO, "broken")


@pytest.mark.parametrize("cache", ["file", "file/cache", "a" * 300, "a" * 300 + "/cache"])
@pytest.mark.parametrize("begins", [True, False])
def test_a_cache_that_cannot_be_used_is_told_in_one_line(cache, begins, tmp_path):
    (tmp_path / "file").touch()
    packed = Packing([tmp_path / cache] if begins else [tmp_path / cache, tmp_path / "other"], "data.cache")
    err = refusal(folder_of(write_images(tmp_path / "images", 4)), packed)
    assert err.field == "data.cache"
    assert "cannot be written or read" in err.rule


@pytest.mark.parametrize("failing", ["open_packed", "read_meta", "fill_once", "write_packed"])
def test_a_failing_disk_of_a_cache_is_told_as_the_cache_s(failing, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, failing, broken_disk)
    err = refusal(folder_of(write_images(tmp_path / "images", 4)), in_cache(tmp_path))
    assert (err.field, err.rule) == ("data.cache", "cannot be written or read ([Errno 5] broken)")


def test_a_failing_disk_of_the_images_is_not_told_as_the_cache_s(tmp_path):
    root = write_images(tmp_path / "images", 4)

    def away(listing, runs, key):
        yield from packing.read_here(listing, runs, key)
        root.rename(tmp_path / "moved")

    packed = in_cache(tmp_path)
    for read, rule in ((broken_disk, r"cannot be read ([Errno 5] broken)"), (away, "changed while they were read")):
        packed.read_blocks = read
        err = refusal(folder_of(root), packed)
        assert (err.field, err.rule) == ("", rule)
    assert packed_names(tmp_path) == []


def test_a_second_command_is_not_refused_for_room_that_the_first_one_takes(tmp_path, monkeypatch):
    """The first one has filled the disk by the time that the second one has the lock."""
    source = folder_of(write_images(tmp_path / "images", 4))

    def fill_once(folder, *given):
        monkeypatch.setattr(packing, "fill_once", filling.fill_once)
        load_images(source, packing=in_cache(tmp_path))
        monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: type("usage", (), {"free": 0}))
        filling.fill_once(folder, *given)

    monkeypatch.setattr(packing, "fill_once", fill_once)
    assert_alike(load_images(source, packing=in_cache(tmp_path)), load_images(source))


def test_what_was_cut_short_does_not_appear_under_its_name(tmp_path):
    with pytest.raises(OSError, match="cut short"):
        filling.fill_once(tmp_path / "set", lambda draft: (draft / "half").touch(), lambda path: False)
    assert [path.name for path in tmp_path.iterdir()] == [".set.lock"]


def test_a_run_keeps_only_the_sets_that_it_uses(tmp_path):
    one, two = (folder_of(write_images(tmp_path / name, count)) for name, count in (("one", 2), ("two", 3)))
    load_images(one, packing=in_cache(tmp_path))
    folder = in_cache(tmp_path)
    load_images(two, packing=folder)
    assert len(packed_names(tmp_path)) == 2
    folder.prune()
    assert len(packed_names(tmp_path)) == 1
    assert len(load_images(two, packing=in_cache(tmp_path))) == 3


def test_a_cache_and_a_run_below_the_source_s_folder_are_no_part_of_it(tmp_path):
    root = write_images(tmp_path, 3)
    (root / "run").mkdir()

    def load(heartbeat: str) -> ImageSet:
        (root / "run" / "lock.json").write_text(heartbeat)
        return load_images(folder_of(root, classes=("a", "b")), packing=Packing([root / "cache"], runs=[root / "run"]))

    load("1")
    (root / "run" / "one_shot" / "figures").mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(root / "run" / "one_shot" / "figures" / "loss.png")
    assert len(load("22")) == 3
    assert len(packed_names(tmp_path)) == 1


@pytest.mark.parametrize("cache", [".", "images", "images/a", "images/a/" + "0" * 40])
@pytest.mark.parametrize("run", [".", "images", "images/a", "run"])
def test_images_count_that_lie_in_a_cache_or_a_run_s_directory(cache, run, tmp_path):
    root = write_images(tmp_path / "images", 4)
    packed = Packing([tmp_path / cache], runs=[tmp_path / run])
    for count in (4, 5, 5):
        write_images(root / "a" / ("0" * 40), count)
        load_images(folder_of(root), packing=packed)
        found, expected = load_images(folder_of(root), packing=packed), load_images(folder_of(root))
        assert (list(found.ids), found.digest()) == (list(expected.ids), expected.digest())


def test_masks_count_that_lie_in_the_directory_of_a_run(tmp_path):
    given = annotated.masks(tmp_path / "set", *([[number, 1, 255]] * 2 for number in range(3)))
    source, packed = config("mask_folder", **given), Packing([tmp_path / "cache"], runs=[Path(given["masks"])])
    load_images(source, packing=packed)
    annotated.masks(tmp_path / "set", *([[1, number, 255]] * 2 for number in range(3)))
    assert_alike(load_images(source, packing=packed), load_images(source))


def test_what_was_not_used_for_a_week_is_removed_from_folders_for_temporary_files(tmp_path):
    for name, days in (("old", 8), ("new", 6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        os.utime(tmp_path / name, (time.time() - days * 86_400,) * 2)
    filling.remove_unused(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_names_and_notes_travel_along(tmp_path):
    names = ["näme.png", "a" * 300, "\udcff.png", ""]
    beside = Beside(names, None, (), ("a note",))
    write_packed(tmp_path, [{"image": torch.zeros(4, 1, 1, 1, dtype=torch.uint8)}], beside)
    packed = open_packed(tmp_path)
    assert list(packed.ids) == ["näme.png", "a" * 300, "\\udcff.png", ""]
    assert packed.ids[1:3] == ["a" * 300, "\\udcff.png"]
    assert packed.notes == ("a note",)
    assert json.loads((tmp_path / "meta.json").read_text())["columns"]["image"]["shape"] == [4, 1, 1, 1]
