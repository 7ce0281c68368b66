"""The error that a block of calls on Ray raises in the end."""

import gc
import weakref

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, RaySystemError, RayTaskError, WorkerCrashedError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from rsf_dist.cluster.ray_workarounds import unwrapped
from rsf_dist.errors import ClusterFailure, InputError, StatisticalRefusal


class Wrapper(Exception):
    def __init__(self, cause=None, worker_failures=None):
        super().__init__("wrapped")
        if cause is not None:
            self.cause = cause
        if worker_failures is not None:
            self.worker_failures = worker_failures


def input_error():
    return InputError("sampling.num_accepted", -3, "must be positive", "ask for at least one row")


def raise_with_cause():
    raise Wrapper(cause=input_error())


def raise_from():
    raise Wrapper() from input_error()


def raise_while_handling():
    try:
        raise input_error()
    except InputError:
        raise Wrapper()  # noqa: B904


def raise_from_a_rank():
    raise Wrapper(worker_failures={0: ValueError("no"), 1: Wrapper(cause=input_error())})


def raise_while_unpickling():
    raise Wrapper(cause=RaySystemError(input_error(), "Traceback …"))


def raise_deeply():
    raise Wrapper(cause=Wrapper(cause=Wrapper(cause=input_error())))


@pytest.mark.parametrize(
    "fail",
    [raise_with_cause, raise_from, raise_while_handling, raise_from_a_rank, raise_while_unpickling, raise_deeply],
)
def test_unwrapped_finds_ours(fail):
    with pytest.raises(InputError, match="ask for at least one row"), unwrapped():
        fail()


def test_unwrapped_leaves_ours_and_strangers_as_they_are():
    ours, stranger = input_error(), Wrapper(cause=ValueError("no"))
    for error in (ours, stranger):
        with pytest.raises(type(error)) as caught, unwrapped():
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        WorkerCrashedError(),
        NodeDiedError("node 7 is gone"),
        Wrapper(cause=ActorDiedError()),
        WorkerGroupError("both workers", {1: WorkerHealthCheckFailedError("it does not answer", ActorDiedError())}),
    ],
)
def test_unwrapped_says_in_one_line_that_the_cluster_failed(error):
    line = r"^the cluster failed \(.*\); run it again: it goes on$"
    with pytest.raises(ClusterFailure, match=line) as caught, unwrapped():
        raise error
    assert caught.value.exit_code == 1


def test_unwrapped_prefers_what_was_wrong_to_who_died_of_it():
    with pytest.raises(InputError), unwrapped():
        raise WorkerGroupError("both", {0: ActorDiedError(), 1: Wrapper(cause=input_error())})


def test_unwrapped_lets_nothing_live_on_in_the_error():
    class Heavy:
        itself: "Heavy"

    def fails():
        held, circle = Heavy(), Heavy()  # as the frames of Ray Data hold its actors, and as its tasks do
        circle.itself = circle
        alive.extend(map(weakref.ref, (held, circle)))
        del circle
        raise Wrapper(cause=input_error())

    alive: list[weakref.ref] = []
    gc.disable()
    try:
        with pytest.raises(InputError) as caught, unwrapped():
            fails()
        assert caught.value is not None
        assert [one() for one in alive] == [None, None]
    finally:
        gc.enable()


def test_unwrapped_prefers_the_error_itself_to_what_it_was_raised_from():
    with pytest.raises(StatisticalRefusal), unwrapped():
        raise StatisticalRefusal("finding", "remedy") from input_error()


def test_unwrapped_survives_a_circle_of_causes():
    first, second = Wrapper(), Wrapper()
    first.cause, second.cause = second, first
    with pytest.raises(Wrapper), unwrapped():
        raise first


def test_unwrapped_lets_a_quiet_block_pass():
    with unwrapped():
        value = 1
    assert value == 1


def test_unwrapped_says_the_death_and_not_the_task_that_met_it():
    wrapped = RayTaskError("task", "Traceback of the task", WorkerCrashedError()).as_instanceof_cause()
    with pytest.raises(ClusterFailure, match=r"^the cluster failed \(WorkerCrashedError: "), unwrapped():
        raise wrapped
