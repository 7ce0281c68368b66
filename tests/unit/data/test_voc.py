"""Images with boxes in PASCAL VOC's format."""

import gc
import os
from xml.etree import ElementTree

import pytest
from data.annotated_files import image, load, notes, on_its_side, refusal, voc, voc_object

from rsf_dist.data.sources import annotated


def test_corners_count_from_one_and_are_within_the_box(tmp_path):
    objects = voc_object("dog", 1, 1, 40, 20) + voc_object("cat", 5, 6, 5, 7) + voc_object("cat", "2.5", 3, 4.5, 5)
    found = load("voc", root=voc(tmp_path, objects))
    assert found.classes == ("cat", "dog")
    assert found.ids == ("a.jpg",)
    assert found.annotations["boxes"].tolist() == [[[0, 0, 40, 20], [4, 5, 5, 7], [1.5, 2, 4.5, 5]]]
    assert found.annotations["box_label"].tolist() == [[1, 0, 0]]


def test_difficult_objects_are_ignored_or_kept(tmp_path):
    hard = voc_object("dog", 1, 1, 9, 9, more="<difficult>1</difficult>")
    root = voc(tmp_path, hard + voc_object("cat", 5, 6, 9, 9, more="<difficult>0</difficult>"))
    found = load("voc", root=root)
    assert found.annotations["box_label"].tolist() == [[-1, 0]]
    assert found.annotations["box_crowd"].tolist() == [[1, -1]]
    kept = load("voc", root=root, difficult="keep")
    assert kept.annotations["box_label"].tolist() == [[1, 0]]
    assert "box_crowd" not in kept.annotations


def test_a_split_is_a_list_of_images_in_its_order(tmp_path):
    voc(tmp_path, voc_object("cat", 1, 1, 9, 9))
    image(tmp_path / "JPEGImages" / "b.jpg")
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\na\n")
    (lists / "val.txt").write_text("b  -1\n\n")
    image(tmp_path / "JPEGImages" / "my photo.jpg")
    (lists / "spaced.txt").write_text("a\nmy photo\n")
    assert load("voc", root=tmp_path, split="spaced").ids == ("a.jpg", "my photo.jpg")
    (lists / "cow_val.txt").write_text("c 1\n")
    (lists / "twice.txt").write_text("a\nb\na\n")
    assert load("voc", root=tmp_path, split="train").ids == ("b.jpg", "a.jpg")
    assert "holds no box" in refusal("voc", root=tmp_path, split="val")
    assert refusal("voc", root=tmp_path, split="test").startswith("split=test: is no list in")
    assert f"{lists}/cow_val.txt:1=c: is no image in" in refusal("voc", root=tmp_path, split="cow_val")
    assert f"{lists}/twice.txt:3=a: is listed twice" in refusal("voc", root=tmp_path, split="twice")
    assert "must be the path of a file below" in refusal("voc", root=tmp_path, split="../../train")


def test_classes_are_those_of_all_files_whatever_the_split(tmp_path):
    voc(tmp_path, voc_object("dog", 1, 1, 9, 9))
    image(tmp_path / "JPEGImages" / "b.jpg")
    (tmp_path / "Annotations" / "b.xml").write_text(f"<annotation>{voc_object('cat', 1, 1, 9, 9)}</annotation>")
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    found = load("voc", root=tmp_path, split="train")
    assert found.classes == ("cat", "dog")
    assert found.annotations["box_label"].tolist() == [[1]]
    assert "files without a size, which is taken from the image: 1" in notes("voc", root=tmp_path)


def test_files_may_lie_beside_the_images_and_be_absent(tmp_path):
    image(tmp_path / "x" / "a.png")
    image(tmp_path / "y" / "a.png")
    image(tmp_path / "b.png")
    (tmp_path / "y" / "a.xml").write_text(f"<annotation>{voc_object('cat', 1, 1, 9, 9)}</annotation>")
    (tmp_path / "y" / "._a.xml").write_bytes(b"\0\5\x16\7")
    found = load("voc", root=tmp_path)
    assert found.ids == ("b.png", "x/a.png", "y/a.png")
    assert found.annotations["box_label"].tolist() == [[-1], [-1], [0]]
    assert "images without an XML file, taken as images without objects: 2" in notes("voc", root=tmp_path)


def test_objects_of_other_classes_are_left_out_and_told_of(tmp_path):
    root = voc(tmp_path, voc_object("dog", 1, 1, 9, 9) + voc_object("cat", 1, 1, 9, 9))
    assert load("voc", root=root, classes=("cat",)).annotations["box_label"].tolist() == [[0]]
    assert "leaves out: 1 (first: " in notes("voc", root=root, classes=("cat",))


def test_degenerate_boxes_are_clipped_or_left_out_and_told_of(tmp_path):
    root = voc(tmp_path, voc_object("cat", 0, 0, 9, 9) + voc_object("cat", 5, 5, 4, 9) + voc_object("cat", 5, 5, 44, 9))
    assert load("voc", root=root).annotations["boxes"].tolist() == [[[0, 0, 9, 9], [4, 4, 40, 9]]]
    told = notes("voc", root=root)
    assert "boxes that begin at pixel 0, though the first pixel is number 1: 1" in told
    assert "left out: 1" in told
    assert "object[1]" in told
    assert "clipped: 1" in told


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        (voc_object("cat", 9, 1, 5, 9), "object[0].bndbox=[9.0, 1.0, 5.0, 9.0]: has a negative width"),
        (voc_object("cat", "nan", 1, 5, 9), "object[0].xmin=nan: must be a finite number"),
        (voc_object("cat", 1, "inf", 5, 9), "object[0].ymin=inf: must be a finite number"),
        (voc_object("cat", 1, "", 5, 9), "object[0].ymin=: must be a finite number"),
        ("<object><name>cat</name></object>", "object[0].xmin=None: must be a finite number"),
        (voc_object("", 1, 1, 5, 9), "object[0].name=: must name the object's class"),
        ("<object>", "is no XML file of boxes"),
        ("", "holds no box"),
    ],
)
def test_a_faulty_object_is_refused(objects, expected, tmp_path):
    assert expected in refusal("voc", root=voc(tmp_path, objects))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("<size><width>41</width><height>20</height></size>", "describes one of 20 x 41"),
        ("<size><width>-4</width><height>20</height></size>", "must be positive whole numbers"),
        ("<size><width>wide</width><height>20</height></size>", "must be a finite number"),
    ],
)
def test_a_wrong_size_is_refused(size, expected, tmp_path):
    assert expected in refusal("voc", root=voc(tmp_path, voc_object("cat", 1, 1, 9, 9), size))


def test_an_image_on_its_side_has_its_boxes_turned(tmp_path):
    voc(tmp_path, voc_object("cat", 5, 4, 14, 9))
    on_its_side(tmp_path / "JPEGImages" / "a.jpg", 6)
    # Turned to the right, 20 high and 40 wide becomes 40 high and 20 wide: x' = 20 - y, y' = x.
    assert load("voc", root=tmp_path).annotations["boxes"].tolist() == [[[11, 4, 17, 14]]]


BILLION = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
FOREIGN = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("declaration", [BILLION, FOREIGN, '<!DOCTYPE a SYSTEM "http://localhost/a.dtd">'])
def test_a_document_type_is_refused(declaration, encoding, tmp_path):
    voc(tmp_path, "")
    text = f'<?xml version="1.0" encoding="{encoding}"?>{declaration}<annotation>{voc_object("&b;", 1, 1, 9, 9)}'
    (tmp_path / "Annotations" / "a.xml").write_bytes(f"{text}</annotation>".encode(encoding))
    assert "it has a DTD" in refusal("voc", root=tmp_path)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b'<?xml version="1.0" encoding="nothing"?><a/>', b"x" * 10_000_001])
def test_what_is_no_xml_is_refused(data, tmp_path):
    voc(tmp_path, "")
    (tmp_path / "Annotations" / "a.xml").write_bytes(data)
    assert "is no XML file of boxes" in refusal("voc", root=tmp_path)


def test_images_and_files_must_match(tmp_path):
    voc(tmp_path, voc_object("cat", 1, 1, 9, 9))
    (tmp_path / "Annotations" / "b.xml").write_text("<annotation/>")
    assert "has no image b.* in" in refusal("voc", root=tmp_path)
    image(tmp_path / "JPEGImages" / "b.jpg")
    image(tmp_path / "JPEGImages" / "b.png")
    assert "has the name of b.jpg" in refusal("voc", root=tmp_path)


def test_a_note_is_one_line_that_controls_no_terminal_whatever_a_file_is_called(tmp_path):
    voc(tmp_path, voc_object("cat", 1, 1, 9, 9))
    image(tmp_path / "JPEGImages" / "b\x1b[31m\nfake.png")
    told = notes("voc", root=tmp_path)
    assert "(first: " in told
    assert "b\ufffd[31m\ufffdfake.png)" in told
    assert told.isprintable()


def test_images_are_found_through_links_and_what_systems_leave_behind_is_none(tmp_path):
    root = voc(tmp_path / "set", voc_object("cat", 1, 1, 9, 9))
    image(tmp_path / "elsewhere" / "b.png")
    (root / "JPEGImages" / "more").symlink_to(tmp_path / "elsewhere")
    image(root / "JPEGImages" / "@eaDir" / "c.png")
    (root / "JPEGImages" / "README.pdf").write_bytes(b"%PDF-1.4")
    (root / "JPEGImages" / "x.png").mkdir()
    assert load("voc", root=root).ids == ("a.jpg", "more/b.png")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    root = voc(tmp_path, voc_object("cat", 1, 1, 9, 9))
    os.mkfifo(root / "JPEGImages" / "b.png")
    assert "JPEGImages/b.png=(no file): cannot be read: it is no file; remove it" in refusal("voc", root=root)
    image(root / "JPEGImages" / "c.png")
    (root / "JPEGImages" / "b.png").unlink()
    os.mkfifo(root / "Annotations" / "c.xml")
    assert "Annotations/c.xml=(no file): cannot be read: it is no file; remove it" in refusal("voc", root=root)


def test_an_image_without_xml_that_cannot_be_read_is_refused_with_the_reason(tmp_path):
    root = voc(tmp_path, voc_object("cat", 1, 1, 9, 9))
    (root / "JPEGImages" / "b.png").write_bytes(b"")
    assert "b.png=(a file): is not a readable image: it is empty; copy it again" in refusal("voc", root=root)
    (root / "JPEGImages" / "b.png").unlink()
    (root / "JPEGImages" / "b.png").symlink_to("nowhere")
    assert "b.png=(no file): cannot be read: it is a link to nothing (nowhere)" in refusal("voc", root=root)


def test_a_split_of_a_name_too_long_for_a_file_is_no_list(tmp_path):
    root = voc(tmp_path, voc_object("cat", 1, 1, 9, 9))
    (root / "ImageSets" / "Main").mkdir(parents=True)
    assert "is no list in" in refusal("voc", root=root, split="a" * 300)


@pytest.mark.parametrize("place", [".ipynb_checkpoints", "@eaDir", "deeper/.cache"])
def test_xml_that_programs_leave_behind_is_not_read(place, tmp_path):
    root = voc(tmp_path, voc_object("cat", 1, 1, 9, 9))
    (root / "Annotations" / place).mkdir(parents=True)
    (root / "Annotations" / place / "a.xml").write_text("no XML")
    assert load("voc", root=root).ids == ("a.jpg",)


def test_xml_is_found_through_links_as_its_images_are(tmp_path):
    root = voc(tmp_path / "set", voc_object("cat", 1, 1, 9, 9))
    other = voc(tmp_path / "other", voc_object("cat", 2, 2, 9, 9))
    for name in ("JPEGImages", "Annotations"):
        (root / name / "more").symlink_to(other / name)
    found = load("voc", root=root)
    assert found.ids == ("a.jpg", "more/a.jpg")
    assert found.annotations["boxes"].tolist() == [[[0, 0, 9, 9]], [[1, 1, 9, 9]]]


def test_a_file_name_that_is_no_utf8_is_carried_through(tmp_path):
    root = voc(tmp_path, voc_object("cat", 1, 1, 9, 9))
    image(tmp_path / "b.png")
    (tmp_path / "b.png").rename(os.fsdecode(os.fsencode(root / "JPEGImages") + b"/b\xff.png"))
    assert load("voc", root=root).ids == ("a.jpg", "b\\xff.png")


def test_no_tree_of_a_file_is_kept_once_the_file_is_read(tmp_path, monkeypatch):
    def trees() -> int:
        gc.collect()
        return sum(isinstance(item, ElementTree.Element) for item in gc.get_objects())

    def counted(path):
        seen.append(trees() - before)
        return annotated.frame_of(path)

    root, seen, before = voc(tmp_path, voc_object("cat", 1, 1, 9, 9), size=""), [], trees()
    kept = ElementTree.fromstring("<a><b/></a>")
    assert trees() == before + len([kept, *kept])  # a tree that is kept is counted
    del kept
    monkeypatch.setattr("rsf_dist.data.sources.voc.frame_of", counted)
    assert len(load("voc", root=root)) == 1
    assert seen == [0]  # where the image's size is asked for, all files have been read


def test_numbers_of_objects_that_are_left_out_are_not_checked(tmp_path):
    root = voc(tmp_path, voc_object("dog", "nan", 1, 9, 9) + voc_object("cat", 1, 1, 9, 9))
    assert load("voc", root=root, classes=("cat",)).annotations["box_label"].tolist() == [[0]]
