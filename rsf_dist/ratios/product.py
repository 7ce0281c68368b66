"""The product of ratios, r = r1 r2 …: the target is q tilted by every factor, p(x) proportional to q(x) r1(x) r2(x) ….

Factors are scored in the order given, the cheap ones first. The accept step's exponential E does not depend on the row,
so it is known beforehand, and with b_j the bound of all factors after the j-th

    l1 + … + lj + b_j + E <= log M   implies   l + E <= log M:   the row is rejected, whatever the other factors say.

Such rows are not shown to the later factors; what is accepted, and its keys, are the same to the last bit, if a factor
gives a row the same number whatever else is in the batch (a ClassifierRatio does; a network in a score of your own
rounds differently in batches of other sizes, unless it is applied by `models.in_pieces`). The log
ratios of those rows stay unknown; as their loss has the known probability 1 - min(1, exp(l1 + … + lj + b_j - log M)),
sums over proposals are estimated without bias from the others (Horvitz & Thompson, JASA 1952). Degenerate case: where a
later factor has no bound, only rows whose ratio is 0 already are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsf_dist.data.batch import Batch, LazyBatch, num_rows, select
from rsf_dist.errors import InputError
from rsf_dist.ratios.base import Ratio, SavableRatio, Screened, log_ratios

_ROUNDING = 1e-6  # relative; a float32 factor may exceed its bound by this, and such rows must not be lost


class ProductRatio:
    """log r(x) = log r1(x) + log r2(x) + ….

    Args:
        factors: two or more ratios, the cheap ones first.

    Raises:
        InputError: fewer than two factors.
    """

    on_device = True

    def __init__(self, factors: Sequence[Ratio]):
        if len(factors) < 2:
            raise InputError("ratio.factors", len(factors), "a product needs two or more", "use the factor itself")
        self.factors = list(factors)
        for known in ("quality", "estimate"):  # for reports, where one factor alone was learned
            found = [getattr(factor, known) for factor in factors if getattr(factor, known, None) is not None]
            if len(found) == 1:
                setattr(self, known, found[0])
        held_out = [index for factor in factors if (index := getattr(factor, "test_index", None)) is not None]
        if held_out:
            self.test_index = reduce(np.intersect1d, held_out)

    @property
    def log_bound(self) -> float | None:
        """The sum of the factors' bounds: a bound, though perhaps not the supremum. None where one has none."""
        bound = _bound(self.factors)
        return None if math.isinf(bound) else bound

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Those that some factor looks at; None where one does not say."""
        named = [getattr(factor, "columns", None) for factor in self.factors]
        if any(columns is None for columns in named):
            return None
        return tuple(dict.fromkeys(name for columns in named if columns is not None for name in columns))

    def save(self, folder: Path) -> None:
        """Write factor-0/, factor-1/, … of the factors that can be written."""
        for number, factor in enumerate(self.factors):
            if isinstance(factor, SavableRatio):
                (folder / f"factor-{number}").mkdir(parents=True, exist_ok=True)
                factor.save(folder / f"factor-{number}")

    def log_ratio(self, batch: Batch) -> Tensor:
        """float64 [n]."""
        return self._scored(batch, torch.full((num_rows(batch),), torch.inf), 0.0).log_ratio

    def screened(self, batch: Batch | LazyBatch, exponentials: Tensor, log_m: float) -> Screened:
        """Without the rows whose key cannot exceed log_m. exponentials: float64 [n]."""
        return self._scored(batch, exponentials, log_m)

    def _scored(self, batch: Batch | LazyBatch, exponentials: Tensor, log_m: float) -> Screened:
        n = num_rows(batch)
        total = torch.zeros(n, dtype=torch.float64)
        inclusion = torch.zeros(n, dtype=torch.float64)
        left, rows = torch.arange(n), batch  # those that may still be accepted
        for number, factor in enumerate(self.factors):
            if number:
                bound = _bound(self.factors[number:])
                reach = total[left] + bound + _ROUNDING * max(1.0, abs(bound)) - log_m
                possible = ~(reach + exponentials[left] <= 0) & (total[left] != -torch.inf)
                if not bool(possible.all()):
                    left, reach, rows = left[possible], reach[possible], select(rows, possible)
                inclusion[left] = reach.clamp(max=0)
            total[left] += log_ratios(factor, rows, f"ratio.factors.{number}")
        scored = torch.zeros(n, dtype=torch.bool)
        scored[left] = True
        return Screened(torch.where(scored, total, -torch.inf), scored, torch.where(scored, inclusion, 0.0))


def _bound(factors: Sequence[Ratio]) -> float:
    """The sum of the factors' bounds, infinite where one has none."""
    return sum(math.inf if factor.log_bound is None else factor.log_bound for factor in factors)
