"""Folders of images as people have them: what is an image, what is a class, and what is neither."""

import os
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from test_decoding import png_of_deep_colours

from rsf_dist.config.images import ImageFolderConfig, NpzConfig
from rsf_dist.data.images import load_images
from rsf_dist.data.sources import PassedOver, columns, list_images, list_unlabelled
from rsf_dist.errors import InputError


@pytest.fixture
def tree(tmp_path):
    """Write images of 2 x 2 pixels, or other files, by their paths; return the root."""

    def write(*paths, root=tmp_path / "root", level=7):
        for path in paths:
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                file.mkdir(exist_ok=True)
            elif file.suffix == ".png":
                Image.new("RGB", (2, 2), (level,) * 3).save(file)
            else:
                file.write_bytes(b"no picture")
        return root

    return write


def listing(root, **options):
    return list_images(ImageFolderConfig(root=str(root), **options))


def refusal(root, load=listing, **options):
    with pytest.raises(InputError) as caught:
        load(root, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def load(root, labelled=True, classes=None, **options):
    return load_images(ImageFolderConfig(root=str(root), **options), labelled, classes)


TWO = ("cat/a.png", "dog/a.png")
LEFT_BEHIND = [
    "__MACOSX/cat/._a.png", "__MACOSX/cat/a.png", ".DS_Store", "cat/.DS_Store", "cat/._a.png", "cat/Thumbs.db",
    "cat/desktop.ini", "cat/.ipynb_checkpoints/a.png", ".ipynb_checkpoints/a.png", "@eaDir/a.png", "cat/@eaDir/x.png",
    "#recycle/a.png", "$RECYCLE.BIN/a.png", "lost+found/", "System Volume Information/a.png", ".Trashes/501/a.png",
    ".git/a.png", "Icon\r", "ehthumbs.db", ".Spotlight-V100/a.png", "__pycache__/a.png",
]  # fmt: skip


def test_what_systems_leave_behind_is_no_image_and_no_class(tree):
    found = listing(tree(*TWO, *LEFT_BEHIND))
    assert found.classes == ("cat", "dog")
    assert found.ids == ["cat/a.png", "dog/a.png"]
    assert found.passed_over == {}
    assert found.notes == ()


@pytest.mark.parametrize(
    "suffix",
    ["jfif", "jpe", "JPG", "ppm", "pgm", "pbm", "pnm", "jp2", "avif", "tga", "webp", "ico", "dib", "qoi", "apng"],
)
def test_every_format_that_pillow_reads_is_read(tmp_path, suffix):
    kind = Image.registered_extensions().get(f".{suffix.lower()}")
    if kind not in Image.SAVE:
        pytest.skip("this Pillow cannot write the format")
    mode = {"pgm": "L", "pbm": "1"}.get(suffix, "RGB")
    options = {"sizes": [(8, 8)]} if suffix == "ico" else {}
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(tmp_path / f"a.{suffix}", kind, **options)
    assert load(tmp_path).images.shape == (1, 3, 8, 8)
    assert load(tmp_path).images.min() >= 250


def test_files_that_are_passed_over_are_counted_with_three_examples_a_suffix(tree):
    heic = [f"cat/{number}.HEIC" for number in range(5)]
    found = listing(tree(*TWO, *heic, "README", "dog/notes.txt", "film.mp4"))
    assert found.passed_over == {
        "": PassedOver(1, ("README",)),
        ".heic": PassedOver(5, ("cat/0.HEIC", "cat/1.HEIC", "cat/2.HEIC")),
        ".mp4": PassedOver(1, ("film.mp4",)),
        ".txt": PassedOver(1, ("dog/notes.txt",)),
    }
    assert load(found.read.paths[0].parent.parent).notes == (
        "passed over 5 .heic (HEIC), e.g. cat/0.HEIC, 1 .mp4 (videos), e.g. film.mp4, "
        "1 without a suffix, e.g. README, 1 .txt, e.g. dog/notes.txt",
    )


def test_a_note_is_one_line_whatever_the_files_are_called(tree):
    root = tree(*TWO, "cat/a\nb\x1b[1m.txt")
    os.rename(root / "cat" / "a\nb\x1b[1m.txt", os.fsencode(root) + b"/cat/a\nb.t\xe9")
    assert load(root).notes == ("passed over 1 .t\\xe9, e.g. cat/a\ufffdb.t\\xe9",)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.heic", "HEIC"), ("a.CR2", "a camera's raw files"), ("a.dcm", "DICOM"), ("a.svg", "drawings")]
)
@pytest.mark.parametrize("folder", ["", "cat/"])
def test_a_folder_of_unreadable_formats_alone_names_them(tree, name, kind, folder):
    error = refusal(tree(folder + name), load)
    suffix = name[1:].lower()
    assert error.rule == f"holds no images that can be read, but 1 {suffix} ({kind}), e.g. {folder}{name}"
    assert "convert them to PNG or JPEG" in error.remedy


def test_documents_and_films_are_not_opened_as_images(tree):
    assert listing(tree("a.png", "a.pdf", "a.eps", "a.ps", "a.mpg", "a.h5", "a.avifs")).ids == ["a.png"]


def test_an_empty_class_folder_is_refused_unless_it_is_listed(tree):
    root = tree(*TWO, "emu/")
    error = refusal(root)
    assert (error.field, error.value, error.rule) == ("root", "emu", "is a class without any image")
    found = listing(root, classes=("cat", "dog", "emu"))
    assert (found.classes, found.labels.tolist()) == (("cat", "dog", "emu"), [0, 1])
    assert listing(root, classes=("dog", "cat")).labels.tolist() == [1, 0]


def test_a_class_of_unreadable_pictures_is_refused_and_a_folder_of_tables_is_none(tree):
    root = tree(*TWO, "annotations/a.xml", "annotations/deeper/")
    assert listing(root).classes == ("cat", "dog")
    error = refusal(tree("emu/a.heic"))
    assert error.value == "emu"
    assert error.rule == "is a class without images that can be read, but with 1 .heic (HEIC), e.g. a.heic"


def test_a_folder_without_images_beside_images_does_not_make_classes(tree):
    assert listing(tree("a.png", "notes/a.txt", "empty/")).labels is None


def test_a_folder_named_like_an_image_is_a_folder(tree):
    assert listing(tree("cat/a.png", "x.png/a.png")).classes == ("cat", "x.png")


SETS = [
    (("train/cat/a.png", "train/dog/a.png", "val/cat/a.png", "val/dog/a.png"), "train"),
    (("Train/a.png", "Test/a.png"), "Test"),
    (("test/a.png",), "test"),
    (("train/cat/a.png", "figures/a.png"), "train"),
    (("train/a.png", "val/a.png", "figures/a.png"), "train"),
    (("animals/cat/a.png", "animals/dog/a.png"), "animals"),
    (("animals/cat/2021/a.png",), "animals"),
]


@pytest.mark.parametrize(("paths", "named"), SETS)
def test_a_root_one_level_too_high_is_refused_with_the_root_to_name(tree, paths, named):
    root = tree(*paths)
    error = refusal(root)
    assert (error.field, error.value) == ("root", named)
    assert error.remedy == f"set `root: {root / named}`; if it is a class, list `classes`"
    names = {path.split("/")[0] for path in paths}
    assert set(listing(root, classes=tuple(sorted(names))).classes) == names


@pytest.mark.parametrize(
    "paths",
    [("train/a.png", "bus/a.png"), ("cat/2021/a.png", "dog/2021/a.png"), ("cat/a.png",), ("cat/a.png", "cat/b/c.png")],
)
def test_classes_that_only_look_like_it_are_classes(tree, paths):
    found = listing(tree(*paths))
    assert found.classes == tuple(sorted({path.split("/")[0] for path in paths}))
    assert found.notes == ()


def test_folders_that_all_hold_the_same_folders_are_classes_with_a_note(tree):
    found = listing(tree("art/cat/a.png", "art/dog/a.png", "photo/cat/a.png", "photo/dog/a.png"))
    assert found.classes == ("art", "photo")
    assert found.notes == ("each of the classes art, photo holds cat, dog: if these are the classes, name one as root",)


def test_the_directory_of_a_run_is_no_class_and_no_part_of_a_target(tree):
    root = tree(*TWO, "run/figures/a.png", "run/config.yaml", "run/manifest.json")
    for list_them in (list_images, list_unlabelled):
        error = refusal(root, lambda root, list_them=list_them: list_them(ImageFolderConfig(root=str(root))))
        assert (error.value, error.rule[:29]) == (root / "run", "is the directory of a run, wh")
    assert listing(root / "run" / "figures").ids == ["a.png"]


@pytest.mark.parametrize(
    "paths",
    [
        ("images/a.png", "images/b.png"),
        ("camera1/a.png", "camera2/b.png"),
        ("2024-01-01/a.png", "2024-01-02/x/b.png"),
        ("cat/a.png", "b.png"),
        ("train/cat/a.png", "val/cat/b.png", "empty/"),
        ("a.png", "b.png", "notes/"),
    ],
)
def test_without_labels_the_names_of_sub_folders_do_not_matter(tree, paths):
    root = tree(*paths)
    for classes in ((), ("x", "y")):
        found = load(root, labelled=False, classes=("dog", "emu") if classes else None)
        assert (found.labels, found.classes) == (None, ())
        assert found.ids == tuple(sorted(path for path in paths if path.endswith(".png")))


def test_without_labels_a_limit_takes_from_the_sub_folders_in_turn(tree):
    root = tree("one/a.png", "one/b.png", "one/c.png", "two/a.png", "z.png")
    assert load(root, labelled=False, limit=3).ids == ("one/a.png", "two/a.png", "z.png")
    assert load(root, labelled=False, start=3).ids == ("one/b.png", "one/c.png")


def test_parts_with_and_without_labels_share_no_image_whatever_the_order_of_classes(tree):
    root = tree("cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png")
    config = ImageFolderConfig(root=str(root), classes=("dog", "cat"))
    assert load_images(config.model_copy(update={"limit": 3})).ids == ("cat/a.png", "dog/a.png", "dog/b.png")
    assert load_images(config.model_copy(update={"start": 3}), labelled=False).ids == ("cat/b.png",)


def test_folders_that_are_no_classes_take_their_turn_after_the_classes(tree):
    root = tree("a/1.png", "a/2.png", "b/1.png", "b/2.png", "c/1.png", "c/2.png", "3.png")
    config = ImageFolderConfig(root=str(root), classes=("c", "b"), limit=3)
    assert load_images(config, labelled=False).ids == ("3.png", "b/1.png", "c/1.png")


def test_other_sources_lose_their_labels_and_are_still_taken_in_turn(tmp_path):
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 0, 0, 0, 1, 1]))
    config = NpzConfig(root=str(tmp_path / "a.npz"), limit=2)
    assert load_images(config).labels.tolist() == [0, 1]
    found = load_images(config, labelled=False)
    assert (found.labels, found.classes, found.images.flatten().tolist()) == (None, (), [0, 4])


@pytest.mark.parametrize(
    "arrays", [{"labels": [0, -1]}, {"labels": [0]}, {"labels": ["x", "y"]}, {"labels": [0, 1], "classes": ["a"]},
               {"labels": np.array([{}, None])}],
)  # fmt: skip
def test_labels_of_npz_files_that_are_not_wanted_are_not_looked_at(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", images=np.arange(2, dtype=np.uint8).reshape(2, 1, 1), **arrays)
    config = NpzConfig(root=str(tmp_path / "a.npz"))
    assert load_images(config, labelled=False).images.flatten().tolist() == [0, 1]
    with pytest.raises(InputError):
        load_images(config)


def test_classes_are_matched_by_name_and_never_by_position(tree):
    found = load(tree("ant/a.png", "cat/a.png"), classes=("cat", "bee", "ant"))
    assert (found.classes, found.labels.tolist()) == (("cat", "bee", "ant"), [2, 0])
    error = refusal(tree("wasp/a.png"), load, classes=("cat", "bee", "ant"))
    assert (error.value, error.rule) == ("wasp", "not among the source's classes, cat, bee, ant")
    assert error.remedy.startswith("list all `classes` in `data`")


def test_folders_named_by_numbers_are_ordered_as_words_and_matched_to_numbers(tree, tmp_path):
    found = listing(tree(*(f"{number}/a.png" for number in range(12))))
    assert found.classes == ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")
    np.savez(tmp_path / "a.npz", images=np.zeros((12, 2, 2), np.uint8), labels=np.arange(12))
    numbered = load_images(NpzConfig(root=str(tmp_path / "a.npz")), classes=found.classes)
    assert [numbered.classes[label] for label in numbered.labels] == [str(number) for number in range(12)]


NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_names_match_in_either_unicode_form(tree):
    assert NFC != NFD
    root = tree(f"{NFD}/a.png", "bar/a.png")
    assert load(root, classes=("bar", NFC)).labels.tolist() == [0, 1]
    assert listing(root, classes=(NFC, "bar")).labels.tolist() == [1, 0]
    error = refusal(tree(f"{NFC}/a.png"))
    assert error.rule == "is there twice, in two Unicode forms that look alike"


def test_a_class_name_that_is_no_utf8_is_refused_and_a_file_name_is_carried_through(tree):
    root = tree(*TWO)
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    os.rename(root / "cat" / "a.png", os.fsencode(root) + b"/caf\xe9/a.png")
    error = refusal(root)
    assert (error.value, error.remedy) == (b"caf\xe9", "rename that folder")
    os.rename(os.fsencode(root) + b"/caf\xe9", root / "cat")
    os.rename(root / "cat" / "a.png", os.fsencode(root) + b"/cat/caf\xe9.png")
    assert load(root).ids == ("cat/caf\\xe9.png", "dog/a.png")
    load(root).ids[0].encode()


def test_links_are_followed_and_a_class_that_is_a_link_to_nothing_is_told(tree, tmp_path):
    root = tree("cat/a.png")
    (root / "dog").symlink_to(tree("b.png", root=tmp_path / "elsewhere"))
    (root / "cat" / "c.png").symlink_to("a.png")
    assert listing(root).ids == ["cat/a.png", "cat/c.png", "dog/b.png"]
    (root / "emu").symlink_to("nowhere")
    error = refusal(root)
    assert (error.value, error.rule) == (root / "emu", "is a link to nothing (nowhere)")


def test_a_broken_file_that_a_limit_leaves_out_is_not_read(tree):
    root = tree(*(f"{folder}/{number}.png" for folder in ("cat", "dog") for number in range(4)))
    (root / "cat" / "2.png").write_bytes(b"")
    (root / "dog" / "3.png").unlink()
    (root / "dog" / "3.png").symlink_to("nowhere")
    found = load(root, limit=4)
    assert found.ids == ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png")
    assert refusal(root, load, limit=5).field == str(root / "cat" / "2.png")


def write_deep(root, *levels):
    root.mkdir(exist_ok=True)
    for number, level in enumerate(levels):
        Image.fromarray(np.full((2, 2), level, np.uint16)).save(root / f"{number}.png")
    return root


@pytest.mark.parametrize(("brightest", "bits"), [(255, 8), (1000, 10), (4095, 12), (16383, 14)])
def test_a_set_that_is_dark_as_a_whole_is_refused_with_its_bits(tmp_path, brightest, bits):
    root = write_deep(tmp_path / "root", 3, brightest)
    error = refusal(root, load)
    assert (error.field, f"all 2 images with 16 bits is {brightest}," in error.rule) == ("bits", True)
    assert f"`bits: {bits}`" in error.remedy
    assert load(root, bits=bits).images.max() == round(255 * brightest / (2**bits - 1))
    assert load(root, bits=16).images.max() == round(brightest / 257)


@pytest.mark.parametrize("grey", [(), (3, 200)])
@pytest.mark.parametrize(("level", "largest"), [(0, 255), (4000, 4095), (16383, 16383)])
def test_dark_colours_are_never_told_bits_that_do_not_apply_to_them(tmp_path, grey, level, largest):
    root = write_deep(tmp_path / "root", *grey)
    for name in ("x.png", "y.png"):
        (root / name).write_bytes(png_of_deep_colours(level, size=2))
    error = refusal(root, load)
    assert f"images with 16 bits is at most {largest}," in error.rule
    assert error.remedy == "save them as 8 bits a channel, or set `bits: 16` if they are as dark as that"
    assert load(root, bits=16).images[-1, 0].unique().tolist() == [level // 256]


def test_dark_images_in_a_set_of_full_range_and_a_single_one_are_read(tmp_path):
    assert load(write_deep(tmp_path / "full", 100, 4000, 60_000)).images[:, 0, 0, 0].tolist() == [0, 16, 233]
    assert load(write_deep(tmp_path / "one", 4000)).images.max() == 16
    assert load(write_deep(tmp_path / "black", 0, 0)).images.max() == 0


@pytest.mark.parametrize("place", ["decode_deep", "resized", "torch.empty"])
def test_lack_of_memory_is_said_as_that(tree, monkeypatch, place):
    root = tree(*TWO)

    def fail(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory") if place == "torch.empty" else MemoryError

    empty = torch.empty
    monkeypatch.setattr(columns, place, fail) if "." not in place else monkeypatch.setattr(torch, "empty", fail)
    error = refusal(root, load, size=(4, 4))
    monkeypatch.setattr(torch, "empty", empty)
    assert (error.value, error.rule) == ("2 images", "do not fit into this machine's memory")
    assert "`size`" in error.remedy
    assert "`limit`" in error.remedy


def test_other_runtime_errors_are_not_taken_for_lack_of_memory(tree, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(columns, "decode_deep", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        load(tree(*TWO))
