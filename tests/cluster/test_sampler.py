"""The sampler on the session's cluster. Statistical tests: fixed seeds, so they pass or fail for good; the stated
false-alarm rates are what another seed would run.
"""

import math
import os
import sys
import time

import faults
import numpy as np
import psutil
import pytest
import ray
import torch
from faults import wait_until
from scipy import stats
from torch.distributions import Categorical, Normal, Uniform

import rsf_dist as rsf
from rsf_dist.cluster.workers import run_in_task
from rsf_dist.config.resources import Share
from rsf_dist.data.arrow import from_table
from rsf_dist.runtime.rng import Stage
from rsf_dist.sampling import pool, round_draw
from rsf_dist.sampling.diagnostics import acceptance_interval
from rsf_dist.sampling.plan import SamplingPlan

pytestmark = pytest.mark.ray
ray.cloudpickle.register_pickle_by_value(faults)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the actors cannot import a test module

PROPOSAL = rsf.DistributionProposal(Normal(0.0, 2.0))
ONE_ACTOR = rsf.PoolConfig(max_actors=1)  # each takes seconds to start
RATIO = rsf.DensityRatio(Normal(0.0, 1.0), PROPOSAL, log_bound=math.log(2))  # sup p/q = 2 at 0


def sampler(log_m: float = math.log(2), **options) -> rsf.RejectionSampler:
    return rsf.RejectionSampler(
        PROPOSAL, RATIO, rsf.FixedEnvelope(log_m), **{"chunk_size": 1000, "pool": ONE_ACTOR, **options}
    )


def column(accepted: rsf.AcceptedSet, name: str) -> np.ndarray:
    return from_table(accepted.head(10**9))[name].numpy()


@pytest.fixture(scope="module")
def accepted(ray_address: str) -> rsf.AcceptedSet:
    return sampler().sample(20_000)


def test_acceptance_agrees_with_theory(accepted) -> None:
    # 1/M = 1/2. The exact 99.9 % interval misses it once in 1,000 seeds.
    report = accepted.report
    low, high = acceptance_interval(report.num_proposed, report.num_accepted, stopped=True, confidence=0.999)
    assert low < 0.5 < high
    assert report.num_capped == 0
    assert report.log_m == pytest.approx(math.log(2))


def test_accepted_rows_follow_the_target_and_with_m_halved_they_do_not(accepted) -> None:
    # Kolmogorov-Smirnov at 0.001: one false alarm in 1,000 seeds.
    assert stats.kstest(column(accepted, "x"), "norm").pvalue > 0.001
    # Negative control: at M = 1, rows with r > 1 (|x| < 1.36) are capped, and the middle is thinned.
    halved = sampler(log_m=0.0).sample(20_000)
    assert halved.report.num_capped > 0
    assert stats.kstest(column(halved, "x"), "norm").pvalue < 0.001


def test_first_n_rows_in_order_with_their_bookkeeping(accepted) -> None:
    rows = from_table(accepted.head(10**9))
    assert len(rows["x"]) == 20_000 == accepted.report.num_accepted
    position = rows["chunk"] * 1000 + rows["index"]
    assert bool((position[1:] > position[:-1]).all())
    assert accepted.report.num_proposed == int(position[-1]) + 1
    assert bool((rows["accept_key"] > accepted.report.log_m).all())
    torch.testing.assert_close(rows["log_ratio"], RATIO.log_ratio({"x": rows["x"]}))
    assert set(rows) == {"x", "round", "chunk", "index", "log_ratio", "accept_key", "weight"}


@pytest.fixture(scope="module")
def mark(tmp_path_factory) -> str:
    """The fingerprint of 10,000 rows, drawn chunk by chunk in this process."""
    return faults.fingerprint_in_process(10_000, tmp_path_factory.mktemp("mark"))


@pytest.mark.parametrize(
    ("actors", "in_flight", "nodes"),
    [
        (3, None, 1),
        (8, 1, 2),
        pytest.param(1, None, 1, marks=pytest.mark.soak),
        pytest.param(2, 1, 1, marks=pytest.mark.soak),
        pytest.param(2, 7, 1, marks=pytest.mark.soak),
        pytest.param(4, None, 2, marks=pytest.mark.soak),
        pytest.param(8, 3, 2, marks=pytest.mark.soak),
    ],
)
def test_fingerprint_does_not_depend_on_the_pool(actors, in_flight, nodes, mark, tmp_path, monkeypatch) -> None:
    """Every actor draws, and on so many nodes at least; by default so little work would run in tasks.

    There are more chunks than all actors but one may have in hand, and so each of them gets a task.
    """
    monkeypatch.setattr(SamplingPlan, "starts_slower_than_it_draws", lambda *_: False)
    monkeypatch.setattr(SamplingPlan, "chunks_per_task", lambda *_: 1)
    share = {"min_actors": actors, "max_actors": actors, "cpus_per_actor": 0.5 if nodes == 1 else 4 / actors}
    config, log = rsf.PoolConfig(**share, max_tasks_in_flight=in_flight), tmp_path / "log"
    logged = faults.sampler(log, None, seconds=0.01, processes=actors, nodes=nodes, pool=config)
    assert logged.sample(10_000).fingerprint == mark
    assert len(faults.drawing_processes(log)) == actors
    assert len({node for _, node in faults.drawn(log)}) >= nodes


class Placed(rsf.DistributionProposal):
    """Leaves a note of each process that draws, and of the GPUs that it may use."""

    def __init__(self, notes):
        super().__init__(Normal(0.0, 2.0))
        self.notes = notes

    def sample(self, n, rng):
        if rng.stage == Stage.SAMPLE:
            (self.notes / f"{os.getpid()}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
            wait_until(lambda: len(list(self.notes.iterdir())) == 2)
        return super().sample(n, rng)


@pytest.fixture
def gpu_in_name(ray_cluster):
    """A node whose GPU is none: what is tested is who may use it."""
    node = ray_cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=100 * 2**20)
    yield
    ray_cluster.remove_node(node)


@pytest.mark.parametrize(("gpus", "seen"), [(0.5, "0"), (0.0, "")])
def test_two_actors_share_a_gpu_and_others_see_none(gpus, seen, accepted, gpu_in_name, tmp_path, monkeypatch) -> None:
    if gpus == 0:  # such a pool takes actors for long waves only
        monkeypatch.setattr(SamplingPlan, "starts_slower_than_it_draws", lambda *_: False)
    monkeypatch.setattr(SamplingPlan, "chunks_per_task", lambda *_: 1)
    as_tasks = []
    monkeypatch.setattr(round_draw, "map_chunks", lambda *given: as_tasks.append(given[-1]) or pool.map_chunks(*given))
    two = rsf.PoolConfig(min_actors=2, max_actors=2, cpus_per_actor=0.5, gpus_per_actor=gpus)
    proposal = Placed(tmp_path)
    ratio = rsf.DensityRatio(Normal(0.0, 1.0), proposal, log_bound=math.log(2))
    found = rsf.RejectionSampler(proposal, ratio, rsf.FixedEnvelope(math.log(2)), chunk_size=1000, pool=two)
    assert found.sample(20_000).fingerprint == accepted.fingerprint
    assert [note.read_text() for note in tmp_path.iterdir()] == [seen, seen]
    assert as_tasks == [False]


def process() -> int:
    return os.getpid()


def test_a_task_that_had_a_gpu_ends_its_process(gpu_in_name) -> None:
    """Torch would have bound the process to the GPU."""
    assert len({run_in_task(process, share=Share(gpus=1)) for _ in range(3)}) == 3


def test_short_work_runs_in_tasks_and_gives_the_same(mark, tmp_path, monkeypatch) -> None:
    as_tasks = []
    monkeypatch.setattr(round_draw, "map_chunks", lambda *given: as_tasks.append(given[-1]) or pool.map_chunks(*given))
    assert faults.sampler(tmp_path / "log", None, seconds=0.01).sample(10_000).fingerprint == mark
    assert as_tasks == [True]


def test_fingerprint_depends_on_seed_and_chunk_size(accepted) -> None:
    others = {sampler(seed=1).sample(20_000).fingerprint, sampler(chunk_size=900).sample(20_000).fingerprint}
    assert len(others | {accepted.fingerprint}) == 3


def test_stored_rows_are_the_same_and_load_again(accepted, tmp_path) -> None:
    store = rsf.RunStore(tmp_path)
    stored = sampler(store=store).sample(20_000)
    assert stored.fingerprint == accepted.fingerprint
    loaded = rsf.AcceptedSet.load(store)
    assert loaded.fingerprint == accepted.fingerprint
    assert loaded.report == stored.report
    np.testing.assert_array_equal(column(loaded, "x"), column(accepted, "x"))


def test_a_changed_shard_is_refused(tmp_path) -> None:
    store = rsf.RunStore(tmp_path)
    sampler(store=store).sample(100)
    shard = next(tmp_path.glob("rounds/000/accepted/*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(rsf.InputError, match="SHA-256"):
        rsf.AcceptedSet.load(store)


def test_rethreshold_gives_the_rows_that_the_larger_m_would_have_given(accepted) -> None:
    log_m = math.log(4)
    raised = accepted.rethreshold(log_m)
    direct = sampler(log_m=log_m).sample(len(raised.ledger))
    np.testing.assert_array_equal(column(raised, "x"), column(direct, "x"))
    assert raised.fingerprint == direct.fingerprint
    with pytest.raises(rsf.InputError, match="were not kept"):
        accepted.rethreshold(0.0)


class SlowNormal(rsf.DistributionProposal):
    """A normal proposal that takes 0.2 s a chunk: time to be killed in."""

    def sample(self, n, rng):
        time.sleep(0.2)
        return super().sample(n, rng)


def test_a_target_that_nothing_meets_is_refused_at_once() -> None:
    far = rsf.DensityRatio(Uniform(100.0, 101.0), rsf.DistributionProposal(Uniform(0.0, 1.0)))
    with pytest.raises(rsf.StatisticalRefusal, match="ratio 0"):
        rsf.RejectionSampler(far.proposal, far, rsf.PilotEnvelope()).sample(10)


def test_a_ratio_that_accepts_nothing_ends_within_the_budget() -> None:
    budget = rsf.Budget(max_proposals=20_000)
    with pytest.raises(rsf.StatisticalRefusal, match=r"0 of 10 rows accepted after 20,000 .*lower log M"):
        sampler(log_m=50.0, budget=budget).sample(10)


def test_a_shortfall_is_refused_or_handed_over_as_it_is() -> None:
    with pytest.raises(rsf.StatisticalRefusal, match="max_proposals to about"):
        sampler(budget=rsf.Budget(max_proposals=2_000)).sample(5_000)
    partial = sampler(budget=rsf.Budget(max_proposals=2_000, on_shortfall="partial")).sample(5_000)
    assert partial.report.num_proposed == 2_000
    assert 0 < partial.report.num_accepted == partial.dataset.count() < 2_000
    assert partial.report.shortfall == 5_000 - partial.report.num_accepted


def test_the_time_limit_ends_sampling() -> None:
    slow = rsf.RejectionSampler(
        SlowNormal(Normal(0.0, 2.0)), RATIO, rsf.FixedEnvelope(math.log(2)), chunk_size=500, pool=ONE_ACTOR,
        budget=rsf.Budget(max_seconds=3, max_proposals=10**9),
    )  # fmt: skip
    started = time.monotonic()
    with pytest.raises(rsf.StatisticalRefusal, match="where the budget ends"):
        slow.sample(10**6)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_log_ratios_that_are_not_finite_are_refused(value: float) -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 3, value, 0.0)

    with pytest.raises(rsf.StatisticalRefusal, match="NaN or"):
        rsf.RejectionSampler(PROPOSAL, rsf.DensityRatio(broken, PROPOSAL), rsf.FixedEnvelope(3.0)).sample(100)


def test_what_the_user_broke_comes_back_as_one_line() -> None:
    wrong = rsf.DensityRatio(lambda x: x[:3], PROPOSAL)
    with pytest.raises(rsf.InputError, match="one real number a row"):
        rsf.RejectionSampler(PROPOSAL, wrong, rsf.FixedEnvelope(0.0)).sample(10)
    with pytest.raises(rsf.InputError, match="must be positive"):
        sampler().sample(0)
    with pytest.raises(rsf.InputError, match=r"needs 999 × 1 CPU; the cluster has 2 × 2 CPU"):
        sampler(pool=rsf.PoolConfig(min_actors=999)).sample(10)


def test_discrete_targets() -> None:
    # Chi-square at 0.001: one false alarm in 1,000 seeds. sup p/q = 0.6 / (1/3) = 1.8.
    proposal = rsf.DistributionProposal(Categorical(torch.ones(3) / 3))
    ratio = rsf.DensityRatio(Categorical(torch.tensor([0.6, 0.3, 0.1])), proposal)
    drawn = rsf.RejectionSampler(proposal, ratio, rsf.FixedEnvelope(math.log(1.8))).sample(5_000)
    counts = np.bincount(column(drawn, "x").astype(int), minlength=3)
    assert stats.chisquare(counts, [3000, 1500, 500]).pvalue > 0.001


def test_memory_of_the_driver_does_not_grow_with_the_proposals(soak: bool) -> None:
    """200 rows out of 2 million and out of 20 million proposals: the driver's memory may not tell them apart."""
    factor = 100 if soak else 10

    def grown(log_m: float, chunk_size: int) -> float:
        before = psutil.Process().memory_info().rss
        rsf.RejectionSampler(
            PROPOSAL, RATIO, rsf.FixedEnvelope(log_m), chunk_size=chunk_size, budget=rsf.Budget(max_proposals=10**9)
        ).sample(200)
        return (psutil.Process().memory_info().rss - before) / 2**20

    rare = math.log(2) + math.log(5_000)  # acceptance 1e-4: 2 million proposals
    grown(rare, 20_000)  # whatever Ray allocates once
    few, many = grown(rare, 20_000), grown(rare + math.log(factor), 20_000)
    assert many - few < 30  # MiB; 18 million proposals more are 140 MiB as float64
