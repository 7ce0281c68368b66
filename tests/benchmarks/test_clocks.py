import pytest
from clocks import chunks_per_second
from measuring import Bench, Measured

BUSY = [(1, 0.1 * i) for i in range(21)]


def test_an_actor_that_idles_half_of_the_time_is_half_as_fast():
    idle = [(2, 0.2 * i) for i in range(11)]
    assert chunks_per_second(BUSY) == pytest.approx(10)
    assert chunks_per_second(idle) == pytest.approx(5)
    assert chunks_per_second(BUSY + idle) == pytest.approx(15)


def test_rates_are_of_the_time_in_which_all_are_at_work():
    # From .5 s on both: 15 chunks of the one and 20 of the other in 1.5 s.
    late = [(2, 0.5 + 0.075 * i) for i in range(31)]
    assert chunks_per_second(BUSY + late) == pytest.approx(35 / 1.5)
    with pytest.raises(ValueError, match="worked together for"):
        chunks_per_second(BUSY + [(2, 5 + 0.1 * i) for i in range(21)])


def test_a_ratio_that_falls_is_told_though_it_is_still_within_reach():
    bench = Bench(full=False)
    bench.tell("good", Measured(11.0, reach=3, at_least=True, known=12, noise=0.1))
    with pytest.raises(AssertionError, match=r"fallen: 4, was 12 ± 10%"):
        bench.tell("fallen", Measured(4.0, reach=3, at_least=True, known=12, noise=0.1))
    with pytest.raises(AssertionError, match="risen"):
        bench.tell("risen", Measured(0.019, reach=0.02, at_least=False, known=0.01, noise=0.5))
    assert bench.worse() == ["fallen", "risen"]


def test_the_long_form_measures_on():
    bench = Bench(full=True)
    bench.speedup("slow", [2.0, 4.0, 3.0], [1.0, 1.0, 1.0], reach=0.95, known=0.9, noise=0.1)
    assert bench.measured["slow"].value == pytest.approx(1 / 3)
    assert bench.worse() == ["slow"]
    assert '"met": false' in bench.to_json()
