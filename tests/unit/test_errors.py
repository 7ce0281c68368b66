import gc
import pickle
import weakref

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError, WorkerCrashedError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from rsf_dist.errors import ClusterFailure, InputError, RsfError, StatisticalRefusal, unwrapped


class Wrapper(Exception):
    def __init__(self, cause=None, worker_failures=None):
        super().__init__("wrapped")
        if cause is not None:
            self.cause = cause
        if worker_failures is not None:
            self.worker_failures = worker_failures


def input_error():
    return InputError("sampling.num_accepted", -3, "must be positive", "ask for at least one row")


def test_input_error_says_field_value_rule_and_remedy():
    assert str(input_error()) == "sampling.num_accepted=-3: must be positive; ask for at least one row"


def test_refusal_says_finding_and_remedy():
    assert str(StatisticalRefusal("nothing accepted", "lower log M")) == "nothing accepted; lower log M"


def test_a_long_value_is_cut_and_stays_on_one_line():
    text = str(InputError("field", "a\nb " + 500 * "x", "rule", "remedy"))
    assert "\n" not in text
    assert text.startswith("field=a b xxx")
    # 120 characters of the value, the last of them the ellipsis, then ": rule; remedy"
    assert len(text) == len("field=") + 120 + len(": rule; remedy")
    assert "…: rule; remedy" in text


def test_exit_codes():
    codes = RsfError.exit_code, InputError.exit_code, StatisticalRefusal.exit_code
    assert codes == (1, 2, 3)


@pytest.mark.parametrize("error", [input_error(), StatisticalRefusal("finding", "remedy"), ClusterFailure("gone")])
def test_pickling_keeps_type_text_and_parts(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("error", [input_error(), StatisticalRefusal("finding", "remedy")])
def test_what_ray_appends_on_the_way_does_not_arrive(error):
    text = str(error)
    error.args = (f"{error.args[0]}\nFailed to apply UDF transform after 1/1 attempts.", *error.args[1:])
    assert str(pickle.loads(pickle.dumps(error))) == text


def test_what_would_steer_a_terminal_is_not_printed():
    text = str(InputError("output\x07", "\x1b[2Jx\0", "is\u202e none", "correct it"))
    assert text == "output\ufffd=\ufffd[2Jx\ufffd: is\ufffd none; correct it"


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


def raise_deeply():
    raise Wrapper(cause=Wrapper(cause=Wrapper(cause=input_error())))


@pytest.mark.parametrize("fail", [raise_with_cause, raise_from, raise_while_handling, raise_from_a_rank, raise_deeply])
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
