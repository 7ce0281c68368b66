"""The seeds of dropout and of shuffling, which follow from the run's seed, the step or epoch, and the rank."""

from itertools import product

import torch

from rsf_dist.runtime.rng import Purpose, Stage, Streams
from rsf_dist.training.loop import shuffle_seed, step_seed


def test_each_seed_step_and_rank_has_a_dropout_of_its_own():
    """Also (seed, step) and (seed + 1, step - 1), whose sum is the same."""
    seeds = {step_seed(*key) for key in product(range(10), range(50), range(4))}
    assert len(seeds) == 10 * 50 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_neighbouring_seeds_share_no_dropout_mask_at_shifted_steps():
    """The negative control is the rule of old: manual_seed((seed + step) * constant + rank) gives one mask twice."""

    def mask(seed):
        torch.manual_seed(seed)
        return tuple(torch.nn.functional.dropout(torch.ones(64)).tolist())

    def of_old(seed, step):
        return (seed + step) * 1_000_003

    with torch.random.fork_rng():
        assert mask(of_old(0, 8)) == mask(of_old(1, 7))
        assert mask(step_seed(0, 8, 0)) != mask(step_seed(1, 7, 0))


def test_a_step_taken_again_has_the_same_seed():
    """After a restart, which knows the seed, the step and the rank alone; old checkpoints depend on the key."""
    expected = int(Streams(3, Stage.TRAIN, round=1, chunk=17).numpy(2).integers(2**63))
    assert step_seed(3, 17, 1) == expected == step_seed(3, 17, 1)


def test_each_epoch_has_an_order_of_its_own():
    orders = {shuffle_seed(*key) for key in product(range(10), range(100))}
    assert len(orders) == 1_000
    assert all(0 <= order < 2**31 for order in orders)
    assert shuffle_seed(2, 5) == shuffle_seed(2, 5)


def test_dropout_and_shuffling_draw_from_different_streams():
    at_zero = Streams(0, Stage.TRAIN)
    assert at_zero.numpy(Purpose.SHUFFLE).random() != at_zero.numpy(Purpose.GLOBAL_GENERATOR).random()
