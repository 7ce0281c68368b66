import pytest

from rsf_dist.sampling.pool import grouped


@pytest.mark.parametrize(
    ("count", "size", "actors", "expected"),
    [
        (10, 4, 2, [[0], [1], [2, 3, 4, 5], [6, 7, 8, 9]]),
        (10, 4, 1, [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]),
        (3, 1, 2, [[0], [1], [2]]),
        (2, 4, 8, [[0], [1]]),
        (1, 4, 1, [[0]]),
        (0, 4, 2, []),
    ],
)
def test_an_actors_first_chunk_travels_alone(count, size, actors, expected):
    assert [list(task) for task in grouped(range(count), size, actors)] == expected
