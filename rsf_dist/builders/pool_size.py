"""The rows that a pool must have, which are known before anything is sampled."""

from __future__ import annotations

from rsf_dist.config.run import RunConfig
from rsf_dist.errors import InputError
from rsf_dist.proposals import Pool, Proposal


def require_large_pool(config: RunConfig, proposal: Proposal) -> None:
    """Raise InputError unless the pool has the rows to keep, and different rows to learn from and to evaluate on."""
    if not isinstance(proposal, Pool):
        remedy = "give its proposal all of rsf_dist.proposals.base.Pool, or set is_pool = False in its model"
        raise InputError("proposal.kind", config.proposal.kind, "its proposal is no pool that is read once", remedy)
    size, sampling = proposal.num_rows, config.sampling
    if sampling.mode == "stream":  # of a custom proposal, whose configuration does not tell that it is a pool
        rule = f"draws without end, and the pool ends after {size:,} rows"
        raise InputError("sampling.mode", "stream", rule, "set sampling.mode=store")
    each_once = f"the pool has {size:,} rows, and each is read once"
    if sampling.top_k is not None and sampling.top_k >= size:
        raise InputError("sampling.top_k", sampling.top_k, each_once, f"lower it below {size}")
    if sampling.num_accepted > size:
        raise InputError("sampling.num_accepted", sampling.num_accepted, each_once, f"lower it to {size} or less")
    for key, count in config.ratio.proposals_to_fit().items():
        if count > size:
            rule = f"the pool has {size:,} rows, and held-out rows must not be among the fitted ones"
            raise InputError(f"ratio.{key}", count, rule, f"lower it to {size} or less")
