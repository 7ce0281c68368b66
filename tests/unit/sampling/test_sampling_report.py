import json
from dataclasses import fields, replace

import numpy as np
import pytest

from rsf_dist.errors import InputError
from rsf_dist.sampling.accept import accept
from rsf_dist.sampling.accepted import LEDGER_ROW, AcceptedSet, fingerprint
from rsf_dist.sampling.diagnostics import (
    Statistics,
    acceptance_interval,
    tail_threshold,
    target_side_bound,
    target_side_lower,
)
from rsf_dist.sampling.report import CurvePoint, SamplingReport, Setting, curve, summarise

LN2 = np.log(2.0)
# r = 1/2, 1/2, 1, 6 at M = 2: sum r = 8, E_q[r] = 2, (r - M)+ = 4, eps = 1/2, E[min(1, r/M)] = (1/4 + 1/4 + 1/2 + 1)/4.
RATIOS = np.log([0.5, 0.5, 1.0, 6.0])
KEEP = np.array([False, False, True, True])
ONES = np.ones(4)


def statistics_of(log_ratio=RATIOS, keep=KEEP, log_m=LN2, labels=None, **options):
    return Statistics.of(np.asarray(log_ratio), keep, log_m, labels, **options)


def report_of(setting=None, statistics=None, log_ratio=RATIOS[KEEP], accept_key=RATIOS[KEEP] + 1, **options):
    given = {"num_proposed": 4, "num_accepted": 2, "num_duplicates": 0, "stopped": False} | options
    return summarise(setting or Setting(LN2, "fixed"), statistics or statistics_of(), log_ratio, accept_key, **given)


def test_counts_and_rates():
    report = report_of(
        statistics=statistics_of(labels=np.array([3, 3, 3, 8])), num_duplicates=1, shortfall=5, seconds=1.5
    )
    assert (report.num_proposed, report.num_accepted, report.num_scored, report.num_capped) == (4, 2, 4, 1)
    assert report.acceptance_rate == 0.5
    assert report.acceptance_interval == acceptance_interval(4, 2, stopped=False)
    assert report_of(stopped=True).acceptance_interval == acceptance_interval(4, 2, stopped=True)
    assert report.acceptance_by_label == {3: pytest.approx(1 / 3), 8: 1.0}
    assert report.scored_by_label == {3: 3, 8: 1}
    assert (report.num_duplicates, report.shortfall, report.seconds) == (1, 5, 1.5)
    assert (report.log_m, report.log_m_source) == (LN2, "fixed")
    assert report.max_log_ratio == np.log(6.0)
    # (sum r)^2/(n sum r^2) = 64/(4 * 37.5)
    assert report.ess_fraction == pytest.approx(64 / 150)
    assert report.tail_index is None
    assert report.tail_threshold == tail_threshold(4)
    assert (report.normalised, report.num_nonfinite) == (False, 0)


def test_proposals_side_by_hand():
    report = report_of()
    assert (report.tv_bound, report.tv_bound_proposals) == (pytest.approx(0.5), pytest.approx(0.5))
    assert (report.tv_bound_source, report.tv_bound_upper) == ("proposals", None)
    assert report.mean_inverse_ratio is None


def test_target_side_by_hand():
    # r = 1, 4, 8 on target rows: (1 - M/r)+ = 0, 1/2, 3/4, mean 5/12; mean 1/r = (1 + 1/4 + 1/8)/3 = 11/24
    target = np.log([1.0, 4.0, 8.0])
    report = report_of(Setting(LN2, "fixed", target_log_ratio=target))
    assert report.tv_bound == pytest.approx(5 / 12)
    assert report.tv_bound_source == "target"
    assert report.tv_bound_upper == target_side_bound(target, LN2)[1] > 5 / 12
    assert report.tv_bound_proposals == pytest.approx(0.5)
    assert report.mean_inverse_ratio == pytest.approx(11 / 24)


def test_predicted_acceptance_by_hand():
    # unnormalised: E_q[r] (1 - eps)/M = 2 * .5/2 = .5, which is the mean of min(1, r/M) = (.25 + .25 + .5 + 1)/4
    assert report_of().acceptance_predicted == pytest.approx(0.5)
    # a ratio that claims E_q[r] = 1, whatever the rows say: (1 - .5)/2
    normalised = report_of(Setting(LN2, "fixed", normalised=True))
    assert normalised.acceptance_predicted == pytest.approx(0.25)


def test_predicted_acceptance_of_an_unnormalised_ratio_is_free_of_its_constant():
    report = report_of(
        Setting(LN2 + 300, "fixed"),
        statistics_of(RATIOS + 300, log_m=LN2 + 300),
        RATIOS[KEEP] + 300,
        RATIOS[KEEP] + 301,
    )
    assert report.acceptance_predicted == pytest.approx(0.5)


def test_predicted_acceptance_is_no_more_than_one():
    # r = 1 everywhere at M = 1/2, claimed to be normalised: eps = 1/2, (1 - 1/2)/(1/2) = 1; at M = 1/4 also 1
    for log_m in (-LN2, -2 * LN2):
        report = report_of(Setting(log_m, "fixed", normalised=True), statistics_of(np.zeros(4), ONES > 0, log_m))
        assert report.acceptance_predicted == pytest.approx(1.0)
    # A ratio whose claim is wrong: eps = 0 at M = 1/2, where r = .1; (1 - 0)/(1/2) = 2 is cut to 1
    wrong = report_of(Setting(-LN2, "fixed", normalised=True), statistics_of(np.log(0.1 * ONES), ONES > 0, -LN2))
    assert wrong.acceptance_predicted == 1.0


def test_predicted_acceptance_takes_the_targets_side_where_there_is_one():
    # eps = 5/12 of target rows r = 1, 4, 8: (1 - 5/12)/2; times E_q[r] = 2 for an unnormalised ratio
    target = np.log([1.0, 4.0, 8.0])
    for normalised, expected in [(True, 7 / 24), (False, 7 / 12)]:
        setting = Setting(LN2, "fixed", normalised=normalised, target_log_ratio=target)
        assert report_of(setting).acceptance_predicted == pytest.approx(expected)


def test_ratios_of_target_rows_that_are_upper_bounds_leave_eps_no_lower_limit_but_zero():
    target = np.log([1.0, 4.0, 8.0] * 20)
    least = [report_of(Setting(LN2, "fixed", target_log_ratio=target, target_at_most=at_most)) for at_most in (0, 1)]
    assert [report.tv_bound_lower for report in least] == [pytest.approx(target_side_lower(target, LN2)), 0.0]
    assert least[0].tv_bound_lower > 0
    assert least[0].tv_bound == least[1].tv_bound


def test_mean_ratio_is_of_a_ratio_that_claims_to_be_normalised():
    # mean 2; sd of 1/2, 1/2, 1, 6 is sqrt(37.5/4 - 4), standard error half of that
    report = report_of(Setting(LN2, "fixed", normalised=True))
    assert report.mean_ratio == pytest.approx(2.0)
    assert report.mean_ratio_error == pytest.approx(np.sqrt(37.5 / 4 - 4) / 2)
    assert (report_of().mean_ratio, report_of().mean_ratio_error) == (None, None)


def test_after_screening_the_tail_is_the_pilots():
    rng = np.random.default_rng(0)
    pilot = Statistics.of(rng.normal(size=400), np.zeros(400, bool), LN2)
    scored = np.where(np.arange(600) < 550, -np.inf, rng.normal(size=600))
    screened = Statistics.of(scored, np.zeros(600, bool), LN2, num_screened_out=550)
    report = report_of(Setting(LN2, "fixed", pilot=pilot, log_ratio_quantile=1.25), screened)
    assert report.num_screened_out == 550
    assert report.tail_index == pilot.tail_index != screened.tail_index
    assert report.tail_threshold == tail_threshold(400)
    assert report.log_ratio_quantile == 1.25
    # the largest ratio is that of both
    assert report.max_log_ratio == max(pilot.max_log_ratio, screened.max_log_ratio)
    complete = report_of(Setting(LN2, "fixed", pilot=pilot), replace(screened, num_screened_out=0))
    assert complete.tail_threshold == tail_threshold(600)


def test_curve_by_hand():
    # Rows of r = 1, 6 with keys log 3 and log 8, of 4 proposals with E_q[r] = 2. At M = 2: both keys, bias (6 - 2)/8;
    # at M = 4: one key, bias 2/8; at M = 6: one key, bias 0.
    found = curve(np.log([1.0, 6.0]), np.log([3.0, 8.0]), 4, LN2, LN2, points=3)
    assert [point.log_m for point in found] == pytest.approx([LN2, (LN2 + np.log(6)) / 2, np.log(6)])
    middle = np.exp((LN2 + np.log(6)) / 2)  # sqrt(12) = 3.46
    assert [point.acceptance for point in found] == [0.5, 0.25, 0.25]
    assert [point.bias_proposals for point in found] == pytest.approx([0.5, (6 - middle) / 8, 0.0])
    assert all(point.bias_target is None for point in found)


def test_curve_with_target_rows_by_hand():
    # (1 - M/r)+ of r = 4 and 8: at M = 2 1/2 and 3/4; at M = 6 0 and 1/4
    found = curve(np.log([6.0]), np.log([8.0]), 4, LN2, LN2, np.log([4.0, 8.0]), points=2)
    assert [point.bias_target for point in found] == pytest.approx([5 / 8, 1 / 8])


def test_curve_goes_on_for_a_nat_where_no_row_is_capped():
    found = curve(np.log([1.0, 1.5]), np.log([3.0, 8.0]), 4, LN2, LN2)
    assert len(found) == 25
    assert found[-1].log_m == pytest.approx(LN2 + 1)
    assert {point.bias_proposals for point in found} == {0.0}
    assert found[0].acceptance == 0.5
    # no accepted row at all: still defined
    assert {point.acceptance for point in curve(np.empty(0), np.empty(0), 4, LN2, LN2)} == {0.0}


def test_curve_is_what_each_m_would_have_given():
    """No simulation error: the same rows, held against each M of the curve."""
    rng = np.random.default_rng(3)
    log_ratio, exponentials = rng.normal(size=5000), rng.exponential(size=5000)
    keep = accept(log_ratio, exponentials, 0.2).keep
    statistics = Statistics.of(log_ratio, keep, 0.2)
    found = curve(log_ratio[keep], (log_ratio + exponentials)[keep], 5000, statistics.log_mean_ratio, 0.2)
    for point in found:
        at = accept(log_ratio, exponentials, point.log_m).keep
        assert point.acceptance == at.mean()
        assert point.bias_proposals == pytest.approx(Statistics.of(log_ratio, at, point.log_m).tv_bound, abs=1e-6)
    assert found[0].bias_proposals > 0.1
    assert found[-1].bias_proposals == 0.0


def test_the_report_has_the_curve_of_its_rows():
    report = report_of(Setting(LN2, "fixed", target_log_ratio=np.log([4.0, 8.0])))
    assert report.curve[0] == CurvePoint(LN2, 0.5, pytest.approx(0.5), pytest.approx(5 / 8))
    assert report.curve[-1].log_m == pytest.approx(LN2 + np.log(3))


FULL = SamplingReport(
    num_proposed=1000,
    num_accepted=12,
    acceptance_rate=0.012,
    acceptance_interval=(0.005, 0.02),
    acceptance_predicted=0.011,
    log_m=1.5,
    log_m_source="fixed",
    normalised=True,
    num_scored=1024,
    num_screened_out=7,
    num_capped=3,
    num_nonfinite=0,
    num_duplicates=2,
    max_log_ratio=1.75,
    ess_fraction=0.25,
    tail_index=-0.125,
    tail_threshold=0.66,
    log_ratio_quantile=1.25,
    mean_ratio=1.01,
    mean_ratio_error=0.03,
    mean_inverse_ratio=0.9,
    tv_bound=0.01,
    tv_bound_source="target",
    tv_bound_lower=0.005,
    tv_bound_upper=0.02,
    tv_bound_proposals=0.015,
    acceptance_by_label={0: 0.5, 11: 0.25},
    scored_by_label={0: 6, 11: 4},
    curve=(CurvePoint(1.5, 0.012, 0.015, 0.01), CurvePoint(2.5, 0.004, 0.0, None)),
    shortfall=4,
    seconds=2.5,
)
OPTIONAL = [entry.name for entry in fields(SamplingReport) if "None" in str(entry.type)]


def test_every_field_survives_json():
    loaded = SamplingReport.from_dict(json.loads(json.dumps(FULL.to_dict())))
    assert loaded == FULL
    for entry in fields(SamplingReport):
        assert type(getattr(loaded, entry.name)) is type(getattr(FULL, entry.name)), entry.name
    assert isinstance(loaded.curve[0], CurvePoint)
    assert set(FULL.to_dict()) == {entry.name for entry in fields(SamplingReport)}


def test_what_is_unknown_survives_json():
    assert len(OPTIONAL) == 11
    unknown = replace(FULL, **dict.fromkeys(OPTIONAL), curve=(), acceptance_by_label={}, scored_by_label={})
    for report in (unknown, replace(unknown, max_log_ratio=-np.inf)):  # which JSON as Python writes it has a word for
        assert SamplingReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"log_m": "two"}, r"report\.log_m=two: is no part of a report \(.*; restore the file"),
        ({"log_n": 2.0}, r"report\.log_n=2\.0: is no part of a report"),
        ({"curve": [{"log_m": 1.0}]}, r"report\.curve\.0\.acceptance="),
    ],
)
def test_a_report_that_is_none_is_refused_by_its_field(change, told):
    with pytest.raises(InputError, match=told):
        SamplingReport.from_dict(FULL.to_dict() | change)


def test_the_fields_of_a_real_report_are_plain(tmp_path):
    report = report_of(
        Setting(LN2, "fixed", True, np.log([1.0, 4.0]), statistics_of(), 0.5),
        statistics_of(labels=np.array([0, 1, 1, 1])),
    )
    assert SamplingReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def ledger(log_ratio, keys, labels=None):
    rows = np.zeros(len(keys), LEDGER_ROW)
    rows["index"], rows["log_ratio"], rows["accept_key"] = np.arange(len(keys)), log_ratio, keys
    rows["label"] = -1 if labels is None else labels
    rows["digest"] = np.arange(32 * len(keys)).reshape(-1, 32) % 251
    return rows


def accepted_set(report, rows):
    return AcceptedSet(_Rows(), report, fingerprint(rows, "{}", report.log_m), rows, "{}")


class _Rows:
    """In place of a Ray Dataset: takes every filter, and is its own context."""

    def __getattr__(self, name):
        return self if name in ("context", "execution_options") else lambda *_, **__: self


ROWS = ledger([1.0, 1.75, 1.25, 1.0], [1.6, 3.0, 2.0, 4.0], labels=[0, 0, 11, 11])


def test_rethreshold_counts_what_is_left():
    # Keys 1.6, 3, 2, 4; at log M = 1.7 three stay, one of them (l = 1.75) still capped; one label-0 row of two.
    report = accepted_set(FULL, ROWS).rethreshold(1.7).report
    assert (report.num_accepted, report.num_capped, report.num_proposed) == (3, 1, 1000)
    assert report.acceptance_rate == 3 / 1000
    assert report.acceptance_interval == acceptance_interval(1000, 3, stopped=False)
    assert (report.log_m, report.log_m_source, report.acceptance_predicted) == (1.7, "rethreshold", None)
    assert report.acceptance_by_label == {0: 0.25, 11: 0.25}
    assert report.curve == FULL.curve[1:]
    assert report.num_duplicates == 0
    assert (report.tv_bound, report.tv_bound_source) == (FULL.tv_bound, "target")


def test_rethreshold_counts_capped_rows_among_the_sets_own_proposals():
    # FULL counts 3 capped rows among the 1,024 of whole chunks; its ledger, of the first 1,000, holds one
    report = accepted_set(FULL, ROWS).rethreshold(FULL.log_m).report
    assert (report.num_capped, report.num_scored, report.num_proposed) == (1, 1000, 1000)


def test_rethreshold_above_every_ratio_has_no_bias_that_proposals_could_show():
    report = accepted_set(replace(FULL, tv_bound_source="proposals"), ROWS).rethreshold(1.8).report
    assert (report.num_capped, report.tv_bound) == (0, 0.0)


def test_rethreshold_marks_the_rows_that_are_left():
    smaller = accepted_set(FULL, ROWS).rethreshold(1.7)
    assert smaller.ledger["accept_key"].tolist() == [3.0, 2.0, 4.0]
    assert smaller.fingerprint == fingerprint(ROWS[1:], "{}", 1.7)


@pytest.mark.parametrize(
    ("log_m", "rule"),
    [
        (1.4, "not below the set's own 1.5"),
        (np.nan, "must be finite"),
        (np.inf, "must be finite"),
        (4.0, "leaves no row"),
    ],
)
def test_rethreshold_refuses(log_m, rule):
    with pytest.raises(InputError, match=rule) as caught:
        accepted_set(FULL, ROWS).rethreshold(log_m)
    assert (caught.value.field, caught.value.exit_code) == ("log_m", 2)
