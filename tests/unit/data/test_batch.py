import hashlib

import pytest
import torch

from rsf_dist.data.arrow import from_table, to_table
from rsf_dist.data.batch import concat, num_rows, row_digests, select, take_rows

COLUMNS = {
    "floats": torch.tensor([0.1, -torch.inf, 3.0]),
    "doubles": torch.tensor([0.1, 1e-300, -0.0], dtype=torch.float64),
    "halves": torch.tensor([0.5, 1.5, 2.5], dtype=torch.float16),
    "longs": torch.tensor([-1, 2**62, 0]),
    "bytes": torch.tensor([0, 128, 255], dtype=torch.uint8),
    "bools": torch.tensor([True, False, True]),
    "matrix": torch.arange(6.0).reshape(3, 2),
    "images": torch.arange(36, dtype=torch.uint8).reshape(3, 1, 3, 4),
    "masks": torch.tensor([[True, False], [False, False], [True, True]]),
}


def same(left, right):
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert torch.equal(left[name], right[name])
        assert left[name].shape == right[name].shape


def test_arrow_round_trip():
    same(from_table(to_table(COLUMNS)), COLUMNS)


def test_arrow_round_trip_of_no_rows():
    empty = select(COLUMNS, slice(0, 0))
    same(from_table(to_table(empty)), empty)
    same(from_table(to_table(COLUMNS).schema.empty_table()), empty)


def test_arrow_round_trip_of_a_transposed_tensor():
    batch = {"image": torch.arange(24).reshape(1, 2, 3, 4).permute(0, 3, 1, 2)}
    same(from_table(to_table(batch)), batch)


def test_a_part_of_a_table_gives_its_own_rows():
    same(from_table(to_table(COLUMNS).slice(1, 2)), select(COLUMNS, slice(1, 3)))


def test_tables_in_pieces_are_joined():
    import pyarrow as pa

    pieces = [to_table(select(COLUMNS, slice(i, i + 1))) for i in range(3)]
    same(from_table(pa.concat_tables(pieces)), COLUMNS)


def test_rows_are_written_to_without_changing_the_table():
    table = to_table({"x": torch.zeros(2), "image": torch.zeros(2, 3)})
    batch = from_table(table)
    batch["x"][0] = 1.0
    batch["image"][0] = 1.0
    assert not from_table(table)["x"].any()
    assert not from_table(table)["image"].any()


@pytest.mark.parametrize("index", [slice(0, 2), torch.tensor([0, 1]), torch.tensor([True, True, False])])
def test_select(index):
    chosen = select(COLUMNS, index)
    assert num_rows(chosen) == 2
    assert torch.equal(chosen["matrix"], torch.tensor([[0.0, 1.0], [2.0, 3.0]]))


def test_concat_undoes_select():
    same(concat([select(COLUMNS, slice(0, 1)), select(COLUMNS, slice(1, 3))]), COLUMNS)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "at least one column"),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, "differ in length"),
        ({"a": torch.tensor(1.0)}, "differ in length"),
    ],
)
def test_num_rows_refuses_what_is_no_batch(batch, message):
    with pytest.raises(ValueError, match=message):
        num_rows(batch)


def test_digest_is_of_the_bytes_in_order_of_the_columns_names():
    # Row 1: column "a" holds byte 2, column "b" bytes 5 and 6 -> SHA-256 of 02 05 06.
    b = torch.tensor([[3, 4], [5, 6]], dtype=torch.uint8)
    a = torch.tensor([1, 2], dtype=torch.uint8)
    assert row_digests({"b": b, "a": a})[32:] == hashlib.sha256(bytes([2, 5, 6])).digest()


def test_digest_changes_with_any_byte_and_only_in_its_row():
    before = row_digests(COLUMNS)
    assert len(before) == 3 * 32
    for name, column in COLUMNS.items():
        flat = column.clone().reshape(3, -1)
        flat[1, -1] = ~flat[1, -1] if flat.dtype == torch.bool else flat[1, -1] * 0 + 77
        after = row_digests(COLUMNS | {name: flat.reshape(column.shape)})
        changed = [before[i : i + 32] != after[i : i + 32] for i in (0, 32, 64)]
        assert changed == [False, True, False], name


def test_digest_tells_zero_from_minus_zero():
    assert row_digests({"x": torch.tensor([0.0])}) != row_digests({"x": torch.tensor([-0.0])})


def test_digests_do_not_depend_on_memory_layout():
    image = torch.arange(24).reshape(2, 3, 4)
    transposed = image.transpose(1, 2).contiguous().transpose(1, 2)
    assert row_digests({"x": image}) == row_digests({"x": transposed})


def test_digests_of_no_rows():
    assert row_digests(select(COLUMNS, slice(0, 0))) == b""


@pytest.mark.parametrize(
    "index", [torch.tensor([4, 0, 0]), torch.tensor([True, False, True, False, True]), slice(1, 4)]
)
@pytest.mark.parametrize("strided", [False, True])
def test_rows_are_those_of_indexing_strides_included(index, strided):
    column = torch.arange(5 * 2 * 3 * 3).reshape(5, 2, 3, 3)
    column = column.to(memory_format=torch.channels_last) if strided else column
    found = take_rows(column, index)
    assert torch.equal(found, column[index])
    assert found.stride() == column[index].stride()


def test_a_mask_of_other_rows_is_refused():
    with pytest.raises(IndexError, match="mask of 3 for 5"):
        take_rows(torch.arange(5), torch.tensor([True, False, True]))
