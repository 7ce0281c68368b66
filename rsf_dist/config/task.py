"""The tasks: what the model learns from the accepted rows (`rsf_dist.tasks`).

The object itself is made by `rsf_dist.builders.components.build_task`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from rsf_dist.config.base import ImportPath, StrictModel
from rsf_dist.config.kinds import Kinds


class TaskKind(StrictModel):
    """The base of every kind of task.

    A kind of your own derives from this class, names itself in `kind`, and is registered by `@TASK_KINDS.register`.
    """

    kind: str
    """The kind's name."""


TASK_KINDS = Kinds[TaskKind]("task", default="classification")
"""The kinds that `task:` can have."""

TaskConfig = Annotated[TaskKind, TASK_KINDS]
"""The type of a field that holds a task of any registered kind."""


@TASK_KINDS.register
class ClassificationTaskConfig(TaskKind):
    """Image classification with cross entropy, measured by top-1 accuracy."""

    kind: Literal["classification"] = "classification"
    """Chooses this task, the default."""


@TASK_KINDS.register
class CustomTaskConfig(TaskKind):
    """A task of your own."""

    kind: Literal["custom"]
    """Chooses this task."""
    factory: ImportPath
    """Import path of a class or function that is called with classes, model (a ModelConfig), channels and `options`. It
    returns a `Task` (`rsf_dist.tasks.base`), whose model gives one logit a class for each image."""
    options: dict[str, Any] = {}
    """Keyword arguments of `factory`."""
