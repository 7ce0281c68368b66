"""A stream keeps its reader's position and groups chunks that travel together; no cluster is needed."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from torch.distributions import Normal

from rsf_dist.config.sampling import PoolConfig
from rsf_dist.data.arrow import to_table
from rsf_dist.errors import StatisticalRefusal
from rsf_dist.proposals import DistributionProposal
from rsf_dist.ratios import ConstantRatio
from rsf_dist.sampling.accepted import LEDGER_ROW
from rsf_dist.sampling.chunk import ChunkWork, refuse_nonfinite
from rsf_dist.sampling.stream import LEDGER, Cursor, RowStream, _Rows, forecast_mean_weight, ledger_in
from rsf_dist.training.batch_server import StreamProgress, shortfall
from rsf_dist.training.state import StreamReport

WORK = ChunkWork(DistributionProposal(Normal(0.0, 1.0)), ConstantRatio(), math.log(2), 10, 0)
STREAM = RowStream(WORK, PoolConfig(max_actors=2), end=20)


def ledger(*places: tuple[int, int, float]) -> np.ndarray:
    rows = np.zeros(len(places), LEDGER_ROW)
    for name, column in zip(("chunk", "index", "log_ratio"), zip(*places, strict=True), strict=True):
        rows[name] = column
    return rows


def test_a_cursor_moves_batch_by_batch():
    one, two = ledger((0, 3, 0.0), (0, 7, 1.0)), ledger((2, 4, 0.0))
    cursor = Cursor().moved(one, log_m=0.5).moved(two, log_m=0.5)
    assert (cursor.chunk, cursor.index, cursor.rows, cursor.num_capped) == (2, 4, 3, 1)  # log r = 1 > 0.5
    assert cursor.num_proposed(10) == 25  # two chunks of 10, and 5 of the third
    first = hashlib.sha256(one.tobytes()).digest()
    assert cursor.digest == hashlib.sha256(first + two.tobytes()).hexdigest()
    assert cursor.digest != Cursor().moved(np.concatenate([one, two]), log_m=0.5).digest  # other batches


def test_a_report_is_of_the_stretch_between():
    start = Cursor(chunk=1, index=9, rows=4, num_capped=1)
    end = Cursor(chunk=3, index=0, rows=14, num_capped=3, digest="ab")
    report = StreamReport.between(start, StreamProgress(end, 1.23456, 0.5), chunk_size=10)
    assert report == StreamReport(10, 31 - 20, 2, "ab", 1.235, 0.5)


@pytest.mark.parametrize(
    ("first", "end", "per_task"), [(0, 20, 1), (3, 20, 7), (19, 20, 4), (20, 20, 1), (5, 12_000, 3)]
)
def test_every_chunk_is_in_one_task(first: int, end: int, per_task: int):
    tasks = replace(STREAM, end=end, chunks_per_task=per_task).tasks(first)
    assert [chunk for task in tasks for chunk in task] == list(range(first, max(end, first + 1)))
    assert len(tasks) <= 2_002
    assert {len(task) for task in tasks[:-1]} <= {per_task, math.ceil((end - first - 3_000) / 1_000)} or len(
        tasks
    ) < 1_000


def test_the_rows_after_a_place():
    rows = to_table(WORK(4).rows)
    places = rows["index"].to_pylist()
    after = Cursor(chunk=4, index=places[1])
    assert _Rows(WORK, after, False)(4).equals(rows.slice(2))
    assert _Rows(WORK, after, False)(5).equals(to_table(WORK(5).rows))
    nothing = _Rows(WORK, Cursor(chunk=4, index=9), True)(4)
    assert nothing.num_rows == 0
    assert nothing.schema.names == [*rows.column_names, LEDGER]
    entries = ledger_in(_Rows(WORK, Cursor(), True)(4))
    assert entries["index"].tolist() == places
    assert len(ledger_in(pa.table({LEDGER: pa.array([], pa.binary(72))}))) == 0


def test_the_forecast_of_the_mean_weight():
    # r/M = 1/2, 1, 4: a = 1/2, 1, 1 and w = 1, 1, 4, so (1/2 + 1 + 4) / (5/2) = 2.2.
    assert forecast_mean_weight(np.log([0.5, 1.0, 4.0]) + 3, 3.0) == pytest.approx(2.2)
    assert forecast_mean_weight(np.array([-np.inf]), 0.0) == 1.0


def test_non_finite_ratios_are_refused():
    refuse_nonfinite(0, 10)
    with pytest.raises(StatisticalRefusal, match="2 of 1,000 pilot log ratios are NaN"):
        refuse_nonfinite(2, 1_000, "pilot ")


def test_a_shortfall_says_what_would_be_enough():
    # 8 rows of 100 proposals; 2 steps of 4 rows are done, 3 more need 12: 1.2 * 20 * 100 / 8 = 300.
    said = str(shortfall(STREAM, Cursor(chunk=9, index=9, rows=8), batch=2, steps=5, batch_size=4))
    assert said.startswith("rows for 2 of 5 training steps accepted after 200 proposals, where the budget ends")
    assert "raise sampling.budget.max_proposals to about 300" in said
    assert "training.steps to 2" in said
    assert "about" not in str(shortfall(STREAM, Cursor(), batch=0, steps=5, batch_size=4))
