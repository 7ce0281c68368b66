import pytest
import torch

from rsf_dist.data.resizing import Placement, placement, resized, with_channels


@pytest.mark.parametrize(
    ("resize", "wanted"),
    [
        # 20 x 40 into 10 x 10: half as high covers, a quarter fits.
        ("cover", Placement(10, 20, 0, -5)),
        ("fit", Placement(5, 10, 2, 0)),
        ("stretch", Placement(10, 10, 0, 0)),
    ],
)
def test_where_an_image_comes_to_lie(resize, wanted):
    assert placement(20, 40, (10, 10), resize) == wanted


def test_a_size_is_covered_and_fitted_whatever_is_rounded():
    for height, width in [(1, 1000), (1000, 1), (7, 13), (333, 224), (9, 9)]:
        covering, fitting = (placement(height, width, (24, 31), resize) for resize in ("cover", "fit"))
        assert covering.height >= 24
        assert covering.width >= 31
        assert 1 <= fitting.height <= 24
        assert 1 <= fitting.width <= 31
        for resize in ("cover", "fit", "stretch"):
            assert resized(torch.ones(3, height, width, dtype=torch.uint8), (24, 31), resize).shape == (3, 24, 31)


def test_pixels_go_where_the_placement_says():
    image = torch.zeros(1, 20, 40, dtype=torch.uint8)
    image[:, :, 10:30] = 200  # the middle square
    assert resized(image, (20, 20), "cover").unique().tolist() == [200]
    fitted = resized(image, (40, 40), "fit")
    assert fitted[0, :, 20].tolist() == [0] * 10 + [200] * 20 + [0] * 10
    assert resized(image, (20, 40), "fit").equal(image)
    stretched = resized(image, (20, 20), "stretch")
    assert stretched[0, 10, [0, 10, 19]].tolist() == [0, 200, 0]


def test_grey_and_colour():
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert with_channels(red, 1).tolist() == [[[[76]]]]  # .2989 * 255
    assert with_channels(red[:, :1], 3).flatten().tolist() == [255, 255, 255]
    assert with_channels(red, None) is red
