"""The ratio that makes rejection sampling discriminator rejection sampling, in examples/gaussians25."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.sampling.accept import accept
from rsf_dist.sampling.chunk import ChunkWork, propose_and_score

LN2 = np.log(2)


class Column:
    """The log ratio is the column l."""

    log_bound = None

    def log_ratio(self, batch):
        return batch["l"]


class Exponential:
    """Rows whose ratio is uniform on (0, 1)."""

    def sample(self, n, rng):
        return {"l": -torch.from_numpy(rng.numpy(1).exponential(size=n))}


@pytest.fixture
def log_acceptance(gaussians25):
    """Log ratios, log M, gamma and eps -> log a."""

    def found(log_ratio, log_m, gamma, eps):
        batch = {"l": torch.from_numpy(np.asarray(log_ratio, dtype=float))}
        return gaussians25.GammaShiftRatio(Column(), log_m, gamma, eps).log_ratio(batch).numpy() - log_m

    return found


def test_without_a_shift_it_is_the_ratio_over_m(log_acceptance):
    # gamma = 0, eps = 0: sigmoid(log s - log(1 - s)) = s. M = 2; r = .5, 1, 1.5: s = 1/4, 1/2, 3/4.
    found = log_acceptance(np.log([0.5, 1.0, 1.5]), LN2, gamma=0.0, eps=0.0)
    assert np.exp(found) == pytest.approx([0.25, 0.5, 0.75])


def test_a_shift_by_hand(log_acceptance):
    # s/(s + (1 - s) e^gamma) at gamma = 1: s = 1/2 gives 1/(1 + e) = .2689, s = 1/4 gives 1/(1 + 3 e) = .1092
    found = np.exp(log_acceptance(np.log([0.5, 0.25]), 0.0, gamma=1.0, eps=0.0))
    assert found == pytest.approx([1 / (1 + np.e), 1 / (1 + 3 * np.e)])
    # not proportional to the ratio: twice the ratio has 2.46 times the acceptance
    assert found[0] / found[1] == pytest.approx((1 + 3 * np.e) / (1 + np.e))


def test_the_logit_by_hand(gaussians25):
    drs_logit = gaussians25.drs_logit
    # eps = log 2: e^-eps = 1/2. s = 1: -log(1 - 1/2) = log 2. s = 1/2: log(1/2) - log(3/4) = log(2/3).
    assert drs_logit(np.log([1.0, 0.5]), 0.0, eps=LN2) == pytest.approx([LN2, np.log(2 / 3)])
    # above M, s = 1; r = 0 has no chance
    assert drs_logit(np.array([5.0, -np.inf]), 0.0, eps=LN2) == pytest.approx([LN2, -np.inf])
    # the published eps leaves F = 18.4 at s = 1: acceptance 1 - 1e-8
    assert drs_logit(np.zeros(1), 0.0) == pytest.approx([-np.log(1e-8)])


def test_acceptances_are_probabilities_that_rise_with_the_ratio(log_acceptance):
    @given(
        arrays(float, st.integers(1, 20), elements=st.floats(-800, 800) | st.sampled_from([-np.inf, np.inf, np.nan])),
        st.floats(-50, 50),
        st.floats(-50, 50),
        st.floats(1e-12, 10),
    )
    def holds(log_ratio, log_m, gamma, eps):
        assert np.array_equal(np.isnan(log_acceptance(log_ratio, log_m, gamma, eps)), ~(log_ratio < np.inf))
        log_ratio = np.sort(log_ratio[log_ratio < np.inf])
        found = log_acceptance(log_ratio, log_m, gamma, eps)
        assert (found <= 0).all()
        assert (found[log_ratio == -np.inf] == -np.inf).all()
        assert (found[1:] >= found[:-1]).all()
        assert (log_acceptance(log_ratio, log_m, gamma + 1, eps) <= found).all()

    holds()


def test_the_sampler_accepts_with_that_probability(gaussians25, log_acceptance):
    """k = l' + E > log M where E > -log a; no row is capped, an infinite ratio is never accepted."""
    exponentials = np.full(5, 0.5)
    log_ratio = np.array([-np.inf, -2.0, 0.5, 1.0, np.inf])
    log_a = log_acceptance(log_ratio, 1.0, gamma=0.7, eps=1e-3)
    decision = accept(1.0 + log_a, exponentials, 1.0)
    assert decision.keep.tolist() == (-log_a < 0.5).tolist() == [False, False, False, True, False]
    assert decision.weight.tolist() == [1.0] * 5
    ratio = gaussians25.GammaShiftRatio(Column(), -1.0, gamma=0.7)
    chunk = ChunkWork(Exponential(), ratio, -1.0, 200, seed=3)(5)
    batch, _, exponentials = propose_and_score(Exponential(), Column(), Streams(3, chunk=5), 200)
    keep = exponentials > -log_acceptance(batch["l"], -1.0, 0.7, 1e-8)
    assert chunk.rows["index"].tolist() == np.flatnonzero(keep).tolist()
    assert chunk.statistics.num_capped == 0 < keep.sum() < 200


def test_m_and_gamma_are_the_pilots(gaussians25):
    """At the percentile F = gamma, where a row is accepted with probability 1/2."""
    found = gaussians25.fit_gamma_shift(Exponential(), Column(), seed=3, percentile=50.0)
    log_ratio = propose_and_score(Exponential(), Column(), Streams(3, Stage.PILOT), 10_000)[1]
    assert found.log_bound == log_ratio.max()
    middle = {"l": torch.from_numpy(np.sort(log_ratio)[5_000:5_001])}
    assert np.exp(found.log_ratio(middle).numpy() - found.log_bound) == pytest.approx([0.5])
