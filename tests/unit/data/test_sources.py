"""The socket of image sources: listing, taking, reading, and a source from outside of the package."""

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Literal

import pytest
import torch

from rsf_dist.config.images import IMAGE_KINDS, DigitsConfig, ImagesKind
from rsf_dist.config.load import parse_config
from rsf_dist.data.images import load_images
from rsf_dist.data.sources import Listing, list_images
from rsf_dist.data.sources.base import numbers, read_rows
from rsf_dist.data.sources.columns import filled
from rsf_dist.errors import InputError


def listing(labels: list[int] | None, count: int = 9) -> Listing:
    images = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    read = partial(read_rows, images, DigitsConfig())
    return Listing(numbers(count), read, None if labels is None else torch.tensor(labels), ("a", "b", "c"))


def test_a_limit_takes_of_every_class_in_turn():
    by_class = listing([0, 0, 0, 0, 0, 1, 1, 2, 2])
    assert by_class.take(limit=3) == [0, 5, 7]
    assert by_class.take(limit=5) == [0, 1, 5, 6, 7]
    # After a, b, c, a comes b; then c, a, a, a are left.
    assert by_class.take(start=4) == [2, 3, 4, 6, 8]
    assert by_class.take() == list(range(9))


@pytest.mark.parametrize("labels", [None, [0, 1, 2, 0, 1, 2, 0, 1, 2], [2, 2, 0, 0, 1, 1, 0, 0, 0]])
def test_mixed_classes_are_taken_in_their_order(labels):
    assert listing(labels).take(start=2, limit=3) == [2, 3, 4]


def test_parts_after_one_another_share_no_image_and_leave_none_out():
    by_class = listing([2, 2, 2, 0, 0, 0, 0, 0, 1])
    parts = [by_class.take(0, 4), by_class.take(4, 3), by_class.take(7)]
    assert sorted(position for part in parts for position in part) == list(range(9))


class StripesConfig(ImagesKind):
    """Images of one grey level each."""

    kind: Literal["stripes"]
    """Chooses this source."""
    levels: tuple[int, ...]
    """The levels."""


@pytest.fixture
def stripes() -> Iterator[list[list[int]]]:
    """Register the source; yields the positions that it was asked for."""
    asked: list[list[int]] = []

    def read(config, positions):
        asked.append(list(positions))
        rows = torch.tensor([config.levels[position] for position in positions], dtype=torch.uint8)
        return {"image": rows.reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8)}

    IMAGE_KINDS.register(StripesConfig)
    list_images.register(StripesConfig, lambda config: Listing(numbers(len(config.levels)), partial(read, config)))
    yield asked
    IMAGE_KINDS.forget(StripesConfig)


def test_a_source_from_outside_is_one_model_and_one_function(stripes):
    raw = {
        "output": "run",
        "source": {"kind": "digits"},
        "target": {"kind": "stripes", "levels": [3, 4, 5, 6], "start": 1, "limit": 2},
        "evaluation": {"test": {"kind": "stripes", "levels": [1]}},
        "sampling": {"num_accepted": 1},
    }
    config = parse_config(raw)
    assert load_images(config.target).images[:, 0, 0, 0].tolist() == [4, 5]
    assert stripes == [[1, 2]]  # no image is read that is not taken
    assert isinstance(config.evaluation.test, StripesConfig)
    assert parse_config(config.model_dump(mode="json")) == config


def test_it_is_gone_afterwards():
    raw = {"output": "run", "source": {"kind": "stripes"}, "target": {"kind": "digits"}, "sampling": {}}
    with pytest.raises(InputError, match=r"source\.kind=stripes: must be one of digits, "):
        parse_config(raw)


def test_a_model_without_a_function_is_refused():
    class Nameless(ImagesKind):
        kind: Literal["nameless"] = "nameless"

    with pytest.raises(InputError, match="kind=nameless: has no source"):
        load_images(Nameless())


def test_sources_in_memory_are_brought_to_size_and_channels():
    wide = load_images(DigitsConfig(limit=5, size=(16, 8), resize="stretch", channels=3))
    assert wide.images.shape == (5, 3, 16, 8)
    assert torch.equal(wide.images[:, 0], wide.images[:, 2])


def test_classes_rename_all_ten_digits_or_are_refused():
    names = tuple("abcdefghij")
    assert load_images(DigitsConfig(classes=names, limit=20)).classes == names
    with pytest.raises(InputError, match=r"classes=a, b, c: must name all ten digits") as caught:
        load_images(DigitsConfig(classes=("a", "b", "c")))
    assert caught.value.remedy == "list ten names, or leave `classes` out"
    without = load_images(DigitsConfig(classes=("a", "b", "c"), limit=20), labelled=False)
    assert (without.labels, without.classes) == (None, ())
    assert torch.equal(without.images, load_images(DigitsConfig(limit=20)).images)


def test_a_tensor_is_filled_without_holding_its_images_beside_it():
    alive: list[weakref.ref[torch.Tensor]] = []

    def images() -> Iterator[tuple[int, torch.Tensor]]:
        for number in (2, 0, 3, 1):
            image = torch.full((1, 2, 2), number, dtype=torch.uint8)
            alive.append(weakref.ref(image))
            yield number, image
            del image
            assert sum(each() is not None for each in alive) <= 2  # the first, and the one at hand

    tensor = filled(images(), 4, str, "root")
    assert tensor[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_an_image_unlike_the_first_is_named_by_its_number():
    pairs = [(1, torch.zeros(3, 2, 2)), (0, torch.zeros(3, 2, 4))]
    with pytest.raises(InputError, match=r"size=\[2, 4\]: image 0 differs in size from image 1 \[2, 2\]"):
        filled(pairs, 2, lambda number: f"image {number}", "root")
