"""What shows only in actors: a ratio that goes wrong when every trial of it has passed."""

import logging
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import wait_until
from processes import own_processes

from rsf_dist import pipeline
from rsf_dist.config import parse_config
from rsf_dist.errors import RsfError

pytestmark = pytest.mark.ray

CODE = Path(__file__).parents[1] / "unit" / "bad_input" / "code"


@pytest.fixture
def no_records() -> Iterator[None]:
    """Of logging: pytest keeps them until the test ends, and with Ray Data's errors the frames that hold its actors."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nan", r"64 of [\d,]+ log ratios are NaN or \+inf; mend the target or the ratio there"),
        ("one_too_few", r"ratio\.score=\[63\]: must be \[64\]; give one number a row"),
        ("fails", r"ratio\.score=late_ratios:fails: fails \(RuntimeError: the server is gone\); mend it"),
        ("exits", r"ratio\.score=late_ratios:exits: fails \(SystemExit: 0\); mend it"),
        ("hangs", r"proposal or ratio=chunk \d+: did not end within 2 s, and was in hangs\(\) of late_ratios\.py:\d+"),
    ],
)
def test_a_ratio_that_goes_wrong_late(
    name: str, complaint: str, small_run: dict, no_records: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error of ours, within 90 s, of which most is the start of actors; those end, though the error is held."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "late_ratios", raising=False)  # it counts its calls
    changes = {
        "code": str(CODE),
        "ratio": {"kind": "reward", "score": f"late_ratios:{name}", "max_score": 1.0},
        "envelope": {"kind": "pilot", "num_pilot": 128},
        "sampling": {
            "num_accepted": 4000,
            "chunk_size": 64,
            "pool": {"max_actors": 2, "chunk_seconds": 2.0 if name == "hangs" else 60.0},
        },
    }
    started = time.monotonic()
    with pytest.raises(RsfError) as caught:
        pipeline.sample(parse_config(small_run | changes))
    assert re.match(complaint, str(caught.value)), str(caught.value)
    assert caught.value.exit_code in (2, 3)
    assert time.monotonic() - started < 90
    wait_until(lambda: not own_processes("ray::MapWorker"), seconds=60)
