"""How M is chosen: as given, from the largest ratio of a pilot, or to spend a budget.

An envelope sees the pilot's log ratios l and accept keys k = l + E and names log M. Too small an M caps rows (they are
counted); too large an M wastes proposals. A certified bound, `ratio.log_bound`, makes rejection exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rsf_dist.accept import Floats, key_quantile
from rsf_dist.errors import InputError, StatisticalRefusal


@dataclass(frozen=True)
class Pilot:
    """What the pilot saw: log ratios l and accept keys k of n proposals (float64 [n]); the ratio's bound or None."""

    log_ratio: Floats
    accept_key: Floats
    log_bound: float | None = None


@dataclass(frozen=True)
class Choice:
    """The log M in force, and where it is from, in words."""

    log_m: float
    source: str


class Envelope(Protocol):
    """Chooses log M from a pilot of `num_pilot` proposals."""

    @property
    def num_pilot(self) -> int:
        """Proposals that the pilot draws."""
        ...

    def choose(self, pilot: Pilot) -> Choice:
        """Name log M; StatisticalRefusal where the pilot allows none."""
        ...


@dataclass(frozen=True)
class FixedEnvelope:
    """M as given, e.g. a certified bound.

    Args:
        log_m: finite.
        num_pilot: proposals that only forecast the acceptance.
    """

    log_m: float
    num_pilot: int = 2_000

    def __post_init__(self) -> None:
        if not np.isfinite(self.log_m):
            raise InputError("envelope.log_m", self.log_m, "must be finite", "give the logarithm of M")
        if self.num_pilot < 1:
            raise InputError("envelope.num_pilot", self.num_pilot, "must be positive", "use e.g. 2000")

    def choose(self, pilot: Pilot) -> Choice:
        """log_m itself."""
        return Choice(self.log_m, "fixed")


@dataclass(frozen=True)
class PilotEnvelope:
    """The ratio's own bound if it has one; else a pilot's empirical supremum (Caffo, Booth & Davison, Biometrika 2002).

    For the largest of n ratios E[P_q(r > M)] <= 1/(n + 1). It says nothing of a part of the target that proposals
    rarely meet; the p-side TV bound of the report does.

    Args:
        num_pilot: n; more lower the share of capped rows, at the cost of drawing them.
        margin: added to the largest log ratio; each nat divides the acceptance by e.
    """

    num_pilot: int = 10_000
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.num_pilot < 1:
            raise InputError("envelope.num_pilot", self.num_pilot, "must be positive", "use e.g. 10000")

    def choose(self, pilot: Pilot) -> Choice:
        """The bound, or the pilot's largest log ratio + margin."""
        if pilot.log_bound is not None:
            return Choice(pilot.log_bound, "bound of the ratio")
        top = float(pilot.log_ratio.max(initial=-np.inf))
        if top == -np.inf:
            raise _nothing_acceptable(len(pilot.log_ratio))
        return Choice(top + self.margin, f"largest of {len(pilot.log_ratio):,} pilot ratios + {self.margin:g}")


@dataclass(frozen=True)
class BudgetEnvelope:
    """The M that keeps a given fraction: optimal budgeted rejection sampling (Verine et al. 2023, arXiv 2311.00460).

    Args:
        acceptance: fraction of the proposals to keep, in (0, 1). Lower comes closer to the target and costs more.
        num_pilot: proposals to judge it on; at least 20 of them must lie above the quantile.
    """

    acceptance: float
    num_pilot: int = 20_000

    def __post_init__(self) -> None:
        if not 0 < self.acceptance < 1:
            raise InputError("envelope.acceptance", self.acceptance, "must be in (0, 1)", "give a fraction")
        if self.acceptance * self.num_pilot < 20:
            remedy = f"raise it to {int(np.ceil(20 / self.acceptance))} or more"
            raise InputError("envelope.num_pilot", self.num_pilot, "leaves fewer than 20 accepted pilot rows", remedy)

    def choose(self, pilot: Pilot) -> Choice:
        """The (1 - acceptance) quantile of the keys."""
        log_m = key_quantile(pilot.accept_key, self.acceptance)
        if log_m == -np.inf:
            reachable = float((pilot.log_ratio > -np.inf).mean())
            if reachable == 0:
                raise _nothing_acceptable(len(pilot.log_ratio))
            raise StatisticalRefusal(
                f"envelope.acceptance={self.acceptance:g} cannot be reached: only a fraction {reachable:g} of the "
                "proposals has a ratio above 0",
                "lower envelope.acceptance below that, or narrow the proposal",
            )
        return Choice(log_m, f"quantile of {len(pilot.accept_key):,} pilot keys at acceptance {self.acceptance:g}")


def _nothing_acceptable(num_pilot: int) -> StatisticalRefusal:
    return StatisticalRefusal(
        f"all {num_pilot:,} pilot proposals have ratio 0: the proposal does not meet the target",
        "broaden the proposal until it covers the target, or correct the target",
    )
