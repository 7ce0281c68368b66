"""Keys that are left to the images: the rules, where they apply, and what a run that is resumed keeps."""

import math

import pytest

from rsf_dist.config import size_rules
from rsf_dist.config.load import dump_config, filled, parse_config, parse_text
from rsf_dist.config.ratio import ClassifierRatioConfig
from rsf_dist.config.resume import differences, with_kept_defaults
from rsf_dist.errors import InputError

DIGITS, GARMENTS, ICONS = (1, 8, 8), (1, 28, 28), (3, 32, 32)
PHOTOGRAPHS = (3, 224, 224)
SAMPLING = {"num_accepted": 5}
LABEL_SHIFT = {"kind": "label_shift"}
SCORED = {"kind": "reward", "score": "mine:bright"}


def run_of(**sections):
    images = {"kind": "digits"}
    return parse_config({"output": "r", "source": images, "target": images, "sampling": SAMPLING} | sections)


def resolved(shape, **sections):
    config = run_of(**sections)
    return filled(config, config.image_defaults(shape))


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        (DIGITS, 4096),
        (GARMENTS, 4096),
        (ICONS, 4096),
        ((3, 64, 64), 4096),  # 48 MiB
        ((3, 96, 96), 2048),  # 64 MiB hold 2,427
        (PHOTOGRAPHS, 256),  # 64 MiB hold 445
        ((1, 2048, 4096), 8),  # 8 MiB each
        ((1, 4096, 4096), 8),  # 64 MiB hold 4
        ((1, 8192, 8192), 8),  # one takes 64 MiB
        ((3, 9000, 9000), 8),  # not even one fits
    ],
)
def test_a_chunk_has_as_many_images_as_64_mib_hold_rounded_down_to_a_power_of_two_and_never_below_8(shape, rows):
    assert size_rules.chunk_rows(math.prod(shape)) == rows


@pytest.mark.parametrize(
    ("shape", "stride"),
    [
        (DIGITS, 1),
        (GARMENTS, 1),
        (ICONS, 1),
        ((3, 64, 16), 1),  # as many pixels as 32 x 32
        ((3, 33, 32), 2),
        ((3, 64, 64), 2),
        (PHOTOGRAPHS, 7),
        ((3, 225, 224), 8),
    ],
)
def test_the_stride_leaves_32_x_32_places_or_fewer(shape, stride):
    assert size_rules.small_cnn_stride(shape) == stride


@pytest.mark.parametrize("shape", [DIGITS, GARMENTS, ICONS])
def test_thumbnails_are_sampled_as_if_their_keys_were_written_out(shape):
    written_out = run_of(
        proposal={"parameters": {}}, ratio={"network": {"name": "small_cnn"}}, sampling=SAMPLING | {"chunk_size": 4096}
    )
    assert resolved(shape) == written_out


def test_photographs_get_broad_proposals_a_stride_and_smaller_chunks():
    config = resolved(PHOTOGRAPHS)
    assert {"rotation", "scale", "brightness", "noise"} <= config.proposal.parameters.keys()
    assert config.ratio.network.stride == 7
    assert config.ratio.network.dropout == 0.5  # of a ratio's network
    assert config.sampling.chunk_size == 256
    assert parse_text(dump_config(config)) == config
    assert config.image_defaults(PHOTOGRAPHS) == {}


def test_keys_that_are_given_stay():
    given = {
        "proposal": {"parameters": {}},
        "ratio": {"network": {"width": 8}},
        "sampling": {"num_accepted": 5, "chunk_size": 4096},
    }
    assert resolved(PHOTOGRAPHS, **given) == run_of(**given)
    assert run_of(**given).image_defaults(PHOTOGRAPHS) == {}


@pytest.mark.parametrize("ratio", [LABEL_SHIFT, SCORED])
def test_where_the_target_is_defined_relative_to_the_proposal_source_images_stay_as_they_are(ratio):
    assert resolved(PHOTOGRAPHS, ratio=ratio).proposal.parameters == {}


def test_own_transforms_get_no_parameters_beside_them():
    proposal = {"transforms": [{"name": "RandomHorizontalFlip"}]}
    assert resolved(PHOTOGRAPHS, proposal=proposal).proposal.parameters == {}


def test_every_open_network_of_a_product_is_filled():
    learned = {"kind": "classifier"}
    factors = [learned, SCORED, learned | {"network": {"width": 8}}, learned]
    first, _, named, last = resolved(PHOTOGRAPHS, ratio={"kind": "product", "factors": factors}).ratio.factors
    assert (first.network.stride, named.network.stride, last.network.stride) == (7, 1, 7)


def test_the_classifier_of_an_estimated_class_prior_has_a_stride():
    assert resolved(PHOTOGRAPHS, ratio=LABEL_SHIFT).ratio.network.stride == 7
    known = LABEL_SHIFT | {"target_prior": [0.5, 0.5]}
    assert "ratio.network" not in run_of(ratio=known).image_defaults(PHOTOGRAPHS)


@pytest.mark.parametrize(("shape", "stride"), [(PHOTOGRAPHS, 7), (GARMENTS, 1), ((10,), 1)])
def test_in_python_a_ratio_takes_the_same_network(shape, stride):
    assert ClassifierRatioConfig().for_rows(shape).network.stride == stride


def test_an_open_network_that_turns_out_as_the_feature_network_is_refused():
    features = {"feature_network": {"name": "small_cnn", "stride": 7, "dropout": 0.5}}
    with pytest.raises(InputError, match=r"must be another network than ratio\.network"):
        resolved(PHOTOGRAPHS, evaluation=features)
    resolved(ICONS, evaluation=features)


def test_a_run_goes_on_with_the_values_it_began_with_whatever_the_rule_says_now():
    chunk = {"num_accepted": 5, "chunk_size": 512}
    before = run_of(proposal={"parameters": {"noise": {"uniform": [0, 1]}}}, sampling=chunk)
    now = with_kept_defaults(before, run_of())
    assert now.sampling.chunk_size == 512
    assert now.proposal == before.proposal
    assert differences(before, now) == []


def test_a_key_that_is_written_out_differently_is_another_run():
    before = run_of(sampling={"num_accepted": 5, "chunk_size": 512})
    for given in (128, 4096):
        now = run_of(sampling={"num_accepted": 5, "chunk_size": given})
        told = differences(before, with_kept_defaults(before, now))
        assert told == [f"sampling.chunk_size={given} (was 512)"]


@pytest.mark.parametrize(
    ("parameters", "summary"),
    [
        ({}, "the source images unchanged (proposal.parameters varies them)"),
        ({"noise": {"uniform": [0, 0.25]}}, "the source images under noise 0 to 0.25"),
        (
            {"scale": {"normal": [1, 0.1]}, "rotation": {"uniform": [-1, 1]}},
            "the source images under rotation -1 to 1, scale 1 ± 0.1",
        ),
    ],
)
def test_a_proposal_says_how_it_varies_the_source(parameters, summary):
    assert run_of(proposal={"parameters": parameters}).proposal.summary == summary
