import itertools

import numpy as np
import pytest
import torch

from rsf_dist.runtime.rng import Purpose, Stage, Streams

BASE = Streams(seed=1, stage=Stage.SAMPLE, round=2, chunk=3)
OTHERS = [
    Streams(seed=2, stage=Stage.SAMPLE, round=2, chunk=3),
    Streams(seed=1, stage=Stage.PILOT, round=2, chunk=3),
    Streams(seed=1, stage=Stage.SAMPLE, round=3, chunk=3),
    Streams(seed=1, stage=Stage.SAMPLE, round=2, chunk=4),
    Streams(seed=3, stage=Stage.SAMPLE, round=2, chunk=1),  # seed and chunk swapped
    Streams(seed=1, stage=Stage.SAMPLE, round=3, chunk=2),  # round and chunk swapped
]


def global_draws(streams, purpose=2):
    with streams.torch_global(purpose):
        return torch.rand(4)


def all_draws(streams):
    yield tuple(streams.numpy().random(4))
    yield tuple(torch.rand(4, generator=streams.torch()).tolist())
    yield tuple(global_draws(streams).tolist())


def test_equal_keys_draw_equally():
    assert list(all_draws(BASE)) == list(all_draws(Streams(1, Stage.SAMPLE, 2, 3)))


def test_each_part_of_the_key_changes_every_stream():
    draws = [draw for streams in [BASE, *OTHERS] for draw in all_draws(streams)]
    assert len(set(draws)) == 3 * (1 + len(OTHERS))


@pytest.mark.parametrize(
    "draw",
    [
        lambda purpose: BASE.numpy(purpose).random(),
        lambda purpose: torch.rand(1, generator=BASE.torch(purpose)).item(),
        lambda purpose: global_draws(BASE, purpose)[0].item(),
    ],
)
def test_purposes_differ(draw):
    assert len({draw(purpose) for purpose in range(16)}) == 16


def test_a_purpose_carries_no_further_than_its_bits():
    with pytest.raises((OverflowError, ValueError)):
        BASE.numpy(16)


def test_key_is_injective_at_the_edges_of_each_field():
    keys = itertools.product([0, 2**64 - 1], [Stage.SAMPLE, Stage.TARGET], [0, 2**16 - 1], [0, 2**40 - 1], [0, 15])
    states = {
        tuple(Streams(seed, stage, round, chunk).numpy(purpose).bit_generator.state["state"]["key"].tolist())
        for seed, stage, round, chunk, purpose in keys
    }
    assert len(states) == 2**5


def test_first_draws_stay_what_they_were():
    # Philox-4x64 keyed by [seed, purpose|stage|round|chunk]; old runs depend on it.
    word = 1 << 60 | 1 << 56 | 2 << 40 | 3
    expected = np.random.Generator(np.random.Philox(key=[7, word])).random(3)
    assert Streams(7, Stage.PILOT, 2, 3).numpy(1).random(3).tolist() == expected.tolist()
    assert [stage.name for stage in sorted(Stage)][:5] == ["SAMPLE", "PILOT", "RATIO", "CONTROL", "TARGET"]
    assert sorted(Stage)[:5] == [0, 1, 2, 3, 4]


def test_global_generator_is_restored():
    torch.manual_seed(5)
    undisturbed = torch.rand(2)
    torch.manual_seed(5)
    first = torch.rand(1)
    with BASE.torch_global():
        torch.rand(10)
    assert torch.equal(torch.cat([first, torch.rand(1)]), undisturbed)


def test_global_generator_is_restored_after_an_error():
    torch.manual_seed(5)
    undisturbed = torch.rand(2)
    torch.manual_seed(5)
    with pytest.raises(RuntimeError, match="inside"), BASE.torch_global():
        raise RuntimeError("inside")
    assert torch.equal(torch.rand(2), undisturbed)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 2**64}, {"round": 2**16}, {"chunk": 2**40}, {"chunk": -1}])
def test_key_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Streams(**({"seed": 0} | wrong))


def test_stages_and_purposes_keep_their_values():
    """Old runs depend on them."""
    assert [(stage.name, int(stage)) for stage in Stage] == [
        ("SAMPLE", 0),
        ("PILOT", 1),
        ("RATIO", 2),
        ("CONTROL", 3),
        ("TARGET", 4),
        ("PRETRAIN", 5),
        ("CONTROL_PILOT", 6),
        ("TRAIN", 7),
    ]
    assert {name: int(purpose) for name, purpose in Purpose.__members__.items()} == {
        "ACCEPT_KEYS": 0,
        "ROWS": 1,
        "GLOBAL_GENERATOR": 2,
        "SPLIT": 3,
        "SHUFFLE": 3,
        "ORACLE_ROWS": 3,
        "MINIBATCHES": 4,
        "PSEUDO_LABELS": 4,
        "DROPOUT": 5,
        "BATCH_NORM_ORDER": 5,
        "BALANCED_ROWS": 6,
        "BATCH_NORM_DROPOUT": 6,
        "ENSEMBLE_MEMBER": 7,
        "SHIFT_PARAMETERS": 7,
        "PIXEL_NOISE": 8,
        "TARGET_MIXTURE": 8,
        "ROUND_SEED": 9,
        "DEFENSIVE_MIXTURE": 10,
        "POOL_ORDER": 11,
    }


def test_integers_are_those_of_the_stream():
    assert BASE.integer(1_000, Purpose.ROUND_SEED) == int(BASE.numpy(9).integers(1_000))
    assert BASE.torch_seed() == int(BASE.numpy(2).integers(2**63))
