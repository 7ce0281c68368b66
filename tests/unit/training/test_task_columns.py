"""Rows of another kind than a task's: its columns are not converted in silence."""

import pytest
import torch

from rsf_dist.config.model import ModelConfig
from rsf_dist.errors import InputError
from rsf_dist.tasks import ClassificationTask

TASK = ClassificationTask(("a", "b"), ModelConfig(width=4), channels=1)
IMAGE, LABEL = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"label": LABEL.double()},
            r"label=torch.float64 \[4\]: must be a class's number, one a row; convert",
        ),
        ({"label": torch.eye(4)[:, :2]}, r"label=torch.float32 \[4, 2\]: must be a class's number"),
        ({"label": LABEL[:, None]}, r"label=torch.int64 \[4, 1\]: must be a class's number"),
        ({"label": LABEL + 1}, r"label=2: must lie in \[0, 2\)"),
        ({"image": IMAGE.float()}, r"image=torch.float32: must be uint8 \[n, channels, height, width\]; convert"),
        ({"image": IMAGE.int()}, r"image=torch.int32: must be uint8"),
    ],
)
def test_other_types_are_refused(rows: dict, message: str) -> None:
    model, batch = TASK.build_model(0), {"image": IMAGE, "label": LABEL} | rows
    with pytest.raises(InputError, match=message):
        TASK.loss(model, batch)
    with pytest.raises(InputError, match=message):
        TASK.update(TASK.metrics(), model, batch)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_class_numbers_of_any_whole_type_are_taken(kind: torch.dtype) -> None:
    model, batch = TASK.build_model(0).eval(), {"image": IMAGE, "label": LABEL}
    torch.testing.assert_close(TASK.loss(model, batch | {"label": LABEL.to(kind)}), TASK.loss(model, batch))


def test_a_network_of_numbers_takes_numbers() -> None:
    task = ClassificationTask(("a", "b"), ModelConfig(name="mlp", width=4, depth=1), channels=3)
    assert task.loss(task.build_model(0), {"image": torch.zeros(4, 3), "label": LABEL}).shape == (4,)
