"""The ratio under label shift, where only the class prior differs.

p(x|y) = q(x|y), hence p(x, y)/q(x, y) = p(y)/q(y).

M = max_y p(y)/q(y) is exact, and the acceptance at it is 1/M (Saerens, Latinne & Decaestecker, Neural Computation 2002;
Lipton, Wang & Smola, ICML 2018). An unknown p(y) is estimated from unlabelled target images by
`rsf_dist.ratios.class_prior`. Degenerate case: equal priors accept everything at M = 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rsf_dist.data.batch import Batch
from rsf_dist.errors import InputError
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.ratios.info import RatioInfo
from rsf_dist.types import Floats


class LabelShiftRatio:
    """The ratio log r(x, y) = log p(y) - log q(y).

    Args:
        target_prior: p(y), [k], not negative, of sum 1 within 1e-6.
        proposal_prior: q(y), [k], likewise.
        column: the column of the labels, class numbers 0 to k - 1.
        estimate: the estimate that target_prior comes from, for reports. None means that the prior was given.

    Raises:
        InputError: numbers that are no class prior, or a class that the target has and proposals never show; at
            scoring, no such column, or a label outside the classes.
    """

    def __init__(
        self,
        target_prior: ArrayLike,
        proposal_prior: ArrayLike,
        column: str = "label",
        estimate: ClassPrior | None = None,
    ):
        target, proposal = _prior(target_prior, "target_prior"), _prior(proposal_prior, "proposal_prior")
        if len(target) != len(proposal):
            rule = f"must have the {len(proposal)} classes of the proposals"
            raise InputError("target_prior", f"{len(target)} classes", rule, "name each class in both")
        unmet = np.flatnonzero((target > 0) & (proposal == 0))
        if len(unmet):
            rule = f"the target has class {unmet[0]}, which proposals never show"
            raise InputError("proposal_prior", 0, rule, "propose that class, or set its target prior to 0")
        with np.errstate(divide="ignore"):
            log_weight = np.log(target) - np.log(np.where(proposal > 0, proposal, 1.0))
        self.log_weight = torch.from_numpy(log_weight)
        self.log_bound = float(log_weight.max())
        self.target_prior, self.proposal_prior = target, proposal
        self.column, self.estimate = column, estimate
        self.info = RatioInfo(normalised=True, columns=(column,), class_prior=estimate)

    def save(self, folder: Path) -> None:
        """Write ratio.json: both priors, and the estimate's interval."""
        described: dict[str, Any] = {
            "target_prior": self.target_prior.tolist(),
            "proposal_prior": self.proposal_prior.tolist(),
        }
        if self.estimate is not None:
            described["estimate"] = self.estimate.to_json()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ratio.json").write_text(json.dumps(described, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, proposal_prior: ArrayLike) -> LabelShiftRatio:
        """Read a ratio of an estimated class prior as it was saved, to the last bit."""
        estimate = ClassPrior.from_json(json.loads((folder / "ratio.json").read_text())["estimate"])
        return cls(estimate.prior, proposal_prior, estimate=estimate)

    def log_ratio(self, batch: Batch) -> Tensor:
        """Return the log ratio of each row, float64 [n]."""
        if self.column not in batch:
            rule = f"is not among the rows' {sorted(batch)}"
            raise InputError("column", self.column, rule, "propose labelled rows", absolute=True)
        label = batch[self.column].cpu()
        if label.ndim != 1 or label.is_floating_point():
            value = f"{label.dtype} {list(label.shape)}"
            raise InputError(self.column, value, "must be integers [n]", "give one class number a row", absolute=True)
        label = label.long()
        outside = label[(label < 0) | (label >= len(self.log_weight))]
        if len(outside):
            rule = f"is outside the {len(self.log_weight)} classes"
            raise InputError(self.column, int(outside[0]), rule, "give a prior for every class", absolute=True)
        return self.log_weight[label]


def _prior(values: ArrayLike, field: str) -> Floats:
    prior = np.asarray(values, dtype=np.float64)
    if prior.ndim != 1 or not len(prior) or not (prior >= 0).all() or not abs(prior.sum() - 1) < 1e-6:
        raise InputError(field, prior.tolist(), "must be a list of probabilities of sum 1", "normalise it")
    return prior / prior.sum()
