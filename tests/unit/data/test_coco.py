"""Images with boxes or masks in COCO's format."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from data.annotated_files import box, coco, config, image, load, notes, on_its_side, refusal

from rsf_dist.data.sources import list_images
from rsf_dist.errors import InputError


def test_boxes_are_corners_and_classes_are_numbered_in_the_order_of_ids(tmp_path):
    found = load(
        "coco", **coco(tmp_path, [box(1, [2, 3, 10, 5], 90), box(2, [0, 0, 4, 4], 3), box(3, [1, 1, 2, 2], 7, 2)])
    )
    assert found.classes == ("cat", "dog", "cow")
    assert found.ids == ("a.png", "b.png")
    assert found.images.shape == (2, 3, 20, 40)
    boxes, labels = found.annotations["boxes"], found.annotations["box_label"]
    assert boxes.tolist() == [[[2, 3, 12, 8], [0, 0, 4, 4]], [[1, 1, 3, 3], [0, 0, 0, 0]]]
    assert labels.tolist() == [[2, 0], [1, -1]]
    assert (boxes.dtype, labels.dtype, set(found.annotations)) == (torch.float32, torch.int64, {"boxes", "box_label"})


def test_images_without_annotations_stay(tmp_path):
    found = load("coco", **coco(tmp_path, [box(1, [2, 3, 10, 5], image_id=2)]))
    assert found.annotations["box_label"].tolist() == [[-1], [0]]
    alone = load("coco", **coco(tmp_path, [box(1, [2, 3, 10, 5], image_id=2)]), limit=1)
    assert alone.annotations["boxes"].tolist() == [[[0, 0, 0, 0]]]


def test_classes_reorder_and_leave_out(tmp_path):
    files = coco(tmp_path, [box(1, [2, 3, 10, 5], 90), box(2, [0, 0, 4, 4], 3), box(3, [1, 1, 2, 2], 7)])
    found = load("coco", **files, classes=("cow", "cat"))
    assert found.annotations["box_label"][0].tolist() == [0, 1]
    told = notes("coco", **files, classes=("cow", "cat", "owl"))
    assert "annotations of categories that `classes` leaves out: 1" in told
    assert "(id 3, image 1)" in told
    assert "classes that are no category of the file: 1 (first: owl)" in told


def test_files_that_number_the_same_names_otherwise_are_told_apart(tmp_path):
    ours = load("coco", **coco(tmp_path / "ours", [box(1, [1, 2, 3, 4])]))
    categories = [{"id": number, "name": name} for number, name in enumerate(["dog", "cow", "cat"])]
    theirs = coco(tmp_path / "theirs", [box(1, [1, 2, 3, 4], 2)], categories=categories)
    with pytest.raises(InputError, match=r"classes must be the source's, cat, dog, cow"):
        load("coco", **theirs).require_like(ours)
    named = load("coco", **theirs, classes=ours.classes)
    named.require_like(ours)
    assert named.annotations["box_label"].tolist() == ours.annotations["box_label"].tolist()


def test_a_crowd_is_kept_apart_from_what_is_trained_on(tmp_path):
    found = load("coco", **coco(tmp_path, [box(1, [2, 3, 10, 5], 7, iscrowd=1), box(2, [0, 0, 4, 4])]))
    assert found.annotations["box_label"].tolist() == [[-1, 0], [-1, -1]]
    assert found.annotations["box_crowd"].tolist() == [[1, -1], [-1, -1]]
    assert found.annotations["boxes"][0].tolist() == [[2, 3, 12, 8], [0, 0, 4, 4]]


def test_boxes_are_clipped_or_left_out_and_told_of(tmp_path):
    given = [[-5, 3, 10, 5], [30, 10, 30, 30], [5, 5, 0, 4], [50, 5, 4, 4], [5, 5, 0.3, 4], [0, 0, 40.01, 20]]
    files = coco(tmp_path, [box(number, bbox) for number, bbox in enumerate(given)])
    boxes = load("coco", **files).annotations["boxes"][0]
    assert boxes.tolist()[:2] == [[0, 3, 5, 8], [30, 10, 40, 20]]
    assert boxes[2:].tolist() == [pytest.approx([5, 5, 5.3, 9]), [0, 0, 40, 20]]
    told = notes("coco", **files)
    assert "boxes that reach beyond their image, clipped: 2" in told
    assert "left out: 2" in told
    assert "annotations[2] (id 2, image 1).bbox" in told
    assert "boxes thinner than a pixel: 1" in told


def test_corners_given_as_sizes_are_suspected(tmp_path):
    corners = [[10, 5, 35, 18], [3, 2, 20, 12]]
    sizes = [[10, 5, 25, 13], [3, 2, 17, 10], [30, 10, 20, 5]]  # the last is too large, and no box of corners either
    told = notes("coco", **coco(tmp_path, [box(number, bbox) for number, bbox in enumerate(corners)]))
    assert "only fit as [x0, y0, x1, y1]" in told
    assert "only fit" not in notes("coco", **coco(tmp_path, [box(number, bbox) for number, bbox in enumerate(sizes)]))


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (box(5, [1, 2, float("nan"), 4]), "bbox=[1, 2, nan, 4]: must be four finite numbers"),
        (box(5, [1, 2, 10**400, 4]), "must be four finite numbers"),
        (box(5, [1, 2, True, 4]), "must be four finite numbers"),
        (box(5, [1, 2, 3]), "must be four finite numbers"),
        (box(5, None), "must be four finite numbers"),
        (box(5, [1, 2, "3", 4]), "must be four finite numbers"),
        (box(5, [1, 2, -3, 4]), "has a negative width or height"),
        (box(5, [1, 2, 3, 4], 4), "category_id=4: is no id of `categories` [90, 3, 7]"),
        (box(5, [1, 2, 3, 4], "cat"), 'category_id="cat": must be a whole number'),
        (box(5, [1, 2, 3, 4], image_id="1"), 'image_id="1": must be a whole number'),
        (box("x", [1, 2, 3, 4]), 'annotations[1].id="x": must be a whole number'),
        (box(1, [1, 2, 3, 4]), "annotations[1].id=1: is the id of another annotation, too"),
        (box(5, [1, 2, 3, 4], iscrowd="no"), "iscrowd=no: must be 0 or 1"),
        ([1, 2, 3, 4], "must be an object with keys"),
    ],
)
def test_a_faulty_annotation_is_refused_with_its_place(annotation, expected, tmp_path):
    error = refusal("coco", **coco(tmp_path, [box(1, [1, 2, 3, 4]), annotation]))
    assert error.startswith(f"{tmp_path}/coco.json: annotations[1]")
    assert expected in error


def entry(number, name, **size):
    return {"id": number, "file_name": name, **size}


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([entry(1, "absent.png")], "images[0].file_name=absent.png: is no file below"),
        ([entry(1, "a.png"), entry(1, "b.png")], "images[1].id=1: is the id of another image, too"),
        ([entry(1, "a.png"), entry(2, "./a.png")], "images[1].file_name=a.png: is listed under two ids"),
        ([entry("one", "a.png")], 'images[0].id="one": must be a whole number'),
        ([entry(1, "../../../etc/passwd")], "must be the path of a file below"),
        ([entry(1, "x/../../coco.json")], "must be the path of a file below"),
        ([entry(1, "/etc/passwd")], "must be the path of a file below"),
        ([entry(1, "a\0.png")], "must be the path of a file below"),
        ([entry(1, "")], "must be a text that is not empty"),
        ([entry(1, "a.png", height=0, width=4)], "height and width must be positive"),
        ([entry(1, "a.png", height=20, width=41)], "describes one of 20 x 41"),
        ([entry(1, "a.png", height=20, width="40")], 'width="40": must be a whole number'),
    ],
)
def test_a_faulty_image_is_refused_with_its_place(images, expected, tmp_path):
    assert expected in refusal("coco", **coco(tmp_path, [box(1, [1, 2, 3, 4])], images=images))


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]}, "categories[1].id=3: is the id of another"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 4, "name": "a"}]}, "categories[1].name=a: is the name of"),
        ({"categories": [{"id": 3}]}, "categories[0].name=null: must be a text"),
        ({"categories": {}}, "must hold a list `categories`"),
        ({"images": None}, "must hold a list `images`"),
    ],
)
def test_faulty_lists_are_refused(lists, expected, tmp_path):
    assert expected in refusal("coco", **coco(tmp_path, [box(1, [1, 2, 3, 4])], **lists))


def test_a_file_without_annotations_or_boxes_is_refused(tmp_path):
    assert "must hold a list `annotations`" in refusal("coco", **coco(tmp_path))
    assert refusal("coco", **coco(tmp_path, [])).startswith("annotations=")
    assert "holds no box of the classes" in refusal("coco", **coco(tmp_path, [box(1, [5, 5, 0, 0])]))
    assert "holds no box" in refusal("coco", **coco(tmp_path, [box(1, [5, 5, 3, 3], iscrowd=1)]))


@pytest.mark.parametrize("text", ["", "[", "[1]", "[" * 100_000, "\ufffe", '{"images": 1}'])
def test_what_is_no_file_of_coco_is_refused(text, tmp_path):
    files = coco(tmp_path, [])
    files["annotations"].write_text(text)
    assert refusal("coco", **files).startswith(str(files["annotations"]))


def test_annotations_of_no_image_are_left_out_and_told_of(tmp_path):
    files = coco(tmp_path, [box(1, [1, 2, 3, 4]), box(2, [1, 2, 3, 4], image_id=77)])
    assert load("coco", **files).annotations["box_label"].tolist() == [[0], [-1]]
    assert "annotations of no image in the file, left out: 1" in notes("coco", **files)
    assert "(id 2, image 77)" in notes("coco", **files)


def test_equal_names_in_two_folders_are_two_images(tmp_path):
    for name in ("x/1.png", "y/1.png"):
        image(tmp_path / "images" / name)
    images = [entry(1, "x/1.png", height=20, width=40), entry(2, "y/1.png")]
    files = coco(tmp_path, [box(1, [1, 2, 3, 4], 3, 1), box(2, [1, 2, 3, 4], 7, 2)], images=images)
    found = load("coco", **files)
    assert found.ids == ("x/1.png", "y/1.png")
    assert found.annotations["box_label"].tolist() == [[0], [1]]
    assert "images without `width` and `height`, which are taken from their files: 1" in notes("coco", **files)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotations_of_an_image_on_its_side_are_turned_with_it(orientation, tmp_path):
    on_its_side(tmp_path / "images" / "side.jpg", orientation)
    square = [[4, 3, 14, 3, 14, 9, 4, 9]]
    annotations = [box(1, [4, 3, 10, 6], segmentation=square)]
    stored = coco(tmp_path, annotations, images=[entry(1, "side.jpg", height=20, width=40)])
    boxes = load("coco", **stored).annotations["boxes"][0, 0].tolist()
    mask = load("coco", **stored, masks=True).annotations["mask"][0]
    assert mask.shape == (40, 20)
    rows, columns = np.nonzero(mask.numpy())
    assert boxes == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert boxes != [4, 3, 14, 9]
    upright = coco(tmp_path, annotations, images=[entry(1, "side.jpg", height=40, width=20)])
    assert load("coco", **upright).annotations["boxes"][0, 0].tolist() == [4, 3, 14, 9]


def test_boxes_move_with_the_pixels(tmp_path):
    # 20 x 40 covers 10 x 10 at half the size, with 5 columns cut off on each side.
    files = coco(
        tmp_path, [box(1, [10, 0, 20, 20]), box(2, [0, 4, 12, 4]), box(3, [0, 0, 16, 4]), box(4, [0, 0, 9, 9])]
    )
    found = load("coco", **files, size=(10, 10))
    assert found.annotations["boxes"][0].tolist() == [[0, 0, 10, 10], [0, 0, 3, 2], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found.annotations["box_label"][0].tolist() == [0, 0, -1, -1]  # 1/6 of the second is left: too little
    every = load("coco", **files, size=(10, 10), min_visible=0)
    assert every.annotations["boxes"][0].tolist() == [[0, 0, 10, 10], [0, 2, 1, 4], [0, 0, 3, 2], [0, 0, 0, 0]]
    fitted = load("coco", **files, size=(10, 10), resize="fit")
    assert fitted.annotations["boxes"][0, 0].tolist() == [2.5, 2, 7.5, 7]


def test_images_of_two_sizes_need_a_size(tmp_path):
    image(tmp_path / "images" / "c.png", 30, 30)
    images = [entry(1, "a.png"), entry(2, "c.png")]
    files = coco(tmp_path, [box(1, [1, 2, 3, 4])], images=images)
    assert "differs in size from" in refusal("coco", **files)
    assert load("coco", **files, size=(8, 8)).images.shape == (2, 3, 8, 8)


SQUARE = [4, 2, 8, 2, 8, 6, 4, 6]


def masked(tmp_path, *segmentations, **options):
    annotations = [box(number, None, segmentation=given) for number, given in enumerate(segmentations)]
    return load("coco", **coco(tmp_path, annotations), masks=True, **options).annotations["mask"][0]


def test_masks_of_polygons(tmp_path):
    files = coco(
        tmp_path,
        [
            box(1, None, 7, segmentation=[SQUARE]),
            box(2, None, 3, segmentation=[[6, 4, 10, 4, 10, 8, 6, 8], [20, 0, 22, 0, 22, 2, 20, 2]]),
        ],
    )
    found = load("coco", **files, masks=True)
    assert found.classes == ("background", "cat", "dog", "cow")
    wanted = torch.zeros(20, 40, dtype=torch.uint8)
    wanted[2:6, 4:8] = 2
    wanted[4:8, 6:10] = wanted[0:2, 20:22] = 1  # the later one lies above
    assert found.annotations["mask"].dtype == torch.uint8
    assert torch.equal(found.annotations["mask"][0], wanted)
    assert found.annotations["mask"][1].unique().tolist() == [0]
    ignoring = load("coco", **files, masks=True, background=None)
    assert ignoring.classes == ("cat", "dog", "cow")
    assert ignoring.annotations["mask"].unique().tolist() == [0, 1, 255]
    ordered = load("coco", **files, masks=True, classes=("dog", "background"))
    assert ordered.annotations["mask"].unique().tolist() == [0, 1]
    assert "must list background" in refusal("coco", **files, masks=True, classes=("dog",))


def test_run_lengths_go_down_the_columns(tmp_path):
    # Of 20 x 40: 20 + 3 outside, 2 inside are column 1, rows 3 and 4.
    mask = masked(tmp_path, {"size": [20, 40], "counts": [23, 2, 775]})
    assert mask.nonzero().tolist() == [[3, 1], [4, 1]]
    # 23 is 10111 with a zero sign bit in the next digit: 'g0'; 2 is '2'; 775 = 11000 00111: 'W', then 11000 -> 'h', '0'
    assert torch.equal(masked(tmp_path, {"size": [20, 40], "counts": "g02Wh0"}), mask)


def test_crowds_are_ignored_in_masks(tmp_path):
    crowd = box(2, None, 3, iscrowd=1, segmentation={"size": [20, 40], "counts": [0, 800]})
    mask = load("coco", **coco(tmp_path, [box(1, None, segmentation=[SQUARE]), crowd]), masks=True).annotations["mask"][
        0
    ]
    assert (mask == 1).sum() == 16
    assert (mask == 255).sum() == 800 - 16


def test_a_mask_moves_with_the_pixels(tmp_path):
    mask = masked(tmp_path, [[10, 0, 30, 0, 30, 20, 10, 20]], size=(40, 40), resize="fit")
    assert mask[:, 20].tolist() == [255] * 10 + [1] * 20 + [255] * 10
    assert mask[20].tolist() == [0] * 10 + [1] * 20 + [0] * 10


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ({"size": [20, 40], "counts": [23, 2, 774]}, "add up to height x width, 800"),
        ({"size": [20, 40], "counts": [23, -2, 779]}, "must be whole numbers from 0"),
        ({"size": [20, 40], "counts": [23.0, 777]}, "must be whole numbers from 0"),
        ({"size": [20, 40]}, "must be whole numbers from 0"),
        ({"size": [20, 40], "counts": "g0 2"}, "is no digit of compressed run lengths"),
        ({"size": [20, 40], "counts": "g"}, "end within a number"),
        ({"size": [20, 40], "counts": "oooooooooo0"}, "is no digit of compressed run lengths"),
        ({"size": [40, 20], "counts": [800]}, "must be the image's [20, 40]"),
        ({"counts": [800]}, "must be the image's [20, 40]"),
        (SQUARE, "must be a list of polygons"),
        ("g", "must be a list of polygons"),
        ([[1, 2, 3, 4, 5, 6, 7]], "must be an even number of finite numbers"),
        ([[1, 2, 3, 4, 5, float("inf")]], "must be an even number of finite numbers"),
        ([[1, 2, 3, 4, 5, "6"]], "must be an even number of finite numbers"),
    ],
)
def test_a_faulty_segmentation_is_refused(segmentation, expected, tmp_path):
    files = coco(tmp_path, [box(5, None, segmentation=segmentation)])
    error = refusal("coco", **files, masks=True)
    assert error.startswith(f"{tmp_path}/coco.json: annotations[0] (id 5, image 1).segmentation")
    assert expected in error


def test_polygons_of_too_few_points_are_left_out_and_told_of(tmp_path):
    given = [[[1, 1, 5, 5], SQUARE], [[1, 1, 5, 5]], []]
    files = coco(tmp_path, [box(number, None, segmentation=part) for number, part in enumerate(given)])
    assert (load("coco", **files, masks=True).annotations["mask"] == 1).sum() == 16
    told = notes("coco", **files, masks=True)
    assert "polygons of fewer than three points, left out: 2" in told
    assert "annotations without a segmentation, left out: 2" in told
    assert "holds no segmentation" in refusal("coco", **coco(tmp_path, [box(1, [1, 1, 2, 2])]), masks=True)


def test_masks_hold_at_most_255_classes(tmp_path):
    many = [{"id": number, "name": str(number)} for number in range(255)]
    files = coco(tmp_path, [box(1, None, 254, segmentation=[SQUARE])], categories=many)
    assert "masks hold at most 255 classes" in refusal("coco", **files, masks=True)
    mask = load("coco", **files, masks=True, background=None).annotations["mask"]
    assert mask.unique().tolist() == [254, 255]


def test_a_listing_travels_to_another_process(tmp_path):
    listing = list_images(config("coco", **coco(tmp_path, [box(1, [12, 3, 10, 5])]), size=(10, 10)))
    read = pickle.loads(pickle.dumps(listing.read))
    assert read([1, 0])["box_label"].tolist() == [[-1], [0]]


def test_a_huge_size_in_the_file_costs_no_memory(tmp_path):
    images = [entry(1, "a.png", height=10**6, width=10**7)]
    annotation = box(1, None, segmentation=[SQUARE])
    assert "describes one of" in refusal("coco", **coco(tmp_path, [annotation], images=images), masks=True)


def test_a_path_that_is_no_folder_or_no_file(tmp_path):
    files = coco(tmp_path, [box(1, [2, 3, 10, 5])])
    assert refusal("coco", **{**files, "annotations": tmp_path / "absent"}).startswith("annotations=")
    assert refusal("coco", **{**files, "root": tmp_path / "coco.json"}).startswith("root=")
    files["annotations"].write_bytes(json.dumps({}).encode("utf-16"))
    assert "cannot be read as text" in refusal("coco", **files)


def test_annotations_must_be_a_file_and_a_device_without_end_is_not_read(tmp_path):
    files = coco(tmp_path, [box(1, [2, 3, 10, 5])])
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path, tmp_path / "pipe"):
        error = refusal("coco", **{**files, "annotations": path})
        assert error == f"annotations={path}: must be a file; name the JSON file with the annotations"


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "a/" * 3000 + "a.png"])
def test_a_name_too_long_for_a_file_is_no_file(name, tmp_path):
    files = coco(tmp_path, [box(1, [2, 3, 10, 5])], images=[entry(1, name)])
    assert "images[0].file_name=a" in refusal("coco", **files)
    assert "is no file below" in refusal("coco", **files)
