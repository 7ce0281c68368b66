"""Two-sample tests of accepted rows and proposals against held-out target images, on features of another kind."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rsf_dist.cluster.workers import run_in_task
from rsf_dist.config.model import ModelConfig
from rsf_dist.config.resources import Share
from rsf_dist.data.arrow import from_table
from rsf_dist.data.batch import take_rows
from rsf_dist.data.mapped import MappedTensor
from rsf_dist.errors import located
from rsf_dist.evaluation.two_sample import MIN_ROWS, TwoSample, compare, describe
from rsf_dist.models.networks import in_pieces
from rsf_dist.models.spec import NetworkSpec
from rsf_dist.proposals import Proposal
from rsf_dist.ratios import Ratio
from rsf_dist.ratios.info import info_of
from rsf_dist.runtime.device import device
from rsf_dist.runtime.rng import Stage, Streams
from rsf_dist.sampling.accepted import AcceptedSet
from rsf_dist.types import Floats

_ROWS = 2_000
_CHUNK = 1  # of Stage.CONTROL_PILOT, whose chunk 0 is a pilot's


def two_sample_tests(
    ratio: Ratio,
    proposals: Mapping[str, Proposal],
    accepted: AcceptedSet,
    target: Tensor,
    feature_network: ModelConfig | None,
    seed: int,
    share: Share,
) -> dict[str, TwoSample] | None:
    """Test proposals, each by its name, and accepted rows, as `after`, against the target.

    Each test uses 2,000 rows at most. The result is None if either side has too few rows for a test.

    Args:
        ratio: the ratio that accepted the rows. If its `info` names held-out target images, the tests use these alone,
            because the ratio was not fitted to them.
        proposals: the proposals by name.
        accepted: the accepted rows.
        target: images uint8 [n, c, h, w].
        feature_network: the network whose features describe rows. None means image statistics.
        seed: of the proposals drawn, of halves and of permutations.
        share: what the tests reserve on the cluster.
    """
    known = info_of(ratio).held_out
    held_out = torch.arange(len(target)) if known is None or known.index is None else torch.tensor(known.index)
    if min(len(held_out), accepted.report.num_accepted) < MIN_ROWS:
        return None
    rows = from_table(accepted.head(_ROWS))["image"]
    index = held_out[:_ROWS].clone()  # a slice is pickled with all of its storage
    if not isinstance(target, MappedTensor):
        target, index = take_rows(target, index), torch.arange(len(index))
    return run_in_task(_run_tests, target, index, dict(proposals), rows, feature_network, seed, share=share)


def _run_tests(
    target: Tensor,
    index: Tensor,
    proposals: dict[str, Proposal],
    accepted: Tensor,
    feature_network: ModelConfig | None,
    seed: int,
) -> dict[str, TwoSample]:
    streams = Streams(seed, Stage.CONTROL_PILOT, chunk=_CHUNK)
    rows = {name: proposal.sample(len(accepted), streams)["image"].cpu() for name, proposal in proposals.items()}
    of_target, features = _features(take_rows(target, index), feature_network, seed)
    return {
        name: compare(of_target, _features(images, feature_network, seed)[0], seed, features)
        for name, images in (rows | {"after": accepted}).items()
    }


def _features(images: Tensor, feature_network: ModelConfig | None, seed: int) -> tuple[Floats, str]:
    """Return features [n, d] of images, and their name."""
    if feature_network is None:
        return describe(images)
    with located("evaluation.feature_network"):
        network = NetworkSpec(feature_network, num_outputs=1, channels=images.shape[1]).build(seed).to(device()).eval()
    features = in_pieces(network.features, images, network.numbers_per_row(images)).flatten(1).double().cpu().numpy()
    return features, f"features of {feature_network.name}"
