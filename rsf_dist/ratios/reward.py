"""The ratio of a target that tilts the proposal by a reward: p(x) proportional to q(x) exp(s(x)/beta).

p maximises E_p[s] - beta KL(p || q); q is the reference and the proposal at once, so log p/q = s/beta up to a constant
that M absorbs (Liu et al., "Statistical Rejection Sampling Improves Preference Optimization", arXiv 2309.06657, whose
algorithm takes M from the remaining candidates and so is not exact; this one is, with `max_score`). Degenerate cases:
beta to infinity accepts at random; beta to 0 keeps only the highest score, at an acceptance that tends to 0. A
log-likelihood, s = log p(y|x) <= 0, is certified by max_score=0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rsf_dist.data.batch import Batch, num_rows
from rsf_dist.errors import InputError
from rsf_dist.ratios.base import checked_columns
from rsf_dist.ratios.info import RatioInfo
from rsf_dist.runtime.user_code import reported_as


class RewardRatio:
    """The ratio log r(x) = s(x)/beta.

    Args:
        score: Batch -> s, [n]. -inf rejects; the sampler counts and refuses NaN and +inf.
        beta: the temperature, positive, in units of s.
        max_score: a certified upper bound of s over all x, which makes log_bound = max_score/beta and rejection exact.
            None means that nothing is certified: `log_bound` is None, and `PilotEnvelope` estimates M and says so.
        columns: the only columns that the score needs, so that others need not be made of rows that it rejects. None
            means any.

    Raises:
        InputError: beta is not positive and finite, or max_score/beta is not finite; at scoring, another shape than
            [n], or a score that exceeds max_score by more than rounding.
    """

    def __init__(
        self,
        score: Callable[[Batch], Tensor],
        beta: float = 1.0,
        max_score: float | None = None,
        columns: Sequence[str] | None = None,
    ):
        if not (beta > 0 and math.isfinite(beta)):
            raise InputError("beta", beta, "must be positive and finite", "use e.g. 1")
        if max_score is not None and not math.isfinite(max_score / beta):
            remedy = "leave it out where no bound is known"
            raise InputError("max_score", max_score, "max_score/beta must be finite", remedy)
        self.score, self.beta, self.max_score = score, beta, max_score
        self.info = RatioInfo(columns=checked_columns(columns))
        self.log_bound = None if max_score is None else max_score / beta

    def log_ratio(self, batch: Batch) -> Tensor:
        """Return the log ratio of each row, float64 [n]."""
        failure = f"fails on {num_rows(batch)} proposals"
        with torch.no_grad(), reported_as("score", getattr(self.score, "__name__", "(yours)"), failure, "fix it"):
            returned = torch.as_tensor(self.score(batch))
        if returned.shape != (num_rows(batch),):
            raise InputError("score", list(returned.shape), f"must be [{num_rows(batch)}]", "give one number a row")
        score = returned.double()
        return (score if self.max_score is None else self._below(self.max_score, score, returned.dtype)) / self.beta

    def _below(self, bound: float, score: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the scores; scores above the bound by no more than rounding in `dtype` become the bound."""
        over = (score > bound) & score.isfinite()
        rounding = 8 * torch.finfo(dtype).eps * max(1.0, abs(bound)) if dtype.is_floating_point else 0.0
        worst = float(score[over].max()) if over.any() else bound
        if worst > bound + rounding:
            remedy = f"raise it to a bound that holds, at least {worst:g}, or leave it out"
            raise InputError("max_score", bound, f"is no bound: a row scores {worst:g}", remedy)
        return torch.where(over, bound, score)
