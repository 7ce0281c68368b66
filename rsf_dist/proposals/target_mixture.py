"""The mixture a p + (1 - a) q: proposals of which a share a are target rows, drawn with replacement.

A relative ratio needs this mixture, with target rows that are independent draws of p. The mixture is defensive:
r_a <= 1/a whatever q misses. p is represented by the given rows, so that few target rows mean many duplicates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rsf_dist.data.batch import Batch, LazyBatch, interleave, num_rows, select, take_rows
from rsf_dist.errors import InputError
from rsf_dist.proposals.base import Proposal
from rsf_dist.runtime.rng import Purpose, Streams

COMPONENT = "component"


class TargetMixtureProposal:
    """Rows of `proposal` with probability 1 - alpha, of `target` with probability alpha.

    Args:
        proposal: q.
        target: rows drawn from p: the columns that are to be scored and learned from, `label` among them where the
            proposal has it. Columns that only say how a proposal was made may be missing: there a target row has NaN,
            or -1 where the column holds integers.
        alpha: the target's share, in (0, 1).

    Rows: the proposal's columns, and component int64 [n], 1 where the row is from `target`.

    Raises:
        InputError: alpha is no share, there are no target rows, or of unequal lengths; at sampling, a label is missing,
            or a column differs in shape or type.
    """

    def __init__(self, proposal: Proposal, target: Batch, alpha: float):
        if not 0 < alpha < 1:
            raise InputError("alpha", alpha, "must be in (0, 1)", "use e.g. 0.1")
        try:
            count = num_rows(target) if target else 0
        except ValueError as err:
            raise InputError("target", sorted(target), str(err), "give columns of one length") from err
        if count == 0:
            raise InputError("target", "no rows", "the mixture needs some", "give target rows")
        self.proposal, self.target, self.alpha = proposal, target, alpha

    def sample(self, n: int, rng: Streams) -> LazyBatch:
        """Draw n rows of the mixture; columns that are lazy in the proposal stay lazy."""
        generator = rng.numpy(Purpose.TARGET_MIXTURE)
        component = torch.from_numpy((generator.random(n) < self.alpha).astype("int64"))
        chosen = component == 1
        count = int(chosen.sum())
        rows = torch.from_numpy(generator.integers(num_rows(self.target), size=count))
        drawn = self.proposal.sample(max(n - count, 1), rng)  # at least one row, for its columns
        if COMPONENT in drawn:
            raise InputError(
                "proposal", COMPONENT, "this column's name is taken", "rename the proposal's column", absolute=True
            )
        sample = select(drawn, slice(0, 1))
        of_target = {name: take_rows(self._of_target(name, sample[name]), rows) for name in drawn}
        return interleave(of_target, drawn, chosen) | {COMPONENT: component}

    def _of_target(self, name: str, column: Tensor) -> Tensor:
        given = self.target.get(name)
        if given is None and name == "label":
            rule = "target rows are unlabelled, and a share of what is accepted would be"
            remedy = "give their labels, or sample from the proposal without the mixture"
            raise InputError("target", "(no label)", rule, remedy)
        if given is None and column.dtype in (torch.uint8, torch.bool):
            rule = f"is missing, and {column.dtype} has no value that says so"
            raise InputError(f"target.{name}", "(absent)", rule, "give that column of the target rows")
        if given is None:
            missing = torch.nan if column.is_floating_point() else -1
            return torch.full((num_rows(self.target), *column.shape[1:]), missing, dtype=column.dtype)
        ours, theirs = ((rows.dtype, list(rows.shape[1:])) for rows in (given, column))
        if ours != theirs:
            rule = f"must be like the proposal's {theirs[0]} {theirs[1]}"
            raise InputError(f"target.{name}", f"{ours[0]} {ours[1]}", rule, "give rows of one kind")
        return given
