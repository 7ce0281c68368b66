"""What a stage takes of the cluster, as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Protocol

from pydantic import Field

from rsf_dist.config.base import PositiveFloat, Seconds, StrictModel

FOR_RAY_DATA = ", and Ray Data needs a whole CPU that the workers leave"
"""The reason for a CPU beside training workers, as the end of an error message."""


@dataclass(frozen=True)
class Bundle:
    """The CPUs and GPUs that one process needs, on one node."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Reservation:
    """The processes that run at the same time in one stage.

    Args:
        field: the key that sets their number or size, relative to the section that it stands in.
        value: the key's value.
        bundles: one a process.
        wait_seconds: for a cluster that scales by itself to bring up room for them.
        reason: why that many are needed, as the end of an error message.
    """

    field: str
    value: object
    bundles: tuple[Bundle, ...]
    wait_seconds: float = 0.0
    reason: str = ""

    def within(self, section: str) -> Reservation:
        """Return the same reservation, its key named from outside of `section`."""
        return replace(self, field=f"{section}.{self.field}")


class Reserving(Protocol):
    """A section of the configuration that says what its stage takes of the cluster."""

    def reservations(self) -> Sequence[Reservation]:
        """List what must fit the cluster, one stage after the other."""
        ...


class TaskResources(StrictModel):
    """The share of the cluster that a task takes."""

    cpus: PositiveFloat = 1
    """CPUs of the task, or of each worker."""

    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    """GPUs of the task, or of each worker. A fraction shares a GPU with other tasks."""

    wait_seconds: Seconds = 0.0
    """Seconds to wait for a cluster that scales by itself to bring up these resources. 0 refuses at once."""

    @property
    def bundle(self) -> Bundle:
        """The resources of one process."""
        return Bundle(self.cpus, self.gpus)

    def reservations(self) -> tuple[Reservation, ...]:
        """List the single task."""
        field, value = ("gpus", self.gpus) if self.gpus else ("cpus", self.cpus)
        return (Reservation(field, value, (self.bundle,), self.wait_seconds),)
