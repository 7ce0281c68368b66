"""The trust card: each light at and beside its thresholds, by hand-made records; strict JSON; the page and the line."""

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from records import GOOD_REPORT

from rsf_dist.errors import InputError
from rsf_dist.evaluation.two_sample import TwoSample
from rsf_dist.ratios import ConstantRatio, LabelShiftRatio, ProductRatio
from rsf_dist.ratios.class_prior import ClassPrior
from rsf_dist.ratios.classifier import evaluate_ratio
from rsf_dist.ratios.info import RatioInfo
from rsf_dist.report import report_json, trust_card
from rsf_dist.report.html import write_html
from rsf_dist.report.schema import (
    Check,
    ClassPriorEntry,
    RatioEntry,
    RatioQualityEntry,
    RoundEntry,
    TwoSampleEntry,
    TwoSampleTests,
)
from rsf_dist.report.text import format_report
from rsf_dist.sampling.diagnostics import Statistics, tail_threshold
from rsf_dist.storage.run_store import RunStore
from rsf_dist.training.state import History, StreamReport

SAMPLING = GOOD_REPORT
RATIO = RatioEntry(
    kind="ClassifierRatio",
    log_bound=None,
    quality=RatioQualityEntry(
        num_target=60,
        num_proposals=3_200,
        log_loss=0.4,
        brier=0.12,
        calibration_error=0.05,
        auc=0.9,
        calibration="platt: slope 0.9, intercept 0.1",
        mean_ratio_proposals=1.0,
        mean_inverse_ratio_target=0.9,
        reliability=[((2 * bin + 1) / 20, (2 * bin + 1) / 20) for bin in range(10)],
    ),
)
GIVEN = RatioEntry(kind="DensityRatio", log_bound=2.3)  # not learned, of known bound
CUT = RATIO.model_copy(update={"log_bound": 2.3})  # learned, and cut off at M


def of_kind(kind, ratio=CUT):
    return ratio.model_copy(update={"kind": kind})


def with_quality(ratio=RATIO, **change):
    return ratio.model_copy(update={"quality": ratio.quality.model_copy(update=change)})


def against_target(auc=0.5, mmd2=0.0, pvalue=0.5, null_sd=0.05):
    rows = {"num_first": 60, "num_second": 2_000, "auc_rows": (30, 1_000), "mmd_rows": (60, 1_000)}
    figures = {"auc": auc, "auc_interval": (auc - 0.1, auc + 0.1), "auc_null_sd": null_sd}
    return TwoSampleEntry(**rows, **figures, mmd2=mmd2, mmd_pvalue=pvalue, features="image statistics")


FAR = against_target(auc=0.9, mmd2=0.08, pvalue=0.002)
TWO_SAMPLE = TwoSampleTests(before=FAR, after=against_target())

LITTLE = {1: 9_000, 2: 9_000}
"""Proposals scored, of a class 0 that is to be added."""


def line_of(name, light):
    return Check(name, "value", light, "meaning", "rule")


def card(sampling=None, ratio=None, two_sample=None):
    """The lights of a good run with these changes, by name."""
    checks = trust_card.trust_card(replace(SAMPLING, **(sampling or {})), ratio or RATIO, two_sample or TWO_SAMPLE)
    return {check.name: check.light for check in checks}


GOOD = card()


def changed(**change):
    """The lights that differ from the good run's."""
    return {name: light for name, light in card(**change).items() if light != GOOD[name]}


def test_a_good_run_is_green():
    assert {name for name, light in GOOD.items() if light != "green"} == {"screened out", "class prior"}
    assert trust_card.overall(GOOD.values()) == "green"
    assert trust_card.format_trust_card([line_of(name, light) for name, light in GOOD.items()]) == "trust: 15 green"


@pytest.mark.parametrize(
    ("name", "light", "change"),
    [
        # 1 % of 2,000 accepted rows are 20, half of them 1,000
        ("constant M", "green", {"num_capped": 20}),
        ("constant M", "amber", {"num_capped": 21}),
        ("constant M", "amber", {"num_capped": 1_000}),
        ("constant M", "red", {"num_capped": 1_001}),
        ("constant M", "red", {"num_nonfinite": 1}),
        # the interval is .096 to .104; .1/1.1 = .0909, .1/2 = .05, and 1.1 times as much, twice as much
        ("acceptance", "green", {"acceptance_predicted": 0.0910}),
        ("acceptance", "amber", {"acceptance_predicted": 0.0908}),
        ("acceptance", "green", {"acceptance_predicted": 0.1099}),
        ("acceptance", "amber", {"acceptance_predicted": 0.1101}),
        ("acceptance", "amber", {"acceptance_predicted": 0.0501}),
        ("acceptance", "red", {"acceptance_predicted": 0.0499}),
        ("acceptance", "red", {"acceptance_predicted": 0.201}),
        ("acceptance", "red", {"acceptance_predicted": 0.0}),
        ("acceptance", "green", {"acceptance_predicted": 0.3, "acceptance_interval": (0.01, 0.31)}),
        ("acceptance", "grey", {"acceptance_predicted": None}),
        # the limit, not the estimate
        ("bias of capping", "green", {"tv_bound_upper": 0.05}),
        ("bias of capping", "amber", {"tv_bound_upper": 0.051}),
        ("bias of capping", "amber", {"tv_bound_upper": 0.5}),
        ("bias of capping", "red", {"tv_bound_upper": 0.51}),
        ("bias of capping", "amber", {"tv_bound_upper": None, "tv_bound": 0.3}),
        ("bias of capping", "red", {"tv_bound": None, "tv_bound_upper": None}),
        ("largest ratio", "green", {"max_log_ratio": 2.3 + 1e-7}),
        ("largest ratio", "amber", {"max_log_ratio": 2.31}),
        ("largest ratio", "amber", {"max_log_ratio": 2.3 + math.log(99)}),
        ("largest ratio", "red", {"max_log_ratio": 2.3 + math.log(101)}),
        ("largest ratio", "red", {"max_log_ratio": 2_000.0}),
        ("largest ratio", "green", {"log_ratio_quantile": None}),
        ("largest ratio", "grey", {"max_log_ratio": None}),
        # of 256 ratios: 2 (1 - .112)/16 = .1110, and 2 (1 - .111)/16 = .1111
        ("tail of the ratio", "green", {"tail_index": -0.112}),
        ("tail of the ratio", "amber", {"tail_index": -0.111}),
        ("tail of the ratio", "green", {"tail_index": -1.5}),
        ("tail of the ratio", "amber", {"tail_index": 0.7}),
        ("tail of the ratio", "red", {"tail_index": 0.71}),
        ("tail of the ratio", "red", {"tail_index": 0.6, "tail_threshold": 0.5}),
        ("tail of the ratio", "grey", {"tail_index": None}),
        # of 20,000 proposals: 400 and 100 rows
        ("effective sample size", "green", {"ess_fraction": 0.02}),
        ("effective sample size", "amber", {"ess_fraction": 0.0199}),
        ("effective sample size", "amber", {"ess_fraction": 0.005}),
        ("effective sample size", "red", {"ess_fraction": 0.0049}),
        ("mean ratio", "green", {"mean_ratio": 1.4, "mean_ratio_error": 0.2}),
        ("mean ratio", "amber", {"mean_ratio": 1.41, "mean_ratio_error": 0.2}),
        ("mean ratio", "green", {"mean_ratio": 1.09, "mean_ratio_error": 0.01}),
        ("mean ratio", "amber", {"mean_ratio": 1.11, "mean_ratio_error": 0.01}),
        ("mean ratio", "amber", {"mean_ratio": 0.51, "mean_ratio_error": 0.01}),
        ("mean ratio", "red", {"mean_ratio": 0.49, "mean_ratio_error": 0.01}),
        ("mean ratio", "red", {"mean_ratio": 2.01, "mean_ratio_error": 0.01}),
        ("mean ratio", "amber", {"mean_ratio": 1.0, "mean_ratio_error": 0.26}),
        ("mean ratio", "red", {"mean_ratio": None}),
        ("mean ratio", "red", {"mean_ratio_error": None}),
        ("mean inverse ratio", "grey", {"mean_inverse_ratio": 0.49}),
        ("mean inverse ratio", "green", {"mean_inverse_ratio": 0.5}),
        ("mean inverse ratio", "green", {"mean_inverse_ratio": 5.0}),
        ("mean inverse ratio", "amber", {"mean_inverse_ratio": 5.1}),
        ("mean inverse ratio", "amber", {"mean_inverse_ratio": 20.0}),
        ("mean inverse ratio", "red", {"mean_inverse_ratio": 20.1}),
        ("mean inverse ratio", "red", {"mean_inverse_ratio": None}),
        ("classes", "green", {"acceptance_by_label": {0: 0.01, 1: 0.1}}),
        ("classes", "amber", {"acceptance_by_label": {0: 0.01, 1: 0.101}}),
        ("classes", "red", {"acceptance_by_label": {0: 0.0, 1: 0.1}}),
        # a tenth is accepted: 5 rows of 50 are to be expected
        ("classes", "red", {"acceptance_by_label": {0: 0.0, 1: 0.1, 2: 0.1}, "scored_by_label": LITTLE | {0: 50}}),
        ("classes", "green", {"acceptance_by_label": {0: 0.0, 1: 0.1, 2: 0.1}, "scored_by_label": LITTLE | {0: 49}}),
        ("classes", "amber", {"acceptance_by_label": {0: 0.9, 1: 0.01, 2: 0.01}, "scored_by_label": LITTLE | {0: 50}}),
        ("classes", "green", {"acceptance_by_label": {0: 0.9, 1: 0.01, 2: 0.01}, "scored_by_label": LITTLE | {0: 49}}),
        ("classes", "grey", {"acceptance_by_label": {0: 0.0, 1: 0.1}, "scored_by_label": LITTLE | {0: 49}}),
        ("classes", "grey", {"acceptance_by_label": {}}),
        ("classes", "grey", {"acceptance_by_label": {7: 0.1}}),
        ("duplicates", "green", {"num_duplicates": 20}),
        ("duplicates", "amber", {"num_duplicates": 21}),
        ("duplicates", "amber", {"num_duplicates": 200}),
        ("duplicates", "red", {"num_duplicates": 201}),
        ("rows found", "amber", {"shortfall": 1}),
        ("screened out", "grey", {"num_screened_out": 5_000}),
    ],
)
def test_each_fault_turns_its_own_light(name, light, change):
    assert changed(sampling=change) == ({name: light} if light != GOOD[name] else {})


def test_the_predicted_acceptance_is_as_uncertain_as_eps():
    """Predicted .2 at eps = .2; at the limit .6 it is .1, which the interval .096 to .104 meets, at .5 it is .125."""
    for upper, light in [(0.6, "green"), (0.5, "amber"), (None, "amber")]:
        noisy = {"acceptance_predicted": 0.2, "tv_bound": 0.2, "tv_bound_upper": upper}
        assert card(sampling=noisy)["acceptance"] == light


def test_the_predicted_acceptance_may_be_too_low_by_chance():
    """Predicted .05 at eps = .5; at the lower limit .04 it is .096, where the interval begins, at .05 it is .095."""
    for lower, light in [(0.039, "green"), (0.05, "amber"), (None, "amber")]:
        noisy = {"acceptance_predicted": 0.05, "tv_bound": 0.5, "tv_bound_lower": lower, "tv_bound_upper": 0.9}
        assert card(sampling=noisy)["acceptance"] == light


@pytest.mark.parametrize(
    ("name", "light", "change"),
    [
        ("distance of proposals", "green", {"auc": 0.95}),
        ("distance of proposals", "amber", {"auc": 0.951}),
        ("distance of proposals", "amber", {"auc": 0.999}),
        ("distance of proposals", "red", {"auc": 0.9991}),
        ("distance of proposals", "red", {"auc": 1.0}),
        ("distance of proposals", "green", {"auc": 0.4}),
        ("calibration", "green", {"log_loss": math.log(2) + 0.049}),
        ("calibration", "red", {"log_loss": math.log(2) + 0.051}),
        ("calibration", "red", {"log_loss": None}),
    ],
)
def test_a_learned_ratios_faults(name, light, change):
    assert changed(ratio=with_quality(**change)) == ({name: light} if light != GOOD[name] else {})


def test_calibration_is_evaluated_above_what_a_perfect_ratio_has():
    chance = trust_card.chance_calibration_error(RATIO.quality)
    for excess, light in [(0.029, "green"), (0.031, "amber"), (0.099, "amber"), (0.101, "red")]:
        assert card(ratio=with_quality(calibration_error=chance + excess))["calibration"] == light


@pytest.mark.parametrize("num_target", [60, 400])
def test_the_calibration_error_of_perfect_ratios(num_target):
    """Unit normals 1.8 apart, 20 times: the mean error is within 3.29 standard errors + 5 % of what is computed.

    False-alarm rate below 1e-3. Negative control: ratios that are 2 nats too large exceed it.
    """
    rng = np.random.default_rng(0)
    errors, computed, wrong = [], [], []
    for _ in range(20):
        target, proposals = rng.normal(1.62, 1.8, num_target), rng.normal(-1.62, 1.8, 3_200)
        quality = evaluate_ratio(target, proposals, "none")
        errors.append(quality.calibration_error)
        computed.append(trust_card.chance_calibration_error(quality))
        wrong.append(evaluate_ratio(target + 2, proposals + 2, "none").calibration_error)
    spread = 3.29 * np.std(errors) / math.sqrt(20) + 0.05 * np.mean(computed)
    assert abs(np.mean(errors) - np.mean(computed)) < spread
    assert np.mean(wrong) > np.mean(computed) + spread


@pytest.mark.parametrize(
    ("after", "lights"),
    [
        ({"auc": 0.6}, {}),  # two null deviations of .05
        ({"auc": 0.4}, {}),
        ({"auc": 0.61}, {"two-sample AUC": "amber"}),
        ({"auc": 0.39}, {"two-sample AUC": "amber"}),
        ({"auc": 0.699}, {"two-sample AUC": "amber"}),  # the proposals' .9 - .5 = .4 is .2 half of the way
        ({"auc": 0.701}, {"two-sample AUC": "red"}),
        ({"auc": 0.95}, {"two-sample AUC": "red"}),
        ({"null_sd": 0.051}, {"two-sample AUC": "amber"}),
        ({"mmd2": 0.03, "pvalue": 0.05}, {}),
        ({"mmd2": 0.039, "pvalue": 0.049}, {"two-sample MMD": "amber"}),
        ({"mmd2": 0.041, "pvalue": 0.002}, {"two-sample MMD": "red"}),
        ({"mmd2": 0.09, "pvalue": 0.002}, {"two-sample MMD": "red"}),
    ],
)
def test_two_sample_tests(after, lights):
    assert changed(two_sample=TwoSampleTests(before=FAR, after=against_target(**after))) == lights


def test_accepted_rows_no_closer_than_the_proposals_are_red():
    near = against_target(auc=0.7, mmd2=0.01, pvalue=0.002)
    checks = {
        check.name: check for check in trust_card.trust_card(SAMPLING, RATIO, TwoSampleTests(before=near, after=near))
    }
    for name in ("two-sample AUC", "two-sample MMD"):
        assert checks[name].light == "red"
        assert "no closer" in checks[name].meaning


def test_proposals_that_are_the_target_already():
    found = trust_card.two_sample_auc(TwoSampleTests(before=against_target(), after=against_target()))
    assert found.light == "green"
    assert "nothing to gain" in found.meaning


@pytest.mark.parametrize(("log_m", "certified"), [(2.3, True), (2.3 - 1e-9, True), (2.31, True), (2.29, False)])
def test_m_is_certified_by_the_ratios_bound(log_m, certified):
    """A certified M is exact without target rows; any other is at best amber, for want of them."""
    alone = {"tv_bound_source": "proposals", "tv_bound_upper": None, "mean_inverse_ratio": None, "log_m": log_m}
    lights = card(sampling=alone | {"tail_index": 0.1, "max_log_ratio": 2.2}, ratio=GIVEN)
    assert lights["bias of capping"] == ("green" if certified else "amber")
    assert lights["tail of the ratio"] == ("green" if certified else "amber")
    assert lights["mean inverse ratio"] == "grey"
    assert card(sampling=alone | {"tail_index": 0.8}, ratio=GIVEN)["tail of the ratio"] == (
        "amber" if certified else "red"
    )


def test_a_certified_m_needs_no_many_target_rows():
    few = {"tv_bound_upper": 0.2}  # of 14 rows, none above M
    assert card(sampling=few)["bias of capping"] == "amber"
    assert card(sampling=few, ratio=GIVEN)["bias of capping"] == "green"


def test_a_broken_bound_certifies_nothing():
    broken = {"num_capped": 5, "tv_bound_source": "proposals", "tv_bound_upper": None}
    assert card(sampling=broken, ratio=GIVEN)["bias of capping"] == "amber"


def test_a_ratio_that_was_cut_off_is_not_exact():
    """The true ratio's mean above a cut at M is eps less than 1, as is the share of the target that M can give."""
    costly = replace(SAMPLING, **{"tv_bound": 0.6, "tv_bound_lower": 0.5, "tv_bound_upper": 0.7, "mean_ratio": 0.4})
    found = {check.name: check for check in trust_card.trust_card(costly, CUT, None)}
    assert found["bias of capping"].light == "red"
    assert "cutting the ratio off at M" in found["bias of capping"].meaning
    assert "no bias" not in found["bias of capping"].meaning
    assert "itself was cut off at M. The cost is eps from target rows." in found["constant M"].meaning
    assert found["mean ratio"].light == "red"
    assert "cut off at M" in found["mean ratio"].meaning
    assert "cut off" not in trust_card.mean_ratio(costly, RATIO).meaning


def test_what_cutting_off_costs_is_not_said_to_be_known_where_it_is_not():
    alone = replace(SAMPLING, **{"tv_bound_source": "proposals", "tv_bound_upper": None})
    assert trust_card.bias(alone, of_kind("ProductRatio")).light == "amber"
    assert "not known without target rows" in trust_card.constant(alone, of_kind("ProductRatio")).meaning
    isotonic = with_quality(CUT, calibration="isotonic: 9 knots, log ratio -2 to 2.3")
    assert "not all seen" in trust_card.constant(SAMPLING, isotonic).meaning
    assert "not all seen" in trust_card.bias(SAMPLING, isotonic).meaning


def test_a_bound_that_target_rows_exceed_certifies_no_lack_of_bias():
    broken = replace(SAMPLING, **{"tv_bound": 0.3, "tv_bound_upper": 0.4})
    found = trust_card.bias(broken, GIVEN)
    assert found.light == "amber"
    assert "no bias" not in found.meaning


def test_a_relative_ratio_is_exact():
    few, relative = (
        replace(SAMPLING, **{"tv_bound_upper": 0.2}),
        CUT.model_copy(update={"bounded_by_construction": True}),
    )
    assert trust_card.bias(few, relative).light == "green"
    assert "capping causes no bias" in trust_card.bias(few, relative).meaning
    assert "rejection is exact" in trust_card.constant(few, relative).meaning
    assert "cut off" not in trust_card.mean_ratio(replace(few, mean_ratio=0.4), relative).meaning
    assert trust_card.bias(few, CUT).light == "amber"


def test_the_tail_of_log_normal_ratios_has_no_end_point():
    """Logs of sd .3, whose fitted index is below 0 more often than not: green in at most 9 of 40 samples of 20,000.

    Of 200 such samples 15 were green: false-alarm rate P(10 or more of 40) = 6e-4. Negative control: the ratios of
    p(x) = 4 (1 - x)^3 to uniform proposals end at 4, and are green in nearly all samples.
    """
    rng = np.random.default_rng(0)

    def evaluated(log_ratio):
        index = Statistics.of(log_ratio, np.ones(20_000, bool), log_m=9.0).tail_index
        return index, trust_card.tail(replace(SAMPLING, **{"tail_index": index}), RATIO).light

    endless = [evaluated(rng.normal(0, 0.3, 20_000)) for _ in range(40)]
    assert sum(index < 0 for index, _ in endless) >= 15
    assert sum(light == "green" for _, light in endless) <= 9
    ended = [evaluated(math.log(4) + 3 * np.log(rng.random(20_000))) for _ in range(40)]
    assert sum(light == "green" for _, light in ended) >= 35


def test_the_tails_error_is_of_as_many_ratios_as_were_fitted():
    """Index -.2: .8/16 of 256, .8/sqrt(50) of 50 and .8/5 of 25; with screening the pilot's, here of 500 rows: 50."""
    for num_scored, error in [(20_000, "0.05"), (500, "0.11"), (100, "0.16")]:
        assert f"± {error} " in trust_card.tail(replace(SAMPLING, **{"num_scored": num_scored}), RATIO).value
    screened = {"num_screened_out": 5_000, "tail_threshold": tail_threshold(500)}
    assert "± 0.11 " in trust_card.tail(replace(SAMPLING, **screened), RATIO).value


def test_the_bound_from_proposals():
    for bound, light in [(0.0, "amber"), (0.5, "amber"), (0.51, "red")]:
        blind = {"tv_bound_source": "proposals", "tv_bound": bound, "tv_bound_upper": None}
        assert card(sampling=blind)["bias of capping"] == light


def test_a_target_that_proposals_hardly_meet_is_said():
    unmet = replace(SAMPLING, **{"tv_bound": 0.3, "tv_bound_upper": 0.4})
    assert "hardly meet" in trust_card.bias(unmet, RATIO).meaning
    assert "hardly meet" not in trust_card.bias(replace(unmet, tv_bound_proposals=0.2), RATIO).meaning


def test_a_ratio_with_a_constant_factor_has_no_means():
    assert changed(sampling={"normalised": False, "mean_ratio": None, "mean_ratio_error": None}) == {
        "mean ratio": "grey",
        "mean inverse ratio": "grey",
    }


def test_a_ratio_that_is_not_learned_and_no_two_sample_test():
    checks = trust_card.trust_card(SAMPLING, GIVEN, None)
    grey = {check.name for check in checks if check.light == "grey"}
    assert grey - {"screened out", "class prior"} == {
        "calibration",
        "distance of proposals",
        "two-sample AUC",
        "two-sample MMD",
    }
    assert trust_card.overall(check.light for check in checks) == "green"
    assert "no figures on held-out target rows" in trust_card.calibration(GIVEN).meaning
    assert "no figures on held-out target rows" in trust_card.distance(GIVEN).meaning


@pytest.mark.parametrize(
    ("prior", "kept", "tried", "light"),
    [
        # a tenth of an equal share of four is .025
        ([0.925, 0.025, 0.025, 0.025], None, True, "green"),
        ([0.926, 0.024, 0.025, 0.025], None, True, "amber"),
        (None, "it refuses", True, "amber"),
        ([1.0, 0.0, 0.0, 0.0], "it collapsed", True, "amber"),
        (None, "rounds.class_prior is null", False, "grey"),
    ],
)
def test_the_class_prior(prior, kept, tried, light):
    estimate = prior and {"prior": prior, "low": prior, "high": prior, "effective_classes": 1.4, "method": "em"}
    found = trust_card.estimated_class_prior(ClassPriorEntry(estimate=estimate, reason_kept=kept, wanted=tried))
    assert found.light == light
    assert (kept is None or not tried) or kept in found.meaning
    assert ("class 1:" in found.meaning) == (light == "amber" and kept is None)


def test_proposals_that_moved_are_told_beside_those_that_did_not():
    near = against_target(auc=0.55, mmd2=0.01)
    two_sample = TwoSampleTests(before=FAR, moved=near, after=against_target())
    assert "proposals 0.900, moved 0.550, accepted" in trust_card.two_sample_auc(two_sample).value
    assert "proposals 0.08, moved 0.01, accepted" in trust_card.two_sample_mmd(two_sample).value
    worse = TwoSampleTests(before=FAR, moved=near, after=against_target(auc=0.65, mmd2=0.02, pvalue=0.01))
    for found in (trust_card.two_sample_auc(worse), trust_card.two_sample_mmd(worse)):
        assert found.light == "amber"
        assert "The last round's proposals had gone as far" in found.meaning
    assert card(two_sample=two_sample) == GOOD  # accepted rows are held against where the proposals began


def test_no_more_is_said_than_was_found():
    assert (
        "Only with training.use_row_weights"
        in trust_card.constant(replace(SAMPLING, **{"num_capped": 20}), RATIO).meaning
    )
    assert "at most about 0.015" in trust_card.constant(SAMPLING, RATIO).meaning  # ln 20 of 20,000: 0.015 %
    above = trust_card.largest_ratio(replace(SAMPLING, **{"max_log_ratio": 2.3 + math.log(73)}))
    assert "count for 73, and counts for one unless training.use_row_weights is set" in above.meaning
    assert "Nothing was found" in trust_card.mean_inverse_ratio(SAMPLING).meaning
    few = trust_card.two_sample_auc(TwoSampleTests(before=FAR, after=against_target(null_sd=0.06)))
    assert "too few to tell: an AUC of 0.62 would pass" in few.meaning


def test_where_target_rows_have_no_class_the_bias_says_so():
    wide = replace(SAMPLING, **{"tv_bound": 0.4, "tv_bound_upper": 0.45, "tv_bound_proposals": 0.01})
    assert "hardly meet part of the target" in trust_card.bias(wide, RATIO).meaning
    told = trust_card.bias(wide, RATIO.model_copy(update={"target_at_most": True})).meaning
    assert "hardly meet" not in told
    assert "Target images are unlabelled" in told


def test_the_demos_auc_is_far():
    """Phi^-1(.994) = 2.512: a KL of 6.3 nats between normal distributions, and e^6.3 = 551 (Phi^-1(.994)^2 = 6.311)."""
    found = trust_card.distance(with_quality(auc=0.994))
    assert found.light == "amber"
    assert "far from the target" in found.meaning
    assert "6.3 nats, so M above 551" in found.meaning


def test_the_ends_of_the_auc():
    assert "bring the proposals closer" in trust_card.distance(with_quality(auc=1.0)).meaning
    assert "0.0 nats, so M above 1" in trust_card.distance(with_quality(auc=0.3)).meaning


@pytest.mark.parametrize(
    ("lights", "worst"),
    [
        (["green", "amber", "red", "grey"], "red"),
        (["green", "amber", "grey"], "amber"),
        (["green", "grey"], "green"),
        (["grey"], "grey"),
        ([], "grey"),
    ],
)
def test_overall_is_the_worst_that_counts(lights, worst):
    assert trust_card.overall(lights) == worst


def test_the_card_in_a_line():
    def line(*lights):
        return trust_card.format_trust_card([line_of(f"check {n}", light) for n, light in enumerate(lights)])

    assert line("green", "amber", "red", "grey", "green") == "trust: 2 green, 1 amber, 1 red (red: check 2)"
    assert line("amber", "green") == "trust: 1 green, 1 amber (amber: check 0)"
    assert line(*["red"] * 5) == "trust: 5 red (red: check 0, check 1, check 2 and 2 more)"
    assert line("grey") == "trust: no check applies"


def test_whatever_is_not_finite_never_crashes():
    """The fields that may be None, or infinite and therefore None in JSON, one at a time and together."""
    absent = {
        "acceptance_predicted": None, "max_log_ratio": None, "tail_index": None, "log_ratio_quantile": None,
        "mean_ratio": None, "mean_ratio_error": None, "mean_inverse_ratio": None, "tv_bound": None,
        "tv_bound_lower": None, "tv_bound_upper": None, "tv_bound_proposals": None,
    }  # fmt: skip
    broken = with_quality(log_loss=None, brier=None, calibration_error=None)
    for sampling in [absent, *({name: None} for name in absent)]:
        for ratio in (RATIO, GIVEN, CUT, broken):
            for two_sample in (TWO_SAMPLE, None):
                for check in trust_card.trust_card(replace(SAMPLING, **sampling), ratio, two_sample):
                    assert check.light in trust_card.SEVERITY
                    assert "None" not in check.value + check.meaning


def describe(ratio, two_sample=None, **change):
    accepted = SimpleNamespace(report=replace(GOOD_REPORT, **change), fingerprint="ab" * 32)
    found = two_sample and two_sample.model_dump(exclude_none=True)
    tests = found and {name: TwoSample(**test) for name, test in found.items()}
    return report_json.describe_round(0, accepted, ratio, tests)


@pytest.fixture
def learned():
    with np.errstate(over="ignore"):
        quality = evaluate_ratio(np.array([2.0, 1.0, -800.0]), np.array([-2.0, 0.0, -1.0]), "none")
    assert quality.mean_inverse_ratio_target == math.inf
    return SimpleNamespace(info=RatioInfo(quality=quality), log_bound=None)


@pytest.fixture
def estimated():
    estimate = ClassPrior(np.array([0.3, 0.7]), np.array([0.2, 0.6]), np.array([0.4, 0.8]), "em")
    return LabelShiftRatio([0.3, 0.7], [0.5, 0.5], estimate=estimate)


def test_a_round_is_strict_json_and_reads_the_same(learned):
    described = describe(learned, TWO_SAMPLE, max_log_ratio=-math.inf, mean_ratio=math.nan)
    text = described.model_dump_json()
    json.dumps(json.loads(text), allow_nan=False)
    again = RoundEntry.model_validate_json(text)
    assert (again.sampling.max_log_ratio, again.ratio.quality.mean_inverse_ratio_target) == (None, None)
    assert again == described
    assert trust_card.trust_card(again.sampling, again.ratio, again.two_sample) == again.trust


def test_reports_are_strict_json(learned, tmp_path):
    store = RunStore(tmp_path)
    report_json.begin(store, seed=0)
    history = History([{"step": 1, "train_loss": math.nan, "learning_rate": 0.1}], [{"step": 1, "accuracy": math.inf}])
    tuned = SimpleNamespace(metrics={"step": 1, "accuracy": math.inf}, history=history, stream=None)
    report_json.add_training(store, "one_shot", report_json.describe_training(tuned, rows=9))

    def refuse(name):
        raise AssertionError(name)

    read = json.loads(store.read(report_json.REPORT), parse_constant=refuse)["training"]["one_shot"]
    assert read["metrics"] == {"step": 1, "accuracy": None}
    assert (read["curve"][0]["train_loss"], read["evaluations"][0]["accuracy"]) == (None, None)
    assert report_json.read(store).training["one_shot"].rows == 9


HARMS = [
    lambda report: report.pop("versions"),
    lambda report: report.update(more=1),
    lambda report: report["rounds"].append({}),
    lambda report: report.update(seeds="all"),
]


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_report_is_refused_and_begun_anew(harm, tmp_path):
    store = RunStore(tmp_path)
    report_json.begin(store, seed=0)
    damaged = json.loads(store.read(report_json.REPORT))
    harm(damaged)
    store.write(report_json.REPORT, json.dumps(damaged))
    with pytest.raises(InputError, match="is damaged; run it again with the same configuration"):
        report_json.read(store)
    report_json.begin(store, seed=0)
    assert report_json.read(store).rounds == []


def test_a_ratio_is_described_by_what_it_has(learned, estimated):
    assert describe(learned).ratio.quality.auc == pytest.approx(6 / 9)  # 2 and 1 above all three, -800 above none
    product = describe(ProductRatio([ConstantRatio(), learned])).ratio
    assert product.kind == "ProductRatio"
    assert "AUC 0.667" in trust_card.distance(product).value
    found = describe(estimated).ratio
    assert found.kind == "LabelShiftRatio"
    assert found.log_bound == pytest.approx(math.log(1.4))
    assert (found.quality, found.estimate.prior, found.estimate.method) == (None, [0.3, 0.7], "em")
    assert (found.estimate.low, found.estimate.high) == ([0.2, 0.6], [0.4, 0.8])
    # exp of the entropy of .3 and .7: exp(.3612 + .2497)
    assert found.estimate.effective_classes == pytest.approx(1.842, abs=1e-3)


@pytest.mark.parametrize("kind", ["learned", "estimated"])
def test_the_page_and_the_line(kind, request, tmp_path):
    store = RunStore(tmp_path)
    report_json.begin(store, seed=0)
    described = describe(request.getfixturevalue(kind), TWO_SAMPLE, num_duplicates=500)
    report_json.add_round(store, described)
    report = report_json.merge([store], ["."])
    write_html(store, store, report)
    page = (tmp_path / "report.html").read_text()
    for check in described.trust:
        assert f"<b>{check.name}</b>" in page
        assert page.count(f"<dt>{check.name}</dt>") == 1
    red = page.index("<b>duplicates</b>")
    assert all(red < page.index(f"<b>{check.name}</b>") for check in described.trust if check.light == "green")
    assert re.search(r"<li><span[^>]*><span[^>]*>✗</span> red</span>\s*<b>duplicates</b>", page)
    assert '<section class="card red"' in page
    assert ("calibration</td>" in page) == ("figures/reliability.png" in figures(tmp_path)) == (kind == "learned")
    assert ("share of the target, by em" in page) == (kind == "estimated")
    first, second = format_report(report).splitlines()[:2]
    assert first.startswith("accepted 2,000 of 20,000 proposals (10.000%)")
    assert ("AUC" in first) == (kind == "learned")
    assert second.startswith("trust: ")
    assert "duplicates" in second


@pytest.mark.parametrize("streamed", [True, False])
def test_the_page_says_who_waited_for_whom(streamed, learned, tmp_path):
    store = RunStore(tmp_path)
    report_json.begin(store, seed=0)
    stream = StreamReport(640, 6400, 0, "d", trainer_waited_seconds=2.25, sampler_waited_seconds=0.5)
    history = History([{"step": 1, "train_loss": 1.0, "learning_rate": 0.1}], [{"step": 1, "accuracy": 0.5}])
    tuned = SimpleNamespace(metrics={"step": 1}, history=history, stream=stream if streamed else None)
    report_json.add_round(store, describe(learned))
    report_json.add_training(store, "one_shot", report_json.describe_training(tuned, rows=640))
    write_html(store, store, report_json.merge([store], ["."]))
    page = " ".join((tmp_path / "report.html").read_text().split())
    told = "640 fresh rows, each used once, of 6,400 proposals. Training waited 2.2 s for rows, and rows"
    assert (told in page) == streamed


def figures(folder):
    return {path.relative_to(folder).as_posix() for path in folder.glob("figures/*.png")}
