"""Accepted rows and proposals against target images that the ratio was not fitted to, by features of another kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import ray
import torch
from torch import Tensor

from rsf_dist.cluster.workers import limit_to_allocation
from rsf_dist.config.model import ModelConfig
from rsf_dist.data.arrow import from_table
from rsf_dist.errors import unwrapped
from rsf_dist.evaluation.two_sample import MIN_ROWS, compare, describe
from rsf_dist.models.networks import NetworkSpec, in_pieces
from rsf_dist.proposals import Proposal
from rsf_dist.ratios import Ratio
from rsf_dist.runtime.device import device
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.sampling.accepted import AcceptedSet
from rsf_dist.types import Floats

_ROWS = 2_000


def two_sample_tests(
    ratio: Ratio,
    proposals: Mapping[str, Proposal],
    accepted: AcceptedSet,
    target: Tensor,
    feature_network: ModelConfig | None,
    seed: int,
) -> dict[str, Any] | None:
    """Two-sample tests of proposals, each by its name, and of accepted rows, `after`: `TwoSample` as dicts.

    Of 2,000 rows at most.

    Args:
        ratio: where it has a `test_index`, only those target images are used, which it was not fitted to.
        proposals, accepted: what is held against the target.
        target: images uint8 [n, c, h, w].
        feature_network: the network whose features tell rows apart; None: image statistics.
        seed: of the proposals drawn, of halves and permutations.

    None where either side has too few rows for a test.
    """
    index = getattr(ratio, "test_index", None)
    held_out = target if index is None else target[torch.tensor(index)]
    if min(len(held_out), accepted.report.num_accepted) < MIN_ROWS:
        return None
    rows = from_table(accepted.head(_ROWS))["image"]
    with unwrapped():
        return ray.get(_run_tests.remote(held_out[:_ROWS], dict(proposals), rows, feature_network, seed))


@ray.remote
def _run_tests(
    target: Tensor, proposals: dict[str, Proposal], accepted: Tensor, feature_network: ModelConfig | None, seed: int
) -> dict[str, Any]:
    limit_to_allocation()
    streams = Streams(seed, Stage.CONTROL_PILOT, chunk=1)
    rows = {name: proposal.sample(len(accepted), streams)["image"].cpu() for name, proposal in proposals.items()}
    of_target, features = _features(target, feature_network, seed)
    return {
        name: asdict(compare(of_target, _features(images, feature_network, seed)[0], seed, features))
        for name, images in (rows | {"after": accepted}).items()
    }


def _features(images: Tensor, feature_network: ModelConfig | None, seed: int) -> tuple[Floats, str]:
    """[n, d], and their name."""
    if feature_network is None:
        return describe(images)
    network = NetworkSpec(feature_network, num_outputs=1, channels=images.shape[1]).build(seed).to(device()).eval()
    features = in_pieces(network.features, images, network.numbers_per_row(images)).flatten(1).double().cpu().numpy()
    return features, f"features of {feature_network.name}"
