"""Distributions known exactly, the sampler in one process, and tests of rows against distributions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import cdist

from rsf_dist.data.batch import Batch, concat, select
from rsf_dist.proposals import Proposal
from rsf_dist.ratios import Ratio
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.sampling.chunk import ChunkWork, propose_and_score
from rsf_dist.sampling.diagnostics import Statistics
from rsf_dist.sampling.envelope import Choice, Envelope, Pilot

Floats = NDArray[np.float64]
N = 20_000
Z = 3.29  # two-sided normal quantile of 1e-3


@dataclass(frozen=True)
class Sample:
    """Accepted rows in (chunk, index) order, statistics of all proposals, what was chosen, and the log M in the end."""

    rows: Batch
    statistics: Statistics
    choice: Choice
    log_m: float


def sample_chunks(
    proposal: Proposal, ratio: Ratio, envelope: Envelope | float, n: int = N, chunks: int = 5, seed: int = 0
) -> Sample:
    """Sample from n proposals without Ray: pilot, envelope, chunks. A number for the envelope is a fixed log M."""
    if isinstance(envelope, float):
        return sample_at(proposal, ratio, Choice(envelope, "fixed"), n, chunks, seed)
    _, log_ratio, exponentials = propose_and_score(proposal, ratio, Streams(seed, Stage.PILOT), envelope.num_pilot)
    choice = envelope.choose(Pilot(log_ratio, log_ratio + exponentials, ratio.log_bound))
    return sample_at(proposal, ratio, choice, n, chunks, seed)


def sample_at(proposal: Proposal, ratio: Ratio, choice: Choice, n: int = N, chunks: int = 5, seed: int = 0) -> Sample:
    """n proposals in chunks at a choice; where its M may grow, all rows are held against the last one."""
    work = ChunkWork(proposal, ratio, choice.log_m, n // chunks, seed)
    done = [work(chunk) for chunk in range(chunks)]
    statistics = Statistics()
    for chunk in done:
        statistics = statistics.merge(chunk.statistics)
    rows = concat([chunk.rows for chunk in done])
    if choice.margin is None:
        return Sample(rows, statistics, choice, choice.log_m)
    log_m = max(choice.log_m, statistics.max_log_ratio + choice.margin)
    keep = rows["accept_key"] > log_m
    labels = np.full(len(keep), -1)
    statistics = statistics.at(log_m, rows["log_ratio"].numpy(), keep.numpy(), labels)
    return Sample(select(rows, keep), statistics, choice, log_m)


@dataclass(frozen=True)
class Distribution:
    """q's mass on cells of x, or on atoms, and the log ratio there: every exact figure is a sum over them.

    Args:
        ends: the cells' ends, [k + 1]; None for the atoms 0 to k - 1.
        q: [k], of sum 1.
        log_ratio: [k], with whatever constant the ratio has.
    """

    ends: Floats | None
    q: Floats
    log_ratio: Floats

    @staticmethod
    def line(
        q: stats.rv_continuous, log_p: Callable[[Floats], Floats], low: float, high: float, cells: int = 100_000
    ) -> Distribution:
        """Densities at the middles of equal cells of [low, high], which holds all but 1e-9 of q and p."""
        ends = np.linspace(low, high, cells + 1)
        middles = (ends[1:] + ends[:-1]) / 2
        log_q = q.logpdf(middles)
        mass = np.exp(log_q)
        return Distribution(ends, mass / mass.sum(), log_p(middles) - log_q)

    @staticmethod
    def atoms(q: list[float], p: list[float]) -> Distribution:
        """Masses on the atoms 0 to k - 1."""
        with np.errstate(divide="ignore"):
            return Distribution(None, np.array(q), np.log(p) - np.log(q))

    @property
    def p(self) -> Floats:
        """The target's mass, [k]."""
        mass = self.q * np.exp(self.log_ratio - self.log_ratio.max())
        return mass / mass.sum()

    @property
    def log_constant(self) -> float:
        """log E_q r: 0 where both densities are normalised."""
        top = self.log_ratio.max()
        return float(top + np.log((self.q * np.exp(self.log_ratio - top)).sum()))

    def probability(self, log_m: float) -> Floats:
        """min(1, r/M), [k]."""
        return np.exp(np.minimum(self.log_ratio - log_m, 0))

    def acceptance(self, log_m: float) -> float:
        """The mean of `probability` over q."""
        return float((self.q * self.probability(log_m)).sum())

    def accepted(self, log_m: float) -> Floats:
        """The distribution of accepted rows, [k]: q min(r, M)/acceptance, which is p where M bounds r."""
        return self.q * self.probability(log_m) / self.acceptance(log_m)

    def eps(self, log_m: float) -> float:
        """E_p (1 - M/r)+."""
        return float((self.p * -np.expm1(np.minimum(log_m - self.log_ratio, 0))).sum())

    def pvalue(self, x: Floats, mass: Floats) -> float:
        """KS, or chi-square on atoms, of rows x against `mass` [k]."""
        if self.ends is None:
            return chisquare_pvalue(x, mass)
        return float(self.kolmogorov(x, mass).pvalue)

    def kolmogorov(self, x: Floats, mass: Floats) -> Any:
        """SciPy's KS test of rows x against `mass` [k]."""
        heights = np.append(0.0, np.cumsum(mass))
        return stats.kstest(x, lambda at: np.interp(at, self.ends, heights))


def total_variation(left: Floats, right: Floats) -> float:
    """Half of the sum of |left - right|."""
    return float(np.abs(left - right).sum() / 2)


def chisquare_pvalue(x: Floats, mass: Floats) -> float:
    """Pearson's test that the atoms 0 to k - 1 come with these probabilities; 0 where one of mass 0 comes at all."""
    counts = np.bincount(np.asarray(x), minlength=len(mass))
    if counts[mass == 0].any():
        return 0.0
    return float(stats.chisquare(counts[mass > 0], counts.sum() * mass[mass > 0]).pvalue)


def wald_pvalue(scores: Floats) -> float:
    """Test that independent rows of scores [n, k] have mean 0, by their sum in the metric of their own covariance.

    Chi-square with the covariance's rank; for counts that are dependent within a row, and for weighted ones.
    """
    total, covariance = scores.sum(axis=0), scores.T @ scores
    statistic = total @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ total
    return float(stats.chi2.sf(statistic, np.linalg.matrix_rank(covariance, hermitian=True, rtol=1e-9)))


def randomised_binomial_pvalues(successes: Floats, trials: int, probability: float, uniforms: Floats) -> Floats:
    """P(K < k) + u P(K = k): exactly uniform under the right distribution, unlike the p-value of a discrete count."""
    distribution = stats.binom(trials, probability)
    return distribution.cdf(successes - 1) + uniforms * distribution.pmf(successes)


def energy_pvalue(x: Floats, y: Floats, permutations: int = 999, seed: int = 0) -> float:
    """Test that x [n, d] and y [m, d] have one distribution, by a permutation test of their energy distance.

    The distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely & Rizzo 2013) is -s'Ds for the matrix D of distances and
    signs s = 1/n on x, -1/m on y. The smallest p-value is 1/(permutations + 1), and P(p <= a) = a for its multiples.
    """
    rows = np.concatenate([x, y])
    distances = cdist(rows, rows)
    signs = np.repeat([1 / len(x), -1 / len(y)], [len(x), len(y)])
    permuted = np.random.default_rng(seed).permuted(np.tile(signs, (permutations, 1)), axis=1)
    found = -signs @ distances @ signs
    return float((1 + (-((permuted @ distances) * permuted).sum(axis=1) >= found - 1e-12).sum()) / (1 + permutations))
