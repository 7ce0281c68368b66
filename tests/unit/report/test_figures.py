"""The sheet of images and the training curves in a report."""

import io

import numpy as np
from matplotlib.image import imread

from rsf_dist.report.figures import grid, training_curves
from rsf_dist.report.schema import LossPoint, TrainingEntry


def sheet(images: np.ndarray) -> np.ndarray:
    """Return the picture's pixels, 0 to 255, [height, width, 3]."""
    return np.round(imread(io.BytesIO(grid(images)))[:, :, :3] * 255).astype(int)


def test_small_images_are_enlarged_and_lie_in_rows_of_twelve():
    images = np.arange(13, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 8, 4), np.uint8)
    images[3, 0, 7, 0] = 200  # a pixel at the lower left
    shown = sheet(images)
    assert shown.shape == (2 * 80 + 5, 12 * 40 + 11 * 5, 3)  # pixels ten times as large, five between images
    assert (shown[0, 3 * 45] == 3).all()
    assert (shown[70:80, 3 * 45 : 3 * 45 + 10] == 200).all()
    assert (shown[69, 3 * 45] == 3).all()
    assert (shown[85, 0] == 12).all()  # the thirteenth
    assert (shown[80:85] == 255).all()
    assert (shown[:, 40:45] == 255).all()
    assert (shown[85:, 45:] == 255).all()


def test_large_images_and_colours_are_shown_as_they_are():
    images = np.random.default_rng(0).integers(256, size=(2, 3, 100, 90), dtype=np.uint8)
    shown = sheet(images)
    assert shown.shape == (100, 12 * 95 - 5, 3)
    assert (shown[:, 95:185] == images[1].transpose(1, 2, 0)).all()


def trained(*evaluations: dict[str, float | None]) -> TrainingEntry:
    curve = [LossPoint(step=1, train_loss=0.7, learning_rate=0.1)]
    return TrainingEntry(rows=100, metrics={}, curve=curve, evaluations=list(evaluations))


def test_training_curves_have_no_line_for_a_task_without_accuracy():
    without = training_curves({"adaptive": trained({"step": 1, "error": 0.2}, {"step": 2, "error": 0.1})})
    assert without == training_curves({"adaptive": trained()})
    measured = training_curves({"adaptive": trained({"step": 1, "accuracy": 0.2}, {"step": 2, "accuracy": None})})
    assert measured != without  # the negative control
