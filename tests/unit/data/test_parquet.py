"""Image sets from Parquet files: bytes or tensors, one file or a folder, labels of each kind."""

import io
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rsf_dist.config.images import ParquetConfig
from rsf_dist.data import packing
from rsf_dist.data.arrow import to_table
from rsf_dist.data.images import ImageSet, load_images
from rsf_dist.data.packing import Packing
from rsf_dist.data.sources import arrow_images, list_images, parquet
from rsf_dist.errors import InputError


def encoded(level: int, size: tuple[int, int] = (2, 3), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size[::-1], (level,) * 3 if mode == "RGB" else level).save(file, "PNG")
    return file.getvalue()


def write(path: Path, rows_a_group: int = 2, metadata: dict | None = None, **columns) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=rows_a_group)


def load(root: Path, **keys) -> ImageSet:
    return load_images(ParquetConfig(root=str(root), **keys))


def refusal(root: Path, **keys) -> InputError:
    with pytest.raises(InputError) as caught:
        load(root, **keys)
    assert "\n" not in str(caught.value)
    return caught.value


def levels(images: ImageSet) -> list[int]:
    return images.images[:, 0, 0, 0].tolist()


FIVE = [encoded(level) for level in (10, 20, 30, 40, 50)]
TENSORS = np.arange(5 * 3 * 2 * 4, dtype=np.uint8).reshape(5, 3, 2, 4)


@pytest.mark.parametrize(
    "cells",
    [
        pa.array(FIVE, pa.binary()),
        pa.array(FIVE, pa.large_binary()),
        pa.array([{"bytes": data, "path": f"{row}.png"} for row, data in enumerate(FIVE)]),
        pa.array([{"bytes": data, "path": None} for data in FIVE]),
        pa.array([{"bytes": data} for data in FIVE]),
    ],
)
def test_images_are_the_bytes_of_files(tmp_path, cells):
    write(tmp_path / "a.parquet", image=cells, label=[0, 1, 1, 0, 2])
    images = load(tmp_path / "a.parquet")
    assert images.images.shape == (5, 3, 2, 3)
    assert levels(images) == [10, 20, 30, 40, 50]
    assert images.labels.tolist() == [0, 1, 1, 0, 2]
    assert images.classes == ("0", "1", "2")
    assert images.ids == tuple(f"a.parquet:{row}" for row in range(5))
    assert load(tmp_path / "a.parquet", channels=1, size=(4, 4)).images.shape == (5, 1, 4, 4)


def nested(kind: pa.DataType) -> pa.Array:
    return pa.array(TENSORS.tolist(), kind)


@pytest.mark.parametrize(
    "cells",
    [
        to_table({"image": torch.from_numpy(TENSORS)})["image"].combine_chunks(),
        nested(pa.list_(pa.list_(pa.list_(pa.uint8())))),
        nested(pa.list_(pa.list_(pa.list_(pa.uint8(), 4), 2), 3)),
        nested(pa.large_list(pa.list_(pa.list_(pa.int64())))),
    ],
)
def test_images_are_tensors_of_fixed_shape_or_nested_lists(tmp_path, cells):
    write(tmp_path / "a.parquet", image=cells)
    images = load(tmp_path / "a.parquet")
    assert images.images.numpy().tolist() == TENSORS.tolist()
    assert images.labels is None
    assert load(tmp_path / "a.parquet", start=3, limit=1).images.numpy().tolist() == TENSORS[3:4].tolist()
    assert load(tmp_path / "a.parquet", channels=1).images.shape == (5, 1, 2, 4)


def test_grey_tensors_need_no_channel(tmp_path):
    write(tmp_path / "a.parquet", pixels=TENSORS[:, 0].tolist())
    assert load(tmp_path / "a.parquet").images.numpy().tolist() == TENSORS[:, :1].tolist()


@pytest.mark.parametrize(
    ("cells", "rule"),
    [
        (TENSORS.transpose(0, 2, 3, 1).tolist(), "must be [channels, height, width]"),
        ([TENSORS[0].tolist(), [[[1], [2, 3]]]], "one length each"),
        ([TENSORS[0].tolist(), [[[1, 256]]]], "from 0 to 255"),
        ([TENSORS[0].tolist(), [[[1, -1]]]], "from 0 to 255"),
        ((TENSORS / 255).tolist(), "from 0 to 255"),
        ([TENSORS[0].tolist(), [[[1, None]]]], "without a number"),
        ([TENSORS[0].tolist(), None], "has no image"),
        ([TENSORS[0].tolist(), [[[]]]], "has no pixels"),
    ],
)
def test_a_tensor_that_is_no_image_is_named_by_its_row(tmp_path, cells, rule):
    write(tmp_path / "a.parquet", image=cells)
    err = refusal(tmp_path / "a.parquet", size=(4, 4))
    assert err.field.startswith(f"{tmp_path}/a.parquet row ")
    assert err.field.split()[2] == ("0" if len(cells) == 5 else "1")
    assert rule in err.rule


@pytest.mark.parametrize(
    ("cells", "rule"),
    [
        ([FIVE[0], FIVE[1], b"no image"], "is not a readable image"),
        ([FIVE[0], FIVE[1], FIVE[2][:40]], "is not a readable image"),
        ([FIVE[0], FIVE[1], b""], "is not a readable image"),
        ([FIVE[0], FIVE[1], None], "has no image"),
        ([{"bytes": FIVE[0], "path": "x"}, {"bytes": FIVE[1], "path": "x"}, {"bytes": None, "path": "x"}], "is a path"),
        ([{"bytes": FIVE[0], "path": "x"}, {"bytes": FIVE[1], "path": "x"}, None], "has no image"),
    ],
)
def test_bytes_that_are_no_image_are_named_by_their_row(tmp_path, cells, rule):
    write(tmp_path / "a.parquet", image=cells)
    err = refusal(tmp_path / "a.parquet")
    assert err.field == f"{tmp_path}/a.parquet row 2 (the first is 0)"
    assert rule in err.rule
    assert levels(load(tmp_path / "a.parquet", limit=2)) == [10, 20]  # the others are sound, and it is not decoded


def test_only_the_rows_asked_for_are_decoded_and_only_their_groups_read(tmp_path, monkeypatch):
    """Groups of 2 rows: (0 1) (2 3) in a, (0 1) in b. The second group is overwritten, so that reading it fails."""
    write(tmp_path / "a.parquet", image=FIVE[:4], label=[0, 1, 0, 1])
    write(tmp_path / "b.parquet", image=[FIVE[4], FIVE[0]], label=[0, 1])
    listing = list_images(ParquetConfig(root=str(tmp_path)))
    chunk = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(0)
    with (tmp_path / "a.parquet").open("r+b") as file:
        file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
        file.write(b"\xff" * chunk.total_compressed_size)
    seen: list[str] = []
    monkeypatch.setattr(arrow_images, "decoded", counting(seen, arrow_images.decoded))
    read = pickle.loads(pickle.dumps(listing.read))
    assert read([5, 0, 5, 1])["image"][:, 0, 0, 0].tolist() == [10, 10, 10, 20]
    assert [place.partition("/")[2].rpartition("/")[2] for place in seen] == [
        "a.parquet row 0 (the first is 0)",
        "a.parquet row 1 (the first is 0)",
        "b.parquet row 1 (the first is 0)",
    ]
    with pytest.raises(InputError, match=r"a\.parquet=.*cannot be read as Parquet"):
        read([2])


def counting(seen, decode):
    def counted(path, config, where, data, brightest):
        seen.append(where)
        return decode(path, config, where, data, brightest)

    return counted


def test_a_row_group_larger_than_a_batch_is_read_in_order(tmp_path):
    data = [encoded(level) for level in range(200)]
    write(tmp_path / "a.parquet", rows_a_group=150, image=data)
    listing = list_images(ParquetConfig(root=str(tmp_path / "a.parquet")))
    wanted = [199, 0, 63, 64, 65, 128, 149, 150, 151]
    assert listing.read(wanted)["image"][:, 0, 0, 0].tolist() == wanted


class CountingFragment:
    """A fragment of a file, which adds the rows that are read of it to `read`."""

    def __init__(self, fragment: ds.ParquetFileFragment, read: list[int]) -> None:
        self.fragment, self.read = fragment, read

    def __getattr__(self, name: str) -> object:
        return getattr(self.fragment, name)

    def to_batches(self, **options: object):
        for batch in self.fragment.to_batches(**options):
            self.read.append(batch.num_rows)
            yield batch


@pytest.fixture
def rows_read(monkeypatch) -> list[int]:
    """The rows of each batch of images that is read; a packed set's blocks are of 30 images of 2 x 3 pixels."""
    read: list[int] = []

    class Format:
        def make_fragment(self, *arguments: object, **options: object) -> CountingFragment:
            return CountingFragment(ds.ParquetFileFormat().make_fragment(*arguments, **options), read)

    stand_in = SimpleNamespace(ParquetFileFormat=Format, ParquetFragmentScanOptions=ds.ParquetFragmentScanOptions)
    monkeypatch.setattr(parquet, "ds", stand_in)
    monkeypatch.setattr(parquet, "_ROWS_AT_ONCE", 10)
    monkeypatch.setattr(packing, "LEAST_DECODED", 1)
    monkeypatch.setattr(packing, "BLOCK_BYTES", 30 * 3 * 2 * 3)
    return read


def tensors(count: int) -> pa.Array:
    cells = np.random.default_rng(0).integers(256, size=(count, 3, 2, 3), dtype=np.uint8)
    return pa.FixedShapeTensorArray.from_numpy_ndarray(cells)


@pytest.mark.parametrize("attributes", [(), ("depth",)])
def test_each_row_is_read_once_to_be_packed_however_large_its_row_group(attributes, rows_read, tmp_path):
    columns = {"image": tensors(900), "label": np.arange(900) % 3, "depth": np.arange(900) / 7}
    write(tmp_path / "a.parquet", 800, **columns)
    source = ParquetConfig(root=str(tmp_path), attributes=attributes)
    expected = load_images(source)
    rows_read.clear()
    packed = load_images(source, packing=Packing([tmp_path / "cache"], read_blocks=not_called))
    assert sum(rows_read) == 10 + 900  # the first batch tells how large an image is; blocks by themselves: over 11,000
    assert packed.digest() == expected.digest()
    assert torch.equal(packed.images, expected.images)
    assert torch.equal(packed.labels, expected.labels)
    assert (list(packed.annotations), tuple(packed.ids)) == (list(attributes), expected.ids)


def not_called(*_: object) -> None:
    raise AssertionError("several processes read the same rows")


def test_small_row_groups_are_decoded_by_several_processes(rows_read, tmp_path):
    write(tmp_path / "a.parquet", 50, image=tensors(200))
    parts = []

    def elsewhere(listing, runs, key):
        parts.extend(runs)
        return (packing.read_block(pickle.loads(pickle.dumps(listing.read)), run) for run in runs)

    source = ParquetConfig(root=str(tmp_path))
    packed = load_images(source, packing=Packing([tmp_path / "cache"], read_blocks=elsewhere))
    assert len(parts) == 7  # 200 / 30
    assert packed.digest() == load_images(source).digest()


def test_a_broken_row_of_a_packed_set_is_named_and_so_are_dark_images_of_sixteen_bits(rows_read, tmp_path):
    write(tmp_path / "broken.parquet", 100, image=[*FIVE * 10, b"no image"])
    dark = io.BytesIO()
    Image.fromarray(np.full((2, 3), 300, np.uint16)).save(dark, "PNG")
    write(tmp_path / "dark.parquet", 100, image=[dark.getvalue()] * 70)
    for name, told in (("broken", "broken.parquet row 50"), ("dark", "of all 70 images with 16 bits is 300")):
        with pytest.raises(InputError) as caught:
            load_images(ParquetConfig(root=str(tmp_path / f"{name}.parquet")), packing=Packing([tmp_path / "cache"]))
        assert told in str(caught.value)


def test_runs_that_do_not_ascend_are_read_all_the_same(tmp_path):
    write(tmp_path / "a.parquet", 3, image=FIVE)
    read = list_images(ParquetConfig(root=str(tmp_path))).read
    runs = [[4, 0, 4], [1, 2], [2]]
    assert [block["image"][:, 0, 0, 0].tolist() for block in read.blocks(runs)] == [[50, 10, 50], [20, 30], [30]]


def test_a_folder_s_files_come_in_the_order_of_their_paths(tmp_path):
    write(tmp_path / "b.parquet", img=FIVE[3:], label=["x", "y"])
    write(tmp_path / "a" / "z.parquet", img=FIVE[:3], label=["y", "y", "x"])
    write(tmp_path / "_hidden" / "z.parquet", other=[1])
    write(tmp_path / "none.parquet", img=pa.array([], pa.binary()), label=pa.array([], pa.string()))
    (tmp_path / "README.md").write_text("no table")
    for root in (str(tmp_path), f"file://{tmp_path}", f"{tmp_path}/"):
        images = load_images(ParquetConfig(root=root))
        assert levels(images) == [10, 20, 30, 40, 50]
        assert images.labels.tolist() == [1, 1, 0, 0, 1]
        assert images.ids == ("a/z.parquet:0", "a/z.parquet:1", "a/z.parquet:2", "b.parquet:0", "b.parquet:1")


def hugging_face(**features) -> dict:
    return {"huggingface": json.dumps({"info": {"features": features}})}


CLASS_LABEL = {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}


@pytest.mark.parametrize(
    ("classes", "labels", "names"),
    [
        ((), [2, 0, 1], ("cat", "dog", "owl")),
        (("owl", "dog", "cat"), [0, 2, 1], ("owl", "dog", "cat")),  # the same names in another order
        (("Katze", "Hund", "Eule"), [2, 0, 1], ("Katze", "Hund", "Eule")),  # other names in the same order
    ],
)
def test_hugging_face_s_names_are_the_classes(tmp_path, classes, labels, names):
    metadata = hugging_face(image={"_type": "Image"}, label=CLASS_LABEL)
    write(tmp_path / "a.parquet", metadata=metadata, image=FIVE[:3], label=[2, 0, 1])
    images = load(tmp_path / "a.parquet", classes=classes)
    assert images.labels.tolist() == labels
    assert images.classes == names


def test_hugging_face_s_names_are_checked(tmp_path):
    write(tmp_path / "a.parquet", metadata=hugging_face(label=CLASS_LABEL), image=FIVE[:2], label=[2, 0])
    assert refusal(tmp_path / "a.parquet", classes=("dog", "cat")).value == "owl"
    other = CLASS_LABEL | {"names": ["dog", "cat", "owl"]}
    write(tmp_path / "b.parquet", metadata=hugging_face(label=other), image=FIVE[:2], label=[2, 0])
    err = refusal(tmp_path)
    assert err.field == f"{tmp_path}/b.parquet"
    assert "must have the classes ['cat', 'dog', 'owl']" in err.rule


def class_label(names: object) -> bytes:
    return hugging_face(label={"names": names, "_type": "ClassLabel"})["huggingface"].encode()


@pytest.mark.parametrize(
    "text",
    [
        b"no json", b"[]", b'{"info": null}', b'{"info": {"features": {"label": 1}}}', b"[" * 200_000, b"\xff",
        *map(class_label, [None, 5, True, 0.5, "cat", {"a": 1}, [], ["x", "x"]]),
    ],
)  # fmt: skip
def test_metadata_of_other_programs_is_passed_over(tmp_path, text):
    write(tmp_path / "a.parquet", metadata={"huggingface": text}, image=FIVE[:2], label=[1, 0])
    assert load(tmp_path / "a.parquet").classes == ("0", "1")


@pytest.mark.parametrize(
    ("labels", "metadata", "row", "rule"),
    [
        ([0, None, 1], None, 1, "has no label"),
        ([0.0, 1.0, float("nan")], None, 2, "has no label"),
        ([0.0, 1.5, 1.0], None, 1, "words or whole numbers"),
        (["x", "", "y"], None, 1, "has no label"),
        ([0, 1, -1], None, 2, "must lie in [0, 2)"),
        ([[0], [1], [1]], None, 0, "a word or a whole number"),
        ([0, 3, 1], hugging_face(label=CLASS_LABEL), 1, "must lie in [0, 3)"),
        ([0, None, 1], hugging_face(label=CLASS_LABEL), 1, "has no label"),
        (pa.array([0, 2**63, 1], pa.uint64()), hugging_face(label=CLASS_LABEL), 1, "must lie in [0, 3)"),
    ],
)
def test_a_wrong_label_is_named_by_its_row(tmp_path, labels, metadata, row, rule):
    write(tmp_path / "a.parquet", metadata=metadata, image=FIVE[:3], label=labels)
    err = refusal(tmp_path)
    assert err.field == f"{tmp_path}/a.parquet row {row} (the first is 0)"
    assert rule in err.rule
    assert load(tmp_path, label_column="").labels is None
    unlabelled = load_images(ParquetConfig(root=str(tmp_path)), labelled=False)
    assert (unlabelled.labels, levels(unlabelled)) == (None, [10, 20, 30])


def test_labels_of_a_categorical_column_are_words(tmp_path):
    write(tmp_path / "a.parquet", image=FIVE[:3], label=pa.array(["y", "x", "y"]).dictionary_encode())
    assert load(tmp_path).labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("columns", "keys", "field", "rule"),
    [
        ({"file": FIVE[:1], "y": [1]}, {}, "image_column", "but file, y"),
        ({"image": FIVE[:1], "y": [1]}, {"label_column": "label"}, "label_column", "but image, y"),
        ({"image": ["a.png"]}, {}, "image_column", "is string"),
        ({"image": [[1, 2]]}, {}, "image_column", "is list"),
        ({"image": [{"path": "a.png"}]}, {}, "image_column", "is struct"),
        ({"image": pa.array([], pa.binary())}, {}, "root", "holds no rows"),
    ],
)
def test_columns_without_images_are_refused(tmp_path, columns, keys, field, rule):
    write(tmp_path / "a.parquet", **columns)
    err = refusal(tmp_path / "a.parquet", **keys)
    assert err.field == field
    assert rule in err.rule


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"image": FIVE[:1]}, "has no column label"),
        ({"label": [1]}, "has no column image"),
        ({"image": FIVE[:1], "label": ["x"]}, "column label must be int64"),
    ],
)
def test_files_whose_columns_differ_are_refused_by_name(tmp_path, columns, rule):
    write(tmp_path / "a.parquet", image=FIVE[:1], label=[0])
    write(tmp_path / "b.parquet", **columns)
    err = refusal(tmp_path)
    assert err.field == f"{tmp_path}/b.parquet"
    assert rule in err.rule


def test_a_broken_file_is_named(tmp_path):
    write(tmp_path / "a.parquet", image=FIVE[:1])
    (tmp_path / "b.parquet").write_bytes(b"no Parquet")
    err = refusal(tmp_path)
    assert err.field == f"{tmp_path}/b.parquet"
    assert "cannot be read as Parquet" in err.rule


@pytest.mark.parametrize(
    ("root", "rule"),
    [("none", "does not exist"), ("empty", "holds no *.parquet file"), ("file:///none/x", "cannot be listed"),
     ("foo://bucket/x", "is no path or URI"), ("s3://id:secret@bucket/x", "carries a password")],
)  # fmt: skip
def test_a_root_without_files_is_refused(tmp_path, root, rule):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        load_images(ParquetConfig(root=root if "://" in root else str(tmp_path / root)))
    assert caught.value.field == "root"
    assert rule in caught.value.rule
    assert "secret" not in str(caught.value)


def test_images_of_several_sizes_need_a_size(tmp_path):
    write(tmp_path / "a.parquet", image=[FIVE[0], encoded(9, (5, 5))])
    err = refusal(tmp_path)
    assert err.field == "size"
    assert "row 1" in err.rule
    assert load(tmp_path, size=(4, 4)).images.shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("error", "field", "value"),
    [
        (MemoryError(), "root", "5 images"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "root", "5 images"),
        (pa.ArrowMemoryError("malloc of size 1 failed"), "a.parquet", "(a file)"),
        (pa.ArrowInvalid("a broken page"), "a.parquet", "(a file)"),
    ],
)
def test_lack_of_memory_is_said_as_that(tmp_path, monkeypatch, error, field, value):
    def fail(*given):
        raise error

    write(tmp_path / "a.parquet", image=FIVE)
    monkeypatch.setattr(parquet, "image_in", fail)
    found = refusal(tmp_path)
    assert (Path(found.field).name, found.value) == (field, value)
    assert ("fit into this machine's memory" in found.rule) == (not isinstance(error, pa.ArrowInvalid))


def test_rows_are_read_in_the_order_asked_for_also_twice_and_across_groups(tmp_path):
    write(tmp_path / "a.parquet", image=FIVE)
    rows = list_images(ParquetConfig(root=str(tmp_path))).read([4, 0, 3, 0])
    assert rows["image"][:, 0, 0, 0].tolist() == [50, 10, 40, 10]


def test_twelve_bits_in_sixteen_are_refused_or_scaled_by_bits(tmp_path):
    files = [io.BytesIO(), io.BytesIO()]
    for file, level in zip(files, (4095, 2184), strict=True):
        Image.fromarray(np.full((2, 2), level, np.uint16)).save(file, "PNG")
    write(tmp_path / "a.parquet", rows_a_group=1, image=[file.getvalue() for file in files])
    error = refusal(tmp_path)
    assert (error.field, "`bits: 12`" in error.remedy) == ("bits", True)
    assert levels(load(tmp_path, bits=12)) == [255, 136]  # 2184 / 4095 = 8 / 15
    assert levels(load(tmp_path, bits=16)) == [16, 8]
