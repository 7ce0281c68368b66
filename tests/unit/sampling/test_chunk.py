import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from rsf_dist.data.batch import num_rows
from rsf_dist.errors import InputError
from rsf_dist.proposals import DatasetProposal, DistributionProposal
from rsf_dist.ratios import ConstantRatio, DensityRatio
from rsf_dist.ratios.base import Screened
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.sampling.chunk import BOOKKEEPING, ChunkWork, propose_and_score

WIDE = DistributionProposal(Normal(0.0, 2.0))
RATIO = DensityRatio(Normal(0.0, 1.0), WIDE)


class Given:
    """Proposes the given columns and reads log ratios from one of them."""

    log_bound = None

    def __init__(self, **columns):
        self.columns = {name: torch.as_tensor(column) for name, column in columns.items()}

    def sample(self, n, rng):
        return self.columns

    def log_ratio(self, batch):
        return batch["l"]


def work(log_m=0.69, chunk_size=200, ratio=None, **options):
    return ChunkWork(WIDE, ratio or RATIO, log_m, chunk_size, **({"seed": 3} | options))


def same_chunk(left, right):
    rows = all(torch.equal(left.rows[name], right.rows[name]) for name in left.rows)
    return rows and left.statistics == right.statistics and left.rows.keys() == right.rows.keys()


def test_a_chunk_is_a_pure_function_of_its_id():
    first = work()(5)
    torch.manual_seed(1)
    np.random.default_rng(1).random()
    assert same_chunk(first, work()(5))


@pytest.mark.parametrize(
    "other",
    [work()(6), work(seed=4)(5), work(round=1)(5), work(stage=Stage.CONTROL)(5)],
    ids=["id", "seed", "round", "stage"],
)
def test_every_part_of_the_key_gives_other_rows(other):
    chunk = work()(5)
    assert not set(chunk.rows["x"].tolist()) & set(other.rows["x"].tolist())
    assert not set(chunk.rows["accept_key"].tolist()) & set(other.rows["accept_key"].tolist())


def test_rows_and_bookkeeping():
    chunk = work(round=2)(5)
    rows = chunk.rows
    assert tuple(rows) == ("x", *BOOKKEEPING)
    assert set(rows["round"].tolist()) == {2}
    assert set(rows["chunk"].tolist()) == {5}
    assert rows["index"].tolist() == sorted(set(rows["index"].tolist()))
    dtypes = {name: rows[name].dtype for name in BOOKKEEPING}
    assert dtypes == {
        "round": torch.int64,
        "chunk": torch.int64,
        "index": torch.int64,
        "log_ratio": torch.float64,
        "accept_key": torch.float64,
        "weight": torch.float32,
    }
    # index names the proposal the row was
    batch, log_ratio, exponentials = propose_and_score(WIDE, RATIO, Streams(3, round=2, chunk=5), 200)
    index = rows["index"]
    assert torch.equal(rows["x"], batch["x"][index])
    assert rows["log_ratio"].tolist() == log_ratio[index].tolist()
    assert rows["accept_key"].tolist() == (log_ratio + exponentials)[index].tolist()


def test_statistics_agree_with_the_rows():
    chunk = work(log_m=0.0)(0)
    statistics, rows = chunk.statistics, chunk.rows
    assert statistics.num_scored == 200
    assert statistics.num_accepted == num_rows(rows)
    assert 0 < statistics.num_accepted < 200
    # every capped row is accepted, and has a weight above 1
    assert statistics.num_capped == int((rows["log_ratio"] > 0).sum()) == int((rows["weight"] > 1).sum())
    assert statistics.num_capped > 0
    assert statistics.max_log_ratio == rows["log_ratio"].max().item()
    assert rows["accept_key"].min() > 0.0


def test_a_larger_m_gives_the_subset_with_larger_keys():
    small, large = work(log_m=0.0)(0).rows, work(log_m=0.6)(0).rows
    assert large["index"].tolist() == small["index"][small["accept_key"] > 0.6].tolist()
    assert 0 < num_rows(large) < num_rows(small)


def test_labels_are_counted():
    # l = 9: all accepted at M = 1; l = -inf: none
    given = Given(l=torch.tensor([9.0, 9.0, -torch.inf, -torch.inf]), label=torch.tensor([4, 7, 7, 7]))
    chunk = ChunkWork(given, given, 0.0, 4, seed=0)(0)
    assert chunk.statistics.by_label == {4: (1, 1), 7: (3, 1)}
    assert chunk.rows["label"].tolist() == [4, 7]


def test_labels_that_are_no_class_numbers_are_left_alone():
    for label in (torch.tensor([0.25, 0.75]), torch.zeros(2, 3, dtype=torch.int64)):
        given = Given(l=torch.tensor([9.0, 9.0]), label=label)
        chunk = ChunkWork(given, given, 0.0, 2, seed=0)(0)
        assert chunk.statistics.by_label == {}
        assert torch.equal(chunk.rows["label"], label)


def test_a_chunk_that_accepts_nothing_has_its_columns_all_the_same():
    chunk = work(log_m=100.0)(0)
    assert num_rows(chunk.rows) == 0
    assert tuple(chunk.rows) == ("x", *BOOKKEEPING)
    assert chunk.statistics.num_scored == 200


def test_nan_and_infinite_ratios_are_counted_and_not_accepted():
    given = Given(l=torch.tensor([torch.nan, torch.inf, 9.0]))
    chunk = ChunkWork(given, given, 0.0, 3, seed=0)(0)
    assert chunk.statistics.num_nonfinite == 2
    assert chunk.rows["index"].tolist() == [2]


@pytest.mark.parametrize("name", BOOKKEEPING)
def test_a_reserved_column_is_refused(name):
    given = Given(l=torch.zeros(3), **{name: torch.zeros(3)})
    with pytest.raises(InputError, match=f"proposal={name}: this column's name is taken"):
        propose_and_score(given, given, Streams(0), 3)


def test_a_wrong_number_of_rows_is_refused():
    given = Given(l=torch.zeros(3))
    with pytest.raises(InputError, match=r"proposal=3 rows: must give the 4 asked for"):
        propose_and_score(given, given, Streams(0), 4)


@pytest.mark.parametrize("wrong", [torch.zeros(3, 1), torch.zeros(1), torch.tensor(0.0)])
def test_a_ratio_another_shape_is_refused(wrong):
    class Ratio:
        log_bound = None

        def log_ratio(self, batch):
            return wrong

    with pytest.raises(InputError, match=r"log_ratio must have shape \[3\]"):
        propose_and_score(Given(l=torch.zeros(3)), Ratio(), Streams(0), 3)


def test_a_density_with_trainable_parameters_can_be_sampled():
    proposal = DistributionProposal(Normal(torch.tensor(0.0, requires_grad=True), 2.0))
    _, log_ratio, _ = propose_and_score(proposal, DensityRatio(Normal(0.0, 1.0), proposal), Streams(0), 4)
    assert log_ratio.dtype == np.float64


def test_constant_ratio_accepts_everything_at_m_1():
    chunk = ChunkWork(WIDE, ConstantRatio(), ConstantRatio.log_bound, 50, seed=0)(0)
    assert num_rows(chunk.rows) == 50
    assert chunk.statistics.num_capped == 0
    assert chunk.rows["log_ratio"].dtype == torch.float64


POOL = DatasetProposal({"x": torch.linspace(-3, 3, 10)})


def test_a_finite_pool_is_gone_through_once():
    works = ChunkWork(POOL, ConstantRatio(), 0.0, 4, seed=0, pool_size=10)
    rows = [works(chunk).rows for chunk in range(3)]
    assert [num_rows(one) for one in rows] == [4, 4, 2]
    assert torch.equal(torch.cat([one["x"] for one in rows]), POOL.rows["x"])
    assert rows[2]["index"].tolist() == [0, 1]
    # without a pool's size the same proposal is drawn from, with replacement
    drawn = torch.cat([ChunkWork(POOL, ConstantRatio(), 0.0, 10, seed=0)(chunk).rows["x"] for chunk in range(3)])
    assert len(set(drawn.tolist())) < 30


def test_part_of_a_pool():
    works = ChunkWork(POOL, ConstantRatio(), 0.0, 4, seed=0, pool_size=6)
    assert torch.equal(torch.cat([works(chunk).rows["x"] for chunk in range(2)]), POOL.rows["x"][:6])


def test_a_number_of_draws_ends_in_a_smaller_chunk():
    whole, part = (ChunkWork(WIDE, RATIO, -9.0, 100, seed=0, pool_size=size)(1) for size in (200, 150))
    assert (whole.statistics.num_scored, part.statistics.num_scored) == (100, 50)


def test_keys_of_a_pool_follow_from_its_place():
    works = ChunkWork(POOL, ConstantRatio(), 0.0, 4, seed=0, pool_size=10)
    keys = torch.cat([works(chunk).rows["accept_key"] for chunk in range(3)])
    assert len(set(keys.tolist())) == 10
    assert torch.equal(works(2).rows["accept_key"], keys[8:])


class Screening:
    """Leaves out whatever lies above 1 in x, and says so."""

    log_bound = 0.0
    asked = None

    def log_ratio(self, batch):
        return torch.zeros(num_rows(batch), dtype=torch.float64)

    def screened(self, batch, exponentials, log_m):
        self.asked = exponentials, log_m
        scored = batch["x"] < 1
        inclusion = torch.full_like(exponentials, -0.5)
        return Screened(torch.where(scored, 0.0, -torch.inf).double(), scored, torch.where(scored, inclusion, 0.0))


def test_a_ratio_that_screens_is_given_the_exponentials_and_m():
    ratio = Screening()
    chunk = work(log_m=0.25, ratio=ratio)(5)
    batch, _, exponentials = propose_and_score(WIDE, RATIO, Streams(3, chunk=5), 200)
    assert ratio.asked[0].tolist() == exponentials.tolist()
    assert ratio.asked[1] == 0.25
    scored = batch["x"] < 1
    assert chunk.statistics.num_screened_out == int((~scored).sum()) > 0
    # each scored row stands for e^.5 rows, of ratio 1
    assert chunk.statistics.log_sum_ratio == pytest.approx(np.log(int(scored.sum())) + 0.5)
    kept = torch.from_numpy(exponentials > 0.25) & scored
    assert chunk.rows["index"].tolist() == torch.nonzero(kept).flatten().tolist()


def test_workers_start_without_the_libraries_that_only_reports_and_fits_need():
    """Each costs every actor a third of a second and more when it starts."""
    costly = ("matplotlib", "scipy.optimize", "scipy.stats", "sklearn", "torchmetrics", "torchvision")
    modules = "rsf_dist.sampling.collector, rsf_dist.training.loop"
    code = f"import sys, {modules}; print([name for name in {costly} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
