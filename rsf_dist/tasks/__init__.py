"""Socket 3: model, loss, metrics. A new task is one file here and one line below."""

from rsf_dist.tasks.base import Task
from rsf_dist.tasks.classification import ClassificationTask

__all__ = ["ClassificationTask", "Task"]
