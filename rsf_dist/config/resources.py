"""The share of the cluster that a stage reserves, as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from rsf_dist.config.base import Cpus, Gpus, Seconds, StrictModel

if TYPE_CHECKING:
    from rsf_dist.config.sampling import PoolConfig
    from rsf_dist.config.training import TrainingConfig

FOR_RAY_DATA = ", and Ray Data needs a whole CPU that the workers leave"
"""The reason for a CPU beside training workers, as the end of an error message."""


@dataclass(frozen=True)
class Share:
    """CPUs and GPUs of one node: all that a node has, or the part that one process reserves.

    Args:
        cpus: fractions are allowed.
        gpus: fractions are allowed.
        num_threads: threads that the process computes with. None means one for each whole CPU, and at least one.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    num_threads: int | None = None

    @staticmethod
    def of_pool(pool: PoolConfig) -> Share:
        """Return the share of one sampling actor, which computes on one thread whatever CPUs it reserves.

        More threads would add up floats in another order, and so give other rows.
        """
        return Share(pool.cpus_per_actor, pool.gpus_per_actor, num_threads=1)

    @staticmethod
    def of_training(training: TrainingConfig) -> Share:
        """Return the share of one training worker."""
        return Share(training.cpus_per_worker, float(training.use_gpu))


@dataclass(frozen=True)
class Reservation:
    """The processes that run at the same time in one stage.

    Args:
        field: the key that sets their number or size, relative to the section that it stands in.
        value: the key's value.
        shares: one a process.
        wait_seconds: for a cluster that scales by itself to bring up room for them.
        reason: why that many are needed, as the end of an error message.
    """

    field: str
    value: object
    shares: tuple[Share, ...]
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

    cpus: Cpus = 1
    """CPUs of the task, or of each worker."""
    gpus: Gpus = 0
    """GPUs of the task, or of each worker. A fraction shares a GPU with other tasks."""
    wait_seconds: Seconds = 0.0
    """Seconds to wait for a cluster that scales by itself to bring up these resources. 0 refuses at once."""

    @property
    def share(self) -> Share:
        """The resources of one process."""
        return Share(self.cpus, self.gpus)

    def reservations(self) -> tuple[Reservation, ...]:
        """List the single task."""
        field, value = ("gpus", self.gpus) if self.gpus else ("cpus", self.cpus)
        return (Reservation(field, value, (self.share,), self.wait_seconds),)
