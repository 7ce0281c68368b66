"""The cost of a chunk in one process is compared with that of the user's own mathematics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from statistics import median

import numpy as np
import pytest
import torch
from measuring import Bench, Measured, seconds_of
from torch import Tensor
from torch.distributions import Normal
from workloads import DISTRIBUTIONS, Scored, augmented, mixture_work, mixtures

import rsf_dist as rsf
from rsf_dist.data.batch import Batch, num_rows, row_digests, select, to_cpu
from rsf_dist.proposals.base import Proposal
from rsf_dist.runtime.rng import Streams
from rsf_dist.sampling.accept import accept
from rsf_dist.sampling.chunk import Chunk, ChunkWork

pytestmark = pytest.mark.bench


def vectorised(dimensions: int, batch: int, checked: bool = True) -> Callable[[], Tensor]:
    """Return the loop that a user would write by hand.

    Args:
        checked: whether torch validates the distributions' arguments, as it does by default.
    """
    p, q, log_m = mixtures(dimensions, checked)

    def step() -> Tensor:
        x = q.sample(torch.Size([batch]))
        return x[torch.rand(batch).log() < p.log_prob(x) - q.log_prob(x) - log_m]

    return step


def drawing(work: ChunkWork) -> Callable[[], Chunk]:
    """Chunk after chunk."""
    ids = count()
    return lambda: work(next(ids))


@pytest.mark.parametrize("batch", [4_096, 16_384])
def test_against_a_vectorised_loop(bench: Bench, batch: int) -> None:
    repetitions = 200 if bench.full else 40
    name = f"chunk of {batch:,}, 10-D mixture, one process / vectorised loop with the same densities"
    ours, theirs = bench.in_turn(drawing(mixture_work(10, batch)), vectorised(10, batch), repetitions)
    bench.speedup(name, ours, theirs, reach=0.95, known=0.95, noise=0.35)
    ours, theirs = bench.in_turn(drawing(mixture_work(10, batch)), vectorised(10, batch, checked=False), repetitions)
    bench.speedup(f"{name} that check nothing", ours, theirs, reach=0.95, known=0.82, noise=0.35)


def test_against_one_row_at_a_time(bench: Bench) -> None:
    p, q, log_m = mixtures(10)
    rows, batch = 400 if bench.full else 100, 4_096

    def one_at_a_time() -> None:
        for _ in range(rows):
            x = q.sample()
            bool(torch.rand(()) < torch.exp(p.log_prob(x) - q.log_prob(x) - log_m))

    ours, theirs = bench.in_turn(drawing(mixture_work(10, batch)), one_at_a_time, 9)
    a_chunk = [seconds * batch / rows for seconds in theirs]
    name = "chunk of 4,096, 10-D mixture, one process / a loop of one row"
    bench.speedup(name, ours, a_chunk, reach=300, known=300, noise=0.6)


def test_against_sbi(bench: Bench) -> None:
    """Its steady state: what 4 x as many rows cost more. It looks for its M by gradient ascent before: told apart."""
    if not bench.full:
        pytest.skip("needs sbi: make bench")
    rejection = pytest.importorskip("sbi.samplers.rejection.rejection")
    p, q, log_m = mixtures(4)
    few, many, batch = 20_000, 80_000, 10_000
    work = mixture_work(4, batch)
    x = q.sample(torch.Size([200_000]))
    largest = float((p.log_prob(x) - q.log_prob(x)).max())  # which its search finds, and multiplies by m
    chunks = drawing(work)
    accepted: list[float] = []

    def theirs(num_samples: int) -> None:
        m = math.exp(log_m - largest)
        accepted.append(
            float(rejection.rejection_sample(p.log_prob, q, None, num_samples, m=m, max_sampling_batch_size=batch)[1])
        )

    def ours() -> None:
        found = 0
        while found < many - few:
            found += num_rows(chunks().rows)

    theirs(few), ours()
    small, large, mine = [], [], []
    for _ in range(9):
        small.append(seconds_of(lambda: theirs(few)))
        mine.append(seconds_of(ours))
        large.append(seconds_of(lambda: theirs(many)))
    assert median(accepted) == pytest.approx(work(0).statistics.num_accepted / batch, rel=0.05)
    steady = [b - a for a, b in zip(small, large, strict=True)]
    search = median(small) - median(steady) * few / (many - few)
    name = "rows accepted, 4-D mixture, one process / sbi's rejection_sample at the same M and batch"
    bench.speedup(name, mine, steady, reach=2, known=1, noise=0.3, startup={"sbi looks for M": search})
    whole = [mine_ * few / (many - few) for mine_ in mine]
    name = "20,000 rows, 4-D mixture, M known in closed form / sbi's rejection_sample, which looks for it"
    bench.speedup(name, whole, small, reach=2, known=5, noise=0.5)


class Rendered:
    """The same proposals, all of them rendered."""

    def __init__(self, proposal: Proposal):
        self.proposal = proposal

    def sample(self, n: int, rng: Streams) -> Batch:
        """Draw n rows."""
        return to_cpu(self.proposal.sample(n, rng))


def test_the_accept_step_within_a_chunk_of_images(bench: Bench) -> None:
    size = 2_048
    work = ChunkWork(augmented(), Scored(), 1.0, size, seed=0)
    log_ratio = work.ratio.log_ratio(work.proposal.sample(size, Streams(0))).numpy()
    log_m = float(np.quantile(log_ratio + np.random.default_rng(0).exponential(size=size), 0.9))
    work = replace(work, log_m=log_m)
    batch = to_cpu(work.proposal.sample(size, Streams(0)))

    def accepting() -> None:
        decision = accept(log_ratio, Streams(0).numpy().exponential(size=size), log_m)
        select(batch, torch.from_numpy(np.flatnonzero(decision.keep)))

    steps, chunks = bench.in_turn(accepting, drawing(work), 40 if bench.full else 8)
    share = median(steps) / median(chunks)
    seconds = {"accept": median(steps), "chunk": median(chunks)}
    name = "accept step (keys, mask, compaction) / chunk of 2,048 images"
    bench.tell(name, Measured(share, 0.02, False, known=0.0006, noise=3.0, seconds=seconds))


def fingerprint(chunk: Chunk) -> bytes:
    """Return the digest of the chunk's rows; the chunk must not be empty."""
    assert num_rows(chunk.rows) > 0
    return row_digests(chunk.rows)


class InFull:
    """All factors on every row."""

    def __init__(self, product: rsf.ProductRatio):
        self.product, self.log_bound = product, product.log_bound

    def log_ratio(self, batch: Batch) -> Tensor:
        """float64 [n]."""
        return sum((factor.log_ratio(batch) for factor in self.product.factors), torch.zeros(()))


def test_a_product_with_its_cheap_factor_first(bench: Bench) -> None:
    """1 % is accepted: the class is one of ten and certain; of it the network leaves a tenth."""
    size = 2_048
    cheap = rsf.LabelShiftRatio([1.0] + [0.0] * 9, [0.1] * 10)
    costly = Scored()
    proposal = rsf.DatasetProposal(augmented().sample(10_000, Streams(1)))
    logits = costly.log_ratio(proposal.sample(size, Streams(2))).numpy()
    log_m = cheap.log_bound + float(np.quantile(logits + np.random.default_rng(0).exponential(size=size), 0.9))
    lean = ChunkWork(proposal, rsf.ProductRatio([cheap, costly]), log_m, size, seed=0)
    full = replace(lean, ratio=InFull(lean.ratio))
    assert fingerprint(lean(0)) == fingerprint(full(0))
    acceptance = lean(0).statistics.num_accepted / size
    assert 0.005 < acceptance < 0.02
    ours, theirs = bench.in_turn(drawing(lean), drawing(full), 20 if bench.full else 5)
    name = "product ratio, cheap factor first / costly factor on everything, 1 % accepted"
    bench.speedup(name, ours, theirs, reach=5, known=8, noise=0.3, detail={"acceptance": acceptance})


@pytest.mark.parametrize("noise", [True, False])
def test_rendering_survivors_alone(bench: Bench, noise: bool) -> None:
    """A ratio of distributions of the rotation accepts 1 %."""
    proposal = augmented()
    if not noise:
        distributions = {name: one for name, one in DISTRIBUTIONS.items() if name != "noise"}
        proposal = rsf.AugmentProposal(proposal.images, distributions)
    target = Normal(0.6, 0.01)
    ratio = rsf.DensityRatio(target, rsf.DistributionProposal(DISTRIBUTIONS["rotation"], column="rotation"))
    log_m = float(target.log_prob(target.mean) - DISTRIBUTIONS["rotation"].log_prob(target.mean))
    lean = ChunkWork(proposal, ratio, log_m, 4_096, seed=0)
    whole = replace(lean, proposal=Rendered(proposal))
    assert fingerprint(lean(0)) == fingerprint(whole(0))
    ours, theirs = bench.in_turn(drawing(lean), drawing(whole), 40 if bench.full else 8)
    name = f"render accepted rows alone / render everything, 1 % accepted, {'with' if noise else 'without'} pixel noise"
    bench.speedup(name, ours, theirs, reach=3, known=2.6 if noise else 9.5, noise=0.25)
