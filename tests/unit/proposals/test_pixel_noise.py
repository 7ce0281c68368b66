"""Pixel noise: an image's own, whoever asks."""

import pytest
import torch

from rsf_dist.proposals.pixel_noise import PixelNoise

SHAPE = torch.Size([1, 3, 2])


def noise(block, seed=0):
    return PixelNoise(10, SHAPE, torch.Generator().manual_seed(seed), block)


@pytest.mark.parametrize("block", [None, 1, 4, 100])
def test_each_image_has_its_own_whatever_else_is_asked_for(block):
    whole = noise(block).of(torch.arange(10))
    assert whole.shape == (10, *SHAPE)
    assert len(whole.flatten().unique()) == whole.numel()
    asked = noise(block)
    for rows in ([9, 0, 4, 3], [5], [0, 0], []):
        assert torch.equal(asked.of(torch.tensor(rows, dtype=torch.int64)), whole[rows])


@pytest.mark.parametrize("block", [None, 4])
def test_it_follows_from_the_generator(block):
    rows = torch.arange(10)
    assert torch.equal(noise(block).of(rows), noise(block).of(rows))
    assert not (noise(block).of(rows) == noise(block, seed=1).of(rows)).any()


def test_blocks_are_drawn_when_they_are_asked_for_and_not_kept(monkeypatch):
    drawn, asked = [], noise(4)
    monkeypatch.setattr(asked, "_drawn", lambda *given: drawn.append(given) or torch.zeros(4, *SHAPE))
    asked.of(torch.tensor([9, 1, 0]))
    asked.of(torch.tensor([1]))
    assert drawn == [(0, 4), (2, 4), (0, 4)]
