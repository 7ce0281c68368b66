"""Socket 3: a task's model, loss and metrics. A new task is one file in this folder and one line below."""

from rsf_dist.tasks.base import Task
from rsf_dist.tasks.classification import ClassificationTask

__all__ = ["ClassificationTask", "Task"]
