import contextlib
import signal
import sys
import threading
import time

import pytest

from rsf_dist.errors import InputError
from rsf_dist.runtime.timeouts import call_with_timeout, map_with_timeout, time_limit


def run_for_ever():
    while True:
        time.sleep(0.01)


def run_whatever_happens():
    while True:
        with contextlib.suppress(Exception):
            time.sleep(0.01)


def wait_for_ever():
    threading.Event().wait()


def compute_for_ever():
    while True:
        pass


def in_another_thread(function):
    """Return what the function gives or raises in another thread."""
    found = []

    def record():
        try:
            found.append(function())
        except BaseException as err:
            found.append(err)

    thread = threading.Thread(target=record)
    thread.start()
    thread.join(timeout=20)
    return found[0]


@pytest.mark.parametrize("hangs", [run_for_ever, run_whatever_happens, wait_for_ever, compute_for_ever])
def test_what_hangs_is_interrupted_and_its_place_named(hangs):
    started = time.monotonic()
    with pytest.raises(InputError) as caught, time_limit(0.2, "ratio", "mine:score", "fix it"):
        hangs()
    assert time.monotonic() - started < 5
    assert (caught.value.field, caught.value.value, caught.value.remedy) == ("ratio", "mine:score", "fix it")
    assert caught.value.rule.startswith("did not end within 0.2 s, and was in ")
    assert ".py:" in caught.value.rule


def test_what_ends_in_time_is_left_alone():
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(60, "ratio"):
        pass
    assert call_with_timeout(lambda: 3, 60, "ratio") == 3
    with pytest.raises(KeyError), time_limit(60, "ratio"):
        raise KeyError
    assert signal.getsignal(signal.SIGALRM) == before


def test_a_limit_around_another_still_holds():
    def first(function, seconds):
        with contextlib.suppress(InputError), time_limit(seconds, "inner"):
            function()
        run_for_ever()

    with pytest.raises(InputError, match=r"inner=.* 0\.1 s"), time_limit(60, "outer"), time_limit(0.1, "inner"):
        run_for_ever()
    with pytest.raises(InputError, match=r"outer=.* 0\.4 s"), time_limit(0.4, "outer"):
        first(int, seconds=60)
    with pytest.raises(InputError, match=r"outer=.* 0\.1 s"), time_limit(0.1, "outer"):  # late rather than never
        first(run_for_ever, seconds=0.3)


def test_another_thread_is_not_interrupted_but_no_longer_waited_for():
    stop = threading.Event()
    err = in_another_thread(lambda: call_with_timeout(stop.wait, 0.2, "sampling.pool.chunk_seconds", 0.2, "raise it"))
    stop.set()
    assert isinstance(err, InputError)
    assert (err.field, err.value, err.remedy) == ("sampling.pool.chunk_seconds", 0.2, "raise it")
    assert "was in wait() of threading.py:" in err.rule
    with_nothing_to_interrupt = in_another_thread(lambda: time_limit(0.01, "x").__enter__() or time.sleep(0.1))
    assert with_nothing_to_interrupt is None


def test_another_thread_gives_back_what_the_function_gives_or_raises():
    assert in_another_thread(lambda: call_with_timeout(lambda: 3, 60, "x")) == 3
    assert in_another_thread(lambda: call_with_timeout(lambda: [][0], 60, "x")).args == ("list index out of range",)
    assert isinstance(in_another_thread(lambda: call_with_timeout(lambda: sys.exit(3), 60, "x")), SystemExit)
    timed_out = in_another_thread(
        lambda: call_with_timeout(lambda: (_ for _ in ()).throw(TimeoutError("theirs")), 60, "x")
    )
    assert timed_out.args == ("theirs",)


@pytest.mark.parametrize("where", [lambda function: function(), in_another_thread])
def test_one_after_another_each_has_its_time(where):
    threads = []

    def answer(number):
        threads.append(threading.get_ident())
        time.sleep(0.15)
        return number

    calls = [(f"chunk {number}", lambda number=number: answer(number)) for number in range(4)]
    assert where(lambda: list(map_with_timeout(calls, 0.4, "x"))) == [0, 1, 2, 3]
    assert len(set(threads)) == 1


@pytest.mark.parametrize("where", [lambda function: function(), in_another_thread])
def test_the_one_that_hangs_is_named_and_the_one_that_fails_ends_it(where):
    began = []

    def give(number):
        began.append(number)
        return wait_for_ever() if number == 2 else number

    calls = [(f"chunk {number}", lambda number=number: give(number)) for number in range(4)]
    told = []

    def all_of(calls):
        try:
            for found in map_with_timeout(calls, 0.3, "x"):
                told.append(found)
        except (InputError, ZeroDivisionError) as err:
            return err

    err = where(lambda: all_of(calls))
    assert (err.value, told, began) == ("chunk 2", [0, 1], [0, 1, 2])
    err = where(lambda: all_of([calls[0], ("chunk 1", lambda: 1 / 0), calls[3]]))
    assert isinstance(err, ZeroDivisionError)
    assert (told, began) == ([0, 1, 0], [0, 1, 2, 0])


def test_what_nobody_waits_for_any_more_is_not_begun():
    began, go_on, others = [], threading.Event(), set(threading.enumerate())

    def give(number):
        began.append(number)
        return go_on.wait(10)

    calls = [(f"chunk {number}", lambda number=number: give(number)) for number in range(4)]

    def one_of(calls):
        with pytest.raises(InputError):
            list(map_with_timeout(calls, 0.1, "x"))
        threads = set(threading.enumerate()) - others
        go_on.set()
        for thread in threads:
            if thread.daemon and thread.name.endswith("(_call_all)"):
                thread.join(10)

    in_another_thread(lambda: one_of(calls))
    assert began == [0]
