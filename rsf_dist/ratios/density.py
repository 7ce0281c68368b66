"""The ratio of two known densities; the target's density may lack its constant (an energy model).

Where p is 0 the log ratio is -inf, a plain rejection, even if q is 0 too. Where only q is 0 the log ratio is +inf,
which the sampler refuses: no M makes up for a part of the target that proposals never show.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from rsf_dist.data.batch import Batch
from rsf_dist.errors import InputError
from rsf_dist.proposals.distribution import DistributionProposal, log_density
from rsf_dist.ratios.bounds import log_supremum
from rsf_dist.ratios.info import HeldOut, RatioInfo


class DensityRatio:
    """The ratio log p(x) - log q(x).

    Args:
        target: p, as a torch distribution, anything with `log_prob(x)`, or a callable x -> [n] that gives log p(x), a
            tensor or a NumPy array; it may lack its normalising constant. Values outside a distribution's support have
            density 0.
        proposal: the proposal that draws x, with its density.
        log_bound: sup log p/q where you know it, which certifies M. None means that it is computed for two Gaussians or
            two Categoricals (`ratios.bounds`), and unknown else.
        target_samples: rows x [m, …] drawn from p, for the p-side bounds of the report. None means that there are none.

    Raises:
        InputError: a target that is no density, or a bound that is not finite; at scoring, a missing column or a wrong
            shape.
    """

    def __init__(
        self,
        target: Distribution | Callable[[Tensor], Tensor],
        proposal: DistributionProposal,
        log_bound: float | None = None,
        target_samples: Tensor | None = None,
    ):
        if not hasattr(target, "log_prob") and (hasattr(target, "logpdf") or hasattr(target, "logpmf")):
            name = "logpdf" if hasattr(target, "logpdf") else "logpmf"
            remedy = f"wrap it, lambda x: p.{name}(x.numpy())"
            raise InputError("target", f"{type(target).__name__} of SciPy", "has no log_prob", remedy)
        if not (hasattr(target, "log_prob") or callable(target)):
            raise InputError("target", target, "has no log_prob and cannot be called", "give a density")
        if isinstance(target, Distribution) and target.batch_shape != torch.Size():
            value = f"{type(target).__name__} of batch_shape {list(target.batch_shape)}"
            raise InputError("target", value, "must give one density a row", "wrap it in Independent, of torch")
        if isinstance(target, Distribution) and target.event_shape != proposal.distribution.event_shape:
            theirs = list(proposal.distribution.event_shape)
            rule = f"its event_shape must be the proposal's {theirs}"
            raise InputError("target", list(target.event_shape), rule, "give p and q of the same x")
        self.target = target
        self.proposal = proposal
        self.log_bound = log_supremum(target, proposal.distribution) if log_bound is None else log_bound
        if self.log_bound is not None and not math.isfinite(self.log_bound):
            raise InputError("log_bound", log_bound, "must be finite", "leave it out where no bound is known")
        held_out = None
        if target_samples is not None:
            held_out = HeldOut(self.log_ratio({proposal.column: target_samples}).numpy())
        normalised = isinstance(target, Distribution)
        self.info = RatioInfo(normalised=normalised, columns=(proposal.column,), held_out=held_out)

    @classmethod
    def of_energy(
        cls,
        energy: Callable[[Tensor], Tensor],
        proposal: DistributionProposal,
        temperature: float = 1.0,
        log_bound: float | None = None,
    ) -> DensityRatio:
        """Make the ratio of an energy model, p(x) proportional to exp(-energy(x)/temperature) (LeCun et al. 2006).

        Args:
            energy: x -> [n], e.g. a torch module; +inf where p is 0.
            proposal: the proposal that draws x.
            temperature: the temperature, positive, in units of the energy.
            log_bound: sup of -energy/temperature - log q, where you know it. None means that you do not.

        Raises:
            InputError: the temperature is not positive and finite.
        """
        if not (temperature > 0 and math.isfinite(temperature)):
            raise InputError("temperature", temperature, "must be positive and finite", "use e.g. 1")
        return cls(_Boltzmann(energy, temperature), proposal, log_bound)

    def log_ratio(self, batch: Batch) -> Tensor:
        """Return the log ratio of each row, float64 [n]."""
        if self.proposal.column not in batch:
            raise InputError(
                "column", self.proposal.column, f"is not among the rows' {sorted(batch)}", "name one", absolute=True
            )
        x = batch[self.proposal.column]
        target = self._log_target(x)
        if target.shape != (len(x),) or target.is_complex():
            rule = f"log p must have shape [{len(x)}], one real number a row"
            squeeze = target.shape == (len(x), 1)
            remedy = "return it without the last axis, .squeeze(1)" if squeeze else "sum it over the event's axes"
            raise InputError("target", list(target.shape), rule, remedy)
        target, proposal = target.double(), self.proposal.log_prob(batch).double()
        return torch.where(target == -torch.inf, target, target - proposal)

    def _log_target(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            if isinstance(self.target, Distribution):
                return log_density(self.target, x)
            return as_tensor(self.target.log_prob(x) if hasattr(self.target, "log_prob") else self.target(x), "target")


def as_tensor(returned: object, field: str) -> Tensor:
    """Return what a density gave as a tensor: a tensor as it is, a NumPy array of numbers too. Raises InputError."""
    if isinstance(returned, Tensor):
        return returned
    if isinstance(returned, np.ndarray) and returned.dtype.kind in "fiu":
        return torch.from_numpy(np.array(returned, np.float64, order="C"))
    found = f"{type(returned).__name__} of {returned.dtype}" if isinstance(returned, np.ndarray) else type(returned)
    name = found if isinstance(found, str) else found.__name__
    raise InputError(field, f"a {name}", "gives no tensor", "return log p(x) as a tensor [n], or a NumPy array")


class _Boltzmann:
    """The log density of an energy model, up to the constant."""

    def __init__(self, energy: Callable[[Tensor], Tensor], temperature: float):
        self.energy, self.temperature = energy, temperature

    def __call__(self, x: Tensor) -> Tensor:
        return -as_tensor(self.energy(x), "energy").double() / self.temperature
