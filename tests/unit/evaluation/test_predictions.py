"""Predictions of several models over several tasks; Ray in name only."""

import numpy as np
import pytest
import torch
from torch import nn

from rsf_dist.config.resources import Share
from rsf_dist.data.images import ImageSet
from rsf_dist.evaluation import predictions
from rsf_dist.evaluation.predictions import Predictions, gap_closed, predict, predict_all, split_into_batches


@pytest.mark.parametrize(
    ("num_rows", "max_pieces", "sizes"),
    [
        (100, 8, [100]),
        (4_095, 8, [2_048, 2_047]),  # eight batches, the last one short by one: two tasks of four
        (3_584, 8, [3_584]),  # seven batches
        (4_096, 1, [4_096]),
        (4_096, 0, [4_096]),  # of a full cluster: the task waits for room
        (6_000, 8, [2_048, 2_048, 1_904]),  # twelve batches
        (6_000, 2, [3_072, 2_928]),
        (50_000, 5, [9_728, 10_240, 9_728, 10_240, 10_064]),  # 98 batches: 19 or 20 each
        (0, 4, [0]),
    ],
)
def test_rows_are_split_into_whole_batches(num_rows, max_pieces, sizes):
    pieces = split_into_batches(num_rows, max_pieces)
    assert [piece.stop - piece.start for piece in pieces] == sizes
    assert all(piece.start % 512 == 0 for piece in pieces)
    assert [piece.start for piece in pieces[1:]] == [piece.stop for piece in pieces[:-1]]
    assert (pieces[0].start, pieces[-1].stop) == (0, num_rows)


class BatchSensitive(nn.Module):
    """Predicts an image's level minus the least level of its batch: other batches give other predictions."""

    def forward(self, images):
        level = images[:, 0, 0, 0].long()
        return nn.functional.one_hot(level - level.min(), 256).float()


class Inverted(BatchSensitive):
    def forward(self, images):
        return super().forward(255 - images)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (6_000, 1, 1, 1), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, pixels.flatten().long(), tuple(map(str, range(256))))


@pytest.fixture
def asked(monkeypatch):
    """The pieces of each call, which are predicted in this process."""
    calls = []

    def run_in_tasks(function, arguments, *, share):
        calls.append(([len(piece) for _, piece in arguments], share))
        return [function(*each) for each in arguments]

    monkeypatch.setattr(predictions.ray, "put", lambda models: models)
    monkeypatch.setattr(predictions, "run_in_tasks", run_in_tasks)
    return calls


@pytest.mark.parametrize(("room", "sizes"), [(1, [6_000]), (2, [3_072, 2_928]), (9, [2_048, 2_048, 1_904])])
def test_predictions_do_not_depend_on_the_number_of_tasks(images, asked, monkeypatch, room, sizes):
    monkeypatch.setattr(predictions, "max_tasks", lambda share: room)
    models = {"plain": BatchSensitive(), "inverted": Inverted()}
    found = predict_all(models, images, Share(2, 1))
    assert asked == [(sizes, Share(2, 1))]
    assert list(found) == ["plain", "inverted"]
    for name, model in models.items():
        alone = predict(model, images)
        assert np.array_equal(found[name].predicted, alone.predicted)
        assert np.array_equal(found[name].truth, alone.truth)
        assert found[name].num_classes == 256
    assert not np.array_equal(found["plain"].predicted, found["inverted"].predicted)


def test_no_images_give_no_predictions(asked):
    assert predict_all({"plain": BatchSensitive()}, None, Share()) == {}
    assert asked == []


def test_accuracy_of_all_and_of_each_class():
    # of classes 0, 0, 1, 1, 1 the first, third and fourth are right; class 2 has no images
    found = Predictions(np.array([0, 1, 1, 1, 2]), np.array([0, 0, 1, 1, 1]), 3)
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.by_class == [pytest.approx(1 / 2), pytest.approx(2 / 3), None]


def test_the_gap_closed_lies_between_random_and_oracle():
    # means: random .5, oracle .9, adaptive .8, so .3 of .4
    arms = {"pretrained": [0.4], "random": [0.4, 0.6], "adaptive": [0.7, 0.9], "oracle": [0.9, 0.9]}
    assert gap_closed(arms) == {"adaptive": pytest.approx(0.75)}
    assert gap_closed({"random": [0.9], "adaptive": [0.95], "oracle": [0.9]}) == {}
    assert gap_closed({"adaptive": [0.95], "oracle": [0.9]}) == {}
