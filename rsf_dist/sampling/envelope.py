"""Envelopes, which choose M: a given M, a certified bound, the largest ratio of a pilot or of all rows, or a budget.

An envelope sees the pilot's log ratios l and accept keys k = l + E and names log M. Too small an M caps rows (they are
counted); too large an M wastes proposals. Log M is at least KL(p || q), whatever the envelope: 20 nats mean an
acceptance below 2e-9. A certified bound, `ratio.log_bound`, makes rejection exact; everything else is an estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from rsf_dist.errors import InputError, StatisticalRefusal
from rsf_dist.runtime.user_code import reported_as
from rsf_dist.sampling.accept import key_quantile
from rsf_dist.types import Floats

FORECAST_PILOT = 2_000
"""Proposals of a pilot that only forecasts the acceptance."""


@dataclass(frozen=True)
class Pilot:
    """A pilot's log ratios l and accept keys k of n proposals, float64 [n], and the ratio's bound or None."""

    log_ratio: Floats
    accept_key: Floats
    log_bound: float | None = None


@dataclass(frozen=True)
class Choice:
    """The log M in force.

    Args:
        log_m: the log M at which rows are drawn.
        source: the origin of log_m, in words.
        margin: None means that M stays. Otherwise log M grows to the largest log ratio drawn so far plus this margin,
            and earlier rows are filtered by their keys.
        is_quantile: log M is a quantile of the pilot's own keys, so that the pilot's acceptance says nothing new.
    """

    log_m: float
    source: str
    margin: float | None = None
    is_quantile: bool = False


@runtime_checkable
class Envelope(Protocol):
    """The choice of log M from a pilot of `num_pilot` proposals."""

    @property
    def num_pilot(self) -> int:
        """Proposals that the pilot draws."""
        ...

    def choose(self, pilot: Pilot) -> Choice:
        """Name log M; StatisticalRefusal where the pilot allows none."""
        ...


def choose(envelope: Envelope, pilot: Pilot) -> Choice:
    """Return `envelope.choose(pilot)`. Raises InputError where a user's envelope fails or returns no valid Choice."""
    kind = type(envelope).__name__
    with reported_as("", kind, f"fails on a pilot of {len(pilot.log_ratio)} rows", "fix it"):
        choice: object = envelope.choose(pilot)
    if not isinstance(choice, Choice):
        raise InputError("", kind, f"choose gives a {type(choice).__name__}", "give a Choice")
    if not _is_finite(choice.log_m):
        raise InputError("", kind, f"chooses log_m={choice.log_m}", "choose a finite number")
    if choice.margin is not None and not (_is_finite(choice.margin) and choice.margin >= 0):
        raise InputError("", kind, f"chooses margin={choice.margin}", "choose None, or a number from 0")
    return choice


def pilot_size(envelope: Envelope, log_bound: float | None) -> int:
    """Return the number of proposals that a pilot draws: few where M is a bound, and the pilot forecasts acceptance."""
    if log_bound is not None and getattr(envelope, "prefers_bound", False):
        return min(envelope.num_pilot, FORECAST_PILOT)
    return envelope.num_pilot


def _is_finite(number: object) -> bool:
    return isinstance(number, Real) and not isinstance(number, bool) and math.isfinite(number)


@dataclass(frozen=True)
class FixedEnvelope:
    """A given M, e.g. a certified bound.

    Args:
        log_m: finite.
        num_pilot: proposals that only forecast the acceptance.
    """

    log_m: float
    num_pilot: int = FORECAST_PILOT

    def __post_init__(self) -> None:
        if not np.isfinite(self.log_m):
            raise InputError("log_m", self.log_m, "must be finite", "give the logarithm of M")
        _require_pilot(self.num_pilot)

    def choose(self, pilot: Pilot) -> Choice:
        """Choose log_m."""
        return Choice(self.log_m, "fixed")


@dataclass(frozen=True)
class CertifiedEnvelope:
    """The ratio's own bound: rejection is exact. Refuses a ratio that has none.

    Args:
        num_pilot: proposals that only forecast the acceptance.
    """

    num_pilot: int = FORECAST_PILOT

    def __post_init__(self) -> None:
        _require_pilot(self.num_pilot)

    def choose(self, pilot: Pilot) -> Choice:
        """Choose log_bound. Raises InputError where the ratio has none."""
        if pilot.log_bound is None:
            remedy = "use kind pilot, adaptive or budget, or a ratio with a bound"
            raise InputError("kind", "certified", "the ratio has no known bound", remedy)
        return Choice(pilot.log_bound, "bound of the ratio")


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
    prefers_bound: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_pilot(self.num_pilot)
        _require_margin(self.margin)

    def choose(self, pilot: Pilot) -> Choice:
        """Choose the bound, or else the pilot's largest log ratio + margin."""
        if pilot.log_bound is not None:
            return Choice(pilot.log_bound, "bound of the ratio")
        source = f"estimate: largest of {len(pilot.log_ratio):,} pilot ratios + {self.margin:g}"
        return Choice(_largest(pilot) + self.margin, source)


@dataclass(frozen=True)
class AdaptiveEnvelope:
    """The largest ratio of everything drawn, the pilot included; earlier rows are thinned by their keys as M grows.

    Without that thinning, rows accepted at a smaller M would stay and bias the sample. With it, the rows are those that
    the last M would have given from the start; they still depend on M's being a maximum of these draws, and Caffo,
    Booth & Davison (Biometrika 2002) show that the error vanishes as draws grow. What is more than the pilot's maximum
    costs nothing but rows that turn out surplus. Wherever p has a part that q hardly meets, this is blind too.

    Args:
        num_pilot: proposals that M begins with; more save surplus rows later.
        margin: added to the largest log ratio; each nat divides the acceptance by e.
    """

    num_pilot: int = 10_000
    margin: float = 0.0

    def __post_init__(self) -> None:
        _require_pilot(self.num_pilot)
        _require_margin(self.margin)

    def choose(self, pilot: Pilot) -> Choice:
        """Begin with the pilot's largest log ratio + margin."""
        source = f"estimate: largest ratio of everything drawn + {self.margin:g}"
        return Choice(_largest(pilot) + self.margin, source, margin=self.margin)


@dataclass(frozen=True)
class BudgetEnvelope:
    """The M that keeps a given fraction of the proposals.

    This is optimal budgeted rejection sampling (Verine et al. 2023, arXiv 2311.00460).

    Args:
        acceptance: fraction of the proposals to keep, in (0, 1). Lower comes closer to the target and costs more.
        num_pilot: proposals of the pilot; at least 20 of them must lie above the quantile.
    """

    acceptance: float
    num_pilot: int = 20_000

    def __post_init__(self) -> None:
        if not 0 < self.acceptance < 1:
            raise InputError("acceptance", self.acceptance, "must be in (0, 1)", "give a fraction")
        if self.acceptance * self.num_pilot < 20:
            remedy = f"raise it to {int(np.ceil(20 / self.acceptance))} or more"
            raise InputError("num_pilot", self.num_pilot, "leaves fewer than 20 accepted pilot rows", remedy)

    def choose(self, pilot: Pilot) -> Choice:
        """Choose the (1 - acceptance) quantile of the keys."""
        log_m = key_quantile(pilot.accept_key, self.acceptance)
        if log_m == -np.inf:
            reachable = float((pilot.log_ratio > -np.inf).mean())
            if reachable == 0:
                raise _nothing_acceptable(len(pilot.log_ratio))
            raise StatisticalRefusal(
                f"{{key}}={self.acceptance:g} cannot be reached: only a fraction {reachable:g} of "
                "the proposals has a ratio above 0",
                "lower {key} below that, or narrow the proposal",
                key="acceptance",
            )
        source = f"quantile of {len(pilot.accept_key):,} pilot keys at acceptance {self.acceptance:g}"
        return Choice(log_m, source, is_quantile=True)


def _require_pilot(num_pilot: int) -> None:
    if num_pilot < 1:
        raise InputError("num_pilot", num_pilot, "must be positive", "use e.g. 10000")


def _require_margin(margin: float) -> None:
    if not 0 <= margin < np.inf:
        raise InputError("margin", margin, "must be finite and not below 0", "use e.g. 0.5")


def _largest(pilot: Pilot) -> float:
    """Return the pilot's largest log ratio. Raises StatisticalRefusal where all are -inf."""
    top = float(pilot.log_ratio.max(initial=-np.inf))
    if top == -np.inf:
        raise _nothing_acceptable(len(pilot.log_ratio))
    return top


def _nothing_acceptable(num_pilot: int) -> StatisticalRefusal:
    return StatisticalRefusal(
        f"all {num_pilot:,} pilot proposals have ratio 0: the proposal does not meet the target",
        "broaden the proposal until it covers the target, or correct the target",
    )
