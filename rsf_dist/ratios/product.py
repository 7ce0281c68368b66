"""The product of ratios, r = r1 r2 …, which tilts q by every factor: p(x) is proportional to q(x) r1(x) r2(x) ….

Factors are scored in the order given, the cheap ones first. The accept step's exponential E does not depend on the row,
so it is known beforehand, and with b_j the bound of all factors after the j-th

    l1 + … + lj + b_j + E <= log M   implies   l + E <= log M:   the row is rejected, whatever the other factors say.

Such rows are not shown to the later factors. Accepted rows and their keys stay the same to the last bit, if a factor
gives a row the same number whatever else is in the batch. A ClassifierRatio does. A network in a score of your own
rounds differently in batches of other sizes, unless `models.networks.in_pieces` applies it. The log ratios of the
rejected rows stay unknown. A row is lost with the known probability 1 - min(1, exp(l1 + … + lj + b_j - log M)), so that
sums over proposals are estimated without bias from the other rows (Horvitz & Thompson, JASA 1952). Degenerate case:
where a later factor has no bound, only rows whose ratio is 0 already are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsf_dist.data.batch import Batch, LazyBatch, num_rows, select
from rsf_dist.errors import InputError, located
from rsf_dist.ratios.base import Ratio, SavableRatio, Screened, log_ratios
from rsf_dist.ratios.info import HeldOut, RatioInfo, info_of

_ROUNDING = 1e-6  # relative; a float32 factor may exceed its bound by this, and such rows must not be lost


class ProductRatio:
    """The ratio log r(x) = log r1(x) + log r2(x) + ….

    Args:
        factors: two or more ratios, the cheap ones first.

    Raises:
        InputError: fewer than two factors.
    """

    def __init__(self, factors: Sequence[Ratio]):
        if len(factors) < 2:
            raise InputError("factors", len(factors), "a product needs two or more", "use the factor itself")
        self.factors = list(factors)
        self.info = _joint_info([info_of(factor) for factor in factors])

    @property
    def log_bound(self) -> float | None:
        """The sum of the factors' bounds, perhaps above the supremum. None means that a factor has no bound."""
        bound = _bound(self.factors)
        return None if math.isinf(bound) else bound

    def save(self, folder: Path) -> None:
        """Write factor-0/, factor-1/, … of the factors that can be written."""
        for number, factor in enumerate(self.factors):
            if isinstance(factor, SavableRatio):
                (folder / f"factor-{number}").mkdir(parents=True, exist_ok=True)
                factor.save(folder / f"factor-{number}")

    def log_ratio(self, batch: Batch) -> Tensor:
        """Return the log ratio of each row, float64 [n]."""
        return self._scored(batch, torch.full((num_rows(batch),), torch.inf), 0.0).log_ratio

    def screened(self, batch: Batch | LazyBatch, exponentials: Tensor, log_m: float) -> Screened:
        """Score the rows without those whose key cannot exceed log_m. exponentials: E, float64 [n]."""
        return self._scored(batch, exponentials, log_m)

    def _scored(self, batch: Batch | LazyBatch, exponentials: Tensor, log_m: float) -> Screened:
        n = num_rows(batch)
        total = torch.zeros(n, dtype=torch.float64)
        inclusion = torch.zeros(n, dtype=torch.float64)
        left, rows = torch.arange(n), batch  # the rows that may still be accepted
        for number, factor in enumerate(self.factors):
            if number:
                bound = _bound(self.factors[number:])
                reach = total[left] + bound + _ROUNDING * max(1.0, abs(bound)) - log_m
                possible = ~(reach + exponentials[left] <= 0) & (total[left] != -torch.inf)
                if not bool(possible.all()):
                    left, reach, rows = left[possible], reach[possible], select(rows, possible)
                inclusion[left] = reach.clamp(max=0)
            with located(f"factors.{number}"):
                total[left] += log_ratios(factor, rows)
        scored = torch.zeros(n, dtype=torch.bool)
        scored[left] = True
        return Screened(torch.where(scored, total, -torch.inf), scored, torch.where(scored, inclusion, 0.0))


def _joint_info(factors: Sequence[RatioInfo]) -> RatioInfo:
    """Return the facts of a product. Figures for reports come from the only factor that has them."""
    qualities = [info.quality for info in factors if info.quality is not None]
    priors = [info.class_prior for info in factors if info.class_prior is not None]
    indices = [info.held_out.index for info in factors if info.held_out is not None and info.held_out.index is not None]
    return RatioInfo(
        columns=_union([info.columns for info in factors]),
        on_device=True,
        held_out=HeldOut(index=reduce(np.intersect1d, indices)) if indices else None,
        quality=qualities[0] if len(qualities) == 1 else None,
        class_prior=priors[0] if len(priors) == 1 else None,
    )


def _union(columns: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """Return the columns that some factor looks at. None means any, because a factor does not say."""
    named = [names for names in columns if names is not None]
    return tuple(dict.fromkeys(chain(*named))) if len(named) == len(columns) else None


def _bound(factors: Sequence[Ratio]) -> float:
    """Return the sum of the factors' bounds, infinite where a factor has none."""
    return sum(math.inf if factor.log_bound is None else factor.log_bound for factor in factors)
