"""Polygons and run lengths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsf_dist.data.regions import polygon_mask, run_length_mask, run_lengths, uncompressed


def test_a_polygon_holds_the_pixels_whose_middle_it_holds():
    square = polygon_mask(np.array([[2, 1], [5, 1], [5, 3], [2, 3]]), 4, 6)
    assert np.argwhere(square).tolist() == [[1, 2], [1, 3], [1, 4], [2, 2], [2, 3], [2, 4]]
    # Below the diagonal from (0, 0) to (3, 3): the middle of pixel (r, r) lies on it and is outside.
    triangle = polygon_mask(np.array([[0, 0], [3, 3], [0, 3]]), 3, 3)
    assert triangle.tolist() == [[False] * 3, [True, False, False], [True, True, False]]
    # Beyond the image on every side, and turning the other way.
    assert polygon_mask(np.array([[-5, -5], [-5, 9], [9, 9], [9, -5]]), 3, 3).all()
    assert not polygon_mask(np.array([[4, 4], [9, 4], [9, 9]]), 3, 3).any()


def test_the_area_of_a_polygon_is_its_number_of_pixels():
    angles = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([50 + 40 * np.cos(angles), 50 + 40 * np.sin(angles)], 1)
    assert abs(polygon_mask(circle, 100, 100).sum() - np.pi * 1600) < 20


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_run_lengths_give_the_mask_back(height, width, random):
    mask = np.array([[random.random() < 0.5 for _ in range(width)] for _ in range(height)])
    counts = run_lengths(mask)
    assert sum(counts) == height * width
    assert np.array_equal(run_length_mask(np.array(counts), height, width), mask)


def test_run_lengths_start_outside_and_go_down_the_columns():
    assert run_lengths(np.array([[False, True], [True, True]])) == [1, 3]
    assert run_lengths(np.array([[True, False], [True, False]])) == [0, 2, 2]
    assert run_lengths(np.zeros((2, 2), bool)) == [4]


def test_compressed_run_lengths():
    # '2' is 2; '0' is 0; 'g0' is 23 (10111, then 0, for without it bit 4 is the sign).
    assert uncompressed("02g0") == [0, 2, 23]
    # From the fourth on, differences to the number before the last: 'M' is 29 = 11101, -3.
    assert uncompressed("2525") == [2, 5, 2, 10]
    assert uncompressed("252M") == [2, 5, 2, 2]
    assert uncompressed("") == []


@pytest.mark.parametrize("text", [" ", "é", "p", "g", "oooooooooo0"])
def test_what_is_no_compressed_text_is_refused(text):
    with pytest.raises(ValueError, match="compressed run lengths"):
        uncompressed(text)
