"""The rows of a chunk, where a sampler in Python is given none."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

import rsf_dist as rsf
from rsf_dist.data.images import ImageSet


def photographs(side: int, **parameters) -> rsf.AugmentProposal:
    images = ImageSet(torch.zeros(4, 3, side, side, dtype=torch.uint8), torch.arange(4) % 2, ("a", "b"))
    return rsf.AugmentProposal(images, parameters)


class Counted:
    """Rows of no interest, and how many were drawn."""

    drawn = 0

    def sample(self, n, rng):
        self.drawn += n
        return {"x": torch.zeros(n)}


@pytest.mark.parametrize(
    ("proposal", "rows"),
    [
        (rsf.DistributionProposal(Normal(0.0, 2.0)), 4096),
        (rsf.DistributionProposal(MultivariateNormal(torch.zeros(10), torch.eye(10))), 4096),
        (photographs(32), 4096),
        (photographs(224), 256),  # 147 KiB each: 64 MiB hold 445
        (photographs(224, noise=Normal(0.1, 0.01)), 256),
    ],
)
def test_large_rows_come_in_smaller_chunks(proposal, rows):
    assert rsf.RejectionSampler(proposal, rsf.ConstantRatio()).chunk_size == rows


def test_a_size_that_is_given_stays_and_nothing_is_drawn_for_it():
    proposal = Counted()
    assert rsf.RejectionSampler(proposal, rsf.ConstantRatio(), chunk_size=7).chunk_size == 7
    assert proposal.drawn == 0


def test_one_row_is_drawn_to_learn_the_size_once():
    proposal = Counted()
    sampler = rsf.RejectionSampler(proposal, rsf.ConstantRatio(), rsf.FixedEnvelope(math.log(2)))
    assert (sampler.chunk_size, sampler.chunk_size, proposal.drawn) == (4096, 4096, 1)
